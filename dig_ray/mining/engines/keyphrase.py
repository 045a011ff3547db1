"""The ``keyphrase`` engine: no LLM. Phrases of the text itself that stand nearest to it in a text encoder's space, by KeyBERT.

What it finds is what the text says, never what it means: a floor to compare miners with, and what runs where there is no model. Its
answers have the shape of a model's, with the cosine as confidence, and every report names it "no LLM".
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

from dig_ray.errors import UserError
from dig_ray.mining.answer_log import AnswerLog
from dig_ray.mining.answers import LONGEST_TEXT, fold
from dig_ray.mining.engines.contract import Job, Result, judge_answer
from dig_ray.mining.progress import Meter

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 32
"""Rows a batch: what is done again after a death."""


def run(job: Job, requests: pa.Table) -> None:
    """Find phrases for every row.

    Raises:
        UserError: the encoder cannot be loaded.
    """
    import ray
    from ray.data import ActorPoolStrategy

    from dig_ray.encoder import model_path

    model_path(job.miner.encoder, "encoder")  # a missing package is said before an actor starts
    actors = min(job.miner.actors, -(-requests.num_rows // ROWS))
    blocks = [requests.slice(start, ROWS) for start in range(0, requests.num_rows, ROWS)]
    threads = max(1, int(ray.cluster_resources().get("CPU", 1)) // actors)
    outcomes = ray.data.from_arrow(blocks).map_batches(
        Extractor,
        fn_constructor_kwargs={"job": job, "threads": threads},
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=1, max_size=actors),
        num_cpus=job.miner.num_cpus,
        num_gpus=job.miner.num_gpus or None,
    )
    for outcome in outcomes.iter_rows():
        if outcome["stopped"]:
            raise UserError(outcome["stopped"])


class Extractor:
    """One actor. A UserError travels back as data."""

    def __init__(self, job: Job, threads: int) -> None:
        self.job, self.threads = job, threads
        self.model: Any = None
        self.journal = AnswerLog(job.log).writer()
        self.meter = Meter(job.board, job.miner.name)

    def __call__(self, rows: pa.Table) -> dict[str, Any]:
        try:
            self._extract(rows)
        except UserError as error:
            return {"stopped": [str(error)]}
        return {"stopped": [""]}

    def _extract(self, rows: pa.Table) -> None:
        model = self._load()
        texts = [evidence_text(evidence) for evidence in rows["evidence"].to_pylist()]
        begun = time.monotonic()
        found = extract(model, texts, self.job.miner)
        seconds = (time.monotonic() - begun) / len(texts)
        for key, phrases in zip(rows["key"].to_pylist(), found, strict=True):
            result = Result(key, seconds=seconds)
            if phrases:
                result.raw = json.dumps(
                    {"descriptors": [{"descriptor": p, "confidence": c} for p, c in phrases]},
                    ensure_ascii=False,
                )
                answer, result.reason = judge_answer("descriptors", result.raw)
                result.status = "failed" if answer is None else "ok"
            else:
                result.reason = "no_phrase: the text has no word to take one from"
            self.journal.append(result.row())
            self.meter.add(result)
        self.journal.flush()
        self.meter.flush()

    def _load(self) -> Any:
        if self.model is None:
            import torch

            from dig_ray.encoder import load_encoder

            torch.set_num_threads(min(self.threads, os.cpu_count() or 1))
            encoder = load_encoder(self.job.miner.encoder, "encoder")
            from keybert import KeyBERT

            self.model = KeyBERT(model=encoder)
        return self.model


def evidence_text(evidence: str) -> str:
    """The plain text of an evidence object: its strings, one a line."""
    value = json.loads(evidence)

    def strings(node: Any) -> list[str]:
        if isinstance(node, str):
            return [node]
        if isinstance(node, dict):
            return [text for key, inner in node.items() if key != "cut" for text in strings(inner)]
        return [text for inner in node for text in strings(inner)] if isinstance(node, list) else []

    return "\n".join(strings(value))


def extract(model: Any, texts: list[str], config: Any) -> list[list[tuple[str, float]]]:
    """Phrases with cosines in [0, 1], nearest first, no two the same after folding; [] for a text without words.

    Args:
        model: a ``KeyBERT``.
        texts: one per subject.
        config: a ``KeyphraseConfig``.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    words = CountVectorizer(ngram_range=(1, config.longest), stop_words="english")
    analyse = words.build_analyzer()
    out: list[list[tuple[str, float]]] = [[] for _ in texts]
    have = [number for number, text in enumerate(texts) if analyse(text)]
    if not have:
        return out
    found = model.extract_keywords(
        [texts[number] for number in have],
        vectorizer=words,
        top_n=config.phrases,
        use_mmr=True,
        diversity=config.diversity,
    )
    if len(have) == 1:  # KeyBERT unwraps a single text
        found = [found] if not found or isinstance(found[0], tuple) else found
    for number, phrases in zip(have, found, strict=True):
        kept: dict[str, tuple[str, float]] = {}
        for phrase, score in phrases:
            if 0 < len(phrase) <= LONGEST_TEXT:
                kept.setdefault(fold(phrase), (phrase, round(min(max(float(score), 0.0), 1.0), 4)))
        out[number] = sorted(kept.values(), key=lambda pair: (-pair[1], pair[0]))
    return out
