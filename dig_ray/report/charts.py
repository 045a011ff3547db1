"""Training curves as lines in an SVG's coordinates; the template only writes them down."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dig_ray.training.validation_log import HR, NDCG

WIDTH, HEIGHT = 360, 220  # as wide as a phone, so that its text is never scaled down
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 14, 34
POINTS = 400  # per line: more cannot be seen at this width


def series(curves: Sequence[Mapping[str, Any]], key: str, by: str = "epoch") -> list[tuple[float, float]]:
    """(epoch, value) of every entry of the trainer's log that has ``key``, finite ones only; or by another column, such as step."""
    found = [(entry.get(by), entry.get(key)) for entry in curves]
    return [
        (float(x), float(y))
        for x, y in found
        if isinstance(x, (int, float))
        and isinstance(y, (int, float))
        and math.isfinite(x)
        and math.isfinite(y)
    ]


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values from ``low`` to ``high``, about ``most`` of them or fewer."""
    if not high > low:
        return [low]
    raw = (high - low) / most
    step = 10.0 ** math.floor(math.log10(raw))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round((first + i) * step, 12) for i in range(int((high - first * step) / step + 1e-9) + 1)]


def chart(
    title: str,
    lines: Sequence[tuple[str, list[tuple[float, float]]]],
    from_zero: bool = False,
    best: float | None = None,
    span: float = 0.0,
) -> dict[str, Any] | None:
    """One small chart.

    Args:
        title: what it shows.
        lines: (name, points) pairs; lines without points are left out.
        from_zero: whether the vertical axis starts at 0.
        best: an epoch to mark on all lines.
        span: the vertical axis shows at least so much, so that chance does not look like a mountain.

    Returns:
        coordinates and texts for the template, None when no line has a point.
    """
    lines = [(name, points) for name, points in lines if points]
    if not lines:
        return None
    xs = [x for _, points in lines for x, _ in points]
    ys = [y for _, points in lines for _, y in points]
    x0, x1 = min(0.0, min(xs)), max(xs)
    y0, y1 = (0.0 if from_zero and min(ys) >= 0 else min(ys)), max(ys)
    x1, y1 = (x1 if x1 > x0 else x0 + 1), (y1 if y1 > y0 else y0 + (abs(y0) or 1))
    margin = max(0.06 * (y1 - y0), (span - (y1 - y0)) / 2)
    y1, y0 = y1 + margin, (y0 if from_zero else y0 - margin)

    def across(x: float) -> float:
        return round(LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT), 1)

    def down(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM), 1)

    drawn: list[dict[str, Any]] = []
    for name, points in lines:
        kept = points[:: max(1, -(-len(points) // POINTS))]
        if kept[-1] != points[-1]:
            kept.append(points[-1])
        flat = (
            len({y for _, y in points}) == 1 and len(points) > 1
        )  # a line to compare with, which has no best
        marked = [p for p in points if best is not None and p[0] == best and not flat]
        drawn.append(
            {
                "name": name,
                "path": " ".join(f"{across(x)},{down(y)}" for x, y in kept),
                "dots": [(across(x), down(y)) for x, y in kept] if len(kept) <= 40 else [],
                "mark": (across(marked[0][0]), down(marked[0][1])) if marked else None,
                "last": points[-1],
            }
        )
    vertical = ticks(y0, y1)
    digits = max(0, -math.floor(math.log10(vertical[1] - vertical[0]))) if len(vertical) > 1 else 3
    if any(abs(round(y, digits) - y) > 1e-9 for y in vertical):
        digits += 1
    said = "; ".join(f"{n}: {p[0][1]:.4f} at first, {p[-1][1]:.4f} at last" for n, p in lines)
    return {
        "title": title,
        "said": f"{title}. {said}.",
        "lines": drawn,
        "x": [(across(x), f"{x:g}") for x in ticks(x0, x1)],
        "y": [(down(y), _label(y, digits)) for y in vertical],
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "floor": HEIGHT - BOTTOM,
        "axis": "",
    }


def _label(value: float, digits: int) -> str:
    """As numbers below 1 stand in the page's tables: without the zero before the point."""
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if 0 < abs(value) < 1 else text


def training(curves: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Charts of validation and loss, the validations as rows, and the best one (the first of equals)."""
    gain, hits, loss = (series(curves, key) for key in (NDCG, HR, "loss"))
    if not gain and not loss:
        return None
    best = max(gain, key=lambda point: point[1])[0] if gain else None
    hit_at = dict(hits)
    validation = [("HR@10", hits), ("NDCG@10", gain)]
    return {
        "charts": [
            found
            for found in (
                chart("Validation, constrained decoding", validation, from_zero=True, best=best),
                chart("Training loss", [("loss", loss)]),
            )
            if found
        ],
        "rows": [
            {
                "epoch": x,
                "ndcg": y,
                "hr": hit_at.get(x),
                "loss": next((value for at, value in reversed(loss) if at <= x + 1e-9), None),
                "best": x == best,
            }
            for x, y in gain
        ],
        "best": best,
    }


def reinforcement(log: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """RL as one figure: validation by decoding beside every part of the reward, KL, entropy, and what the quality term changed.

    Args:
        log: GRPO's ``curves.json``; its first validation is the SFT start.
    """

    def line(key: str) -> list[tuple[float, float]]:
        return series(log, key, by="step")

    gain, hits = line(NDCG), line(HR)
    if not gain:
        return None
    best = max(gain, key=lambda point: point[1])[0]
    start, top = gain[0][1], max(value for _, value in gain)
    ends = (gain[0][0], gain[-1][0])
    parts = sorted(
        {
            key.split("/")[1]
            for entry in log
            for key in entry
            if key.startswith("rewards/") and "/weighted" in key
        }
    )
    change = line("quality/advantage_change")
    found = [
        chart(
            "Validation NDCG@10, constrained decoding",
            [("SFT start", [(x, start) for x in dict.fromkeys(ends)]), ("during RL", gain)],
            best=best,
            span=0.2 * start,
        ),
        chart(
            "Reward of a rollout, by part, weighted",
            [("all", line("reward")), *((part, line(f"rewards/{part}/weighted")) for part in parts)],
        ),
        chart(
            "KL to the SFT policy, and entropy of a token", [("KL", line("kl")), ("entropy", line("entropy"))]
        ),
        chart(
            "Groups: with a hit, without a difference",
            [("with a hit", line("groups_with_hit")), ("all rewards equal", line("frac_reward_zero_std"))],
            from_zero=True,
        ),
        chart(
            "Outside the catalogue: rollouts, and the policy without its mask",
            [("rollouts", line("invalid")), ("without the mask", line("eval_outside"))],
            from_zero=True,
        ),
        chart(
            "Change of advantages by the quality term, mean of a rollout",
            [("change", change)],
            from_zero=True,
        )
        if change
        else None,
    ]
    unique = line("unique_rollouts")
    return {
        "charts": [{**one, "axis": "step"} for one in found if one],
        "rows": [{"step": x, "ndcg": y, "hr": dict(hits).get(x), "best": x == best} for x, y in gain],
        "best": best,
        "start": start,
        "top": top,
        "helped": top > start,
        "quality": bool(change),
        "unique": unique[-1][1] if unique else None,
    }
