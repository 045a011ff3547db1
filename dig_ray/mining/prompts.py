"""Prompts as versioned files: instructions only. Evidence travels in a message of its own and is never spliced into them."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

from dig_ray.errors import UserError
from dig_ray.mining.answers import Kind

FOLDER = Path(__file__).parent / "prompts"


@dataclass(frozen=True)
class Prompt:
    """Instructions for one kind of answer.

    Attributes:
        name, version: as in the file; they stand in every row that the prompt led to.
        kind: what an answer must look like.
        system: the instructions.
        hash: 12 hex digits of all of the above.
    """

    name: str
    version: int
    kind: Kind
    system: str
    hash: str

    def messages(self, evidence: str, image: tuple[bytes, str] | None = None) -> list[dict[str, Any]]:
        """See :func:`chat_messages`."""
        return chat_messages(self.system, evidence, image)


def chat_messages(system: str, evidence: str, image: tuple[bytes, str] | None = None) -> list[dict[str, Any]]:
    """Chat messages in the OpenAI shape: instructions, then the evidence alone, with a picture (bytes, media type) where there is one."""
    content: Any = evidence
    if image is not None:
        data, media = image
        url = f"data:{media};base64,{base64.b64encode(data).decode()}"
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": evidence}]
    return [{"role": "system", "content": system}, {"role": "user", "content": content}]


def prompt_file(name: str) -> Path:
    """Where a prompt is: beside this module by its name, or the path itself."""
    return FOLDER / f"{name}.yaml" if "/" not in name and not name.endswith((".yaml", ".yml")) else Path(name)


@lru_cache
def load_prompt(name: str) -> Prompt:
    """A prompt by the name of a file beside this module, or by the path of a YAML file of the same shape.

    Raises:
        UserError: there is no such prompt, or the file lacks a field, has one too many, or one of a wrong type.
    """
    import yaml

    path = prompt_file(name)
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yaml")))
        raise UserError(
            f"prompt {name!r} does not exist; choose from {known}, or give the path of a YAML file"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"{path}: the prompt cannot be read ({str(error).splitlines()[0]}); correct the file"
        ) from None
    wanted = {"name": str, "version": int, "kind": str, "system": str}
    if not isinstance(fields, dict) or set(fields) != set(wanted):
        raise UserError(f"{path}: a prompt has exactly the fields {', '.join(wanted)}")
    for key, kind in wanted.items():
        if type(fields[key]) is not kind or fields[key] == "":
            raise UserError(
                f"{path}: {key} is {fields[key]!r:.60}, not {'a number' if kind is int else 'text'}"
            )
    if fields["kind"] not in get_args(Kind):
        raise UserError(
            f"{path}: kind {fields['kind']!r} is unknown; choose from {', '.join(get_args(Kind))}"
        )
    body = json.dumps(fields, sort_keys=True)
    return Prompt(**fields, hash=hashlib.sha256(body.encode()).hexdigest()[:12])
