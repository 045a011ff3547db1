"""Figures for the Ray dashboard: every metric that dig_ray exports, and the three calls that set one.

A name is ``dig_<stage>_<noun>_<unit>``; Ray puts ``ray_`` in front of it, and ``_total`` behind a counter. Tags are few and short: stages,
miners, reasons, levels. Item ids, user ids, texts and paths are no tags. In a process without Ray the calls do nothing, and load nothing.

Counters and histograms stay on their machine's endpoint, also when their process has ended. Gauges go some 20 s after they were set; so the
process that has set one sets it again and again, and the driver, which lives as long as the run, sets what is to last.
"""

from __future__ import annotations

import atexit
import math
import re
import sys
import threading
from dataclasses import dataclass
from functools import cache
from typing import Any

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of a histogram's buckets."""
REPEAT_SECONDS = 5.0
"""Between two settings of the same gauge."""


@dataclass(frozen=True)
class Metric:
    """What is exported under one name.

    Attributes:
        kind: ``counter``, ``gauge`` or ``histogram``.
        meaning: what it says, in a few words, for the dashboard.
        tags: names of its tags; every call gives all of them.
    """

    kind: str
    meaning: str
    tags: tuple[str, ...] = ()


def _counter(meaning: str, *tags: str) -> Metric:
    return Metric("counter", meaning, tags)


def _gauge(meaning: str, *tags: str) -> Metric:
    return Metric("gauge", meaning, tags)


METRICS: dict[str, Metric] = {
    "dig_stage_running": _gauge("1 while a stage runs, else 0", "stage"),
    "dig_stage_artifacts": _counter("Artifacts made, found or failed", "stage", "outcome"),
    "dig_stage_rows": _gauge("Rows of a stage's artifact", "stage"),
    "dig_stage_seconds": _gauge("Seconds that making a stage's artifact took", "stage"),
    "dig_stage_progress_rows": _counter("Rows done, while a stage works", "stage"),
    "dig_mining_rows": _counter("Rows answered or failed", "stage", "miner", "status"),
    "dig_mining_failures": _counter("Rows that failed, by reason", "stage", "miner", "reason"),
    "dig_mining_calls": _counter("Requests sent, repeated ones included", "stage", "miner"),
    "dig_mining_tokens": _counter("Tokens read (in) and written (out)", "stage", "miner", "direction"),
    "dig_mining_spend_usd": _counter("US dollars spent, by the config's prices", "stage", "miner"),
    "dig_semantic_ids_collision_ratio": _gauge(
        "Share of items that share their full code, before the suffix"
    ),
    "dig_semantic_ids_codes_used_ratio": _gauge("Share of a level's codes that items use", "level"),
    "dig_semantic_ids_perplexity_codes": _gauge("Codes of a level, weighed by their use", "level"),
    "dig_semantic_ids_error_ratio": _gauge("Squared error over variance, with so many levels", "level"),
    "dig_rqvae_epochs": _gauge("Epochs done"),
    "dig_rqvae_loss": _gauge("Reconstruction and quantizer loss of an epoch"),
    "dig_rqvae_error_ratio": _gauge("Squared error over variance of an epoch"),
    "dig_rqvae_collision_ratio": _gauge("Share of items that share their full code, in an epoch"),
    "dig_rqvae_codes_used_ratio": _gauge("Share of all levels' codes that an epoch used"),
    "dig_training_epochs": _gauge("Epochs done", "stage"),
    "dig_training_steps": _gauge("Optimisation steps done", "stage"),
    "dig_training_loss": _gauge("Training loss", "stage"),
    "dig_training_learning_rate": _gauge("Learning rate", "stage"),
    "dig_training_gradient_norm": _gauge("Norm of the gradients, before it is clipped", "stage"),
    "dig_training_units": _counter(
        "Tokens (SFT), prompts (GRPO) or targets (multi-interest) trained on", "stage", "unit"
    ),
    "dig_training_units_per_second": _gauge(
        "Tokens (SFT), prompts (GRPO) or targets (multi-interest) a second", "stage", "unit"
    ),
    "dig_training_valid_ndcg": _gauge("NDCG@10 of the latest validation", "stage"),
    "dig_training_valid_hit_rate": _gauge("HR@10 of the latest validation", "stage"),
    "dig_training_valid_seconds": _gauge("Seconds that the latest validation took", "stage"),
    "dig_training_best_ndcg": _gauge("Validation NDCG@10 of the policy that was published", "stage"),
    "dig_grpo_reward": _gauge("Mean reward of the rollouts"),
    "dig_grpo_reward_std": _gauge("Standard deviation of rewards in a group, mean over groups"),
    "dig_grpo_reward_component": _gauge("Mean of one reward, raw and weighted", "component", "form"),
    "dig_grpo_kl": _gauge("KL divergence from the SFT policy"),
    "dig_grpo_entropy": _gauge("Entropy of the policy"),
    "dig_grpo_clip_ratio": _gauge("Share of rollouts (tokens, by the loss) whose ratio was clipped"),
    "dig_grpo_flat_groups_ratio": _gauge("Share of groups whose rewards are all equal"),
    "dig_grpo_hit_groups_ratio": _gauge("Share of groups that hold the target"),
    "dig_grpo_invalid_ratio": _gauge("Share of rollouts that are no item"),
    "dig_grpo_outside_ratio": _gauge("Probability outside the catalogue, were there no mask"),
    "dig_grpo_phase_seconds": _gauge("Seconds of a step for rollouts and for rewards", "phase"),
    "dig_decode_batch_seconds": Metric("histogram", "Seconds that decoding a batch took", ("stage",)),
    "dig_decode_users": _counter("Users decoded", "stage"),
    "dig_decode_short_lists": _gauge("Users whose list is shorter than asked for", "stage"),
    "dig_decode_unconstrained_invalid_ratio": _gauge("Share of free beams that are no item", "stage"),
    "dig_evaluation_score": _gauge("A metric on the test split", "recommender", "seen", "metric"),
    "dig_sweep_trials": _gauge("Trials of a sweep", "state"),
    "dig_sweep_best": _gauge("Best value of the objective so far", "objective"),
}


def exported(name: str) -> str:
    """The name under which Ray's endpoint has a metric; a histogram's series end in ``_bucket``, ``_sum`` and ``_count``."""
    return f"ray_{name}_total" if METRICS[name].kind == "counter" else f"ray_{name}"


def alive() -> bool:
    """Whether this process is part of a running Ray, so that figures get anywhere."""
    ray = sys.modules.get("ray")
    return ray is not None and hasattr(ray, "is_initialized") and bool(ray.is_initialized())


def count(name: str, value: float = 1, **tags: str) -> None:
    """Add to a counter; nothing is added for 0."""
    if value > 0 and alive():
        _recorder(name).inc(float(value), tags)


def put(name: str, value: float | None, **tags: str) -> None:
    """Set a gauge until it is set anew; None and what is not finite leave it as it is."""
    if value is not None and math.isfinite(value) and alive():
        _gauges.put(name, float(value), tags)


def observe(name: str, value: float, **tags: str) -> None:
    """Add a value to a histogram."""
    if alive():
        _recorder(name).observe(float(value), tags)


@cache
def _recorder(name: str) -> Any:
    """Ray's object of this name, in this process."""
    from ray.util import metrics

    about = METRICS[name]
    if about.kind == "histogram":
        return metrics.Histogram(name, about.meaning, list(SECONDS), about.tags)
    kind = metrics.Counter if about.kind == "counter" else metrics.Gauge
    return kind(name, about.meaning, about.tags)


class _Gauges:
    """The gauges of this process, set again and again by a thread of its own as long as Ray is there."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def put(self, name: str, value: float, tags: dict[str, str]) -> None:
        self.values[name, tuple(tags.items())] = value
        _recorder(name).set(value, tags)
        if self._thread is None or not self._thread.is_alive():
            self._end = threading.Event()
            self._thread = threading.Thread(target=self._repeat, args=(self._end,), daemon=True)
            self._thread.start()
            atexit.register(self.forget)  # runs before Ray's own, which is registered by now

    def _repeat(self, end: threading.Event) -> None:
        while not end.wait(REPEAT_SECONDS) and alive():
            for (name, tags), value in list(self.values.items()):
                _recorder(name).set(value, dict(tags))
        self.values.clear()

    def forget(self) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()
        self.values.clear()


_gauges = _Gauges()
forget = _gauges.forget
"""Set no gauge again; called before Ray goes down, so that no other Ray gets this one's figures."""


def word(text: str) -> str:
    """A text as a tag if it is one short lower-case word of ours, such as ``bad_json``; else ``other``."""
    return text if re.fullmatch(r"[a-z][a-z0-9_]{0,39}", text) else "other"


def named(worker: type, name: str) -> type:
    """A class of Ray Data's workers under the name that the dashboard is to show, such as ``Mine(qwen)``."""
    return type(name, (worker,), {"__doc__": worker.__doc__, "__module__": worker.__module__})
