"""What a model may answer, and reading it: strict JSON or a named reason why not.

An answer is either whole or refused. Nothing is repaired by guessing: a code fence, a word of politeness, a key too many, a NaN, a
confidence of 1.2 or the same interest twice all refuse it, and the reason goes into the row. Shapes: DCIM descriptors and the judge's bare
integer follow the papers (METHOD: DCIM, judge); the caption, the reasoned interests and the clusters are our choice of shape. Which items a
cluster names is checked against the items that were shown where these are known (``clusters.repair``).
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal

Kind = Literal["caption", "descriptors", "interests", "judgement", "clusters"]

LONGEST_ANSWER = 65_536  # characters; a longer one is refused unread
LONGEST_TEXT = 400  # characters of one descriptor, interest or reasoning step
LONGEST_CAPTION = 1_000
MOST = 20  # descriptors or interests in one answer
MOST_CLUSTERS = 200  # clusters in one answer, and items in one of them

REASONING = ("surface", "usage_context", "motive")
"""The steps before the interests, in order: what it is, where it is used, why one would want it."""


class AnswerError(ValueError):
    """A refused answer.

    Attributes:
        reason: one word for tables: ``too_long``, ``not_json``, ``duplicate_key``, ``not_finite``, ``wrong_keys``, ``wrong_type``,
            ``out_of_range``, ``empty``, ``duplicate`` or ``too_many``.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(slots=True)
class Answer:
    """A valid answer.

    Attributes:
        texts: descriptors or interests in the order given, strongest first; the caption alone for ``caption``.
        confidences: one per text in [0, 1]; empty for ``caption``.
        reasoning: the steps of ``REASONING``; empty for other kinds.
        label: 0 or 1, for ``judgement``.
        members: for ``clusters``, the numbers of each cluster's items, as the model gave them; ``texts`` are the clusters' names.
    """

    texts: tuple[str, ...] = ()
    confidences: tuple[float, ...] = ()
    reasoning: dict[str, str] = field(default_factory=dict)
    label: int | None = None
    members: tuple[tuple[int, ...], ...] = ()


def json_schema(kind: Kind, most: int = MOST) -> dict[str, Any]:
    """The JSON schema an engine can hold a model to while it writes."""
    confidence = {"type": "number", "minimum": 0, "maximum": 1}

    def text(longest: int) -> dict[str, Any]:
        return {"type": "string", "minLength": 1, "maxLength": longest}

    def obj(**properties: Any) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    def many(key: str) -> dict[str, Any]:
        entry = obj(**{key: text(LONGEST_TEXT), "confidence": confidence})
        return {"type": "array", "items": entry, "minItems": 1, "maxItems": most}

    if kind == "caption":
        return obj(caption=text(LONGEST_CAPTION))
    if kind == "descriptors":
        return obj(descriptors=many("descriptor"))
    if kind == "interests":
        steps = {step: text(LONGEST_TEXT) for step in REASONING}
        return obj(**steps, interests=many("interest"))
    if kind == "clusters":
        number = {"type": "integer", "minimum": 1, "maximum": MOST_CLUSTERS}
        numbers = {"type": "array", "items": number, "minItems": 1, "maxItems": MOST_CLUSTERS}
        entry = obj(name=text(LONGEST_TEXT), items=numbers)
        return obj(clusters={"type": "array", "items": entry, "minItems": 1, "maxItems": most})
    return {"type": "integer", "enum": [0, 1]}


def read_answer(kind: Kind, text: str, most: int = MOST) -> Answer:
    """Read one answer of a model.

    Raises:
        AnswerError: it is not exactly what ``json_schema(kind, most)`` describes, or it says the same thing twice.
    """
    if kind in _ENTRY and (answer := _well_formed(kind, text, most)) is not None:
        return answer
    value = strict_json(text)
    if kind == "judgement":
        if type(value) is not int:
            raise AnswerError("wrong_type", f"the judge answers a bare integer, not {_named(value)}")
        if value not in (0, 1):
            raise AnswerError("out_of_range", f"the judge answers 0 or 1, not {str(value)[:20]}")
        return Answer(label=value)
    if kind == "caption":
        _check_keys(value, ("caption",), "the answer")
        return Answer(texts=(_text(value["caption"], "caption", LONGEST_CAPTION),))
    if kind == "descriptors":
        _check_keys(value, ("descriptors",), "the answer")
        texts, confidences = _list(value["descriptors"], "descriptor", most)
        return Answer(texts, confidences)
    if kind == "clusters":
        _check_keys(value, ("clusters",), "the answer")
        names, members = _clusters(value["clusters"], most)
        return Answer(texts=names, members=members)
    _check_keys(value, (*REASONING, "interests"), "the answer")
    reasoning = {step: _text(value[step], step, LONGEST_TEXT) for step in REASONING}
    texts, confidences = _list(value["interests"], "interest", most)
    return Answer(texts, confidences, reasoning)


_ENTRY = {"descriptors": "descriptor", "interests": "interest"}
_KEY = re.compile(r'"\s*:')


@cache
def _parser(kind: Kind) -> Any:
    """Reads JSON of a kind's shape in one pass, strings and numbers checked; what it refuses is looked at again for the reason."""
    from pydantic import ConfigDict, Field, TypeAdapter
    from typing_extensions import TypedDict

    strict = ConfigDict(extra="forbid", strict=True)
    said = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)]
    sure = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
    typed: Any = TypedDict
    entry: Any = typed("entry", {_ENTRY[kind]: said, "confidence": sure})
    entry.__pydantic_config__ = strict
    fields: dict[str, Any] = dict.fromkeys(REASONING, said) if kind == "interests" else {}
    fields[f"{_ENTRY[kind]}s"] = Annotated[list[entry], Field(min_length=1, max_length=MOST)]  # type: ignore[valid-type]
    shape = typed("shape", fields)
    shape.__pydantic_config__ = strict
    return TypeAdapter(shape).validator


def _well_formed(kind: Kind, text: str, most: int) -> Answer | None:
    """The answer when it is plainly in order, quickly; None leaves what is wrong to be found out.

    A key twice shows in the number of quotes before a colon: each key has one, and text can only add to them.
    """
    if type(text) is not str or len(text) > LONGEST_ANSWER:
        return None
    try:
        value = _parser(kind).validate_json(text)
    except ValueError:
        return None
    key = _ENTRY[kind]
    entries = value[f"{key}s"]
    if len(entries) > most or len(_KEY.findall(text)) != len(value) + 2 * len(entries):
        return None
    said = [entry[key] for entry in entries]
    steps = {step: value[step] for step in REASONING} if kind == "interests" else {}
    whole = "".join((*said, *steps.values()))
    if not whole.isprintable():
        return None
    if "  " in whole or any(one[0] == " " or one[-1] == " " for one in (*said, *steps.values())):
        return None  # white space to be collapsed
    form = str.lower if whole.isascii() else fold
    distinct = {form(one) for one in said}
    if len(distinct) < len(said):
        return None
    return Answer(tuple(said), tuple([entry["confidence"] for entry in entries]), steps)


def strict_json(text: str) -> Any:
    """JSON and nothing else: no NaN, no infinity, no key twice, nothing before or after, bounded in length and depth."""
    if not isinstance(text, str):
        raise AnswerError("not_json", f"the answer is {_named(text)}, not text")
    if len(text) > LONGEST_ANSWER:
        raise AnswerError("too_long", f"the answer has {len(text):,} characters; {LONGEST_ANSWER:,} are read")
    if not text.strip():
        raise AnswerError("empty", "the answer is empty")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in items]
        if len(set(keys)) < len(keys):
            twice = next(key for number, key in enumerate(keys) if key in keys[:number])
            raise AnswerError("duplicate_key", f"key {twice[:40]!r} stands twice")
        return dict(items)

    def refuse(word: str) -> Any:
        raise AnswerError("not_finite", f"{word} is no JSON number")

    def number(word: str) -> float:
        value = float(word)
        if not math.isfinite(value):
            raise AnswerError("not_finite", f"{word[:40]} is no finite number")
        return value

    try:
        return json.loads(text, object_pairs_hook=pairs, parse_constant=refuse, parse_float=number)
    except AnswerError:
        raise
    except RecursionError:
        raise AnswerError("not_json", "the answer is nested too deeply") from None
    except ValueError as error:  # JSONDecodeError, or an integer of thousands of digits
        raise AnswerError("not_json", f"not JSON: {str(error)[:120]}") from None


def fold(text: str) -> str:
    """The form in which two texts are the same: NFKC, casefolded, white space collapsed."""
    if text.isascii():
        return " ".join(text.lower().split())
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def _text(value: Any, what: str, longest: int) -> str:
    if not isinstance(value, str):
        raise AnswerError("wrong_type", f"{what} is {_named(value)}, not text")
    if _CONTROL.search(value):
        raise AnswerError("wrong_type", f"{what} holds a control character")
    clean = " ".join(value.split())
    if not clean:
        raise AnswerError("empty", f"{what} is empty")
    if len(clean) > longest:
        raise AnswerError("too_long", f"{what} has {len(clean):,} characters, more than {longest}")
    return clean


def _entries(value: Any, key: str, most: int) -> list[Any]:
    if not isinstance(value, list):
        raise AnswerError("wrong_type", f"{key}s is {_named(value)}, not a list")
    if not value:
        raise AnswerError("empty", f"there is no {key}")
    if len(value) > most:
        raise AnswerError("too_many", f"{len(value)} {key}s are more than {most}")
    return value


def _all_different(texts: list[str], key: str) -> None:
    folded = [fold(text) for text in texts]
    if len(set(folded)) < len(folded):
        twice = next(text for number, text in enumerate(folded) if text in folded[:number])
        raise AnswerError("duplicate", f"{key} {twice[:60]!r} stands twice")


def _clusters(value: Any, most: int) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    names, members = [], []
    for entry in _entries(value, "cluster", most):
        _check_keys(entry, ("name", "items"), "a cluster")
        names.append(_text(entry["name"], "name", LONGEST_TEXT))
        numbers = _entries(entry["items"], "item", MOST_CLUSTERS)
        for number in numbers:
            if type(number) is not int:
                raise AnswerError("wrong_type", f"an item is {_named(number)}, not a whole number")
        members.append(tuple(numbers))
    _all_different(names, "cluster")
    return tuple(names), tuple(members)


def _list(value: Any, key: str, most: int) -> tuple[tuple[str, ...], tuple[float, ...]]:
    value = _entries(value, key, most)
    texts, confidences = [], []
    for entry in value:
        _check_keys(entry, (key, "confidence"), f"a {key}")
        texts.append(_text(entry[key], key, LONGEST_TEXT))
        confidence = entry["confidence"]
        if isinstance(confidence, bool) or not isinstance(confidence, (int, float)):
            raise AnswerError("wrong_type", f"a confidence is {_named(confidence)}, not a number")
        if not 0 <= confidence <= 1:
            raise AnswerError("out_of_range", f"confidence {str(confidence)[:20]} is not in [0, 1]")
        confidences.append(float(confidence))
    _all_different(texts, key)
    return tuple(texts), tuple(confidences)


def _check_keys(value: Any, keys: tuple[str, ...], what: str) -> None:
    if not isinstance(value, dict):
        raise AnswerError("wrong_type", f"{what} is {_named(value)}, not an object")
    missing = [key for key in keys if key not in value]
    extra = [key for key in value if key not in keys]
    if missing or extra:
        said = [f"lacks {', '.join(missing)}"] if missing else []
        said += [f"has {', '.join(repr(key[:40]) for key in extra[:3])} too many"] if extra else []
        raise AnswerError("wrong_keys", f"{what} {' and '.join(said)}")


def _named(value: Any) -> str:
    names = {bool: "true or false", dict: "an object", list: "a list", str: "text", type(None): "null"}
    return names.get(type(value), "a number")
