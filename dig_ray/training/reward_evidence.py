"""What rewards know beside the rollouts: which artifacts it is read from, and how.

GRPO's stage needs the artifacts of what its rewards read, so a further kind of evidence is one more :class:`Evidence` here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dig_ray.base import Inputs
from dig_ray.errors import UserError
from dig_ray.stage_spec import Names, when

if TYPE_CHECKING:
    import numpy as np

    from dig_ray.catalog.dataset import Dataset


@dataclass(frozen=True)
class Sources:
    """What evidence is read from.

    Attributes:
        rewards: the settings of the rewards, ``RewardsConfig``.
        dataset: catalogue, events and split; evidence is in the order of its items and users.
        inputs: stage -> directory of its artifact.
        encoder: key or path of the text encoder, ``embedding.model``.
        log: prints one line of progress.
    """

    rewards: Any
    dataset: Dataset
    inputs: Inputs
    encoder: str
    log: Callable[[str], None]


@dataclass(frozen=True)
class Evidence:
    """One kind of evidence.

    Attributes:
        name: under which it travels to the workers.
        stages: of the run's config, the stages whose artifacts it is read from.
        read: reads it in the driver, as plain data.
        lacking: of the run's config, a sentence on what mining has to be set up for it; None where it is.
        settings: dotted keys of the run's config, beside those of GRPO, that decide what is read.
    """

    name: str
    stages: Callable[[Any], Names]
    read: Callable[[Sources], Any]
    lacking: Callable[[Any], str | None]
    settings: Names = ()


def _quality(sources: Sources) -> np.ndarray:
    """float64 (N,), the quality of every item in [0, 1].

    Raises:
        UserError: items have none and ``grpo.rewards.missing_quality`` does not say what then.
    """
    import numpy as np

    from dig_ray.mining.read import read_quality

    directory = sources.inputs["judgements"]
    known = read_quality(directory)
    ids = sources.dataset.item_ids.tolist()
    missing = [item for item in ids if item not in known]
    instead = sources.rewards.missing_quality
    if missing and instead is None:
        raise UserError(
            f"{directory / 'quality.parquet'}: {len(missing):,} of {len(ids):,} items have no quality (such as "
            f"{', '.join(missing[:3])}); judge them, or set grpo.rewards.missing_quality"
        )
    return np.array([known.get(item, instead) for item in ids], float)


def _quality_lacks(config: Any) -> str | None:
    if config.mining.judge is not None:
        return None
    return (
        f"grpo.rewards.quality={config.grpo.rewards.quality} needs the quality of items, which a judge's labels give; set mining.judge, "
        "or grpo.rewards.quality=none"
    )


def _interests(sources: Sources) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Unit vectors of every item's and every user's interests, float32 (n_i, D) each; of items the positive ones, where labelled.

    Raises:
        UserError: no item and no user has any.
    """
    import numpy as np

    from dig_ray.mining.read import read_interests, read_labels
    from dig_ray.mining.vectors import encode_on_ray

    inputs, dataset = sources.inputs, sources.dataset
    labels = read_labels(inputs["judgements"]) if "judgements" in inputs else {}
    of_items, of_users = read_interests(inputs["item_interests"]), read_interests(inputs["user_interests"])
    texts_of_items = [
        [one["text"] for one in of_items.get(item) or () if labels.get((item, one["text"]), 1) == 1]
        for item in dataset.item_ids.tolist()
    ]
    texts_of_users = [[one["text"] for one in of_users.get(user) or ()] for user in dataset.user_ids.tolist()]
    every = [text for texts in (*texts_of_items, *texts_of_users) for text in texts]
    if not every:
        raise UserError("grpo.rewards.gamma reads interests, and mining found none; set it to 0")
    vectors = encode_on_ray(every, sources.encoder, "embedding.model", sources.log)
    width = len(next(iter(vectors.values())))

    def rows(texts: list[str]) -> np.ndarray:
        found: Any = [vectors[text] for text in texts]
        return np.stack(found) if found else np.zeros((0, width), np.float32)

    return [rows(texts) for texts in texts_of_items], [rows(texts) for texts in texts_of_users]


def _stages_of_interests(config: Any) -> Names:
    return ("item_interests", "user_interests", *when(judgements=config.mining.judge is not None))


def _interests_lack(config: Any) -> str | None:
    if config.mining.users and config.mining.item_miners:
        return None
    return "grpo.rewards.gamma compares interests of users and items; set mining.users and mining.items, or gamma to 0"


QUALITY = Evidence("quality", lambda config: ("judgements",), _quality, _quality_lacks)
INTERESTS = Evidence(
    "interests", _stages_of_interests, _interests, _interests_lack, settings=("embedding.model",)
)
