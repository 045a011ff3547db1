"""Part files: whole or not there, and named by what they were computed from."""

from __future__ import annotations

import numpy as np
import pytest

from dig_ray.embedding.vector_parts import part_name, read_part, write_part

X = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_round_trip_on_path_and_uri(tmp_path, scheme):
    folder = f"{scheme}{tmp_path}/work"
    write_part(folder, "p.parquet", X)
    assert np.array_equal(read_part(folder, "p.parquet", 4)[0], X)
    assert read_part(folder, "p.parquet", 5) is None
    assert read_part(folder, "other.parquet", 4) is None
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["p.parquet"]


def test_damaged_part_is_no_part(tmp_path):
    write_part(str(tmp_path), "p.parquet", X)
    raw = (tmp_path / "p.parquet").read_bytes()
    for damaged in (raw[:-20], raw[: len(raw) // 2], b"", b"x" * 100):
        (tmp_path / "p.parquet").write_bytes(damaged)
        assert read_part(str(tmp_path), "p.parquet", 4) is None


def test_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    import os

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_part(str(tmp_path), "p.parquet", X)
    assert list(tmp_path.iterdir()) == []


def test_name_depends_on_texts_their_borders_and_the_settings():
    names = {
        part_name("s", ["ab", "c"]),
        part_name("s", ["a", "bc"]),
        part_name("s", ["c", "ab"]),
        part_name("t", ["ab", "c"]),
        part_name("s", ["ab", "c", ""]),
    }
    assert len(names) == 5
    assert part_name("s", ["ab", "c"]) in names
