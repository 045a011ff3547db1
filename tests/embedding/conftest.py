"""A Ray for the embedding stages."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def ray_here():
    """A Ray of the tests' own."""
    import ray

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
