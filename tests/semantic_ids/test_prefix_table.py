"""The prefix table against brute force over the catalogue's token paths."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dig_ray.semantic_ids.prefix_table import STAY, build_prefix_table
from dig_ray.semantic_ids.sid_catalog import SidCatalog


@st.composite
def catalogues(draw):
    """Any one-to-one catalogue: 1 to 4 levels, codebooks of 1 to 9, collisions included."""
    sizes = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    n = draw(st.integers(1, 40))
    rows = draw(st.lists(st.tuples(*(st.integers(0, s - 1) for s in sizes)), min_size=n, max_size=n))
    codes = np.array(rows, np.int32).reshape(n, len(sizes))
    return SidCatalog.from_codes([f"i{i}" for i in range(n)], codes, sizes)


def table_of(sids):
    return build_prefix_table(sids.codes, sids.suffix, sids.sizes, sids.n_suffix)


@settings(max_examples=200, deadline=None)
@given(catalogues())
def test_every_prefix_allows_exactly_what_the_catalogue_continues_with(sids):
    table = table_of(sids)
    paths = {tuple(sids.tokens_of(i)): i for i in range(len(sids))}
    following: dict[tuple[int, ...], set[int]] = {}
    for path in paths:
        for depth in range(len(path)):
            following.setdefault(path[:depth], set()).add(path[depth])
    for prefix, tokens in following.items():
        assert table.allowed(list(prefix)) == sorted(tokens)
    for path in paths:
        assert table.allowed(list(path)) == []
    for prefix, tokens in following.items():
        for token in set(range(sids.n_tokens)) - tokens:
            with pytest.raises(KeyError):
                table.walk([*prefix, token])


@settings(max_examples=200, deadline=None)
@given(catalogues(), st.integers(0, 2**32 - 1))
def test_which_rows_of_tokens_begin_an_item(sids, seed):
    table = table_of(sids)
    rng = np.random.default_rng(seed)
    paths = {tuple(sids.tokens_of(i)) for i in range(len(sids))}
    for length in range(1, sids.levels + 1):
        rows = rng.integers(0, sids.n_tokens, (50, length))
        real = sids.token_table[rng.integers(0, len(sids), 10), :length]
        rows = np.concatenate([rows, real])
        begun = {path[:length] for path in paths}
        assert table.begins_item(rows).tolist() == [tuple(row) in begun for row in rows.tolist()]


def test_looking_rows_up_takes_no_longer_in_a_large_catalogue():
    rng = np.random.default_rng(0)
    seconds = {}
    for n in (2_000, 1_000_000):
        key = np.sort(rng.choice(256**3, n, replace=False))
        codes = np.stack([key >> 16, (key >> 8) & 255, key & 255], axis=1).astype(np.int32)
        table = build_prefix_table(codes, np.full(n, -1, np.int32), (256,) * 3, 0)
        rows = codes[rng.integers(0, n, 1_000)] + np.array([0, 256, 512])
        assert table.begins_item(rows).all()
        times = []
        for _ in range(9):
            begun = time.process_time()
            table.begins_item(rows)
            times.append(time.process_time() - begun)
        seconds[n] = min(times)
    assert seconds[1_000_000] < 10 * seconds[2_000]


@settings(max_examples=200, deadline=None)
@given(catalogues())
def test_every_deepest_node_is_one_item_and_leads_back_to_its_tokens(sids):
    table = table_of(sids)
    assert sorted(table.items.tolist()) == list(range(len(sids)))
    assert table.n_items == len(sids)
    for node, item in enumerate(table.items.tolist()):
        path, at = [], node
        for depth in range(table.depth - 1, -1, -1):
            path.append(int(table.tokens[depth][at]))
            at = int(np.searchsorted(table.child_start[depth], at, side="right")) - 1
        assert at == 0
        assert [t for t in path[::-1] if t != STAY] == sids.tokens_of(item)
    for depth, (first, end) in enumerate(table.level_ranges):
        tokens = table.tokens[depth][table.tokens[depth] != STAY]
        assert ((tokens >= first) & (tokens < end)).all()
        children = np.diff(table.child_start[depth])
        assert (children >= 1).all() and children.max() == table.max_children[depth]
        assert table.child_start[depth][-1] == len(table.tokens[depth])


def test_codebooks_too_large_for_one_integer_key_still_index():
    rng = np.random.default_rng(0)
    sizes = (2**16,) * 4
    codes = np.unique(rng.integers(0, 2**16, (500, 4)), axis=0).astype(np.int32)
    codes[1:40, :3] = codes[0, :3]
    sids = SidCatalog.from_codes([str(i) for i in range(len(codes))], codes, sizes)
    table = table_of(sids)
    assert table.n_items == len(codes)
    for item in range(len(codes)):
        prefix = sids.tokens_of(item)
        assert prefix[-1] in table.allowed(prefix[:-1])


def test_one_item():
    sids = SidCatalog.from_codes(["only"], np.array([[3, 0]]), (4, 2))
    table = table_of(sids)
    assert table.allowed([]) == [3] and table.allowed([3]) == [4] and table.items.tolist() == [0]


def test_items_without_a_suffix_stay_and_others_get_theirs():
    codes = np.array([[0, 1], [0, 1], [1, 1], [0, 1]])
    sids = SidCatalog.from_codes(list("abcd"), codes, (2, 2))
    table = table_of(sids)
    assert table.depth == 3 and table.level_ranges == [(0, 2), (2, 4), (4, 7)]
    assert table.allowed([0, 3]) == [4, 5, 6] and table.allowed([1, 3]) == []
    assert table.tokens[2].tolist() == [4, 5, 6, STAY]


def test_an_impossible_prefix_raises_and_never_allows_everything():
    table = table_of(SidCatalog.from_codes(["a", "b"], np.array([[0, 1], [1, 0]]), (2, 2)))
    for prefix in ([0, 2], [5], [0, 3, 0], [-1], [0, -1]):
        with pytest.raises(KeyError):
            table.allowed(prefix)


def test_a_shared_semantic_id_is_refused():
    with pytest.raises(ValueError, match="share one Semantic ID"):
        build_prefix_table(np.array([[1, 2], [1, 2]]), np.array([-1, -1]), (4, 4), 0)
    with pytest.raises(ValueError, match="share one Semantic ID"):
        build_prefix_table(np.array([[1, 2], [1, 2]]), np.array([0, 0]), (4, 4), 2)


def test_an_empty_catalogue_is_refused():
    with pytest.raises(ValueError, match="at least one item"):
        build_prefix_table(np.zeros((0, 2), np.int32), np.zeros(0, np.int32), (4, 4), 0)


def test_item_order_does_not_change_the_nodes():
    rng = np.random.default_rng(1)
    codes = np.unique(rng.integers(0, 6, (80, 3)), axis=0)
    shuffle = rng.permutation(len(codes))
    none = np.full(len(codes), -1)
    one, two = (build_prefix_table(c, none, (6, 6, 6), 0) for c in (codes, codes[shuffle]))
    for depth in range(3):
        np.testing.assert_array_equal(one.tokens[depth], two.tokens[depth])
        np.testing.assert_array_equal(one.child_start[depth], two.child_start[depth])
    np.testing.assert_array_equal(one.items, shuffle[two.items])
