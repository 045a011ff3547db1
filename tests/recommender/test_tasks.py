"""SFT tasks: which events are trained, once each, and what the documents say."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dig_ray.errors import UserError
from dig_ray.recommender.config import DecoderConfig, RecommenderConfig
from dig_ray.recommender.tasks import (
    TaskInputs,
    build_documents,
    check_same_items,
    next_sid,
    select,
    windows,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 15))
def test_windows_train_every_event_exactly_once(lengths, size):
    rows = windows(np.array(lengths, np.int64), size)
    trained = [np.zeros(n, int) for n in lengths]
    for sequence, begin, end, first in rows.tolist():
        assert 0 <= begin <= first < end <= lengths[sequence] and end - begin <= size
        trained[sequence][first:end] += 1
        if first:  # a later window gives what it trains at least half a window of context
            assert first - begin >= min(first, size // 2)
    assert all((t == 1).all() for t in trained)


def _inputs(dataset, sids, tokenizer=None, **config):
    return TaskInputs(dataset, sids, tokenizer, RecommenderConfig(**config), sid_start=3, bos=0, eos=2)


def _decoded(docs, document):
    first, last = docs.offsets[document : document + 2]
    return docs.tokens[first:last], docs.target_item[first:last], docs.target_depth[first:last]


def test_a_history_is_bos_and_the_sids_of_its_training_events(make_sids, make_dataset):
    sids = make_sids(12, (3, 3))
    sequences = [[0, 1, 2, 3, 4], [5, 6, 7], [8, 9, 10, 11]]
    docs = next_sid(_inputs(make_dataset(sequences, 12), sids))
    assert len(docs) == 3
    for user, sequence in enumerate(sequences):
        train = sequence[:-2]
        expected = [0, *(t + 3 for item in train for t in sids.tokens_of(item))]
        tokens, items, depths = _decoded(docs, user)
        assert tokens.tolist() == expected
        assert items.tolist() == [-1, *(i for i in train for _ in sids.tokens_of(i))]
        assert depths.tolist()[1:] == [d for i in train for d in range(len(sids.tokens_of(i)))]


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(3, 30), min_size=1, max_size=8), max_history=st.integers(1, 12))
def test_only_training_events_are_read_and_each_is_a_target_once(
    lengths, max_history, make_sids, make_dataset
):
    n_items = sum(lengths)  # every event has its own item, so that items tell events
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    sequences = [list(range(a, b)) for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
    sids = make_sids(n_items, (7, 5, 3))
    docs = next_sid(_inputs(make_dataset(sequences, n_items), sids, max_history=max_history))
    train = {i for s in sequences for i in s[:-2]}
    count = np.bincount(docs.target_item[docs.target_item >= 0], minlength=n_items)
    for item in range(n_items):
        assert count[item] == (len(sids.tokens_of(item)) if item in train else 0)
    held_out = {t + 3 for s in sequences for i in s[-2:] for t in sids.tokens_of(i)}
    allowed = {t + 3 for i in train for t in sids.tokens_of(i)} | {0}
    assert not (set(docs.tokens.tolist()) & (held_out - allowed))
    for d in range(len(docs)):
        tokens, _, _ = _decoded(docs, d)
        assert len(tokens) <= 1 + max_history * 4


@pytest.fixture(params=["scratch", "language-model"])
def text_world(request, make_sids, make_dataset, language_model):
    """A tokenizer with SID tokens, learnt here or a language model's own, and inputs made with it."""
    from dig_ray.recommender.backbone import build_tokenizer

    sids = make_sids(12, (3, 3))
    dataset = make_dataset([[0, 1, 2, 3, 4], [5, 6, 7]], 12, titles=True)
    backbone = "decoder" if request.param == "scratch" else str(language_model["tied"])
    weights = {"next_sid": 1.0, "title_to_sid": 1.0, "sid_to_title": 1.0}
    config = RecommenderConfig(backbone=backbone, tasks=weights, decoder=DecoderConfig(text_vocabulary=300))
    tokenizer = build_tokenizer(config, sids, [t for t in dataset.items.column("title").to_pylist() if t])
    sid_start = tokenizer.convert_tokens_to_ids(sids.token_strings[0])
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    inputs = TaskInputs(dataset, sids, tokenizer, config, sid_start, bos, tokenizer.eos_token_id)
    return SimpleNamespace(inputs=inputs, tokenizer=tokenizer, sids=sids, dataset=dataset)


def test_sid_tokens_are_one_contiguous_range_of_the_vocabulary(text_world):
    ids = text_world.tokenizer.convert_tokens_to_ids(text_world.sids.token_strings)
    assert ids == list(
        range(text_world.inputs.sid_start, text_world.inputs.sid_start + text_world.sids.n_tokens)
    )
    spelled = text_world.tokenizer(text_world.sids.text_of(4), add_special_tokens=False)["input_ids"]
    assert spelled == [t + text_world.inputs.sid_start for t in text_world.sids.tokens_of(4)]


def test_title_tasks_carry_title_and_sid_and_skip_items_without_one(text_world):
    from dig_ray.recommender.tasks import TASKS

    inputs, sids, tokenizer = text_world.inputs, text_world.sids, text_world.tokenizer
    titled = [i for i in range(12) if i != 2]
    to_sid = TASKS["title_to_sid"](inputs)
    assert len(to_sid) == len(titled)
    for d, item in enumerate(titled):
        tokens, items, depths = _decoded(to_sid, d)
        n = len(sids.tokens_of(item))
        assert tokens[0] == inputs.bos
        assert tokenizer.decode(tokens[1:-n]) == f"Title: red kettle number {item}"
        assert (tokens[-n:] - inputs.sid_start).tolist() == sids.tokens_of(item)
        assert items.tolist() == [-1] * (len(tokens) - n) + [item] * n
        assert depths.tolist()[-n:] == list(range(n))
    to_title = TASKS["sid_to_title"](inputs)
    assert len(to_title) == len(titled) and (to_title.target_item == -1).all()
    for d, item in enumerate(titled):
        first, last = to_title.offsets[d : d + 2]
        tokens, text = to_title.tokens[first:last], to_title.text_target[first:last]
        assert (tokens[1 : 1 + len(sids.tokens_of(item))] - inputs.sid_start).tolist() == sids.tokens_of(item)
        assert tokenizer.decode(tokens[text][:-1]) == f"red kettle number {item}"
        assert tokens[text][-1] == inputs.eos


def test_a_weight_is_how_often_a_task_is_seen(text_world):
    def count(**tasks):
        config = text_world.inputs.config.model_copy(update={"tasks": {"next_sid": 1.0, **tasks}})
        return len(build_documents(TaskInputs(**{**text_world.inputs.__dict__, "config": config})))

    assert count() == 2
    assert count(title_to_sid=1.0) == 2 + 11
    assert count(title_to_sid=2.0) == 2 + 22
    assert count(title_to_sid=0.5) == 2 + 6
    assert count(title_to_sid=0.0) == 2


def test_a_long_title_is_cut(text_world):
    config = text_world.inputs.config.model_copy(update={"max_text_tokens": 4})
    docs = build_documents(TaskInputs(**{**text_world.inputs.__dict__, "config": config}))
    assert np.diff(docs.offsets)[2:].max() <= 1 + 4 + 4 + 4 + 1


@pytest.mark.parametrize("task", ["interests_to_sid", "sid_to_interests", "user_interests_to_sid"])
def test_an_interest_task_without_interests_is_one_sentence(task, text_world):
    config = text_world.inputs.config.model_copy(update={"tasks": {"next_sid": 1.0, task: 1.0}})
    with pytest.raises(UserError, match=f"recommender.tasks: {task} needs mined interests"):
        build_documents(TaskInputs(**{**text_world.inputs.__dict__, "config": config}))


def test_interest_tasks_read_what_was_mined(text_world):
    from dig_ray.recommender.tasks import TASKS

    given_ = {
        **text_world.inputs.__dict__,
        "item_interests": ["boils water fast"] + [None] * 10 + [""],
        "user_interests": ["tea at home", "camping"],
    }
    inputs = TaskInputs(**given_)
    assert len(TASKS["interests_to_sid"](inputs)) == 1 and len(TASKS["sid_to_interests"](inputs)) == 1
    docs = TASKS["user_interests_to_sid"](inputs)
    assert len(docs) == 1  # the second user has one training event and so no history before it
    tokens, items, _ = _decoded(docs, 0)
    assert items.max() == 2  # the last training item of user 0; valid and test stay unseen
    assert "tea at home" in text_world.tokenizer.decode(tokens)


def test_select_keeps_documents_whole_and_allows_repeats(make_sids, make_dataset):
    docs = next_sid(_inputs(make_dataset([[0, 1, 2, 3], [4, 5, 6]], 8), make_sids(8, (3, 3))))
    twice = select(docs, np.array([1, 0, 1]))
    assert len(twice) == 3
    for new, old in enumerate([1, 0, 1]):
        for a, b in zip(_decoded(twice, new), _decoded(docs, old), strict=True):
            np.testing.assert_array_equal(a, b)


def test_sids_of_other_items_are_refused(make_sids, make_dataset):
    dataset = make_dataset([[0, 1, 2]], 5)
    check_same_items(make_sids(5, (3, 3)), dataset, "here")
    for sids in (make_sids(4, (3, 3)), make_sids(6, (3, 3))):
        with pytest.raises(UserError, match="here: these Semantic IDs are not those of this catalogue"):
            check_same_items(sids, dataset, "here")
