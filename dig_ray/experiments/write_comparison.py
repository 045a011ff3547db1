"""A comparison as an artifact: its figures as JSON, and the page that shows them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from dig_ray.base import Stage
from dig_ray.experiments.comparison_figures import Artifacts, Compared, compare_variants
from dig_ray.experiments.followed_items import follow_items
from dig_ray.report.comparison_tables import comparison_lines, comparison_page


def write_comparison(
    name: str, variants: Compared, artifacts: Artifacts, ks: Sequence[int], n_bootstrap: int, stage: Stage
) -> None:
    """Write ``comparison.json`` and ``comparison.html``.

    Args:
        name: the comparison's name.
        variants: what is compared, the reference first.
        artifacts: the artifacts of every variant with every seed.
        ks: cut-offs of the lists.
        n_bootstrap: resamples of users.
        stage: the artifact that is made.

    Raises:
        UserError: two variants with the same seed stand on different splits.
    """
    from dig_ray.catalog.dataset import Dataset

    report = compare_variants(name, variants, artifacts, ks, n_bootstrap)
    seed = report["seeds"][0]
    catalog = artifacts[next(iter(variants)), seed]["catalog"]
    with_sids = {v: artifacts[v, seed] for v in variants if "semantic_ids" in artifacts[v, seed]}
    followed = (
        follow_items(Dataset.load(catalog), with_sids) if with_sids else {"thumbnails": {}, "items": []}
    )
    report["items"] = followed["items"]
    (stage.out / "comparison.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    page = comparison_page(report, followed["thumbnails"])
    (stage.out / "comparison.html").write_bytes(page.encode("utf-8"))
    stage.stats.update(rows=len(artifacts), variants=len(variants))
    for line in comparison_lines(report):
        stage.log(line)
