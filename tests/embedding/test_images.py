"""The image tower and its stage: open_clip's own numbers, weights from a folder, resume, gaps, and one sentence without weights."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dig_ray.base import Stage
from dig_ray.embedding.clip import check_weights, decode, describe, encode, load_tower, preprocessing
from dig_ray.embedding.config import ImageEmbeddingConfig
from dig_ray.embedding.image_stage import embed_pictures
from dig_ray.embedding.vectors import known_vectors, load_vectors
from dig_ray.errors import UserError


def picture(seed: int, size: tuple[int, int] = (48, 40), kind: str = "JPEG") -> bytes:
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


@pytest.fixture(scope="module")
def tower_folder(tmp_path_factory) -> Path:
    """A tiny CLIP as open_clip saves one: configuration and weights in a folder."""
    from dig_ray.torchvision_ops import install

    install()
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("clip")
    vision = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    torch.manual_seed(1)
    model = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    settings = {
        "model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    return folder


def tower_config(folder: Path, **more) -> ImageEmbeddingConfig:
    return ImageEmbeddingConfig(model=f"local-dir:{folder}", batch_size=4, **more)


def test_features_are_those_of_open_clip(tower_folder):
    import open_clip
    import torch
    from PIL import Image

    raw = [picture(n, size) for n, size in enumerate([(48, 40), (32, 32), (200, 33), (20, 90)])]
    theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tower_folder}")
    theirs.eval()
    with torch.no_grad():
        x = torch.stack([transform(Image.open(io.BytesIO(one))) for one in raw])
        projected = theirs.encode_image(x).numpy()
        theirs.visual.proj = None
        pooled = theirs.visual(x).numpy()
    for feature, expected in (("projected", projected), ("pooled", pooled)):
        tower, settings = load_tower(tower_config(tower_folder, feature=feature), device="cpu")
        found = encode(decode(raw, settings), tower, settings, batch_size=3)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert not tower.training and not any(p.requires_grad for p in tower.parameters())
    assert pooled.shape == (4, 64) and projected.shape == (4, 16)


def test_what_the_tower_wants_is_known_without_its_weights(tower_folder):
    config = tower_config(tower_folder)
    _, settings = load_tower(config, device="cpu")
    before = preprocessing(config)
    raw = [picture(1)]
    assert np.array_equal(decode(raw, before), decode(raw, settings))
    assert list(before["mean"]) == list(settings["mean"]) == [0.4, 0.5, 0.6]


def test_pixels_need_no_weights_and_tell_colours_apart():
    from PIL import Image

    def plain(colour: tuple[int, int, int]) -> bytes:
        out = io.BytesIO()
        Image.new("RGB", (30, 50), colour).save(out, "PNG")
        return out.getvalue()

    config = ImageEmbeddingConfig(model="pixels")
    check_weights(config)
    assert describe(config) == "no CLIP (8 x 8 colours)"
    tower, settings = load_tower(config, device="cpu")
    found = encode(
        decode([plain((255, 0, 0)), plain((250, 5, 0)), plain((0, 0, 255))], settings), tower, settings, 2
    )
    assert found.shape == (3, 192) and found[0].max() == 1.0 and found[0].min() == -1.0
    assert np.linalg.norm(found[0] - found[1]) < 0.1 * np.linalg.norm(found[0] - found[2])


def test_weights_trained_with_the_quick_form_of_gelu_get_it():
    from open_clip.pretrained import get_pretrained_cfg

    assert get_pretrained_cfg("ViT-L-14", "openai")[
        "quick_gelu"
    ]  # and the model's own configuration has it not


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"model": "ViT-B-33"}, "no such model; near are ViT-B-32.*possible are .*local-dir:FOLDER .*pixels"),
        (
            {"model": "timm/efficientnet_lite0"},
            "encoders of timm alone are not read; possible are .*ViT-B-32.*local-dir:FOLDER.*pixels",
        ),
        ({"model": "tf_efficientnet_lite0.in1k"}, "encoders of timm alone are not read"),
        ({"pretrained": "opanai"}, "neither a file nor a tag of ViT-L-14; its tags are openai"),
        ({"model": "local-dir:nowhere"}, "nowhere has no open_clip_config.json"),
        ({}, "weights of ViT-L-14 .openai. cannot be had here .*image_embedding.pretrained=FILE"),
    ],
)
def test_without_weights_one_sentence_says_what_to_set(monkeypatch, tmp_path, settings, sentence):
    from dig_ray.embedding import clip

    monkeypatch.setattr(clip, "_has_network", lambda: False)
    with pytest.raises(UserError, match=sentence):
        check_weights(ImageEmbeddingConfig(cache_dir=str(tmp_path), **settings))


def test_weights_that_are_no_weights_are_refused_and_never_unpickled(tmp_path):
    import pickle

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    (tmp_path / "weights.pt").write_bytes(pickle.dumps(Trap()))
    config = ImageEmbeddingConfig(model="ViT-S-32", pretrained=str(tmp_path / "weights.pt"))
    with pytest.raises(UserError, match="weights of ViT-S-32"):
        load_tower(config, device="cpu")
    assert not (tmp_path / "sprung").exists()


def test_a_folder_without_weights_is_not_filled_with_random_ones(tower_folder, tmp_path):
    (tmp_path / "open_clip_config.json").write_bytes((tower_folder / "open_clip_config.json").read_bytes())
    with pytest.raises(UserError, match="cannot be had here"):
        load_tower(tower_config(tmp_path), device="cpu")


# --- the stage -------------------------------------------------------------------------------------------


def pictures_in(folder: Path, raw: list[bytes | None], group: int = 4) -> tuple[Path, Path]:
    """A catalogue and a pictures artifact."""
    ids = [f"i{n}" for n in range(len(raw))]
    for name in ("catalog", "pictures"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"item_id": ids}), folder / "catalog" / "items.parquet")
    table = pa.table(
        {
            "item_id": ids,
            "image": pa.array(raw, pa.binary()),
            "sha256": [hashlib.sha256(one).hexdigest() if one else "" for one in raw],
        }
    )
    pq.write_table(table, folder / "pictures" / "pictures.parquet", row_group_size=group)
    return folder / "catalog", folder / "pictures"


def stage_in(folder: Path, lines: list[str]) -> Stage:
    (folder / "out").mkdir(parents=True, exist_ok=True)
    return Stage("image_embedding", "f" * 8, 0, folder / "out", str(folder / "work"), log=lines.append)


@pytest.mark.usefixtures("ray_here")
def test_the_stage_keeps_the_order_marks_gaps_and_goes_on_where_it_was(tower_folder, tmp_path):
    raw = [None if n % 5 == 2 or 8 <= n < 12 else picture(n) for n in range(19)]
    catalog, pictures = pictures_in(tmp_path, raw)
    config = tower_config(tower_folder)
    lines: list[str] = []
    stage = stage_in(tmp_path, lines)
    embed_pictures(config, stage, catalog, pictures)
    ids = [f"i{n}" for n in range(19)]
    vectors, known = known_vectors(stage.out / "embeddings.parquet", ids)
    assert known.tolist() == [one is not None for one in raw]
    tower, settings = load_tower(config, device="cpu")
    there = [one for one in raw if one is not None]
    np.testing.assert_allclose(
        vectors[known], encode(decode(there, settings), tower, settings, 4), rtol=1e-4, atol=1e-5
    )
    assert not load_vectors(stage.out / "embeddings.parquet", ids)[~known].any()
    assert stage.stats["items_without_picture"] == 8
    assert stage.stats["model"] == config.model
    assert any("11/11 pictures" in line for line in lines)
    first = (stage.out / "embeddings.parquet").read_bytes()
    parts = sorted((tmp_path / "work").iterdir())
    parts[0].write_bytes(parts[0].read_bytes()[:-10])
    again = stage_in(tmp_path, lines)
    embed_pictures(config, again, catalog, pictures)
    assert 0 < again.stats["resumed_pictures"] < 11
    assert (again.out / "embeddings.parquet").read_bytes() == first


@pytest.mark.usefixtures("ray_here")
def test_errors_in_a_worker_arrive_as_their_sentence(tower_folder, tmp_path):
    catalog, pictures = pictures_in(tmp_path / "c", [picture(1)])
    broken = tmp_path / "model"
    broken.mkdir()
    (broken / "open_clip_config.json").write_bytes((tower_folder / "open_clip_config.json").read_bytes())
    (broken / "open_clip_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="local-dir.*open_clip_model.safetensors is no safetensors file"):
        embed_pictures(tower_config(broken), stage_in(tmp_path, []), catalog, pictures)
    with pytest.raises(UserError, match=r"image_embedding.num_cpus=1000.0: the cluster has"):
        embed_pictures(tower_config(tower_folder, num_cpus=1000.0), stage_in(tmp_path, []), catalog, pictures)
    catalog, pictures = pictures_in(tmp_path / "d", [None, None])
    with pytest.raises(UserError, match="no item of this catalogue has a usable picture"):
        embed_pictures(tower_config(tower_folder), stage_in(tmp_path, []), catalog, pictures)


def test_vectors_brought_along_need_not_cover_the_catalogue(tmp_path):
    catalog, _ = pictures_in(tmp_path, [None] * 4)
    table = pa.table({"item_id": ["i3", "i1", "other"], "vector": [[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]]})
    pq.write_table(table, tmp_path / "mine.parquet")
    stage = stage_in(tmp_path, [])
    embed_pictures(ImageEmbeddingConfig(path=str(tmp_path / "mine.parquet")), stage, catalog, None)
    vectors, known = known_vectors(stage.out / "embeddings.parquet", [f"i{n}" for n in range(4)])
    assert known.tolist() == [False, True, False, True] and vectors[3].tolist() == [1.0, 2.0]
    pq.write_table(table.slice(2), tmp_path / "mine.parquet")
    with pytest.raises(UserError, match="none of its 1 item_ids is in the catalogue, whose first is 'i0'"):
        embed_pictures(ImageEmbeddingConfig(path=str(tmp_path / "mine.parquet")), stage, catalog, None)
    with pytest.raises(UserError, match="no such file"):
        embed_pictures(ImageEmbeddingConfig(path=str(tmp_path / "nowhere.parquet")), stage, catalog, None)


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("name", ["open_clip_config.json", "open_clip_model.safetensors"])
def test_a_folder_that_was_cut_off_is_said_before_a_worker_starts(tower_folder, tmp_path, name, share):
    for path in tower_folder.iterdir():
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(
            content[: int(len(content) * share)] if path.name == name else content
        )
    with pytest.raises(UserError, match=f"{name} .*fetch the folder again"):
        check_weights(tower_config(tmp_path))


def test_a_text_tower_of_somebody_elses_code_runs_nothing(tower_folder, tmp_path):
    """Nobody reads the text tower, but open_clip builds it, and its config may name any model directory."""
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "evil.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w')\nclass A: pass\n")
    about = {"model_type": "nosuch", "auto_map": {"AutoConfig": "evil.A"}}
    (tmp_path / "evil" / "config.json").write_text(json.dumps(about))
    folder = tmp_path / "tower"
    folder.mkdir()
    for path in tower_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    given = json.loads((folder / "open_clip_config.json").read_text())
    given["model_cfg"]["text_cfg"] = {
        "hf_model_name": str(tmp_path / "evil"),
        "hf_tokenizer_name": str(tmp_path / "evil"),
    }
    (folder / "open_clip_config.json").write_text(json.dumps(given))
    code = (
        "from dig_ray.errors import UserError\nfrom dig_ray.embedding.clip import load_tower\n"
        "from dig_ray.embedding.config import ImageEmbeddingConfig\n"
        f"try:\n    load_tower(ImageEmbeddingConfig(model='local-dir:{folder}'), device='cpu')\n"
        "except UserError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input="y\n" * 5, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and "[y/N]" not in done.stdout, done.stderr[-2000:]
    assert not (tmp_path / "RAN").exists()
