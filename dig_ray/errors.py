"""The one exception a user is meant to read, and what is behind any other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


class UserError(Exception):
    """Bad input or a situation the user can mend.

    The message is one sentence that names the file, field and value at fault and what to do about it.
    Jobs print it after ``error:`` and exit with code 1; no stack trace is shown.
    """


def raise_all(faults: Sequence[str], what: str = "this run cannot work") -> None:
    """One UserError for all faults, so that they can be mended at once; nothing where there is none.

    Args:
        faults: whole sentences without a full stop.
        what: is not possible, for the head of a list of several.
    """
    faults = list(dict.fromkeys(faults))
    if len(faults) == 1:
        raise UserError(faults[0])
    if faults:
        listed = "; ".join(f"({number}) {fault}" for number, fault in enumerate(faults, 1))
        raise UserError(f"{what} for {len(faults)} reasons: {listed}")


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and all that is behind it, also across Ray's wrappers, nearest first."""
    todo, seen = [error], set()
    while todo:
        current = todo.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        failures = getattr(current, "worker_failures", None)
        behind = [
            getattr(current, "cause", None),
            getattr(current, "controller_failure", None),
            *(failures.values() if isinstance(failures, dict) else ()),
            current.__cause__,
            current.__context__ if not current.__suppress_context__ else None,
        ]
        todo.extend(inner for inner in behind if isinstance(inner, BaseException))
