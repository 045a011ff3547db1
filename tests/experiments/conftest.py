"""The finished runs that the report's tests make, for comparisons of them."""

from __future__ import annotations

from tests.report.conftest import world

__all__ = ["world"]
