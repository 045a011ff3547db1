"""The semantic_ids stage: what it writes, that it repeats itself, and what it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from dig_ray.base import Stage
from dig_ray.embedding.vectors import write_vectors
from dig_ray.errors import UserError
from dig_ray.semantic_ids.config import RQVAEConfig, SemanticIdConfig
from dig_ray.semantic_ids.sid_catalog import SidCatalog
from dig_ray.semantic_ids.stage import make_semantic_ids, sids_from_file

DATA = Path(os.environ.get("DIG_RAY_DATA") or Path(__file__).parents[2] / ".." / "shared" / "data")
IDS = [f"item-{i}" for i in range(300)]


def vectors(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((12, 16))[rng.integers(12, size=len(IDS))] + 0.3 * rng.standard_normal(
        (len(IDS), 16)
    )
    x[5] = x[6]  # two items nobody can tell apart
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def make(tmp_path: Path, config: SemanticIdConfig, x: np.ndarray | None = None, name: str = "out") -> Stage:
    catalog = tmp_path / "catalog"
    catalog.mkdir(exist_ok=True)
    pq.write_table(pa.table({"item_id": IDS}), catalog / "items.parquet")
    write_vectors(tmp_path / "embeddings.parquet", IDS[::-1], (vectors() if x is None else x)[::-1])
    out = tmp_path / name
    out.mkdir()
    stage = Stage("semantic_ids", "f" * 8, 42, out, str(tmp_path / "work"), log=lambda line: None)
    make_semantic_ids(config, stage, tmp_path / "embeddings.parquet", catalog)
    return stage


@pytest.mark.parametrize("scale", ["none", "standardise", "whiten"])
def test_writes_sids_codebooks_and_a_report(tmp_path, scale):
    stage = make(tmp_path, SemanticIdConfig(codebook_size=16, scale=scale))
    assert sorted(p.name for p in stage.out.iterdir()) == [
        "codebooks.safetensors",
        "semantic_ids.parquet",
        "sid_quality.json",
        "sid_quality.png",
    ]
    catalog = SidCatalog.load(stage.out / "semantic_ids.parquet")
    assert catalog.item_ids.tolist() == IDS
    assert catalog.fingerprint == stage.stats["sid_fingerprint"]
    assert catalog.suffix[5] >= 0 and catalog.suffix[6] >= 0  # equal vectors share all codes
    report = json.loads((stage.out / "sid_quality.json").read_text())
    assert report["collisions"]["items_sharing_after_suffix"] == 0
    errors = [row["error_over_variance"] for row in report["prefixes"]]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.5


def test_same_seed_same_bytes(tmp_path):
    first = make(tmp_path, SemanticIdConfig(codebook_size=16), name="a")
    second = make(tmp_path, SemanticIdConfig(codebook_size=16), name="b")
    for name in ("semantic_ids.parquet", "sid_quality.json", "codebooks.safetensors"):
        assert (first.out / name).read_bytes() == (second.out / name).read_bytes()


def test_spreading_the_last_level_leaves_no_collision(tmp_path):
    plain = make(tmp_path, SemanticIdConfig(codebook_size=16), name="plain")
    spread = make(tmp_path, SemanticIdConfig(codebook_size=16, spread_last_level=True), name="spread")
    assert plain.stats["collisions"]["items_sharing_full_code"] > 0
    assert spread.stats["collisions"]["items_sharing_full_code"] == 0


def test_sids_brought_along(tmp_path):
    path = tmp_path / "given.parquet"
    extra = [*IDS[::-1], "unknown to the catalogue"]
    codes = [[i % 7, i % 11, i % 5] for i in range(len(extra))]
    pq.write_table(pa.table({"item_id": extra, "codes": codes}), path)
    stage = make(tmp_path, SemanticIdConfig(method="file", path=str(path)))
    catalog = SidCatalog.load(stage.out / "semantic_ids.parquet")
    assert catalog.item_ids.tolist() == IDS
    assert catalog.codes[0].tolist() == [299 % 7, 299 % 11, 299 % 5]
    pq.write_table(pa.table({"item_id": IDS[1:], "codes": codes[2:]}), path)
    with pytest.raises(UserError, match="no Semantic ID for 1 of 300 catalogue items, the first is 'item-0'"):
        make(tmp_path, SemanticIdConfig(method="file", path=str(path)), name="again")


def test_items_that_the_file_lacks_share_a_code_of_their_own(tmp_path):
    path = tmp_path / "given.parquet"
    codes = [[i % 7, i % 11, i % 5] for i in range(len(IDS))]
    codes[4], codes[9] = [], None  # two without codes, one left out
    pq.write_table(pa.table({"item_id": IDS[:-1], "codes": pa.array(codes[:-1], pa.list_(pa.int64()))}), path)
    with pytest.raises(UserError, match="no Semantic ID for 3 of 300 .* 'item-4'; .*missing_items=own_code"):
        make(tmp_path, SemanticIdConfig(method="file", path=str(path)), name="strict")
    stage = make(tmp_path, SemanticIdConfig(method="file", path=str(path), missing_items="own_code"))
    catalog = SidCatalog.load(stage.out / "semantic_ids.parquet")
    own = np.asarray([4, 9, 299])
    assert stage.stats["items_without_given_codes"] == 3 and catalog.sizes == (8, 12, 6)
    assert catalog.codes[own].tolist() == [[7, 11, 5]] * 3 and catalog.suffix[own].tolist() == [0, 1, 2]
    others = np.delete(np.arange(300), own)
    assert catalog.codes[others].tolist() == [codes[i] for i in others]
    assert (catalog.codes[others].max(axis=0) < [7, 11, 5]).all()
    pq.write_table(pa.table({"item_id": ["x", "y"], "codes": codes[:2]}), path)
    with pytest.raises(UserError, match="300 of 300 .*are these the ids of this catalogue"):
        make(tmp_path, SemanticIdConfig(method="file", path=str(path), missing_items="own_code"), name="no")


@pytest.mark.parametrize(
    ("column", "distinct", "without", "sizes"),
    [("sid_letter", 12_088, 0, (256,) * 4), ("sid_lcrec_atspeed", 12_024, 66, (256, 257, 257, 257))],
)
def test_published_sids_of_other_projects(column, distinct, without, sizes):
    path = DATA / "amazon14_beauty" / "items.parquet"
    if not path.is_file():
        pytest.skip(f"{path} is not there; set DIG_RAY_DATA to the folder that has it")
    ids = [str(item) for item in pq.read_table(path)["item_id"].to_pylist()]
    config = SemanticIdConfig(
        method="file", path=str(path), codes_column=column, missing_items="own_code" if without else "error"
    )
    catalog, missing = sids_from_file(str(path), ids, config)
    assert missing == without and catalog.sizes == sizes and len(catalog) == 12_101
    assert len(np.unique(catalog.codes, axis=0)) == distinct
    given = pq.read_table(path)[column].to_pylist()
    assert all(not sid or catalog.text_of(i).startswith("".join(sid)) for i, sid in enumerate(given))


def test_rqvae(tmp_path):
    rqvae = RQVAEConfig(hidden=(32,), latent=8, epochs=15, batch_size=64)
    config = SemanticIdConfig(method="rqvae", codebook_size=16, rqvae=rqvae)
    first, second = make(tmp_path, config, name="a"), make(tmp_path, config, name="b")
    assert (first.out / "semantic_ids.parquet").read_bytes() == (
        second.out / "semantic_ids.parquet"
    ).read_bytes()
    assert min(first.stats["codes_used"]) >= 12


@pytest.mark.parametrize("method", ["residual_kmeans", "rqvae"])
def test_unusable_vectors(tmp_path, method):
    with pytest.raises(UserError, match="300 items cannot fill a codebook of 512"):
        make(tmp_path, SemanticIdConfig(method=method, codebook_size=512), name="a")
    same = np.ones((len(IDS), 8), dtype=np.float32)
    with pytest.raises(UserError, match="all 300 vectors are equal"):
        make(tmp_path, SemanticIdConfig(method=method, codebook_size=16), same, name="b")
    broken = vectors()
    broken[7, 2] = np.nan
    with pytest.raises(UserError, match="'item-7'"):
        make(tmp_path, SemanticIdConfig(method=method, codebook_size=16), broken, name="c")


@pytest.mark.parametrize(
    "settings",
    [
        {"levels": 4, "codebook_size": (8, 8, 8)},
        {"codebook_size": 1},
        {"method": "file"},
        {"path": "x.parquet"},
        {"missing_items": "own_code"},
        {"whiten_dim": 8},
        {"codebok_size": 8},
    ],
)
def test_impossible_settings(settings):
    with pytest.raises(ValidationError):
        SemanticIdConfig(**settings)
