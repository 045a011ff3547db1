"""The judgements stage: the judge's labels, RLDI for what it was not asked about, and every item's quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dig_ray.artifacts.artifact_tables import write_table
from dig_ray.base import Inputs, Stage
from dig_ray.catalog.dataset import Dataset
from dig_ray.errors import UserError
from dig_ray.mining.config import MiningConfig
from dig_ray.mining.evidence import Evidence, item_evidence, json_string
from dig_ray.mining.interest_tables import quarantine_table, read_answers
from dig_ray.mining.item_quality import item_quality
from dig_ray.mining.miner import ask, plan
from dig_ray.mining.prompts import checked_prompt
from dig_ray.mining.read_mined import read_captions, read_interests
from dig_ray.mining.rldi import Rldi, assess, features, train
from dig_ray.mining.stage import check_failures

RLDI = "rldi"
NEARLY_ALL = 0.05
"""Share of the rarer label below which a judge says nearly always the same."""
FEW = 20
"""Labels of the rarer kind below which an AUC, or a judge's habit, is little more than chance."""


@dataclass(frozen=True)
class Claim:
    """One interest of one item.

    Attributes:
        item: its id.
        text: the interest's text.
        confidence: the confidence of its miners, in [0, 1].
        support: how many miners gave it.
        record: the item's evidence, JSON.
    """

    item: str
    text: str
    confidence: float
    support: int
    record: str


def judgements(config: Any, stage: Stage, inputs: Inputs) -> None:
    """The ``judgements`` stage of a run: :func:`run_judgements` on its catalogue, item interests and, where there are some, captions."""
    run_judgements(config.mining, stage, inputs["catalog"], inputs["item_interests"], inputs.get("captions"))


def run_judgements(
    config: MiningConfig, stage: Stage, catalog_dir: Path, items_dir: Path, captions_dir: Path | None
) -> None:
    """Write ``judgements.parquet`` (subject_id, descriptor, label, judge, probability), ``quality.parquet`` (item_id, q), the RLDI
    classifier where it could be trained, and ``quarantine.parquet``.

    Raises:
        UserError: no item has an interest, too many labels failed, or RLDI is needed and the labels are all the same.
    """
    judge = config.judge
    assert judge is not None
    for name in config.judged_by_itself():
        stage.log(f"warning: judge {judge.name} grades what it mined itself as {name}; its labels flatter it")
    prompt = checked_prompt(config.judge_prompt, ("judgement",), "judge_prompt")
    items = Dataset.load(catalog_dir).items
    claims = read_claims(config, items, items_dir, captions_dir)
    if not claims:
        raise UserError(
            "no item has an interest to judge; look at quarantine.parquet of the item_interests stage"
        )
    judged = sample(claims, config.rldi.share, stage.seed)
    evidence = claim_evidence([claims[number] for number in judged])
    asked = plan(judge, prompt, evidence, None)
    ask([asked], prompt, evidence, stage)
    check_failures(asked, config.max_failed)
    label: dict[int, int] = {}
    for number, answer in zip(judged, read_answers(asked), strict=True):
        if answer is not None and answer.label is not None:
            label[number] = answer.label
    warnings = [_habit(judge.name, label)]
    probability, facts = _classify(config, stage, claims, label, set(judged), len(config.item_miners))
    warnings.append(_chance(facts))
    for warning in filter(None, warnings):
        stage.log(f"warning: {warning}")
    _write(config, stage, items["item_id"].to_pylist(), claims, label, probability)
    write_table(stage, "quarantine", quarantine_table([asked], evidence))
    stage.stats.update(
        rows=len(claims),
        judged=len(label),
        positive=round(sum(label.values()) / max(len(label), 1), 4),
        judge=judge.answered_by,
        prompt={"name": prompt.name, "version": prompt.version, "hash": prompt.hash},
        miners={judge.name: asked.figures()},
        rldi=facts,
        warnings=[warning for warning in warnings if warning],
    )


def _habit(judge: str, label: dict[int, int]) -> str:
    """What is to be said of a judge that gives nearly always the same label; "" of any other."""
    ones = sum(label.values())
    rarer = min(ones, len(label) - ones)
    if len(label) < FEW or rarer >= NEARLY_ALL * len(label):
        return ""
    return (
        f"judge {judge} says nearly always the same: 1 for {ones:,} and 0 for {len(label) - ones:,} of {len(label):,} interests; its "
        "labels tell interests hardly apart, so look at some, and try another judge or prompt"
    )


def _chance(facts: dict[str, Any] | None) -> str:
    """What is to be said of an AUC on few labels of one kind; "" of any other."""
    if facts is None or facts["auc"] is None or facts["rarer"] >= FEW:
        return ""
    which = "positive" if facts["positive"] < 0.5 else "negative"
    return (
        f"RLDI's AUC {facts['auc']:.3f} rests on {facts['rarer']} {which} labels of {facts['rows']:,} held out, too few to trust it; raise "
        "mining.rldi.share or mining.rldi.held_out"
    )


def read_claims(config: MiningConfig, items: Any, items_dir: Path, captions_dir: Path | None) -> list[Claim]:
    """Every interest of every item, in the order of the catalogue."""
    interests = read_interests(items_dir)
    records = item_evidence(items, config.evidence_tokens, read_captions(captions_dir))
    return [
        Claim(one.subject_id, found["text"], found["confidence"], found["support"], one.text)
        for one in records
        for found in interests.get(one.subject_id) or []
    ]


def claim_evidence(claims: Sequence[Claim]) -> list[Evidence]:
    """What the judge reads: the item's record first, so that its interests share a prefix, then the interest."""
    out = []
    count: dict[str, int] = {}
    for claim in claims:
        number = count[claim.item] = count.get(claim.item, -1) + 1
        text = f'{{"record": {claim.record}, "descriptor": {json_string(claim.text)}}}'
        out.append(Evidence("item", f"{claim.item}#{number}", text))
    return out


def sample(claims: Sequence[Claim], share: float, seed: int) -> list[int]:
    """Numbers of the claims of a share of the items, chosen by the seed; an item's claims stay together."""
    items = sorted({claim.item for claim in claims})
    count = max(1, round(share * len(items)))
    chosen = set(np.random.default_rng(seed).permutation(items)[:count].tolist())
    return [number for number, claim in enumerate(claims) if claim.item in chosen]


def _classify(
    config: MiningConfig,
    stage: Stage,
    claims: Sequence[Claim],
    label: dict[int, int],
    judged: set[int],
    miners: int,
) -> tuple[dict[int, float], dict[str, Any] | None]:
    """Probabilities of the claims that the judge was not asked about, and the classifier's figures on labels it did not see."""
    from dig_ray.mining.text_vectors import encode_on_ray

    settings = config.rldi
    left = [number for number in range(len(claims)) if number not in judged]
    items = sorted({claims[number].item for number in label})
    held = set(
        np.random.default_rng(stage.seed + 1)
        .permutation(items)[: round(settings.held_out * len(items))]
        .tolist()
    )
    seen = [n for n in label if claims[n].item not in held]
    unseen = [n for n in label if claims[n].item in held]
    if len({label[n] for n in seen}) < 2 or not unseen:
        if left:
            raise UserError(
                f"the judge's {len(label):,} labels are too few or all the same, so RLDI cannot learn to label the other {len(left):,} "
                "interests; raise mining.rldi.share"
            )
        stage.log("RLDI: the judge's labels are too few or all the same to train on")
        return {}, None
    vectors = encode_on_ray(
        [text for claim in claims for text in (claim.text, claim.record)],
        settings.encoder,
        "mining.rldi.encoder",
        stage.log,
    )

    def rows(numbers: Sequence[int]) -> np.ndarray:
        chosen = [claims[n] for n in numbers]
        return features(
            np.stack([vectors[c.text] for c in chosen]),
            np.stack([vectors[c.record] for c in chosen]),
            np.array([c.support / miners for c in chosen], np.float32),
            np.array([c.confidence for c in chosen], np.float32),
            [c.text for c in chosen],
        )

    labels = np.array([label[n] for n in seen])
    model: Rldi = train(rows(seen), labels, settings.hidden, settings.threshold, stage.seed)
    facts = assess(model.probability(rows(unseen)), np.array([label[n] for n in unseen]), settings.threshold)
    facts |= {
        "trained_on": len(seen),
        "labelled": len(left),
        "encoder": settings.encoder,
        "hidden": settings.hidden,
    }
    model.save(stage.out, facts)
    auc = "one label only" if facts["auc"] is None else f"AUC {facts['auc']:.3f}"
    stage.log(
        f"RLDI: trained on {len(seen):,} labels; {auc} on {len(unseen):,} held out; {len(left):,} to label"
    )
    found = model.probability(rows(left)) if left else np.zeros(0)
    return dict(zip(left, found.tolist(), strict=True)), facts


def _write(
    config: MiningConfig,
    stage: Stage,
    item_ids: Sequence[str],
    claims: Sequence[Claim],
    label: dict[int, int],
    probability: dict[int, float],
) -> None:
    import pyarrow as pa

    judge = config.judge
    assert judge is not None
    rows: list[dict[str, Any]] = []
    by_item: dict[str, tuple[list[int], list[float]]] = {}
    for number, claim in enumerate(claims):
        if number in label:
            value, who, chance = label[number], judge.name, None
        elif number in probability:
            chance = probability[number]
            value, who = int(chance >= config.rldi.threshold), RLDI
        else:
            continue  # the judge was asked and failed
        rows.append(
            {
                "subject_id": claim.item,
                "descriptor": claim.text,
                "label": value,
                "judge": who,
                "probability": chance,
            }
        )
        labels, confidences = by_item.setdefault(claim.item, ([], []))
        labels.append(value)
        confidences.append(claim.confidence)
    quality: list[dict[str, Any]] = []
    weightless = 0
    for item in item_ids:
        q = None
        if item in by_item:
            labels, confidences = by_item[item]
            if sum(confidences) > 0:
                q = item_quality(labels, confidences)
            else:
                weightless += 1
        quality.append({"item_id": item, "q": q})
    if weightless:
        stage.log(f"{weightless:,} items have no quality: their interests' confidences are all 0")
    schema = pa.schema(
        [
            ("subject_id", pa.string()),
            ("descriptor", pa.string()),
            ("label", pa.int8()),
            ("judge", pa.string()),
            ("probability", pa.float64()),
        ]
    )
    write_table(stage, "judgements", pa.Table.from_pylist(rows, schema))
    columns = pa.schema([("item_id", pa.string()), ("q", pa.float64())])
    write_table(stage, "quality", pa.Table.from_pylist(quality, columns))
    known = [row["q"] for row in quality if row["q"] is not None]
    stage.stats.update(
        items_with_quality=len(known),
        items_without_weight=weightless,
        mean_quality=round(float(np.mean(known)), 4) if known else None,
    )
