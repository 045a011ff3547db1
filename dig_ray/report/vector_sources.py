"""What the vectors behind a run's Semantic IDs were made from, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dig_ray.report.figure_text import number


def made_from(manifests: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the vectors behind the Semantic IDs were made from, a sentence for text, pictures and fusion each.

    Args:
        manifests: stage -> its manifest, of one run.
    """

    def stats(stage: str) -> dict[str, Any]:
        return dict(manifests.get(stage, {}).get("stats") or {})

    text, image, fused = stats("embedding"), stats("image_embedding"), stats("fusion")
    settings = ((manifests.get("embedding", {}).get("recipe") or {}).get("config") or {}).get(
        "embedding"
    ) or {}
    said = []
    if text:
        fields = settings.get("fields")
        read = f": {', '.join(fields)}" if fields and text.get("token_limit") else ""
        sentence = f"Text vectors of {text.get('model')}{read}."
        if text.get("texts_cut"):
            sentence += (
                f" {number(text['texts_cut'])} of {number(text['rows'])} items have more text than the {text['token_limit']} tokens it "
                "reads; what stands last is cut first."
            )
        notes = text.get("notes") or {}
        left_out = sum(notes.get(key, 0) for key in ("interests_not_positive", "interests_not_judged"))
        if left_out:
            sentence += (
                f" {number(left_out)} interests that are not labelled positive are left out, "
                f"{number(notes.get('interests_read', 0))} are read."
            )
        low = notes.get("items_of_low_quality")
        if low:
            sentence += (
                f" {number(low)} items are read without their interests, for their low or unknown quality."
            )
        said.append(sentence)
    if image:
        without = number(image["items_without_picture"])
        said.append(
            f"Image features: {image.get('model')}; {without} of {number(image['rows'])} items have no picture."
        )
    if fused:
        said.append(
            f"Fused towards {fused['target']} into {fused['dimensions']} dimensions, of effective rank {number(fused['effective_rank'])}."
        )
    return said
