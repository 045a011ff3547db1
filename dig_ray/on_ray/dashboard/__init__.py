"""A Grafana panel set of the platform's metrics, and how to see it beside Ray's own."""
