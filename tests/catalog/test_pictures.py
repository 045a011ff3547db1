"""The pictures stage on a real Ray of two CPUs: order, row groups, resuming, policies, and items that leave the catalogue."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dig_ray.artifacts.store import Store
from dig_ray.base import Stage
from dig_ray.catalog.build import build
from dig_ray.catalog.config import CatalogConfig
from dig_ray.catalog.dataset import Dataset
from dig_ray.catalog.pictures import picture_parts
from dig_ray.catalog.pictures import picture_stage as pictures
from dig_ray.catalog.read import read_raw
from dig_ray.catalog.stage import make_catalog as run_catalog
from dig_ray.config import RunConfig
from dig_ray.console.summary import run_and_tell
from dig_ray.errors import UserError
from dig_ray.pipeline import plan, run_pipeline, select


def png(shade: int, side: int = 8) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side), (shade % 256, shade // 256, 0)).save(out, "PNG")
    return out.getvalue()


def stage_in(folder: Path, number: int = 0) -> Stage:
    out = folder / f"out{number}"
    out.mkdir()
    lines: list[str] = []
    stage = Stage("pictures", "f", 0, out, str(folder / "work"), log=lines.append)
    stage.stats["lines"] = lines
    return stage


def items(folder: Path, **columns: Any) -> Path:
    n = len(next(iter(columns.values())))
    table = pa.table({"item_id": [f"i{number}" for number in range(n)], **columns})
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / "items.parquet")
    return folder


def config(**images: Any) -> CatalogConfig:
    return CatalogConfig.model_validate({"images": images})


@pytest.mark.usefixtures("ray_here")
def test_every_item_stands_there_once_in_order_and_a_second_run_reads_the_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = [None if n % 50 == 7 else b"junk" if n == 300 else png(n) for n in range(600)]
    raw[5] = png(5, 600)
    catalog = items(tmp_path / "catalog", image_bytes=pa.array(raw, pa.binary()))
    stage = stage_in(tmp_path)
    pictures.keep_pictures(config(), stage, catalog)
    file = pq.ParquetFile(stage.out / "pictures.parquet")
    assert file.schema_arrow.equals(picture_parts.picture_schema())
    assert [file.metadata.row_group(n).num_rows for n in range(3)] == [256, 256, 88]
    rows = file.read().to_pylist()
    assert [row["item_id"] for row in rows] == [f"i{n}" for n in range(600)]
    for number, row in enumerate(rows):
        if raw[number] in (None, b"junk"):
            assert row["image"] is None and row["sha256"] == row["media"] == ""
            assert row["reason"] == ("no_image" if raw[number] is None else "image_unreadable")
        else:
            assert row["reason"] == "" and row["sha256"] == hashlib.sha256(row["image"]).hexdigest()
            assert row["image"] == raw[number] or number == 5
    assert (rows[5]["width"], rows[5]["height"], rows[5]["media"]) == (600, 600, "image/jpeg")
    assert stage.stats["reasons"] == {"no_image": 12, "image_unreadable": 1}
    assert stage.stats["pictures"] == 587 and stage.stats["rows"] == 600 and stage.stats["resumed"] == 0
    lines = stage.stats["lines"]
    assert any("no_image 12 (such as i7, i57, i107)" in line for line in lines)
    assert any("600/600 pictures" in line and "pictures/s" in line for line in lines)

    parts = sorted((tmp_path / "work").glob("part-*.parquet"))
    assert len(parts) == 3
    parts[0].write_bytes(parts[0].read_bytes()[:1000])  # as a full disk leaves it
    again = stage_in(tmp_path, 1)
    pictures.keep_pictures(config(), again, catalog)
    assert again.stats["resumed"] in (344, 512)
    name = "pictures.parquet"
    assert (again.out / name).read_bytes() == (stage.out / name).read_bytes()

    def no_ray() -> None:
        raise AssertionError("Ray was asked for where every part is open")

    monkeypatch.setattr(picture_parts, "join_ray", no_ray)
    third = stage_in(tmp_path, 2)
    pictures.keep_pictures(config(), third, catalog)
    assert third.stats["resumed"] == 600
    assert (third.out / name).read_bytes() == (stage.out / name).read_bytes()


@pytest.mark.usefixtures("ray_here")
def test_paths_archives_and_addresses_in_one_table(tmp_path: Path, pages: Any, monkeypatch) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "a.jpg").write_bytes(png(1))
    with zipfile.ZipFile(tmp_path / "shop.zip", "w") as archive:
        archive.writestr("a.jpg", png(2))
    names = ["a.jpg", "none.jpg", "../x.jpg", f"{pages.url}/good", f"{pages.url}/html", "ftp://x/y.jpg", None]
    names += [f"{pages.url}/to/?http://169.254.169.254/", f"{pages.url}/missing"]
    catalog = items(tmp_path / "catalog", image=pa.array(names, pa.string()))
    monkeypatch.chdir(tmp_path)

    def found(number: int, **images: Any) -> tuple[list[str], dict[str, Any]]:
        stage = stage_in(tmp_path, number)
        pictures.keep_pictures(config(**images), stage, catalog)
        rows = pq.read_table(stage.out / "pictures.parquet").to_pylist()
        return [row["reason"] for row in rows], rows[0]

    reasons, first = found(1, root="shop")
    assert reasons == [
        "",
        "image_not_found",
        "image_outside_root",
        *["image_url"] * 3,
        "no_image",
        *["image_url"] * 2,
    ]
    assert first["image"] == png(1)
    reasons, first = found(2, archive="shop.zip", fetch=True, private_hosts=["127.0.0.1"])
    assert first["image"] == png(2)
    assert reasons[:4] == ["", "image_not_found", "image_not_found", ""]
    assert reasons[4:] == [
        "image_unreadable",
        "image_url",
        "no_image",
        "image_private_address",
        "image_not_found",
    ]


@pytest.mark.usefixtures("ray_here")
def test_a_missing_picture_can_be_an_error_until_it_is_mended(tmp_path: Path) -> None:
    catalog = items(tmp_path / "catalog", image=[f"{n}.png" for n in range(5)])
    strict = config(root=str(tmp_path), missing="error")
    with pytest.raises(UserError, match="none of the 5 items has a usable picture: image_not_found 5"):
        pictures.keep_pictures(config(root=str(tmp_path)), stage_in(tmp_path), catalog)
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    stage = stage_in(tmp_path, 1)
    with pytest.raises(
        UserError, match=r"1 of 5 items have no usable picture: image_not_found 1 \(such as i4\)"
    ):
        pictures.keep_pictures(strict, stage, catalog)
    (tmp_path / "4.png").write_bytes(png(4))
    stage = stage_in(tmp_path, 2)
    pictures.keep_pictures(strict, stage, catalog)
    assert stage.stats["pictures"] == 5


def test_addresses_that_were_not_fetched_say_what_to_set(tmp_path: Path, ray_here) -> None:
    catalog = items(tmp_path / "catalog", image=["https://shop.example/a.jpg"])
    with pytest.raises(UserError, match=r"image_url 1 .*set catalog\.images\.fetch=true"):
        pictures.keep_pictures(config(), stage_in(tmp_path), catalog)


def test_bytes_grow_parts_short_and_long_ones_stay_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_parts, "PART_BYTES", 100)
    raw = pa.array([b"x" * 60] * 6 + [b"y" * 500, None, b""], pa.binary())
    table = pa.table({"item_id": [str(n) for n in range(9)], "image_bytes": raw})
    parts = list(picture_parts._cut(table.to_batches(), 200))
    assert sum((part["item_id"].to_pylist() for part in parts), []) == table["item_id"].to_pylist()
    assert 3 <= len(parts) <= 6 and max(part.nbytes for part in parts) < 400
    assert [row["item_id"] for part in parts for row in part.to_pylist() if row["long"]] == ["6"]


# --- items without a picture leave the catalogue ----------------------------------------------------------


def events(pairs: list[tuple[str, str]]) -> dict[str, list[Any]]:
    return {
        "user_id": [user for user, _ in pairs],
        "item_id": [item for _, item in pairs],
        "timestamp": list(range(1_600_000_000, 1_600_000_000 + len(pairs))),
    }


@pytest.mark.parametrize("k_core", [0, 2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_the_core_is_that_of_the_items_with_pictures(shop, sequences, k_core: int, seed: int) -> None:
    """Opening after a first k-core, and only what it left, ends where opening everything first does."""
    rng = np.random.default_rng(seed)
    names = [f"i{n}" for n in range(14)]
    pairs = sorted({(f"u{rng.integers(9)}", names[int(rng.integers(14))]) for _ in range(80)})
    bad = {names[int(n)] for n in rng.integers(0, 14, 4)}
    settings = {"k_core": k_core, "unused_items": "drop", "short_users": "drop"}
    shop.write({"item_id": names}, events(pairs))
    drop = shop.config(**settings, images={"missing": "drop"})
    asked: list[str] = []

    def has_picture(table: pa.Table) -> np.ndarray:
        asked.extend(table["item_id"].to_pylist())
        return np.array([name not in bad for name in table["item_id"].to_pylist()])

    dropped = build(read_raw(drop, log=lambda line: None), drop, has_picture)
    assert len(set(asked)) == len(asked)
    good = [name for name in names if name not in bad]
    shop.write({"item_id": good}, events([pair for pair in pairs if pair[1] not in bad]))
    plain = shop.load(**settings)
    assert dropped.item_ids.tolist() == plain.item_ids.tolist()
    assert sequences(dropped) == sequences(plain)


@pytest.mark.usefixtures("ray_here")
def test_dropped_items_are_gone_and_the_others_pictures_are_there(shop, tmp_path: Path, sequences) -> None:
    raw = [png(1), None, png(3), b"junk", png(5)]
    shop.write(
        {"item_id": list("abcde"), "image_bytes": pa.array(raw, pa.binary())},
        events([("u", item) for item in "abcd"] + [("v", item) for item in "acc"]),
    )
    settings = shop.config(images={"missing": "drop"}, duplicates="keep_all")
    stage = stage_in(tmp_path)
    run_catalog(settings, stage)
    dataset = Dataset.load(stage.out)
    assert dataset.item_ids.tolist() == ["a", "c", "e"]
    assert sequences(dataset) == {"u": ["a", "c"], "v": ["a", "c", "c"]}
    assert stage.stats["notes"]["items_without_picture_dropped"] == 2
    assert stage.stats["notes"]["events_of_items_without_picture_dropped"] == 2
    assert stage.stats["notes"]["users_short_train_only"] == 1
    assert any("dropped without a picture: no_image 1 (such as b)" in line for line in stage.stats["lines"])
    after = stage_in(tmp_path, 1)
    pictures.keep_pictures(settings, after, stage.out)
    rows = pq.read_table(after.out / "pictures.parquet").to_pylist()
    assert [(row["item_id"], row["image"]) for row in rows] == [("a", png(1)), ("c", png(3)), ("e", png(5))]


# --- in the pipeline --------------------------------------------------------------------------------------


def run_config(store: Path, mining: dict[str, Any] | None = None, **images: Any) -> RunConfig:
    demo = {"n_items": 60, "n_users": 50, "n_intents": 8}
    catalog = {"demo": demo, "images": images}
    return RunConfig.model_validate({"store": str(store), "catalog": catalog, "mining": mining or {}})


def fingerprints(config: RunConfig, *only: str) -> dict[str, str]:
    steps = plan(config, select(config, only=only), Store(config.store))
    return {step.spec.name: step.recipe.fingerprint for step in steps}


def test_what_decides_pictures_and_what_does_not(tmp_path: Path) -> None:
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        with zipfile.ZipFile(tmp_path / folder / "shop.zip", "w") as archive:
            archive.writestr("a.png", png(1))
    here, there = (str(tmp_path / folder / "shop.zip") for folder in ("here", "there"))
    plain = fingerprints(run_config(tmp_path), "pictures")
    assert list(plain) == ["catalog", "pictures"]
    for same in ({"root": "x"}, {"timeout": 3.0}, {"in_flight": 2}):
        assert fingerprints(run_config(tmp_path, **same), "pictures") == plain
    for other in ({"side": 64}, {"fetch": True}, {"missing": "error"}, {"archive": here}):
        found = fingerprints(run_config(tmp_path, **other), "pictures")
        assert found["catalog"] == plain["catalog"] and found["pictures"] != plain["pictures"]
    packed = fingerprints(run_config(tmp_path, archive=here, missing="drop"), "pictures")
    assert packed["catalog"] != plain["catalog"]
    assert fingerprints(run_config(tmp_path, archive=there, missing="drop"), "pictures") == packed
    with zipfile.ZipFile(there, "a") as archive:
        archive.writestr("b.png", png(2))
    found = fingerprints(run_config(tmp_path, archive=there, missing="drop"), "pictures")
    assert found["catalog"] != packed["catalog"] and found["pictures"] != packed["pictures"]


def test_captions_of_a_model_want_pictures_and_recorded_ones_do_not(tmp_path: Path) -> None:
    model = {"engine": "openai", "name": "camera", "model": "m", "base_url": "http://127.0.0.1:1/v1"}
    recorded = {"engine": "replay", "name": "camera", "path": str(tmp_path / "said.parquet")}
    pq.write_table(pa.table({"item_id": ["a"], "answer": ["b"]}), tmp_path / "said.parquet")
    assert "pictures" not in fingerprints(run_config(tmp_path))
    before = fingerprints(run_config(tmp_path, {"caption": model}), "captions")
    after = fingerprints(run_config(tmp_path, {"caption": model}, side=64), "captions")
    assert list(before) == ["catalog", "pictures", "captions"] and before["captions"] != after["captions"]
    assert list(fingerprints(run_config(tmp_path, {"caption": recorded}), "captions")) == [
        "catalog",
        "captions",
    ]


def test_vectors_of_pictures_want_pictures(tmp_path: Path) -> None:
    assert list(fingerprints(run_config(tmp_path), "image_embedding")) == [
        "catalog",
        "pictures",
        "image_embedding",
    ]
    fused = RunConfig.model_validate({"store": str(tmp_path), "fusion": {}})
    assert "pictures" in [spec.name for spec in select(fused)]


@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize("missing", ["keep", "drop"])
def test_the_demo_world_through_the_pipeline(tmp_path: Path, missing: str) -> None:
    lines: list[str] = []
    done = run_pipeline(run_config(tmp_path, missing=missing), only="pictures", log=lines.append)
    stats = done["pictures"].stats
    assert stats["rows"] == stats["pictures"] == 60 and stats["reasons"] == {}
    table = pq.read_table(done["pictures"].path / "pictures.parquet")
    world = pq.read_table(done["catalog"].path / "items.parquet")
    assert table["item_id"].to_pylist() == world["item_id"].to_pylist()
    assert table["image"].to_pylist() == world["image_bytes"].to_pylist()  # small ones are kept as they are
    again = run_and_tell(run_config(tmp_path, missing=missing), only="pictures", log=lines.append)
    assert again["pictures"].path == done["pictures"].path and "0 run" in lines[-1]
