"""Search spaces: a distribution per config key, written as text, and the points drawn from them.

``loguniform(1e-4, 3e-3)``, ``uniform(0, 1)``, ``randint(1, 5)`` (both ends), ``quniform(0, 1, 0.1)``, ``choice(3, 4)``. A choice may hold
any YAML value, such as ``choice(256, [4096, 256])``. A point that makes no possible config is drawn again and counted.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dig_ray.config import parse_yaml
from dig_ray.errors import UserError

if TYPE_CHECKING:
    import numpy as np

Point = Mapping[str, Any]
"""Config key -> value as Tune has it: a number, text or bool; lists and mappings as JSON text."""
CALL = re.compile(r"\s*([a-z]+)\s*\((.*)\)\s*", re.DOTALL)
TRIES = 200
"""Points drawn for one that is possible, at most."""
NUMBERS = {"uniform": 2, "loguniform": 2, "randint": 2, "lograndint": 2, "quniform": 3}


@dataclass(frozen=True)
class Range:
    """One key's distribution.

    Attributes:
        kind: its name.
        values: what is between the brackets.
    """

    kind: str
    values: tuple[Any, ...]

    def domain(self) -> Any:
        """Tune's domain."""
        from ray import tune

        if self.kind == "choice":
            return tune.choice([plain(value) for value in self.values])
        if self.kind in ("randint", "lograndint"):  # Tune leaves the upper end out
            return getattr(tune, self.kind)(self.values[0], self.values[1] + 1)
        return getattr(tune, self.kind)(*self.values)

    def draw(self, rng: np.random.Generator) -> Any:
        """A value by chance, as a point holds it."""
        import numpy as np

        drawn = self.domain().sample(random_state=rng)
        return drawn.item() if isinstance(drawn, np.generic) else drawn

    def near(self, value: Any, rng: np.random.Generator) -> Any:
        """A value beside another: the next choice to either side, or .8 or 1.2 times a number, within the range."""
        up = bool(rng.random() < 0.5)
        if self.kind == "choice":
            values = [plain(one) for one in self.values]
            if value not in values:  # the base run's own
                return self.draw(rng)
            place = values.index(value) + (1 if up else -1)
            return values[min(max(place, 0), len(values) - 1)]
        low, high, *step = self.values
        moved = min(max(value * (1.2 if up else 0.8), low), high)
        if "rand" in self.kind:
            further = math.ceil(moved) if up else math.floor(moved)
            return int(min(max(further, low), high))
        return min(round(moved / step[0]) * step[0], high) if step else moved

    def holds(self, value: Any) -> bool:
        """Whether a value of the config could have been drawn."""
        if self.kind == "choice":
            return plain(value) in [plain(one) for one in self.values]
        known = isinstance(value, (int, float)) and not isinstance(value, bool)
        return known and self.values[0] <= value <= self.values[1]


def parse_range(key: str, text: str) -> Range:
    """A distribution from its text.

    Raises:
        UserError: not one of ours, or its numbers make no range.
    """
    match = CALL.fullmatch(text)
    kinds = ("choice", *NUMBERS)
    if match is None or match[1] not in kinds:
        raise UserError(
            f"space: {key} is {text!r}, which is no distribution; write one of {', '.join(kinds)}, such as choice(3, 4)"
        )
    kind = match[1]
    values = parse_yaml(f"[{match[2]}]")
    if kind == "choice":
        if not values:
            raise UserError(f"space: {key} is {text!r}: there is nothing to choose from")
        if len({json.dumps(value, sort_keys=True) for value in values}) < len(values):
            raise UserError(f"space: {key} is {text!r}: a choice stands there twice; keep each once")
        return Range(kind, tuple(values))
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(numbers) != len(values) or len(numbers) != NUMBERS[kind] or not all(map(math.isfinite, numbers)):
        raise UserError(f"space: {key} is {text!r}; {kind} takes {NUMBERS[kind]} numbers")
    low, high, *step = numbers
    if not low < high:
        raise UserError(f"space: {key} is {text!r}: {low} is not below {high}")
    if kind.startswith("log") and low <= 0:
        raise UserError(f"space: {key} is {text!r}: a logarithmic range begins above 0")
    if "rand" in kind and not all(isinstance(n, int) for n in numbers):
        raise UserError(f"space: {key} is {text!r}: {kind} takes whole numbers")
    if step and not 0 < step[0] <= high - low:
        raise UserError(f"space: {key} is {text!r}: the step {step[0]} is not within 0 and {high - low}")
    return Range(kind, tuple(numbers))


def plain(value: Any) -> Any:
    """A value as a point holds it."""
    return json.dumps(value) if isinstance(value, (list, tuple, dict)) else value


def setting(key: str, value: Any) -> str:
    """A point's value as ``key=value`` for the config."""
    return f"{key}={value if isinstance(value, str) else json.dumps(value)}"


def settings_of(point: Point) -> list[str]:
    """A point as settings, in the order of its keys."""
    return [setting(key, value) for key, value in point.items()]


@dataclass
class Draws:
    """Points of a space, in an order that the seed decides, each once and possible.

    Attributes:
        space: key -> distribution.
        why_not: says why a point is impossible; "" when it is possible.
        identity: what a possible point makes: points with the same one are the same trial.
        impossible: how many were drawn and left out, and the first reason.
    """

    space: Mapping[str, Range]
    why_not: Callable[[Point], str]
    identity: Callable[[Point], str]
    impossible: int = 0
    reason: str = ""
    seen: set[str] = field(default_factory=set)

    def possible(self, point: Point) -> bool:
        """Whether a point can be run; counts it where not."""
        reason = self.why_not(point)
        if reason:
            self.impossible += 1
            self.reason = self.reason or reason
        return not reason

    def grid(self, first: Sequence[Point] = ()) -> list[Point]:
        """``first``, and every combination of choices.

        Raises:
            UserError: a key is no choice, or nothing is possible.
        """
        for key, one in self.space.items():
            if one.kind != "choice":
                raise UserError(f"space: {key} is a {one.kind}; a grid takes choice(...) for every key")
        every = itertools.product(*([plain(v) for v in one.values] for one in self.space.values()))
        points = (dict(zip(self.space, values, strict=True)) for values in every)
        found = [point for point in first if self._is_new(point)]
        found += [point for point in points if self.possible(point) and self._is_new(point)]
        if not found or (self.impossible and len(found) <= len(first)):
            raise UserError(self.nothing())
        return found

    def random(self, count: int, seed: int, first: Sequence[Point] = ()) -> list[Point]:
        """``first``, and up to ``count`` points with them; fewer where the space has no more.

        Raises:
            UserError: nothing is possible.
        """
        import numpy as np

        rng = np.random.default_rng(seed)
        found = [point for point in first if self._is_new(point)]
        missed = 0
        while len(found) < count and missed < TRIES:
            point = {key: one.draw(rng) for key, one in self.space.items()}
            if self.possible(point) and self._is_new(point):
                missed = 0
                found.append(point)
            else:
                missed += 1
        if not found or (self.impossible and len(found) <= len(first)):
            raise UserError(self.nothing())
        return found

    def _is_new(self, point: Point) -> bool:
        name = self.identity(point)
        if name in self.seen:
            return False
        self.seen.add(name)
        return True

    def nothing(self) -> str:
        """Why there is nothing to run."""
        return f"the space yields no possible config: {self.impossible} were tried, the first fails with: {self.reason}"


def canonical(point: Point) -> str:
    """One text per point."""
    return json.dumps(dict(point), sort_keys=True)
