"""Answers that repeat what the model was shown instead of saying something: the prompt's examples, a title, a sentence of the evidence.

Small models do it often. Whether an entry is a copy is decided whenever answers are read, from the answer, the prompt and the evidence, so
that answers which were paid for stay what they are, whatever the policy. Two texts are the same here when their words are: case,
punctuation and white space do not count.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal

from dig_ray.mining.answers import Answer, AnswerError
from dig_ray.mining.evidence import Evidence

Policy = Literal["count", "drop", "refuse"]

EXAMPLE_WORDS = 3
"""Words in a row of the instructions from which an entry that is nothing else is one of their examples; a quoted one of any length is."""
SENTENCE_WORDS = 4
"""Words from which a whole sentence of the evidence is no phrase that anybody would come upon."""
KINDS = {"example": "the prompt's own words", "title": "a title", "sentence": "a sentence of the evidence"}
_SIGNS = ".,;:!?()'\"-"
_NO_WORD = re.compile(r"[\W_]+")
_QUOTED = re.compile(r"\"([^\"\n]{2,200})\"|“([^”\n]{2,200})”|`([^`\n]{2,200})`")
_SENTENCE_END = re.compile(r"[.!?;\n]+(?=\s|$)")
_KINDS_OF_ANSWER = ("caption", "descriptors", "interests")


def words(text: str) -> str:
    """A text as its words alone: lower case, one space between."""
    return _NO_WORD.sub(" ", text.casefold()).strip()


@lru_cache
def _instructions(system: str) -> tuple[str, frozenset[str]]:
    """The instructions' words, and the texts that stand in quotation marks there."""
    quoted = (next(filter(None, found)) for found in _QUOTED.findall(system))
    return f" {words(system)} ", frozenset(words(text) for text in quoted) - {""}


def copies(answer: Answer, system: str, evidence: str) -> list[str]:
    """For each text of an answer ``example``, ``title``, ``sentence``, or "" where it is its own.

    Args:
        answer: a valid one.
        system: the instructions.
        evidence: what it is about, JSON.
    """
    shown, quoted = _instructions(system)
    low = evidence.lower()
    record: tuple[set[str], set[str]] | None = None
    found = []
    for text in answer.texts:
        if text.isascii():  # quickly: a copy's longest word stands where it was copied from
            longest = max(text.split(), key=len).strip(_SIGNS).lower()
            if longest.isalnum() and longest not in shown and longest not in low:
                found.append("")
                continue
        said = words(text)
        record = record or _shown(evidence)
        kind = ""
        if said in record[0]:
            kind = "title"
        elif said in record[1]:
            kind = "sentence"
        elif said in quoted or (said.count(" ") + 1 >= EXAMPLE_WORDS and f" {said} " in shown):
            kind = "example"
        found.append(kind)
    return found


def _shown(evidence: str) -> tuple[set[str], set[str]]:
    """Titles and whole sentences of an evidence."""
    titles: set[str] = set()
    sentences: set[str] = set()
    record = json.loads(evidence)
    for name, value in record.items() if isinstance(record, dict) else ():
        texts = value if isinstance(value, list) else [value]
        if name == "title":
            titles.update(words(text) for text in texts)
        elif name == "history":
            titles.update(words(entry["title"]) for entry in texts if "title" in entry)
        elif name in ("description", "caption"):
            for text in texts:
                parts = [text, *_SENTENCE_END.split(text)]
                sentences.update(part for part in map(words, parts) if part.count(" ") + 1 >= SENTENCE_WORDS)
    return titles - {""}, sentences


def judge_copies(
    kind: str,
    answers: Sequence[Answer | None],
    system: str,
    evidence: Sequence[Evidence],
    policy: Policy,
    counts: Counter[str],
) -> tuple[list[Answer | None], dict[int, str]]:
    """Answers under a policy, and the reasons of those that it refuses, by their number.

    Args:
        kind: what the answers are; judgements and clusters have no text of their own.
        answers: one per evidence, None where there is none.
        system: the instructions.
        evidence: what each answer is about.
        policy: ``count`` leaves answers as they are, ``drop`` leaves copies out, ``refuse`` takes no answer with a copy in it. An answer
            that is nothing but copies is refused by both.
        counts: gets ``example``, ``title``, ``sentence`` (texts), ``texts`` (all) and ``answers`` (with a copy).
    """
    if kind not in _KINDS_OF_ANSWER:
        return list(answers), {}
    kept: list[Answer | None] = []
    refused: dict[int, str] = {}
    for number, (answer, one) in enumerate(zip(answers, evidence, strict=True)):
        if answer is None:
            kept.append(None)
            continue
        found = copies(answer, system, one.text)
        counts["texts"] += len(found)
        if any(found):
            counts["answers"] += 1
            counts.update(filter(None, found))
            try:
                answer = _under(policy, answer, found)
            except AnswerError as error:
                refused[number] = f"{error.reason}: {error}"
                answer = None
        kept.append(answer)
    return kept, refused


def _under(policy: Policy, answer: Answer, found: Sequence[str]) -> Answer:
    if policy == "count":
        return answer
    if policy == "refuse" or all(found):
        text, kind = next((t, k) for t, k in zip(answer.texts, found, strict=True) if k)
        raise AnswerError("copy", f"the answer repeats {KINDS[kind]}, {text[:60]!r}")
    own = [number for number, kind in enumerate(found) if not kind]
    return replace(
        answer,
        texts=tuple(answer.texts[n] for n in own),
        confidences=tuple(answer.confidences[n] for n in own) if answer.confidences else (),
    )


def copies_line(miner: str, counts: Counter[str], answers: int, policy: Policy) -> str:
    """What is printed of a miner's copies; "" where there are none."""
    if not counts["answers"]:
        return ""
    kinds = ", ".join(f"{KINDS[kind]} {counts[kind]:,}" for kind in KINDS if counts[kind])
    became = {
        "count": "they are kept; mining.copies=drop leaves them out, and =refuse their answers",
        "drop": "they are left out",
        "refuse": "these answers are refused",
    }[policy]
    return f"{miner}: {counts['answers']:,} of {answers:,} answers repeat what the model was shown ({kinds}); {became}"
