"""Shared by all tests: property tests have no time limit per example, since machines differ and neighbours are loud."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("dig_ray", deadline=None)
settings.load_profile("dig_ray")
