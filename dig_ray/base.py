"""What every room shares: the config base class and the handle a stage runs with."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def at_home(path: str) -> str:
    """A path in which ``~`` or ``~NAME`` at its beginning and ``$HOME`` or ``${HOME}`` are the home directory.

    No other variable is read: what stands in the environment may be a secret, and a path is shown everywhere. Addresses stay as they are.

    Raises:
        ValueError: it is empty, another variable stands there, or a user that this machine does not know.
    """
    if not path.strip():
        raise ValueError("a path that is empty leads nowhere; write one, or null where there is none")
    if "://" in path and not path.startswith("file://"):
        return path
    home = os.path.expanduser("~")
    path = re.sub(r"\$(?:HOME\b|\{HOME\})", lambda _: home, path)
    other = re.search(r"\$(?:[A-Z_][A-Z0-9_]*|\{\w+\})", path)
    if other and not os.path.exists(path):
        raise ValueError(f"{other[0]} is not read; of variables only $HOME and ~ are, so write the path out")
    found = os.path.expanduser(path)
    if found.startswith("~") and "/" in found and not os.path.exists(found):
        raise ValueError(f"this machine knows no user {found.partition('/')[0][1:]!r}; write the path out")
    return found


Inputs = Mapping[str, Path]
"""What a stage reads: name of the stage that made it -> its artifact's directory."""

InputPath = Annotated[str, AfterValidator(at_home)]
"""A file or folder in a config: ``~`` and ``$HOME`` are the home directory."""


class Config(BaseModel):
    """Base of all config classes: immutable, typed strictly enough that a typo or a wrong type is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def counted(self) -> dict[str, Any]:
        """What of these settings decides a result, JSON-able: all of them but those marked :func:`free`, at every depth."""
        written = self.model_dump(mode="json")
        return {
            name: _counted(getattr(self, name), written[name])
            for name, field in type(self).model_fields.items()
            if not is_free(field)
        }


def free(default: Any = ..., **constraints: Any) -> Any:
    """A setting that only decides where, how fast or at what price a stage runs, never what comes out of it.

    Every other setting counts: it enters the fingerprint of each stage that reads it, so that another value makes its artifact anew.

    Args:
        default: value where a config says nothing.
        constraints: what pydantic's ``Field`` takes, such as ``ge``.
    """
    return Field(default, json_schema_extra={"free": True}, **constraints)


def is_free(field: Any) -> bool:
    """Whether a field of a config class (pydantic's ``FieldInfo``) is marked :func:`free`."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("free"))


def _counted(value: Any, written: Any) -> Any:
    """``written`` is ``value`` as JSON; configs within it give what counts of them."""
    if isinstance(value, Config):
        return value.counted()
    if isinstance(value, (list, tuple)):
        return [_counted(one, text) for one, text in zip(value, written, strict=True)]
    if isinstance(value, dict):
        # in one order, while keys of JSON are texts
        return {key: _counted(one, written[key]) for key, one in zip(written, value.values(), strict=True)}
    return written


def nobody(figures: Mapping[str, float]) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class Stretch:
    """A stretch of a training run, for a sweep that decides in between how it goes on.

    Attributes:
        until: epochs (steps of RL) after which it ends; None for the end of the run.
        start: checkpoint it goes on from, a local folder or a URI; "" for the beginning.
    """

    until: int | None = None
    start: str = ""


@dataclass
class Stage:
    """What a stage's ``run`` gets: where to write, where to keep resumable work, and how to report.

    Attributes:
        name: stage name, for example ``"embedding"``.
        fingerprint: hex id of (config, inputs, code); the artifact's directory name.
        seed: the run's seed.
        out: local directory for the outputs; published atomically after ``run`` returns.
        work: directory (local path or URI) that survives a kill and is removed after publishing.
        stats: JSON-able figures that land in the manifest.
        log: prints one line of progress.
        kept: directory (local path or URI) beside all artifacts, for what outlives them and is paid for once; "" where there is none.
        hold: takes a lock of the store by name, in a ``with`` block; waits while another run has it.
        report: takes figures of a training run while it runs, such as those of an epoch; a sweep listens.
        stretch: the stretch of a training run, where not the whole is wanted; nothing is published then.
    """

    name: str
    fingerprint: str
    seed: int
    out: Path
    work: str
    stats: dict[str, Any] = field(default_factory=dict)
    log: Callable[[str], None] = print
    kept: str = ""
    hold: Callable[[str], AbstractContextManager[Any]] = nullcontext
    report: Callable[[Mapping[str, float]], None] = nobody
    stretch: Stretch | None = None
