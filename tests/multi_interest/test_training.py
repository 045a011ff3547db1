"""Batches, one worker or several, going on after a kill, and interests that were planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from dig_ray.catalog.dataset import Cases
from dig_ray.multi_interest import covering
from dig_ray.multi_interest.config import MultiInterestConfig
from dig_ray.multi_interest.examples import Crowd, make_examples, pad_sets
from dig_ray.multi_interest.infer import interests_of, ranks_of_targets, recommend
from dig_ray.multi_interest.loop import MultiInterestJob, Objective, Training, new_model
from dig_ray.multi_interest.vector_clusters import group_items

TOPICS, PER_TOPIC = 6, 30


def planted(users: int = 1000, length: int = 14, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Histories of users with two to four topics each: offsets, items, and which of its user's topics an event is of."""
    rng = np.random.default_rng(seed)
    items, topics = [], []
    for _ in range(users):
        mine = rng.choice(TOPICS, rng.integers(2, 5), replace=False)
        which = rng.integers(len(mine), size=length)
        items.append(mine[which] * PER_TOPIC + rng.integers(PER_TOPIC, size=length))
        topics.append(which)
    return np.arange(users + 1) * length, np.concatenate(items).astype(np.int32), np.concatenate(topics)


def job_of(users: int = 1000, labels: bool = True, **settings) -> MultiInterestJob:
    """The last event of every user is held out."""
    config = MultiInterestConfig(
        **{"width": 32, "temperature": 0.07, "learning_rate": 5e-3, "warmup_steps": 20, "dropout": 0.0}
        | settings
    )
    offsets, items, topics = planted(users)
    last = offsets[1:] - 1
    train = np.ones(len(items), bool)
    train[last] = False
    crowd = None
    if config.crowd.weight:
        rng = np.random.default_rng(1)
        chosen = [rng.choice(TOPICS, 4, replace=False) for _ in range(100)]
        sets = [
            [t * PER_TOPIC + i for t in own for i in rng.choice(PER_TOPIC, 6, replace=False)]
            for own in chosen
        ]
        crowd = Crowd(pad_sets(sets, 0), pad_sets([np.repeat(np.arange(4), 6).tolist()] * 100, -1))
    own = np.arange(users + 1) * 13
    return MultiInterestJob(
        config,
        0,
        TOPICS * PER_TOPIC,
        make_examples(own, items[train], config.max_length, topics[train] if labels else None),
        np.bincount(items[train], minlength=TOPICS * PER_TOPIC),
        crowd,
        items,
        Cases(np.arange(users), items[last], offsets[:-1], last),
        2,
    )


def recovered(job: MultiInterestJob, epochs: int) -> float:
    """Mean adjusted Rand index, over users, of which interest an event is strongest in and the topic that was planted."""
    training = Training(job)
    while not training.over and len(training.rows) < epochs:
        training.epoch()
    training.model.load_state_dict(training.best["weights"])
    offsets, items, topics = planted(len(job.valid.user))
    with torch.inference_mode():
        _, shares = interests_of(training.model.eval(), items, offsets[:-1], offsets[1:] - 1)
    strongest = shares.argmax(1).numpy()
    return float(
        np.mean(
            [
                adjusted_rand_score(topics[low : low + 13], one)
                for low, one in zip(offsets, strongest, strict=False)
            ]
        )
    )


def clusters_of_vectors(sets: list[list[int]], vectors: np.ndarray) -> list[dict[int, int]]:
    """Of each set, item -> the cluster in which its vector was put."""
    names = [str(item) for item in range(len(vectors))]
    subjects = {str(n): [names[item] for item in own] for n, own in enumerate(sets)}
    found = group_items(subjects, {name: row for row, name in enumerate(names)}, vectors, names, 0.2)
    return [dict(zip(own, one.labels, strict=True)) for own, one in zip(sets, found, strict=True)]


def ldmi_of_planted(job: MultiInterestJob) -> MultiInterestJob:
    """``job`` with users' clusters and synthesized users found in histories and noisy item vectors; topics are not given away."""
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((TOPICS, 24))
    vectors = np.repeat(centres, PER_TOPIC, axis=0) + 0.9 * rng.standard_normal((TOPICS * PER_TOPIC, 24))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    offsets, events = np.arange(len(job.valid.user) + 1) * 13, job.examples.events
    own = [list(dict.fromkeys(events[low : low + 13].tolist())) for low in offsets[:-1]]
    clusters = clusters_of_vectors(own, vectors)
    labels = np.array([clusters[place // 13][event] for place, event in enumerate(events.tolist())], np.int32)
    bounds, members = covering.cliques(covering.neighbours(offsets, events, job.n_items, 4, 100))
    chosen = covering.cover(bounds, members, len(own), job.config.crowd.budget).chosen
    merged = [
        covering.merge_users(members[bounds[n] : bounds[n + 1]], offsets, events, 30).tolist() for n in chosen
    ]
    together = [list(one.values()) for one in clusters_of_vectors(merged, vectors)]
    return replace(
        job,
        examples=replace(job.examples, labels=labels),
        crowd=Crowd(pad_sets(merged, 0), pad_sets(together, -1)),
    )


def test_planted_interests_are_recovered_by_ldmi_and_not_by_the_base_model():
    """Both levels from end to end without an LLM; weights are far above the defaults."""
    shared = {"interests": 8, "agreement": 10.0}
    crowd = {"weight": 2.0, "temperature": 0.1, "budget": 400}
    found = recovered(ldmi_of_planted(job_of(**shared, alignment={"weight": 3.0}, crowd=crowd)), 20)
    base = recovered(job_of(labels=False, **shared), 20)
    assert found > 0.8
    assert base < 0.4


def test_every_event_but_the_first_is_a_target_once():
    offsets = np.array([0, 5, 6, 9, 18])
    events = np.arange(18, dtype=np.int32)
    examples = make_examples(offsets, events, 4, np.arange(18) % 3)
    seen = []
    for batch in examples.batches(4, 0, 0):
        assert batch.all_targets == (batch.targets >= 0).sum() and batch.all_windows == len(batch.items)
        for row, length in enumerate(batch.lengths.tolist()):
            history, after = batch.items[row, :length], batch.targets[row, :length]
            assert after.tolist() == (history + 1).tolist()
            assert batch.labels[row, :length].tolist() == (history % 3).tolist()
            assert (batch.targets[row, length:] == -1).all() and (batch.labels[row, length:] == -1).all()
            seen += after.tolist()
    assert sorted(seen) == [1, 2, 3, 4, 7, 8, *range(10, 18)]
    assert examples.targets == len(seen)


def test_order_follows_seed_and_epoch():
    examples = job_of(50).examples

    def order(seed: int, epoch: int) -> list[list[int]]:
        return [batch.items[:, 0].tolist() for batch in examples.batches(64, seed, epoch)]

    assert order(0, 0) == order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


@pytest.mark.parametrize("negatives", [None, 40])
def test_shares_of_two_workers_add_up_to_one_worker_s_step(negatives):
    job = job_of(60, alignment={"weight": 0.5}, crowd={"weight": 0.5, "budget": 100}, negatives=negatives)

    def gradients(world: int) -> list[torch.Tensor]:
        model = new_model(job.n_items, job.config, 0)
        objective = Objective(model, job.frequency, job.examples.clusters, 0)
        rows = np.arange(16)
        for rank in range(world):
            batch = next(job.examples.batches(128, 0, 0, rank, world))
            mine = rows[rank::world]
            crowd = (torch.from_numpy(job.crowd.items[mine]), torch.from_numpy(job.crowd.labels[mine]), 16)
            (objective(batch, crowd, 0, world)[0] / world).backward()  # as DDP averages
        return [parameter.grad for parameter in model.parameters()]

    for one, two in zip(gradients(1), gradients(2), strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def test_all_of_a_crowd_are_contrasted_before_any_is_again():
    crowd = Crowd(np.zeros((7, 2), np.int64), np.zeros((7, 2), np.int64))
    drawn = crowd.steps(3, 0, 0)
    rows = np.concatenate([next(drawn) for _ in range(7)]).tolist()
    for low in (0, 7, 14):
        assert sorted(rows[low : low + 7]) == list(range(7))
    assert len(next(crowd.steps(16, 0, 0))) == 7


@pytest.mark.parametrize("settings", [{}, {"negatives": 40}, {"routing": "attention"}])
def test_a_worker_without_a_window_adds_nothing(settings):
    job = job_of(60, alignment={"weight": 0.5}, **settings)
    model = new_model(job.n_items, job.config, 0)
    loss, _ = Objective(model, job.frequency, job.examples.clusters, 0)(
        job.examples.batch(np.zeros(0, np.int64), 13, 1), None, 0, 2
    )
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_interrupted_is_uninterrupted():
    job = job_of(
        60, dropout=0.3, max_epochs=4, alignment={"weight": 0.5}, crowd={"weight": 0.5, "budget": 100}
    )
    whole = Training(job)
    while not whole.over:
        whole.epoch()
    first = Training(job)
    first.epoch()
    first.epoch()
    second = Training(job)
    second.load(first.state())
    while not second.over:
        second.epoch()
    for name, weights in whole.model.state_dict().items():
        assert torch.equal(weights, second.model.state_dict()[name])
    assert [row["eval_ndcg@10"] for row in whole.rows] == [row["eval_ndcg@10"] for row in second.rows]


def test_lists_and_ranks_agree():
    job = job_of(60, max_epochs=2)
    training = Training(job)
    training.epoch()
    ranks = ranks_of_targets(training.model, job.events, job.valid)
    items, _ = recommend(training.model, job.events, job.valid, job.n_items, exclude_seen=False)
    assert [
        row.tolist().index(target) for row, target in zip(items, job.valid.target, strict=True)
    ] == ranks.tolist()
    fresh, _ = recommend(training.model, job.events, job.valid, 20, exclude_seen=True)
    for row, start, end in zip(fresh, job.valid.start, job.valid.end, strict=True):
        assert not set(row.tolist()) & set(job.events[start:end].tolist())
    training.model.config = job.config.model_copy(update={"valid_seen": "left_out"})
    left_out = ranks_of_targets(training.model, job.events, job.valid)
    found, _ = recommend(training.model, job.events, job.valid, job.n_items, exclude_seen=True)
    for row, target, rank in zip(found.tolist(), job.valid.target.tolist(), left_out.tolist(), strict=True):
        assert row.index(target) == rank if target in row else rank >= sum(item >= 0 for item in row)
    assert (left_out < ranks).any()
