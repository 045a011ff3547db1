"""What a trial is: one point of the space run to the sweep's target through the store, and its figures."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dig_ray.baselines.sasrec import epoch_figures
from dig_ray.cluster import find_user_error, quiet_ray_data
from dig_ray.config import (
    COMMAND_LINE,
    RunConfig,
    find_config,
    known_keys,
    parse_overrides,
    read_layers,
    resolve,
)
from dig_ray.data_fit import look
from dig_ray.errors import UserError, raise_all
from dig_ray.folders import read_bytes, write_bytes
from dig_ray.manifest import hash_json
from dig_ray.on_ray.said import GOES_ON
from dig_ray.pipeline import plan, run_pipeline, select
from dig_ray.store import NO_SPACE, Artifact, Store
from dig_ray.sweeps.config import OBJECTIVES, TIME, SweepConfig
from dig_ray.sweeps.space import Point, plain, setting, settings_of


@dataclass(frozen=True)
class Leg:
    """From one meeting of a population to the next.

    Attributes:
        begin: epochs (steps of RL) before it.
        end: epochs (steps) at its end; None for the end of the run.
        folder: local folder or URI of the population's checkpoints.
    """

    begin: int
    end: int | None
    folder: str


@dataclass(frozen=True)
class Trials:
    """All that turns a point into a run; plain data that travels to trials.

    Attributes:
        layers: the base run's config files, read.
        settings: ``key=value`` for all trials.
        target: stage that is judged.
        seeds: each is run.
        leg: the stretch of training that is run, where it is not the whole.
        catalogue: fingerprint and figures of the base run's catalogue, by which points that do not go with it are impossible; None before
            it is there.
    """

    layers: tuple[tuple[str, Mapping[str, Any]], ...]
    settings: tuple[str, ...]
    target: str
    seeds: tuple[int, ...]
    leg: Leg | None = None
    catalogue: tuple[str, Mapping[str, Any]] | None = None

    @staticmethod
    def of(sweep: SweepConfig, configs: Path) -> Trials:
        """The trials of a sweep; ``configs`` is where named runs are.

        Raises:
            UserError: see :func:`dig_ray.config.load_config`.
        """
        path = find_config(sweep.base, configs)
        layers = [
            (where, {k: v for k, v in layer.items() if k != "name"}) for where, layer in read_layers(path)
        ]
        return Trials(tuple(layers), sweep.settings, sweep.target, sweep.seeds)

    def config(self, point: Point, seed: int | None = None) -> Any:
        """The run's config at a point.

        Raises:
            UserError: the point is impossible, or an unknown key.
        """
        overrides = [*self.settings, *settings_of(point), f"seed={self.seeds[0] if seed is None else seed}"]
        named = {"name": f"{self.target}-{name_of(point)}"}
        layers = [*self.layers, ("the sweep", named), *parse_overrides(overrides, known_keys(RunConfig))]
        return resolve(layers)

    @property
    def longest(self) -> int:
        """Epochs of a whole trial of the base run; steps of RL are not known before it runs."""
        config = self.config({})
        if self.target == "grpo":
            return sys.maxsize
        if self.target == "multi_interest":
            if config.multi_interest is None:
                raise UserError("target: multi_interest is not set in the base run; name a base that has it")
            return int(config.multi_interest.max_epochs)
        if self.target == "baselines":
            return int(config.baselines.sasrec.max_epochs) if "sasrec" in config.baselines.run else 1
        return int(config.sft.epochs if self.target == "sft" else config.semantic_ids.rqvae.epochs)

    def check_key(self, key: str, one: Any) -> None:
        """Refuse a key that the config does not have; ``one`` is its ``Range``, of which any value will do.

        Raises:
            UserError: with the nearest key that there is.
        """
        try:
            parse_overrides([setting(key, plain(one.values[0]))], known_keys(RunConfig))
        except UserError as error:
            raise UserError(f"space: {str(error).removeprefix(COMMAND_LINE + ': ')}") from None

    def why_not(self, point: Point) -> str:
        """Why a point makes no possible run; "" when it does."""
        try:
            config = self.config(point)
            chosen = select(config, only=self.target)
            if self.catalogue is not None:
                fingerprint, stats = self.catalogue
                if plan(config, chosen[:1], Store(config.store))[0].recipe.fingerprint == fingerprint:
                    raise_all(look(config, stats, [spec.name for spec in chosen]).faults)
        except UserError as error:
            return str(error)
        if self.target == "baselines" and len(config.baselines.run) != 1:
            return (
                f"target: baselines judges one baseline, and baselines.run has {len(config.baselines.run)}; "
                "add baselines.run=[sasrec], or another, to settings"
            )
        return ""

    def identity(self, point: Point) -> str:
        """The fingerprint of what a possible point makes: points that differ in what is not read make the same."""
        config = self.config(point)
        return plan(config, select(config, only=self.target), Store(config.store))[-1].recipe.fingerprint

    def base_point(self, keys: Sequence[str]) -> dict[str, Any]:
        """What the base run has at these keys, as a point has it; without those it has nothing at."""
        tree = self.config({}).model_dump(mode="json")
        found = {}
        for key in keys:
            node: Any = tree
            for part in key.split("."):
                node = node.get(part) if isinstance(node, dict) else None
            if node is not None:
                found[key] = plain(node)
        return found


def name_of(point: Point) -> str:
    """Eight hex digits."""
    return hash_json(dict(point))[:8]


def run_trial(point: dict[str, Any], trials: Trials, threads: int, notes: str) -> None:
    """Tune's function: a driver without a CPU of its own around the stages, which ask for theirs.

    Args:
        point: what is tried.
        trials: what runs it.
        threads: of torch in this process, where quantizers run.
        notes: folder or URI for what the trial says, and for why it failed.

    Raises:
        UserError: a stage failed in a way that a person can mend; its sentence is left among the notes.
    """
    import torch
    from ray import tune

    torch.set_num_threads(threads)
    quiet_ray_data()
    name = name_of(point)
    known = why_failed(notes, point)
    if known is not None:  # Tune tries again whatever failed
        raise UserError(known)
    lines: list[str] = []
    try:
        each = [run_point(trials, point, seed, lines.append, _tell(trials.target)) for seed in trials.seeds]
    except Exception as error:
        sentence = find_user_error(error)
        # neither a full disk nor a machine that died says anything of the point
        if sentence is not None and not any(word in sentence for word in (NO_SPACE, GOES_ON)):
            write_bytes(notes, f"{name}.failed", sentence.encode())
        raise
    finally:
        write_bytes(notes, f"{name}.log", "".join(f"{line}\n" for line in lines).encode())
    tune.report(
        over_seeds([figures for figures, _ in each]) | {"complete": 1, "curve": json.dumps(each[0][1])}
    )


def why_failed(notes: str, point: Point) -> str | None:
    """The sentence that a trial left; None where it did not."""
    sentence = read_bytes(notes, f"{name_of(point)}.failed")
    return None if sentence is None else sentence.decode()


def run_point(
    trials: Trials,
    point: Point,
    seed: int,
    log: Callable[[str], None],
    report: Callable[[Mapping[str, float]], None] | None = None,
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Run one point with one seed to the target; its figures, and its validations on the way where it is a policy."""
    config = trials.config(point, seed)
    if trials.leg is not None:
        from dig_ray.sweeps.legs import run_leg

        return run_leg(trials, point, config, trials.leg, log)
    done = run_pipeline(config, only=trials.target, log=log, brief=True, wait=True, report=report)
    artifact = done[trials.target]
    return figures_of(trials.target, artifact), curve_of(trials.target, artifact)


def curve_of(target: str, artifact: Artifact) -> list[dict[str, float]]:
    """Validations by epoch (step of RL) that a policy's artifact keeps; [] for Semantic IDs."""
    if target == "semantic_ids":
        return []
    if target == "baselines":
        (told,) = _baselines(artifact).values()
        return [epoch_figures(entry) for entry in told.get("epochs", ())]
    return validations(target, json.loads((artifact.path / "curves.json").read_text()))


def validations(target: str, log: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Of a training's log what a sweep reads."""
    names = (TIME[target], *OBJECTIVES[target])
    return [{name: entry[name] for name in names} for entry in log if all(name in entry for name in names)]


def _tell(target: str) -> Callable[[Mapping[str, float]], None] | None:
    """What hands epochs of a quantizer or a baseline to Tune; the others are trained by Ray Train, which does it itself."""
    from ray import tune

    if target == "baselines":
        return lambda figures: tune.report(dict(figures))
    if target != "semantic_ids":
        return None
    return lambda figures: tune.report(dict(figures) | {"signal": signal(figures)})


def signal(figures: Mapping[str, float]) -> float:
    """The early sign of a quantizer: squared error over variance plus the share of items whose code is shared. Our choice."""
    return figures["error_over_variance"] + figures["collision_rate"]


def figures_of(target: str, artifact: Artifact) -> dict[str, float]:
    """What is known of a target's artifact, by ``sweeps.config.OBJECTIVES``; nothing of it comes from the test split."""
    if target == "semantic_ids":
        return _of_sids(json.loads((artifact.path / "sid_quality.json").read_text()))
    if target == "baselines":
        (told,) = _baselines(artifact).values()
        return {f"eval_{name.lower()}": told["validation"]["seen"][name] for name in ("NDCG@10", "HR@10")}
    stats = artifact.stats
    found = {"eval_ndcg@10": stats["valid_ndcg_at_10"], "eval_hr@10": stats["valid_hr_at_10"]}
    if (
        target == "grpo"
    ):  # the artifact keeps the start where nothing was better; a sweep wants to know how far RL came
        log = json.loads((artifact.path / "curves.json").read_text())
        later = [entry for entry in log if "eval_ndcg@10" in entry and entry["step"] > 0]
        best = max(later, key=lambda entry: entry["eval_ndcg@10"])
        found = {name: best[name] for name in found} | {"start_ndcg@10": stats["start_valid_ndcg_at_10"]}
    return found


def _baselines(artifact: Artifact) -> dict[str, Any]:
    """Name -> what the stage tells of each baseline."""
    return {
        name: told for name, told in artifact.stats.items() if isinstance(told, dict) and "validation" in told
    }


def _of_sids(report: Mapping[str, Any]) -> dict[str, float]:
    last = report["prefixes"][-1]
    collisions = report["collisions"]
    sharing = collisions["items_sharing_full_code"]
    found = {
        "collision_rate": collisions["collision_rate"],
        "share_used": sum(level["share_used"] for level in report["levels"]) / len(report["levels"]),
        "perplexity": math.prod(level["perplexity"] for level in report["levels"])
        ** (1 / len(report["levels"])),
        "codes": float(sum(report["codebook_sizes"])),
        "tokens": len(report["levels"]) + sharing / report["items"],
    }
    if "error_over_variance" in last:
        found["error_over_variance"] = last["error_over_variance"]
        found["signal"] = signal(found)
    if "neighbour_recall" in report["prefixes"][0]:
        found["neighbour_recall"] = report["prefixes"][0]["neighbour_recall"]
    return found


def over_seeds(each: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Means, and with several seeds the list of every seed's ``per_seed/...`` figures."""
    found: dict[str, Any] = {name: sum(one[name] for one in each) / len(each) for name in each[0]}
    if len(each) > 1:
        found |= {f"per_seed/{name}": [one[name] for one in each] for name in each[0]}
    return found
