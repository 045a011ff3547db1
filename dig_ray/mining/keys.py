"""An endpoint's key: read from the environment, and refused where no header could carry it."""

from __future__ import annotations

import os
import re

from dig_ray.errors import UserError

_HEADER = re.compile(r"[\x21-\x7e]+")
_QUOTES = "\"'`“”‘’"  # noqa: RUF001 - what documents and shells put around a key


def read_key(miner: str, variable: str | None, secret: str | None = None) -> str | None:
    """The key that an environment variable holds, without white space around it (a file's line end comes along with ``$(cat key)``).

    Args:
        miner: name, for the message.
        variable: name of the environment variable; None where the endpoint takes no key.
        secret: the key as the driver had it, where this process's environment has none.

    Raises:
        UserError: it is not set, or holds what no key holds; the sentence never repeats it.
    """
    if variable is None:
        return None
    key = (os.environ.get(variable) or secret or "").strip()
    if not key:
        state = "is empty" if variable in os.environ else "is not set"
        raise UserError(
            f"miner {miner}: the environment variable {variable} {state}; set it to the endpoint's key, or api_key_env=null where it "
            "takes none"
        )
    problem = ""
    if key[0] in _QUOTES or key[-1] in _QUOTES:
        problem = "begins or ends with a quotation mark"
    elif key.lower().startswith("bearer "):
        problem = "begins with 'Bearer', which is sent anyhow"
    elif re.search(r"\s", key):
        problem = "has white space or a line end in it"
    elif not _HEADER.fullmatch(key):
        problem = "has a character that is no ASCII letter, digit or sign"
    if problem:
        raise UserError(
            f"miner {miner}: the key in the environment variable {variable} {problem}, so it is no key; set it to the bare key"
        )
    return key
