"""Sweeps on Ray Tune: search spaces over the run's config, what a trial is, and a table and page to decide from."""
