"""Short texts to unit vectors on Ray Data, for the merge and for RLDI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dig_ray.errors import UserError
from dig_ray.on_ray.session import actor_pool
from dig_ray.on_ray.telemetry import named

ROWS = 1024


def encode_on_ray(
    texts: Sequence[str], encoder: str, setting: str, say: Callable[[str], None] = print
) -> dict[str, np.ndarray]:
    """Every distinct text with its float32 unit vector.

    Args:
        texts: texts in any order; equal ones are encoded once.
        encoder: ``minilm``, or a sentence-transformers id or directory.
        setting: the config key that named it, for messages.
        say: prints one line.

    Raises:
        UserError: the encoder cannot be loaded.
    """
    import ray

    distinct = sorted(set(texts), key=lambda text: (-len(text), text))
    if not distinct:
        return {}
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    blocks = [{"texts": distinct[start : start + ROWS]} for start in range(0, len(distinct), ROWS)]
    pool = max(1, min(gpus, len(blocks)))
    encoded = ray.data.from_items(blocks, override_num_blocks=len(blocks)).map_batches(
        named(_Encoder, "EncodeInterests"),
        fn_constructor_kwargs={
            "encoder": encoder,
            "setting": setting,
            "threads": max(1, int(resources.get("CPU", 1)) // pool),
        },
        batch_size=1,
        compute=actor_pool(pool, 0.5, 1 if gpus else None),
        num_cpus=0.5,
        num_gpus=1 if gpus else None,
    )
    encoded.set_name("interests")
    say(f"encoding {len(distinct):,} distinct texts with {encoder}")
    out: dict[str, np.ndarray] = {}
    for row in encoded.iter_rows():
        if row["error"]:
            raise UserError(row["error"])
        rows = np.frombuffer(row["vectors"], np.float32).reshape(len(row["texts"]), -1)
        out.update(zip(row["texts"], rows, strict=True))
    return out


class _Encoder:
    """One actor. A UserError travels back as data."""

    def __init__(self, encoder: str, setting: str, threads: int) -> None:
        self.encoder, self.setting, self.threads = encoder, setting, threads
        self.model: Any = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        texts = list(batch["texts"][0])
        try:
            if self.model is None:
                from dig_ray.numerics.encoder import load_encoder

                self.model = load_encoder(self.encoder, self.setting, threads=self.threads)
        except UserError as error:
            return {"texts": [texts], "vectors": [b""], "error": [str(error)]}
        vectors = self.model.encode(texts, batch_size=64, normalize_embeddings=True, show_progress_bar=False)
        return {
            "texts": [texts],
            "vectors": [np.ascontiguousarray(vectors, np.float32).tobytes()],
            "error": [""],
        }
