"""All that is wrong with one file, in one sentence: whoever mends a file wants to mend it once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from dig_ray.errors import UserError

MOST = 5  # kinds of faults that are told; the rest is counted
LONGEST = 60  # characters of a value that are shown


@dataclass
class _Fault:
    where: str
    what: str
    row: int | None
    value: str | None
    rows: int = 0


@dataclass
class Faults:
    """Collects the faults of a file and raises them together.

    Attributes:
        path: the path of the file, which begins the sentence.
        unit: what a row is called: ``data row`` (counted from 1, without the header) or ``line`` (from 1, of the file).
    """

    path: str | Path
    unit: str = "data row"
    _found: dict[tuple[str, str], _Fault] = field(default_factory=dict)
    _cures: dict[str, None] = field(default_factory=dict)

    def add(
        self,
        where: str,
        what: str,
        row: int | None = None,
        value: object = None,
        rows: int = 1,
        cure: str | None = None,
    ) -> None:
        """Note a fault; faults of one place and kind are one part of the sentence, with the first row and a count.

        Args:
            where: ``column user_id``; empty where the row itself is at fault (``line 3 is no JSON``).
            what: ``is empty``, or with a place for the value, ``holds {value}, which is no number`` (row and count come before
                ``, which``).
            row: the number of the first such row, counted from 1.
            value: shown shortened, that of the first such row.
            rows: how many rows have this fault.
            cure: what helps, said once at the end; ``correct the file`` where nobody gives one.
        """
        fault = self._found.setdefault(
            (where, what), _Fault(where, what, row, None if value is None else shown(value))
        )
        fault.rows += rows
        if cure:
            self._cures[cure] = None

    def __len__(self) -> int:
        """Rows with a fault, each once per fault."""
        return sum(fault.rows for fault in self._found.values())

    def raise_any(self) -> None:
        """Nothing, or the sentence.

        Raises:
            UserError: there are faults.
        """
        if self._found:
            self.fail()

    def fail(self) -> NoReturn:
        """Raise what was found."""
        raise UserError(str(self))

    def __str__(self) -> str:
        parts = [self._told(fault) for fault in list(self._found.values())[:MOST]]
        if len(self._found) > MOST:
            parts.append(f"faults of {len(self._found) - MOST} more kinds")
        return f"{self.path}: {'; '.join(parts)}; {', or '.join(self._cures) or 'correct the file'}"

    def _told(self, fault: _Fault) -> str:
        more = fault.rows - 1
        also = f" (and {more:,} more {self.unit.split()[-1]}{'s' if more > 1 else ''})" if more else ""
        head, comma, tail = (
            part.replace("{value}", fault.value or "nothing") for part in fault.what.partition(", which")
        )
        if fault.row is None:
            return f"{fault.where} {head}{comma}{tail}{also}".strip()
        if not fault.where:
            return f"{self.unit} {fault.row} {head}{comma}{tail}{also}"
        return f"{fault.where} {head} in {self.unit} {fault.row}{also}{comma}{tail}"


def shown(value: object) -> str:
    """A value for a message: on one line, quoted if it is a text, and short."""
    if isinstance(value, str):
        return repr(value if len(value) <= LONGEST else value[: LONGEST - 3] + "...")
    text = repr(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
