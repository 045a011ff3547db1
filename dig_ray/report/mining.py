"""What the page says about mining: who was asked, what failed and why, agreement, labels, and some items with their interests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dig_ray.report.charts import chart

STAGES = {"captions": "captions", "item_interests": "items", "user_interests": "users", "judgements": "judge"}
EXAMPLES = 8
LONGEST = 240  # characters of evidence that are shown


def gather_mining(inputs: Mapping[str, Path], manifests: Mapping[str, Any]) -> dict[str, Any] | None:
    """Figures and examples of the mining stages of one run; None when it had none."""
    stages = {name: manifests[name]["stats"] for name in STAGES if name in manifests}
    if not stages:
        return None
    judgements = stages.get("judgements", {})
    return {
        "miners": [row for name, stats in stages.items() for row in _miners(STAGES[name], stats)],
        "failures": [
            {"stage": STAGES[name], "miner": miner, "reason": reason.replace("_", " "), "rows": count}
            for name, stats in stages.items()
            for miner, sums in stats["miners"].items()
            for reason, count in sorted(sums["all"]["reasons"].items(), key=lambda pair: (-pair[1], pair[0]))
        ],
        "agreement": [
            {"stage": STAGES[name], "pair": pair, "share": share}
            for name, stats in stages.items()
            for pair, share in stats.get("agreement", {}).items()
        ],
        "copies": [
            {
                "stage": STAGES[name],
                "miner": miner,
                "answers": sums["copies"]["answers"],
                "ok": sums["all"]["ok"],
            }
            for name, stats in stages.items()
            for miner, sums in stats["miners"].items()
            if sums.get("copies", {}).get("answers")
        ],
        "estimated": [
            {"stage": STAGES[name], "miner": miner, "calls": sums["all"]["estimated"]}
            for name, stats in stages.items()
            for miner, sums in stats["miners"].items()
            if sums["all"].get("estimated")
        ],
        "cut": {STAGES[name]: stats["cut"] for name, stats in stages.items() if stats.get("cut")},
        "judge": judgements or None,
        "calibration": _calibration(judgements.get("rldi")),
        "examples": _examples(inputs) if "item_interests" in inputs else [],
    }


def _miners(stage: str, stats: Mapping[str, Any]) -> list[dict[str, Any]]:
    prompt = stats.get("prompt", {})
    rows = []
    for miner, sums in stats["miners"].items():
        total = sums["all"]
        rows.append(
            {
                "stage": stage,
                "miner": miner,
                "engine": sums["engine"] if sums["llm"] else "no LLM",
                "prompt": f"{prompt.get('name')} v{prompt.get('version')} {prompt.get('hash')}"
                if sums["llm"]
                else "–",
                "rows": total["ok"] + total["failed"],
                "failed": total["failed"],
                "calls": total["calls"],
                "tokens_in": total["tokens_in"],
                "tokens_out": total["tokens_out"],
                "cost": total["cost"],
            }
        )
    return rows


def _calibration(facts: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not facts:
        return None
    points = [(bin_["probability"], bin_["positive"]) for bin_ in facts["calibration"]]
    drawn = chart(
        "RLDI: share labelled 1 against its probability, held out",
        [("RLDI", points), ("perfect", [(0.0, 0.0), (1.0, 1.0)])],
        from_zero=True,
    )
    return drawn and drawn | {"axis": "probability"}


def _examples(inputs: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Evenly spaced items that have an interest: their evidence, what each miner said, and the labels."""
    import pyarrow.parquet as pq

    from dig_ray.mining.read_mined import read_captions, read_interests

    merged = read_interests(inputs["item_interests"])
    with_some = [item for item, found in merged.items() if found]
    chosen = with_some[:: max(1, len(with_some) // EXAMPLES)][:EXAMPLES]
    if not chosen:
        return []
    items = {row["item_id"]: row for row in _rows(inputs["catalog"] / "items.parquet", "item_id", chosen)}
    captions = read_captions(inputs.get("captions"))
    labels: dict[tuple[str, str], Any] = {}
    if "judgements" in inputs:
        for row in _rows(inputs["judgements"] / "judgements.parquet", "subject_id", chosen):
            labels[row["subject_id"], row["descriptor"]] = row
    table = pq.read_table(
        inputs["item_interests"] / "interests.parquet",
        columns=["subject_id", "miner", "reasoning"],
        filters=[("subject_id", "in", chosen)],
    )
    reasoning = {row["subject_id"]: row["reasoning"] for row in table.to_pylist() if row["reasoning"]}
    out = []
    for item in chosen:
        record = items.get(item, {})
        out.append(
            {
                "item": item,
                "evidence": [
                    (name, _short(record.get(name)))
                    for name in ("title", "brand", "categories", "description")
                ]
                + [("caption", _short(captions.get(item)))],
                "reasoning": [
                    (step.replace("_", " "), text) for step, text in (reasoning.get(item) or {}).items()
                ],
                "interests": [
                    {
                        "text": found["text"],
                        "confidence": found["confidence"],
                        "miners": ", ".join(found["miners"]),
                        "label": (labels.get((item, found["text"])) or {}).get("label"),
                        "by": (labels.get((item, found["text"])) or {}).get("judge"),
                    }
                    for found in merged[item]
                ],
            }
        )
    return out


def _rows(path: Path, column: str, values: list[str]) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    names = [n for n in pq.read_schema(path).names if n not in ("image", "image_bytes")]
    return pq.read_table(path, columns=names, filters=[(column, "in", values)]).to_pylist()


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value or "")
    text = " ".join(text[: 4 * LONGEST].split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + "…"
