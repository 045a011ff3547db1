"""Item-KNN and the baselines without a model against slow, obvious code and on real data."""

from dataclasses import replace

import numpy as np
import pytest

from dig_ray.baselines import item_knn, lists, popularity, repeat_last
from dig_ray.baselines.config import ItemKnnConfig, PopularityConfig
from dig_ray.numerics import ranking


def test_popularity_order_ties_and_history(make_dataset):
    world = make_dataset([[2, 2, 1, 0, 3], [1, 4, 3, 0, 2]], 6)  # counts: 1 twice, 2 twice, 3 and 4 once
    cases = world.cases("test")
    inorder = np.arange(6)
    recs, _, tied = popularity.recommend_popular(world, cases, 6, exclude_seen=False, places=inorder)
    assert recs.tolist() == [[1, 2, 3, 4, 0, 5]] * 2
    assert tied.tolist() == [True, True]  # 3 and 4 tie, 1 and 2 do
    recs, scores, tied = popularity.recommend_popular(world, cases, 6, exclude_seen=True, places=inorder)
    assert recs.tolist() == [[3, 4, 5, -1, -1, -1], [2, 5, -1, -1, -1, -1]]
    assert np.isneginf(scores[recs == -1]).all() and (np.diff(scores[0, :3]) <= 0).all()
    assert tied.tolist() == [True, False]  # 1, which 2 would tie with, was seen
    recs, _, _ = popularity.recommend_popular(world, cases, 6, exclude_seen=False, places=inorder[::-1])
    assert recs.tolist() == [[2, 1, 4, 3, 5, 0]] * 2


def test_a_half_life_favours_late_events(make_dataset):
    world = make_dataset([[0, 0, 0, 1, 5, 5]], 6)
    late = popularity.popularity_scores(world, PopularityConfig(half_life=0.5))
    assert late[1] == 1 and late[0] == pytest.approx(1 / 4 + 1 / 16 + 1 / 64)


def test_repeat_last_is_newest_first_then_popular(make_dataset):
    world = make_dataset([[2, 1, 2, 0, 3], [4, 4, 4, 1, 5]], 6)
    cases = world.cases("test")
    recs, _, _ = repeat_last.recommend_repeat_last(world, cases, 5, exclude_seen=False, places=np.arange(6))
    assert recs.tolist() == [[0, 2, 1, 4, 3], [1, 4, 2, 0, 3]]
    unseen = repeat_last.recommend_repeat_last(world, cases, 5, exclude_seen=True)[0]
    np.testing.assert_array_equal(unseen, popularity.recommend_popular(world, cases, 5, exclude_seen=True)[0])


def test_similarity_equals_the_double_loop(chains):
    config = ItemKnnConfig(window=3, damping=2)
    offsets, events = chains.train_sequences()
    n = np.bincount(events, minlength=41) + config.damping
    want = np.zeros((41, 41))
    for low, high in zip(offsets[:-1], offsets[1:], strict=True):
        for i in range(low, high):
            for j in range(i + 1, min(high, i + 1 + config.window)):
                weight = float(j - i) ** -config.distance_power
                want[events[i], events[j]] += weight
                want[events[j], events[i]] += config.backward * weight
    want /= n[:, None] ** config.source_power * n[None, :] ** config.target_power
    np.fill_diagonal(want, 0)
    np.testing.assert_allclose(item_knn.similarity(chains, config).toarray(), want, rtol=1e-5)


def test_pruning_keeps_the_best_and_all_is_no_pruning(chains):
    full = item_knn.similarity(chains, ItemKnnConfig()).toarray()
    two = item_knn.similarity(chains, ItemKnnConfig(neighbours=2)).toarray()
    np.testing.assert_array_equal(np.sort(two, axis=1)[:, -2:], np.sort(full, axis=1)[:, -2:])
    assert ((two > 0).sum(axis=1) <= 2).all()
    np.testing.assert_array_equal(item_knn.similarity(chains, ItemKnnConfig(neighbours=41)).toarray(), full)


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_lists_do_not_depend_on_the_chunk(chains, monkeypatch, exclude_seen):
    cases = chains.cases("test")
    whole = item_knn.recommend(chains, cases, 20, exclude_seen)
    monkeypatch.setattr(lists, "CHUNK_SCORES", 41 * 7)
    parts = item_knn.recommend(chains, cases, 20, exclude_seen)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)
    ranking.check_recs(whole[0], 60, 41)
    if exclude_seen:
        for case, row in enumerate(whole[0]):
            assert not set(row) & set(chains.events[cases.start[case] : cases.end[case]])


def test_training_events_only(make_dataset):
    base = [[0, 1, 2, 3], [0, 1, 3, 2], [0, 1, 2, 4]]
    moved = [s[:2] + s[:1:-1] for s in base]  # swap what is held out
    a, b = (item_knn.similarity(make_dataset(s, 5)) for s in (base, moved))
    assert (a != b).nnz == 0


def test_knn_walks_the_ring(chains):
    cases = chains.cases("test")
    knn, _, _ = item_knn.recommend(chains, cases, 5, exclude_seen=False)
    popular, _, _ = popularity.recommend_popular(chains, cases, 5, exclude_seen=False)
    of_knn, of_popular = (
        ranking.mean_metrics(ranking.rank_of_target(r, cases.target), (5,)) for r in (knn, popular)
    )
    assert of_knn["HR@5"] > 0.7 > of_popular["HR@5"] + 0.3


@pytest.mark.parametrize("name", ["popularity", "repeat_last", "item_knn"])
def test_the_order_of_the_catalogue_is_worth_nothing(make_dataset, name):
    """Targets that nobody was seen with, at the head of the catalogue: cold items are a lottery, whoever stands first."""
    cold, warm = 40, 20
    users = [[cold + (u + step) % warm for step in range(4)] + [u, u] for u in range(cold)]
    world = make_dataset(users, cold + warm)
    cases = world.cases("test")
    cases.end[:] = cases.start + 4  # the cold item before the target would give it away to repeat_last
    recommend = {
        "popularity": popularity.recommend_popular,
        "repeat_last": repeat_last.recommend_repeat_last,
        "item_knn": item_knn.recommend,
    }[name]
    hits = []
    for seed in range(20):
        places = ranking.tie_places(world.item_ids, seed)
        recs, _, tied = recommend(world, cases, cold + warm, True, places=places)
        assert tied.all()
        ranks = ranking.rank_of_target(recs, cases.target)
        hits.append(ranking.hit_rate(ranks - ranks.min(), 8).mean())  # ranks count from the first cold item
    assert abs(np.mean(hits) - 8 / cold) < 0.05


def test_renumbered_items_get_the_same_lists(chains):
    """A catalogue in another order recommends the same ids."""
    cases = chains.cases("test")
    order = np.random.default_rng(3).permutation(chains.n_items)
    number = np.argsort(order)  # old -> new
    other = replace(
        chains, items=chains.items.take(order), events=number[chains.events].astype(np.int32), stats={}
    )
    for recommend in (popularity.recommend_popular, repeat_last.recommend_repeat_last, item_knn.recommend):
        one = recommend(chains, cases, 10, False)
        two = recommend(other, other.cases("test"), 10, False)
        equal = np.asarray(chains.item_ids)[one.items] == np.asarray(other.item_ids)[two.items]
        assert equal.mean() > 0.99  # a sum in another order may differ in its last bit
        np.testing.assert_allclose(one.scores, two.scores, rtol=1e-5)


@pytest.mark.slow
def test_beauty_is_as_strong_as_the_reference(beauty):
    """The reference for these files, a hand-set item-KNN: Recall@10 .0774, NDCG@10 .0487."""
    cases = beauty.cases("test")
    recs, _, _ = item_knn.recommend(beauty, cases, 10, exclude_seen=True)
    metrics = ranking.mean_metrics(ranking.rank_of_target(recs, cases.target), (10,))
    assert metrics["HR@10"] >= 0.084 and metrics["NDCG@10"] >= 0.053
