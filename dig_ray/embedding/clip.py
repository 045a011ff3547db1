"""Pictures to vectors, the plain part: a frozen image tower of open_clip, and what it wants a picture to look like.

The tower is in eval mode and never trains (CMSA: published). What is read is the pooled output of the tower, before the projection into
the space that CLIP shares between picture and text; for the published ViT-L/14 that is 1,024 numbers. Nothing here knows Ray.
"""

from __future__ import annotations

import difflib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from dig_ray.artifacts.whole_files import damage_at
from dig_ray.embedding.config import ImageEmbeddingConfig
from dig_ray.errors import UserError
from dig_ray.numerics.encoder import ask_nobody

SETTING = "image_embedding"
RANDOM = "random"
PIXELS = "pixels"
POSSIBLE = (
    "a model of open_clip such as ViT-B-32 or ViT-L-14 with a tag in pretrained (open_clip.list_pretrained() names all), "
    "local-dir:FOLDER or hf-hub:ORG/NAME that open_clip saved, and pixels, which needs no weights"
)
GRID = 8
"""Side of what ``pixels`` reduces a picture to (our choice)."""
SEED = 0
"""Of an untrained tower's weights: fixed, so that every actor has the same ones."""


def check_weights(config: ImageEmbeddingConfig) -> None:
    """See that there are weights, and fetch those of a tag, before anything starts.

    Raises:
        UserError: the model or the tag is unknown, or the weights cannot be had; the sentence says what to set.
    """
    if config.model == PIXELS:
        return
    import_open_clip()
    from open_clip import list_models, list_pretrained_tags_by_model
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    name, weights = config.model, config.pretrained
    if name.startswith("local-dir:"):
        folder = Path(name.removeprefix("local-dir:"))
        about = folder / "open_clip_config.json"
        if not about.is_file():
            raise UserError(
                f"{SETTING}.model={name!r}: {folder} has no open_clip_config.json; name a folder that open_clip saved"
            )
        for path in (about, *sorted(folder.glob("*.safetensors"))):
            if wrong := damage_at(path):
                raise UserError(f"{SETTING}.model={name!r}: {path.name} {wrong}; fetch the folder again")
        return
    if name.startswith("hf-hub:"):
        return  # its config and weights come together, when the tower is loaded
    if name.startswith(("timm/", "timm:")) or (name not in list_models() and _is_timm(name)):
        raise UserError(
            f"{SETTING}.model={name!r}: encoders of timm alone are not read; possible are {POSSIBLE}, or your own vectors "
            f"({SETTING}.path)"
        )
    known = list_models()
    if name.replace("/", "-") not in known:
        close = difflib.get_close_matches(name, known, 3)
        raise UserError(
            f"{SETTING}.model={name!r}: open_clip has no such model"
            + (f"; near are {', '.join(close)}" if close else "")
            + f"; possible are {POSSIBLE}"
        )
    if weights == RANDOM or Path(weights).is_file():
        return
    tag = get_pretrained_cfg(name.replace("/", "-"), weights)
    if not tag:
        tags = list_pretrained_tags_by_model(name.replace("/", "-"))
        raise UserError(
            f"{SETTING}.pretrained={weights!r}: neither a file nor a tag of {name}; its tags are {', '.join(tags) or 'none'}"
        )
    if not _is_cached(tag, config) and not _has_network():
        raise UserError(_unavailable(config, OSError("this machine does not reach the hub of models")))
    try:
        with _silence():
            download_pretrained(tag, cache_dir=config.cache_dir)
    except Exception as error:  # a hub, a proxy, a disk: each has its own errors
        raise UserError(_unavailable(config, error)) from None


def _is_timm(name: str) -> bool:
    """Whether timm has an encoder of that name, with or without a tag of its weights behind a point."""
    from timm import is_model

    return bool(is_model(name.partition(".")[0]))


def _is_cached(tag: dict[str, Any], config: ImageEmbeddingConfig) -> bool:
    """Whether the hub's file lies on this disk already."""
    from huggingface_hub import try_to_load_from_cache
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    if "file" in tag or not tag.get("hf_hub"):
        return True  # not the hub's business
    repository, _, name = tag["hf_hub"].rpartition("/")
    names = [name, f"{Path(name).stem}.safetensors"] if name else []
    names += [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME] if name in ("", HF_WEIGHTS_NAME) else []
    return any(
        isinstance(try_to_load_from_cache(repository, one, cache_dir=config.cache_dir), str) for one in names
    )


def _has_network() -> bool:
    """Whether the hub's name resolves; without that every try takes its time to fail. A proxy may know better than we do."""
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    from huggingface_hub import constants

    if getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
        return True
    except OSError:
        return False


def _unavailable(config: ImageEmbeddingConfig, error: BaseException) -> str:
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return (
        f"{SETTING}: the weights of {config.model} ({config.pretrained}) cannot be had here ({reason}); fetch them where there is a "
        f"network and set {SETTING}.pretrained=FILE, or {SETTING}.model=local-dir:FOLDER; {SETTING}.pretrained=random is for tests"
    )


def import_open_clip() -> None:
    """Import open_clip, also where torchvision is a CUDA build beside a CPU build of torch."""
    from dig_ray.torchvision_ops import install

    install()
    ask_nobody()  # open_clip builds text towers, which nobody reads here, by transformers
    import open_clip  # noqa: F401


@contextmanager
def _silence() -> Iterator[None]:
    """Without what the hub and open_clip log: each of the hub's retries is several lines, and our sentences say what matters."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def load_tower(
    config: ImageEmbeddingConfig, device: str | None = None, threads: int | None = None
) -> tuple[Any, dict[str, Any]]:
    """The frozen image tower in eval mode, and its preprocessing as plain data (see ``preprocessing``).

    Args:
        config: which tower, with which weights.
        device: where torch computes; by default a GPU where it sees one.
        threads: how many torch takes in this process from now on, no more than the machine has processors; None leaves it alone.

    Returns:
        (module: float pictures (n, 3, side, side) -> (n, D), preprocessing).

    Raises:
        UserError: the weights cannot be had or do not fit, or the tower has no feature before its projection.
    """
    import torch

    if config.model == PIXELS:
        return _pixels_tower(), preprocessing(config)
    import_open_clip()
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    if threads is not None:
        torch.set_num_threads(min(threads, os.cpu_count() or 1))
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    whole = ":" in config.model  # a folder or a hub's repository: config and weights in one place
    untrained = config.pretrained == RANDOM and not whole
    tag = {} if whole else get_pretrained_cfg(config.model.replace("/", "-"), config.pretrained)
    torch.manual_seed(SEED)
    try:
        with _silence():
            model = open_clip.create_model(
                config.model,
                pretrained=None if whole or untrained else config.pretrained,
                precision="fp32",
                device="cpu",
                # weights trained with the quick form of GELU give other features without it, and open_clip only warns
                force_quick_gelu=bool(tag.get("quick_gelu")),
                pretrained_text=False,
                require_pretrained=not untrained,
                cache_dir=config.cache_dir,
            )
    except Exception as error:
        raise UserError(_unavailable(config, error)) from None
    tower = model.visual
    if config.feature == "pooled":
        _without_projection(tower, config.model)
    for parameter in tower.parameters():
        parameter.requires_grad_(False)
    tower = tower.to(device=device, dtype=getattr(torch, config.dtype)).eval()
    return tower, dict(model.visual.preprocess_cfg)


def _pixels_tower() -> Any:
    import torch

    flat = torch.nn.Flatten()
    flat.register_parameter("dtype", torch.nn.Parameter(torch.zeros(1), requires_grad=False))
    return flat.eval()


def describe(config: ImageEmbeddingConfig) -> str:
    """What made the features, as logs and reports name it."""
    if config.path is not None:
        return f"vectors of {Path(config.path).name}"
    if config.model == PIXELS:
        return f"no CLIP ({GRID} x {GRID} colours)"
    if config.model.startswith(("local-dir:", "hf-hub:")):
        return config.model
    return f"{config.model} ({'untrained' if config.pretrained == RANDOM else config.pretrained})"


def _without_projection(tower: Any, name: str) -> None:
    import torch

    if hasattr(tower, "proj"):
        tower.proj = None
    elif hasattr(tower, "trunk") and hasattr(tower, "head"):
        tower.head = torch.nn.Sequential()
    else:
        raise UserError(
            f"{SETTING}.feature=pooled: the tower of {name} pools and projects in one step; set {SETTING}.feature=projected"
        )


def preprocessing(config: ImageEmbeddingConfig) -> dict[str, Any]:
    """What the tower wants of a picture, without its weights: size, mean, std, interpolation, resize_mode and fill_color."""
    if config.model == PIXELS:
        squeezed = {
            "size": (GRID, GRID),
            "resize_mode": "squash",
            "interpolation": "bicubic",
            "fill_color": 0,
        }
        return {**squeezed, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    import_open_clip()
    import json

    from open_clip import get_model_config
    from open_clip.pretrained import get_pretrained_cfg
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    found: dict[str, Any] = dict(vars(PreprocessCfg()))
    if config.model.startswith("local-dir:"):
        folder = Path(config.model.removeprefix("local-dir:"))
        given = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))
        found = merge_preprocess_dict(found, given.get("preprocess_cfg", {}))
        found["size"] = given["model_cfg"]["vision_cfg"]["image_size"]
    elif config.model.startswith("hf-hub:"):
        tower, found = load_tower(config, device="cpu")
        del tower
    else:
        name = config.model.replace("/", "-")
        found = merge_preprocess_dict(found, get_pretrained_cfg(name, config.pretrained))
        found["size"] = get_model_config(name)["vision_cfg"]["image_size"]
    return found


@lru_cache(maxsize=4)
def _resizing(settings: tuple[tuple[str, Any], ...]) -> Any:
    """open_clip's own transform up to where numbers are made: picture -> picture of the tower's size."""
    import_open_clip()
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from torchvision.transforms import Compose, ToTensor

    given = {key: value for key, value in settings if key in vars(PreprocessCfg())}
    steps = image_transform_v2(PreprocessCfg(**given), is_train=False).transforms
    last = next(number for number, step in enumerate(steps) if isinstance(step, ToTensor))
    return Compose(steps[:last])


def decode(raw: Sequence[bytes], settings: dict[str, Any]) -> np.ndarray:
    """Encoded pictures as uint8 (n, side, side, 3), resized and cropped as the tower wants them.

    Args:
        raw: JPEG, PNG or WebP each; pictures that were checked before.
        settings: what ``preprocessing`` says of the tower.

    Raises:
        OSError: bytes are no picture.
    """
    from PIL import Image

    resize = _resizing(
        tuple(sorted((k, tuple(v) if isinstance(v, list) else v) for k, v in settings.items()))
    )
    out = []
    for one in raw:
        with Image.open(io.BytesIO(one)) as picture:
            out.append(np.asarray(resize(picture.convert("RGB")), dtype=np.uint8))
    return np.stack(out)


def encode(pixels: np.ndarray, tower: Any, settings: dict[str, Any], batch_size: int) -> np.ndarray:
    """Image features, float32 (n, D).

    Args:
        pixels: uint8 (n, side, side, 3).
        tower: the module that ``load_tower`` gives.
        settings: what ``preprocessing`` says of the tower; its mean and standard deviation of each colour are read.
        batch_size: how many pictures go through the tower at once.
    """
    import torch

    weight = next(tower.parameters())
    mean, std = (
        torch.tensor(settings[key], device=weight.device).view(1, 3, 1, 1) for key in ("mean", "std")
    )
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pixels), batch_size):
            batch = torch.from_numpy(np.ascontiguousarray(pixels[start : start + batch_size])).to(
                weight.device
            )
            x = batch.permute(0, 3, 1, 2).contiguous().float().div(255)
            found = tower(((x - mean) / std).to(weight.dtype))
            parts.append((found[0] if isinstance(found, tuple) else found).float().cpu().numpy())
    return np.concatenate(parts)
