"""What the quotes of a CSV or TSV are: around cells as RFC 4180 has it, or characters like any others.

A quote that never closes would swallow every row up to the next one, so a file is read as quoted only when all its quotes agree with
that, and when nothing speaks for the other reading.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dig_ray.errors import UserError

QUOTE, CR, LF, SPACE = 34, 13, 10, 32
BLOCK = 1 << 24  # bytes looked at in one go

TWICE = 'write a quote inside a quoted value twice ("")'


@dataclass
class Quotes:
    """Of a whole file.

    Attributes:
        count: quotes in it.
        marks: places, in order, at which a quoted cell opens or closes: a byte is inside one if an odd number of marks is before it.
            (The two quotes of an escaped one may both be marks.)
        starts: places of the quotes that begin a cell, were every line end and delimiter one.
        strays: quotes inside cells that do not begin with one.
        stray: place of the first of these.
        fault: what is wrong, ``unclosed``, ``after`` (text after a closing quote) or ``space`` (before an opening one).
        at: its place.
        opened: where the cell with the fault opens.
    """

    count: int
    marks: np.ndarray
    starts: np.ndarray
    strays: int = 0
    stray: int = -1
    fault: str | None = None
    at: int = -1
    opened: int = -1


def find_quotes(data: bytes, delimiter: bytes) -> Quotes:
    """Walk through all quotes as a strict reader does, up to the first fault."""
    found = places(data, QUOTE)
    if not len(found):
        return Quotes(0, found, found)
    view = np.frombuffer(data, np.uint8)
    edge = np.zeros(256, bool)
    edge[[delimiter[0], CR, LF]] = True
    before = view[np.maximum(found, 1) - 1]
    after = view[np.minimum(found + 1, len(view) - 1)]
    at_start = edge[before] | (found == 0)
    at_end = edge[after] | (found == len(view) - 1)
    if len(found) % 2 == 0 and (
        (at_start | (before == QUOTE) & (found > 0))[0::2].all()
        and (at_end | (after == QUOTE) & (found < len(view) - 1))[1::2].all()
    ):
        return Quotes(
            len(found), found, found[at_start]
        )  # each opens, closes or is one of two: the usual case
    return _walk(found, at_start, at_end, before, data, delimiter)


def _walk(
    found: np.ndarray,
    at_start: np.ndarray,
    at_end: np.ndarray,
    before: np.ndarray,
    data: bytes,
    delimiter: bytes,
) -> Quotes:
    """The same one by one, where some quote is none of the usual."""
    out = Quotes(len(found), found[:0], found[at_start])
    marks: list[int] = []
    doubled = np.append(np.diff(found) == 1, False).tolist()
    starts, ends, place = at_start.tolist(), at_end.tolist(), found.tolist()
    spaced = (before == SPACE).tolist()
    inside, k = False, 0
    while k < len(place):
        if not inside:
            if starts[k]:
                inside, out.opened = True, place[k]
                marks.append(place[k])
            elif spaced[k] and _only_spaces_before(data, place[k], delimiter):
                out.fault, out.at = "space", place[k]
                return out
            else:
                out.strays += 1
                out.stray = place[k] if out.stray < 0 else out.stray
        elif doubled[k]:
            k += 1
        elif ends[k]:
            inside = False
            marks.append(place[k])
        else:
            out.fault, out.at = "after", place[k] + 1
            return out
        k += 1
    if inside:
        out.fault, out.at = "unclosed", out.opened
    out.marks = np.array(marks, found.dtype)
    return out


def _only_spaces_before(data: bytes, place: int, delimiter: bytes) -> bool:
    place -= 1
    while place >= 0 and data[place] == SPACE:
        place -= 1
    return place < 0 or data[place] in (delimiter[0], CR, LF)


def is_quoted(
    data: bytes, delimiter: bytes, quoting: str, quotes: Quotes, path: Path, setting: str | None
) -> bool:
    """Whether the quotes of a file are around cells (else they are characters of the text).

    Args:
        data: the file.
        delimiter: one byte.
        quoting: ``quoted``, or ``auto``: see :class:`dig_ray.catalog.config.ItemsConfig`.
        quotes: where its quotes stand.
        path: the file's path, for messages.
        setting: the key of the config that says ``quoting`` of this file, if there is one.

    Raises:
        UserError: a quote is wrong, or both readings are possible and differ in their rows.
    """
    odd = bool(quotes.fault or quotes.strays)
    if quoting == "auto" and delimiter == b"\t" and odd and fits_plain(data, delimiter):
        if not _whole_cell_quoted(data, delimiter, quotes.starts):
            return False
        where = place_of(data, quotes.at if quotes.fault else quotes.stray)
        what = f"some values are in quotes, but the quote at {where} is not around a value"
        raise UserError(f"{path}: {what}; {_cure(setting, True)}")
    if quotes.fault:
        raise UserError(f"{path}: {_fault(data, quotes)}{_cure(setting, fits_plain(data, delimiter))}")
    if quoting == "auto" and (inner := _line_end_inside(data, quotes.marks)) >= 0:
        where = place_of(data, int(quotes.marks[np.searchsorted(quotes.marks, inner) - 1]))
        what = f"the quoted value at {where} goes over several lines"
        as_it_is = f", or set {setting}=quoted if the file is right as it is" if setting else ""
        if quotes.strays:
            other = f"the quote at {place_of(data, quotes.stray)} stands inside a value without quotes"
            raise UserError(
                f"{path}: {what}, and {other}, so that rows may be swallowed; "
                f"{_cure(setting, fits_plain(data, delimiter))}{as_it_is}"
            )
        if fits_plain(data, delimiter):
            what += ", each of which looks like a row of its own"
            raise UserError(f"{path}: {what}; {_cure(setting, True)}{as_it_is}")
    return True


def _cure(setting: str | None, plain: bool) -> str:
    """What helps; plain quotes are offered only where the file can be read so, and told so."""
    if setting and plain:
        return f"{TWICE}, or set {setting}=plain if its quotes are ordinary characters"
    return TWICE if setting else f"{TWICE}, or write the table as Parquet or JSON lines"


def _fault(data: bytes, quotes: Quotes) -> str:
    """What is wrong, up to the cure."""
    where = place_of(data, quotes.at)
    if quotes.fault == "unclosed":
        shown = data[quotes.at : quotes.at + 30].decode("utf-8", "replace").splitlines()[0]
        return f"the quote at {where} ({shown}) is never closed; close it, "
    if quotes.fault == "space":
        return f"a space stands before the opening quote at {where}; remove the space, "
    character = data[quotes.at : quotes.at + 4].decode("utf-8", "ignore")[:1] or "?"
    opened = place_of(data, quotes.opened)
    slash = data[quotes.at - 2 : quotes.at - 1] == b"\\"
    hint = "a backslash before a quote means nothing here: " if slash else ""
    return f"{character!r} at {where} stands after a closing quote (the value opens at {opened}); {hint}"


def _line_end_inside(data: bytes, marks: np.ndarray) -> int:
    """The place of the first line end inside a quoted cell, -1 if there is none."""
    if not len(marks):
        return -1
    for end in (LF, CR):
        for start in range(0, len(data), BLOCK):
            found = places(data[start : start + BLOCK], end).astype(np.int64) + start
            inside = np.searchsorted(marks, found.astype(marks.dtype)) % 2 == 1
            if inside.any():
                return int(found[int(np.argmax(inside))])
        if b"\r" not in data:
            break
    return -1


def fits_plain(data: bytes, delimiter: bytes) -> bool:
    """Whether every line that is not blank has as many delimiters as the first, quotes being nothing special."""
    wanted = -1
    for raw in io.BytesIO(data):
        for line in raw.rstrip(b"\r\n").split(b"\r"):
            if line:
                found = line.count(delimiter)
                if wanted < 0:
                    wanted = found
                if found != wanted:
                    return False
    return True


def _whole_cell_quoted(data: bytes, delimiter: bytes, starts: np.ndarray) -> bool:
    """Whether a cell begins with one of these quotes, ends with one, and has only doubled ones between."""
    edge = re.escape(delimiter) + rb"\r\n"
    cell = re.compile(rb'"(?:[^"%b]|"")*"(?=[%b]|\Z)' % (edge, edge))
    return any(cell.match(data, start) for start in starts.tolist())


def places(data: bytes, byte: int) -> np.ndarray:
    """Where a byte stands, in order; 32 bits each where that is enough."""
    view = np.frombuffer(data, np.uint8)
    kind = np.uint32 if len(view) < (1 << 32) - 2 else np.int64
    found = [
        (np.flatnonzero(view[start : start + BLOCK] == byte) + start).astype(kind)
        for start in range(0, len(view), BLOCK)
    ]
    return np.concatenate(found) if found else np.zeros(0, kind)


def line_of(data: bytes, place: int) -> int:
    """Number of the line, from 1, in which a byte stands; CR, LF and both together end a line."""
    return data.count(b"\n", 0, place) + data.count(b"\r", 0, place) - data.count(b"\r\n", 0, place) + 1


def place_of(data: bytes, place: int) -> str:
    """``line 3, character 5`` of a byte."""
    start = max(data.rfind(b"\n", 0, place), data.rfind(b"\r", 0, place)) + 1
    return f"line {line_of(data, place)}, character {len(data[start:place].decode('utf-8', 'replace')) + 1}"
