"""How an endpoint is told the shape of an answer, learnt at its first rows: servers take different ones, and some fail at the others."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from dig_ray.mining.answers import Kind, json_schema
from dig_ray.mining.engines.endpoint_failures import NoAnswer

WAYS = {
    "auto": ("json_schema", "json_object with the schema", "json_object", "none"),
    "json_schema": ("json_schema",),
    "json_object": ("json_object with the schema", "json_object"),
    "none": ("none",),
}
"""Setting -> ways to say it, the strictest first."""
BLIND = 3
"""Equal server errors that do not speak of the shape, after which another way is tried; and rows that may try so."""
_ABOUT_IT = re.compile(r"response_?format|json_?schema|json_?object|structured|grammar|guided|schema", re.I)
_MAY_BE_IT = {400, 415, 422, 500, 501}


class AnswerShape:
    """One endpoint's way.

    Args:
        setting: ``response_format`` of its config.
        say: gets one line when another way than the first was learnt.
    """

    def __init__(self, setting: str, say: Callable[[str], None]) -> None:
        self.ways = WAYS[setting]
        self.at = 0
        self._settled, self._blind, self._why, self._say = len(self.ways) == 1, BLIND, "", say

    def field(self, kind: Kind, most: int) -> dict[str, Any]:
        """``response_format`` of a request, as a field of its body; {} where nothing is said."""
        way = self.ways[self.at]
        if way == "none" or kind == "judgement":
            return {}
        if way == "json_schema":
            schema = {"name": kind, "schema": json_schema(kind, most), "strict": True}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        if way == "json_object":
            return {"response_format": {"type": "json_object"}}
        return {"response_format": {"type": "json_object", "schema": json_schema(kind, most)}}

    def took(self, at: int) -> None:
        """A request of this way was answered."""
        if self._settled:
            return
        self.at, self._settled = at, True
        if at:
            self._say(
                f"the endpoint does not take response_format {self.ways[0]} ({self._why}); asking with {self.ways[at]} from here on"
                + ("" if at == 1 else "; answers are checked as strictly")
            )

    def another(self, at: int, error: NoAnswer, times: int, last: bool) -> bool:
        """Whether a request that failed this way is to be sent again at once, in another.

        Args:
            at: the way it was sent in.
            error: what came of it.
            times: it came to the same.
            last: whether it would not be tried again this way.
        """
        if self._settled or error.status not in _MAY_BE_IT:
            return False
        if at != self.at:
            return True  # another row has found out meanwhile
        named = bool(_ABOUT_IT.search(error.said))
        waits = (
            error.status == 500 and self.at == 0 and times < BLIND and not last
        )  # it may be a passing fault
        if not named and (not self._blind or waits):
            return False
        if self.at + 1 == len(self.ways):  # it was none of them
            self.at, self._blind = 0, self._blind - 1
            return False
        if self.at == 0:
            self._why = str(error)[:200]
        self.at += 1
        return True
