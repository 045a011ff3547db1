"""The Semantic ID quality report: what can be said about SIDs before any policy is trained on them.

Decides the measures: how evenly codes are used, how many items need a suffix, how much of the vectors survives, and
whether items that are near each other share prefixes. Utilisation is a health check and not a promise of ranking quality.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dig_ray.semantic_ids.sid_catalog import LEVEL_LETTERS, NO_SUFFIX, SidCatalog

SCORES_AT_ONCE = 1 << 25  # similarities held in memory: 128 MiB


def quality_report(
    catalog: SidCatalog,
    vectors: np.ndarray | None = None,
    reconstruction: Sequence[float] | None = None,
    neighbours: int = 10,
    sample: int = 2_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Figures on a SID catalogue, JSON-able.

    Args:
        catalog: the SIDs.
        vectors: float32 (N, D) the SIDs were made from; without them neighbour recall is left out.
        reconstruction: squared error over variance with 1..L codes, when the quantizer can reconstruct.
        neighbours: true (cosine) neighbours per item that recall is taken over.
        sample: items whose neighbours are looked up; all of them in a smaller catalogue.
        seed: decides that sample.

    Returns:
        ``items``; ``collisions`` (before the suffix: share of items whose full code is shared, buckets, the largest;
        after: 0 by construction, counted); ``levels`` (used, share used, entropy in bits, perplexity, Gini, largest share);
        ``prefixes`` (distinct prefixes, random share, and if known error and neighbour recall with its lift over random).
    """
    n = len(catalog)
    shared = catalog.suffix != NO_SUFFIX
    buckets = np.bincount(catalog.prefix_ids(catalog.levels))
    after = n - len(np.unique(catalog.token_table, axis=0))
    report: dict[str, Any] = {
        "items": n,
        "codebook_sizes": list(catalog.sizes),
        "collisions": {
            "items_sharing_full_code": int(shared.sum()),
            "collision_rate": float(shared.mean()),
            "distinct_full_codes": len(buckets),
            "shared_buckets": int((buckets > 1).sum()),
            "largest_bucket": int(buckets.max()),
            "suffix_tokens": catalog.n_suffix,
            "items_sharing_after_suffix": int(after),
        },
        "levels": [code_usage(catalog.codes[:, level], size) for level, size in enumerate(catalog.sizes)],
        "prefixes": [],
    }
    recall = None
    if vectors is not None and n > 1:
        recall = neighbour_recall(catalog, vectors, min(neighbours, n - 1), sample, seed)
        report["neighbours"] = min(neighbours, n - 1)
        report["neighbour_sample"] = min(sample, n)
    for length in range(1, catalog.levels + 1):
        sizes = np.bincount(catalog.prefix_ids(length)).astype(np.float64)
        by_chance = float((sizes * (sizes - 1)).sum() / max(n * (n - 1), 1))
        row: dict[str, Any] = {"length": length, "distinct": len(sizes), "random_share": by_chance}
        if reconstruction is not None:
            row["error_over_variance"] = float(reconstruction[length - 1])
        if recall is not None:
            row["neighbour_recall"] = recall[length - 1]
            row["lift_over_random"] = recall[length - 1] / by_chance if by_chance > 0 else None
        report["prefixes"].append(row)
    return report


def code_usage(codes: np.ndarray, size: int) -> dict[str, Any]:
    """How evenly one level's codes (N,) are used: entropy H in bits, perplexity 2^H, Gini over all ``size`` codes."""
    counts = np.bincount(codes, minlength=size).astype(np.float64)
    share = counts / counts.sum()
    positive = share[share > 0]
    entropy = max(float(-(positive * np.log2(positive)).sum()), 0.0)
    return {
        "used": len(positive),
        "size": size,
        "share_used": len(positive) / size,
        "entropy_bits": entropy,
        "perplexity": float(2.0**entropy),
        "gini": gini(counts),
        "largest_share": float(share.max()),
        "counts": counts.astype(int).tolist(),
    }


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of non-negative counts: 0 all equal, towards 1 when one takes everything."""
    ordered = np.sort(np.asarray(counts, dtype=np.float64))
    n, total = len(ordered), ordered.sum()
    if total <= 0:
        return 0.0
    return float((2.0 * np.arange(1, n + 1) - n - 1) @ ordered / (n * total))


def neighbour_recall(catalog: SidCatalog, vectors: np.ndarray, k: int, sample: int, seed: int) -> list[float]:
    """Share of each item's ``k`` nearest cosine neighbours that have its prefix of length 1..L, mean over sampled items.

    The neighbours are exact: every sampled item is compared with the whole catalogue.
    """
    n = len(catalog)
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = (vectors / np.where(norm > 0, norm, 1.0)).astype(np.float32)
    rows = np.arange(n)
    if sample < n:
        rows = np.sort(np.random.default_rng(seed).choice(n, sample, replace=False))
    prefixes = [catalog.prefix_ids(length) for length in range(1, catalog.levels + 1)]
    hits = np.zeros(catalog.levels)
    step = max(1, SCORES_AT_ONCE // n)
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        scores = unit[some] @ unit.T
        scores[np.arange(len(some)), some] = -np.inf
        near = np.argpartition(scores, -k, axis=1)[:, -k:]
        for level, prefix in enumerate(prefixes):
            hits[level] += (prefix[near] == prefix[some][:, None]).sum()
    return [float(h) / (len(rows) * k) for h in hits]


def report_lines(report: dict[str, Any]) -> list[str]:
    """The report as a few lines for the terminal."""
    collisions = report["collisions"]
    lines = [
        f"semantic_ids: {report['items']} items, {collisions['collision_rate']:.2%} share their full code before the suffix "
        f"({collisions['shared_buckets']} buckets, largest {collisions['largest_bucket']}), "
        f"{collisions['items_sharing_after_suffix']} after"
    ]
    for level, (usage, prefix) in enumerate(zip(report["levels"], report["prefixes"], strict=True)):
        line = (
            f"semantic_ids: level {LEVEL_LETTERS[level]}: {usage['used']}/{usage['size']} codes used, perplexity "
            f"{usage['perplexity']:.0f}, Gini {usage['gini']:.2f}; prefix {prefix['length']}: {prefix['distinct']} distinct"
        )
        if "error_over_variance" in prefix:
            line += f", error/variance {prefix['error_over_variance']:.3f}"
        if "neighbour_recall" in prefix:
            line += f", {prefix['neighbour_recall']:.1%} of true neighbours"
        lines.append(line)
    return lines


def draw_quality(report: dict[str, Any], path: str | Path, title: str = "Semantic IDs") -> None:
    """Draw the report as a PNG: code usage per level above; collisions, reconstruction and neighbour recall below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    ink, blue, pale, red = "#25303b", "#2f6db0", "#c9d8ea", "#c8553d"
    levels, prefixes = report["levels"], report["prefixes"]
    shown = min(len(levels), 6)
    width = max(10.0, 3.4 * shown)
    figure = Figure(figsize=(width, 6.6), dpi=120, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    halves: Any = figure.subfigures(2, 1, height_ratios=(1, 1.05))
    above, below = halves
    collisions = report["collisions"]
    figure.suptitle(
        f"{title}: {report['items']:,} items, {' × '.join(str(s) for s in report['codebook_sizes'])} codes",
        color=ink,
        fontsize=13,
        fontweight="bold",
    )

    most = max([max(usage["counts"]) for usage in levels])
    for level, axis in enumerate(np.atleast_1d(above.subplots(1, shown, sharey=True))):
        usage = levels[level]
        counts = np.sort(np.maximum(usage["counts"], 0.1))[::-1]
        axis.fill_between(
            np.arange(len(counts) + 1), np.append(counts, counts[-1]), step="post", color=blue, linewidth=0
        )
        even = report["items"] / usage["size"]
        axis.axhline(even, color=red, linewidth=1.2, linestyle="--")
        if level == 0:
            axis.annotate(
                "even use",
                (usage["size"], even),
                xytext=(-2, 4),
                textcoords="offset points",
                ha="right",
                color=red,
                fontsize=8.5,
            )
            axis.set_ylabel("items per code", color=ink)
        axis.set_xlim(0, usage["size"])
        axis.set_yscale("log")
        axis.set_ylim(0.8, most * 1.4)
        axis.set_xlabel("codes, most used first", color=ink)
        axis.set_title(
            f"level {LEVEL_LETTERS[level]}: {usage['used']}/{usage['size']} used\n"
            f"perplexity {usage['perplexity']:.0f}, Gini {usage['gini']:.2f}",
            color=ink,
            fontsize=10,
        )

    panels = ["collisions"]
    if "error_over_variance" in prefixes[0]:
        panels.append("error")
    if "neighbour_recall" in prefixes[0]:
        panels.append("recall")
    lengths = [row["length"] for row in prefixes]
    for kind, axis in zip(panels, np.atleast_1d(below.subplots(1, len(panels))), strict=True):
        if kind == "collisions":
            values = [
                collisions["collision_rate"],
                collisions["items_sharing_after_suffix"] / report["items"],
            ]
            bars = axis.bar(["before suffix", "after suffix"], values, color=[blue, pale], width=0.55)
            axis.bar_label(
                bars, [f"{v:.2%}" if v else "0" for v in values], padding=3, color=ink, fontsize=9.5
            )
            axis.set_ylim(0, max(values[0] * 1.3, 0.01))
            axis.set_title(
                f"items that share their full code\n{collisions['shared_buckets']:,} buckets, largest "
                f"{collisions['largest_bucket']}",
                color=ink,
                fontsize=10,
            )
        elif kind == "error":
            values = [row["error_over_variance"] for row in prefixes]
            bars = axis.bar(lengths, values, color=blue, width=0.55)
            axis.bar_label(bars, [f"{v:.1%}" for v in values], padding=3, color=ink, fontsize=9.5)
            axis.set_ylim(0, max([*values, 0.01]) * 1.2)
            axis.set_title("squared error left\n(share of the variance)", color=ink, fontsize=10)
        else:
            values = [row["neighbour_recall"] for row in prefixes]
            chance = [row["random_share"] for row in prefixes]
            bars = axis.bar(lengths, values, color=blue, width=0.55)
            axis.bar_label(bars, [f"{v:.1%}" for v in values], padding=3, color=ink, fontsize=9.5)
            axis.plot(
                lengths, chance, "_", color=red, markersize=26, markeredgewidth=1.8, label="two random items"
            )
            axis.set_ylim(0, max([*values, 0.01]) * 1.25)
            axis.legend(frameon=False, fontsize=8.5, labelcolor=ink)
            axis.set_title(
                f"true {report['neighbours']} nearest neighbours\nthat share the prefix",
                color=ink,
                fontsize=10,
            )
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        if kind != "collisions":
            axis.set_xlabel("codes of the prefix", color=ink)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color("#9aa5b1")
        axis.tick_params(colors=ink, labelsize=9)
        if axis.get_yscale() == "linear":
            axis.yaxis.set_major_locator(MaxNLocator(4))
    figure.savefig(path)
