"""The stage that turns vectors into Semantic IDs."""

from __future__ import annotations

from typing import Any

from dig_ray.stage_spec import Names, StageSpec, always, never


def _vectors(config: Any) -> Names:
    """Whose vectors are quantized."""
    if config.semantic_ids.method == "file":
        return ()
    if config.semantic_ids.vectors == "multi_interest":
        return ("multi_interest",)
    return ("embedding",) if config.fusion is None else ("fusion",)


def _settings(config: Any) -> Names:
    used = {"residual_kmeans": "kmeans", "rqvae": "rqvae"}.get(config.semantic_ids.method)
    return ("semantic_ids", *(f"-semantic_ids.{name}" for name in ("kmeans", "rqvae") if name != used))


STAGES = (
    StageSpec(
        name="semantic_ids",
        run="dig_ray.semantic_ids.stage:run",
        settings=_settings,
        needs=lambda config: ("catalog", *_vectors(config)),
        asked=always,
        on_ray=never,
        files=lambda config: {"sids": config.semantic_ids.path} if config.semantic_ids.path else {},
    ),
)
