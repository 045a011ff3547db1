"""Prompts as versioned files: instructions only. Evidence travels in a message of its own and is never spliced into them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

from dig_ray.errors import UserError
from dig_ray.mining.answers import Kind

FOLDER = Path(__file__).parent / "prompts"
LONGEST_FILE = 262_144
"""Bytes of a prompt's file at most."""
HIGHEST_VERSION = 2**31 - 1  # tables keep it in 32 bits


@dataclass(frozen=True)
class Prompt:
    """Instructions for one kind of answer.

    Attributes:
        name: as the file says it; it stands in every row that the prompt led to.
        version: a whole number, likewise.
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
    if "/" not in name and not name.endswith((".yaml", ".yml")):
        return FOLDER / f"{name}.yaml"
    return Path(name).expanduser()


@lru_cache
def load_prompt(name: str) -> Prompt:
    """A prompt by the name of a file beside this module, or by the path of a YAML file of the same shape.

    Raises:
        UserError: there is no such prompt, or the file lacks a field, has one too many, or one of a wrong type.
    """
    path = prompt_file(name)
    fields = _read_fields(name, path)
    wanted = {"name": str, "version": int, "kind": str, "system": str}
    if not isinstance(fields, dict):
        raise UserError(f"{path}: a prompt has exactly the fields {', '.join(wanted)}; this file has none")
    missing = [key for key in wanted if key not in fields]
    unknown = [str(key)[:40] for key in fields if key not in wanted]
    if missing or unknown:
        said = [f"lacks {', '.join(missing)}"] if missing else []
        said += [f"has {', '.join(unknown[:3])} too many"] if unknown else []
        raise UserError(
            f"{path}: a prompt has exactly the fields {', '.join(wanted)}; this one {' and '.join(said)}"
        )
    for key, kind in wanted.items():
        value = fields[key]
        if type(value) is not kind or (isinstance(value, str) and not value.strip()):
            raise UserError(f"{path}: {key} is {value!r:.60}, not {'a number' if kind is int else 'text'}")
        if isinstance(value, str) and value.encode("utf-8", "replace").decode() != value:
            raise UserError(f"{path}: {key} holds half a character (a lone surrogate); remove it")
    if not 0 <= fields["version"] <= HIGHEST_VERSION:
        raise UserError(f"{path}: version {fields['version']} is not from 0 to {HIGHEST_VERSION}")
    if fields["kind"] not in get_args(Kind):
        raise UserError(
            f"{path}: kind {fields['kind']!r:.60} is unknown; choose from {', '.join(get_args(Kind))}"
        )
    body = json.dumps(fields, sort_keys=True)
    return Prompt(**fields, hash=hashlib.sha256(body.encode()).hexdigest()[:12])


def _read_fields(name: str, path: Path) -> Any:
    import yaml

    try:
        with path.open("rb") as file:
            raw = file.read(LONGEST_FILE + 1)
        if len(raw) > LONGEST_FILE:
            raise UserError(
                f"{path}: the prompt has more than {LONGEST_FILE:,} bytes, which no model reads as instructions; correct the path"
            )
        return yaml.safe_load(raw.decode("utf-8"))
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yaml")))
        raise UserError(
            f"prompt {name!r} does not exist; choose from {known}, or give the path of a YAML file"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: the prompt cannot be read (not UTF-8 text at byte {error.start}); save it as UTF-8"
        ) from None
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "strerror", None) or getattr(error, "problem", None) or str(error)
        where = f" on line {mark.line + 1}" if mark else ""
        raise UserError(
            f"{path}: the prompt cannot be read ({str(reason).splitlines()[0][:160]}{where}); correct the file"
        ) from None


def checked_prompt(name: str, kinds: Sequence[str], key: str) -> Prompt:
    """A prompt whose answers are of one of ``kinds``; ``key`` of ``mining`` names it.

    Raises:
        UserError: they are not, or there is no such prompt.
    """
    prompt = load_prompt(name)
    if prompt.kind not in kinds:
        raise UserError(
            f"mining.{key}={name!r} asks for {prompt.kind}; name a prompt that asks for {' or '.join(kinds)}"
        )
    return prompt


ANSWERS_OF = {
    "caption": ("caption",),
    "items": ("descriptors", "interests"),
    "users": ("descriptors", "interests"),
    "judge": ("judgement",),
    "clusters": ("clusters",),
}
"""Field of ``mining`` that names miners -> kinds of answer that its prompt may ask for."""


def prompt_key(field: str) -> str:
    """The key of ``mining`` that names the prompt of a field's miners: ``items`` -> ``item_prompt``."""
    return f"{field.removesuffix('s')}_prompt"
