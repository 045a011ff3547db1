"""Computations that several rooms share, each testable alone: ranks, losses, dropout, schedules, a text encoder."""
