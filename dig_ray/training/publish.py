"""How a trained policy becomes an artifact; the same for SFT and GRPO."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dig_ray.base import Stage
from dig_ray.recommender.config import RecommenderConfig

if TYPE_CHECKING:
    from dig_ray.semantic_ids.sid_catalog import SidCatalog

PUBLISHED = {
    ".safetensors",
    ".json",
    ".txt",
    ".model",
    ".jinja",
}  # weights, configs and tokenizers; no pickles
STATE = {"trainer_state.json", "average.safetensors"}


def publish(
    trained: Path,
    facts: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    sids: SidCatalog,
    stage: Stage,
    trust_remote_code: bool = False,
) -> None:
    """Write ``stage.out/policy`` and ``stage.out/curves.json``, and read the policy back once.

    Args:
        trained: directory of a training checkpoint or of a policy.
        facts: content of ``policy.json``, see ``recommender.backbone.write_about``.
        history: what was logged while it trained, an entry a line of the log.
        sids: the catalogue that the policy speaks.
        stage: the artifact that is made.
        trust_remote_code: publish the Python files that came with the backbone, and run them to read it back.

    Raises:
        UserError: the policy cannot be read back.
    """
    from dig_ray.recommender.backbone import load_policy, write_about

    policy = stage.out / "policy"
    copy_policy(trained, policy, trust_remote_code)
    write_about(policy, dict(facts))
    (stage.out / "curves.json").write_text(json.dumps(history, indent=1))
    load_policy(policy, sids, trust_remote_code=trust_remote_code)


def copy_policy(trained: Path, target: Path, code: bool = False) -> None:
    """Copy weights and tokenizer out of a training checkpoint or a policy: the averaged weights, where there are some, over the others.

    ``code`` copies the Python files of a trusted model too.
    """
    from dig_ray.training.weight_average import FOLDER

    target.mkdir(parents=True)
    for folder in (trained, trained / FOLDER):
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            wanted = file.suffix in PUBLISHED or (code and file.suffix == ".py")
            if file.is_file() and wanted and file.name not in STATE:
                shutil.copyfile(file, target / file.name)


def policy_facts(recommender: RecommenderConfig, sids: SidCatalog, held_out: int = 0) -> dict[str, Any]:
    """What a reader of an SFT policy needs besides its weights, see ``recommender.backbone.write_about``.

    Args:
        recommender: settings it was trained by.
        sids: the catalogue it speaks.
        held_out: how many of each user's latest training events it has not seen.
    """
    from dig_ray.recommender.pretrained import source

    names = sids.token_strings
    return {
        "sid_fingerprint": sids.fingerprint,
        "n_sid": len(names),
        "first_sid_token": names[0],
        "normalizer": recommender.normalizer,
        "max_history": recommender.max_history,
        "held_out": held_out,
        "levels": int(sids.codes.shape[1]),
        "dtype": recommender.dtype,
        "base_model": source(recommender.backbone) if recommender.lora is not None else None,
        "base_revision": recommender.revision,
    }


def write_policy_facts(
    directory: Path, recommender: RecommenderConfig, sids: SidCatalog, held_out: int = 0
) -> None:
    """Write ``policy_facts`` beside a policy."""
    from dig_ray.recommender.backbone import write_about

    write_about(directory, policy_facts(recommender, sids, held_out))


def write_stretch(result: Any, name: str, stage: Stage) -> None:
    """Leave where a stretch's last checkpoint is, and its validations, for whoever goes on from there.

    Args:
        result: what Ray Train returned for the stretch.
        name: name of Ray Train's run, which is the folder of its checkpoints in ``stage.work``.
        stage: whose ``stats`` get ``checkpoint`` (a folder or a URI) and ``curves``.
    """
    from dig_ray.on_ray.fit import last_checkpoint

    where, history = last_checkpoint(result, stage.work, name)
    stage.stats.update(checkpoint=where, curves=history)
