"""What mining would cost: rows, calls, tokens and money of each miner, before anything is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dig_ray.catalog.dataset import Dataset
from dig_ray.mining.config import MiningConfig, Price
from dig_ray.mining.engines.contract import worth_asking
from dig_ray.mining.evidence import Evidence, count_tokens, item_evidence
from dig_ray.mining.judging import claim_evidence, read_claims, sample
from dig_ray.mining.miner import Asked, load_known, plan
from dig_ray.mining.prompts import Prompt, load_prompt
from dig_ray.mining.read_mined import read_captions
from dig_ray.mining.stage import caption_inputs, cluster_inputs, most_entries, user_inputs
from dig_ray.mining.tokens import PICTURE_TOKENS, shared_tokens


@dataclass(frozen=True)
class Estimate:
    """One miner's estimate.

    Attributes:
        stage: short name of the stage that asks.
        miner: name of the miner.
        rows: subjects there is something to ask about.
        known: rows of them that were answered before.
        calls: requests that are sent when no answer is bad.
        tokens_in: tokens that are sent, estimated without the model's tokenizer, rather too high.
        tokens_out: tokens that answers are expected to have: the mean of this miner's earlier answers, else the half of ``max_tokens``.
        most_out: tokens of the answers when every answer is as long as ``max_tokens`` lets it be.
        dollars: US dollars by the miner's price, where answers have ``tokens_out``.
        most_dollars: US dollars by the miner's price, where they have ``most_out``.
        note: what the estimate does not know.
    """

    stage: str
    miner: str
    rows: int
    known: int
    calls: int
    tokens_in: int
    tokens_out: int
    most_out: int
    dollars: float
    most_dollars: float
    note: str = ""


def estimate(
    config: MiningConfig,
    catalog_dir: Path,
    items_dir: Path | None,
    kept: str,
    seed: int,
    captions_dir: Path | None = None,
    pictures_dir: Path | None = None,
    clustered: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
) -> list[Estimate]:
    """Estimates of all miners of a config.

    Args:
        config: the settings of mining.
        catalog_dir: the catalogue's artifact.
        items_dir: the item interests' artifact, if there is one: what the judge and the users' miners build on.
        kept: where the store keeps answers.
        seed: the run's seed, which draws the judge's sample.
        captions_dir: the captions' artifact, if there is one.
        pictures_dir: the pictures' artifact, if there is one; else every item that names a picture counts as one to ask about.
        clustered: ``user`` or ``crowd`` -> id -> distinct item ids, of the subjects whose items ``config.clusters`` is to allocate.
    """
    dataset = Dataset.load(catalog_dir)
    found: list[Estimate] = []
    if config.caption is not None:
        prompt = load_prompt(config.caption_prompt)
        recorded = config.caption.recorded is not None
        picture = 0 if recorded else (config.image_side**2) // PICTURE_TOKENS
        if recorded or pictures_dir is not None:
            evidence, pictures, _ = caption_inputs(config, catalog_dir, pictures_dir)
            asked = plan(config.caption, prompt, evidence, pictures, config.most)
            found.append(_one("captions", asked, prompt, evidence, kept, extra=picture))
        else:
            evidence = [Evidence("item", item, "{}") for item in _with_pictures(dataset.items)]
            asked = plan(config.caption, prompt, evidence, None, config.most)
            note = "pictures not opened yet"
            found.append(_one("captions", asked, prompt, evidence, kept, picture, note, distinct=False))
    captions = read_captions(captions_dir)
    evidence = item_evidence(dataset.items, config.evidence_tokens, captions)
    note = "without captions" if config.caption is not None and captions_dir is None else ""
    prompt = load_prompt(config.item_prompt)
    for miner in config.item_miners:
        asked = plan(miner, prompt, evidence, None, config.most)
        found.append(_one("items", asked, prompt, evidence, kept, note=note))
    if config.users:
        prompt = load_prompt(config.user_prompt)
        evidence = user_inputs(config, dataset, items_dir)
        note = "" if items_dir is not None or not config.item_miners else "without item interests"
        for miner in config.users:
            asked = plan(miner, prompt, evidence, None, config.most)
            found.append(_one("users", asked, prompt, evidence, kept, note=note))
    if config.clusters is not None:
        prompt = load_prompt(config.cluster_prompt)
        note = "" if items_dir is not None or not config.item_miners else "without item interests"
        for subject, subjects in (clustered or {}).items():
            evidence, _ = cluster_inputs(config, subject, subjects, dataset.items, items_dir)
            asked = plan(config.clusters, prompt, evidence, None, most_entries(config, prompt))
            found.append(_one(f"{subject}_clusters", asked, prompt, evidence, kept, note=note))
    if config.judge is not None:
        prompt = load_prompt(config.judge_prompt)
        if items_dir is not None:
            claims = read_claims(config, dataset.items, items_dir, captions_dir)
            evidence = claim_evidence([claims[n] for n in sample(claims, config.rldi.share, seed)])
            note = ""
        else:
            items = item_evidence(dataset.items, config.evidence_tokens, captions)
            chosen = items[: max(1, round(config.rldi.share * len(items)))]
            evidence = [one for one in chosen for _ in range(config.most)]
            note = f"as if every item had {config.most} interests"
        asked = plan(config.judge, prompt, evidence, None)
        found.append(_one("judge", asked, prompt, evidence, kept, note=note, distinct=items_dir is not None))
    return found


def _with_pictures(items: Any) -> list[str]:
    """Ids of the items that name or bring a picture."""
    columns = [
        items[name].is_valid().to_pylist() for name in ("image", "image_bytes") if name in items.column_names
    ]
    ids = items["item_id"].to_pylist()
    return (
        [item for item, given in zip(ids, zip(*columns, strict=True), strict=True) if any(given)]
        if columns
        else []
    )


def _one(
    stage: str,
    asked: Asked,
    prompt: Prompt,
    evidence: Sequence[Evidence],
    kept: str,
    extra: int = 0,
    note: str = "",
    distinct: bool = True,
) -> Estimate:
    load_known(asked, kept)
    todo: Mapping[str, Evidence] | list[tuple[str, Evidence]]
    pairs = [(key, one) for key, one in zip(asked.keys, evidence, strict=True) if key]
    rows = list(dict(pairs).items()) if distinct else pairs
    todo = [(key, one) for key, one in rows if worth_asking(asked.answers.get(key))]
    miner: Any = asked.miner
    llm = miner.asks_model
    schema = getattr(miner, "response_format", "none") != "none" and asked.kind != "judgement"
    shared = shared_tokens(asked.kind, asked.most, prompt.system, schema) + extra
    tokens_in = sum(count_tokens(one.text) + shared for _, one in todo) if llm else 0
    earlier = [
        row["tokens_out"] / max(row["calls"], 1) for row in asked.answers.values() if row["tokens_out"]
    ]
    longest = 2 if asked.kind == "judgement" else miner.sampling.max_tokens
    mean = sum(earlier) / len(earlier) if earlier else longest / 2
    tokens_out = round(mean * len(todo)) if llm else 0
    most_out = longest * len(todo) if llm else 0
    price: Price = miner.price
    return Estimate(
        stage,
        miner.name,
        len(rows),
        len(rows) - len(todo),
        len(todo) if llm else 0,
        tokens_in,
        tokens_out,
        most_out,
        price.of(tokens_in, tokens_out),
        price.of(tokens_in, most_out),
        note,
    )
