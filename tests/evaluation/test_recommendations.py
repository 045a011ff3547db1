"""Lists survive the way to disk and back, and a foreign file is checked."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dig_ray.errors import UserError
from dig_ray.evaluation.recommendations import read_recommendations, write_recommendations


@pytest.fixture
def world(make_dataset):
    return make_dataset([[0, 1, 2], [1, 2, 3], [2, 3, 4]], 5)


def test_round_trip_in_any_row_order(world, tmp_path):
    cases = world.cases("test")
    recs = np.array([[2, 1, -1], [0, 3, 4], [-1, -1, -1]], np.int32)
    path = tmp_path / "recommendations.parquet"
    write_recommendations(path, world, cases, recs, scores=np.zeros((3, 3), np.float32))
    table = pq.read_table(path)
    assert table["item_ids"].to_pylist() == [["i2", "i1"], ["i0", "i3", "i4"], []]
    assert table["target_rank"].to_pylist() == [0, 1, -1]
    pq.write_table(table.take([2, 0, 1]), path)
    np.testing.assert_array_equal(read_recommendations(path, world, cases), recs)


def test_foreign_files_are_checked(world, tmp_path):
    cases, path = world.cases("test"), tmp_path / "theirs.parquet"

    def refused(match, **columns):
        pq.write_table(pa.table(columns), path)
        with pytest.raises(UserError, match=match):
            read_recommendations(path, world, cases)

    ok = [["i0"], ["i1"], ["i2"]]
    refused("'i9'", user_id=["u0", "u1", "u2"], item_ids=[["i0"], ["i9"], []])
    refused("'x'", user_id=["u0", "u1", "x"], item_ids=ok)
    refused("2 rows", user_id=["u0", "u1"], item_ids=ok[:2])
    refused("same users", user_id=["u0", "u1", "u1"], item_ids=ok)
    refused("columns|readable", user_id=["u0", "u1", "u2"])
    path.write_bytes(b"PAR1 cut off")
    with pytest.raises(UserError, match="readable"):
        read_recommendations(path, world, cases)
    with pytest.raises(UserError, match="does not exist"):
        read_recommendations(tmp_path / "none.parquet", world, cases)
