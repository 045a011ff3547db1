"""A store that several people share: what is made there is as open as its root, and a refusal becomes a sentence.

Whether a group shares a store is said by the root directory's own mode: where its group (or everybody) may write, so may they in every
directory and lock that is made below, whatever the umask of who makes it.
"""

from __future__ import annotations

import errno
import os
import pwd
import re
import stat
from contextlib import suppress
from pathlib import Path

from dig_ray.errors import causes

REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_QUOTED = re.compile(r"'(/[^']+)'")
_SAID = re.compile(r"errno 13\b|Permission denied", re.IGNORECASE)


def shared_bits(root: Path) -> int:
    """Rights of group and others at a directory, as ``rw`` bits (0 where it cannot be looked at)."""
    try:
        return stat.S_IMODE(root.stat().st_mode) & 0o066
    except OSError:
        return 0


def open_to_sharers(path: Path, root: Path) -> None:
    """Give a directory or file of ours the rights that the store's root gives to group and others; that of others is left alone."""
    with suppress(OSError):
        found = path.stat()
        if found.st_uid != os.geteuid():
            return
        bits = shared_bits(root)
        if stat.S_ISDIR(found.st_mode):
            bits |= (bits & 0o044) >> 2  # who may list may enter
        wanted = stat.S_IMODE(found.st_mode) | bits
        if wanted != stat.S_IMODE(found.st_mode):
            path.chmod(wanted)


def make_shared(path: Path, root: Path) -> None:
    """Make a directory below a root and those above it, as open as the root."""
    missing = []
    while path != root and not path.is_dir():
        missing.append(path)
        path = path.parent
    root.mkdir(parents=True, exist_ok=True)
    for one in reversed(missing):
        one.mkdir(exist_ok=True)
        open_to_sharers(one, root)


def owner(path: Path) -> str:
    """Name of whom a file or directory belongs to."""
    try:
        number = path.stat().st_uid
    except OSError:
        return "somebody else"
    with suppress(KeyError):
        return pwd.getpwuid(number).pw_name
    return f"user {number}"


def refusal(path: Path, root: Path) -> str:
    """The sentence for a path of a store that this user may not read or write."""
    while not os.path.exists(path) and path != path.parent:  # also where a directory above is closed to us
        path = path.parent
    return (
        f"{path} belongs to {owner(path)} and may not be read or written by {_me()}; let its owner run: chmod -R g+rwX {root} "
        "(a store is shared by those who may write to its root), or set store= to a place of your own"
    )


def explain_refusal(error: BaseException, root: Path) -> str | None:
    """What a refused read or write below a store's root means, also behind Ray's errors; None for anything else."""
    for one in causes(error):
        said = str(one)
        if not isinstance(one, OSError) and not _SAID.search(said):
            continue
        if isinstance(one, OSError) and one.errno not in REFUSED and not _SAID.search(said):
            continue
        names = [one.filename, one.filename2] if isinstance(one, OSError) else []
        found = [Path(os.fsdecode(name)) for name in names if isinstance(name, (str, bytes))]
        for path in [*found, *map(Path, _QUOTED.findall(said))]:
            if path.is_relative_to(root):
                return refusal(path, root)
    return None


def _me() -> str:
    with suppress(KeyError):
        return pwd.getpwuid(os.geteuid()).pw_name
    return f"user {os.geteuid()}"
