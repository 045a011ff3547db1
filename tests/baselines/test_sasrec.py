"""SASRec: its loss and packing against the plain form, and resuming to the same weights."""

import numpy as np
import pytest

from dig_ray.baselines import sasrec
from dig_ray.baselines.config import SASRecConfig
from dig_ray.errors import UserError
from dig_ray.numerics import ranking

torch = pytest.importorskip("torch")

TINY = SASRecConfig(
    width=16, hidden=32, layers=1, max_length=8, batch_tokens=32, learning_rate=1e-2, warmup_steps=2,
    dropout=0.1, embedding_dropout=0.1, max_epochs=6, patience=6, device="cpu",
)  # fmt: skip


def quiet(line: str) -> None:
    pass


def test_windows_make_every_event_a_target_once():
    starts, ends = sasrec.windows(np.array([0, 1, 3, 14]), max_length=4)
    targets = sorted(t for s, e in zip(starts, ends, strict=True) for t in range(s + 1, e))
    assert targets == [2, *range(4, 14)]
    assert (ends - starts <= 5).all() and (ends - starts).tolist()[1] == 5


@pytest.mark.parametrize("original", [False, True])
def test_packed_rows_equal_one_sequence_at_a_time(original):
    model = sasrec.new_model(30, TINY.model_copy(update={"original_blocks": original}), seed=0).eval()
    events = np.random.default_rng(0).integers(0, 30, 40)
    starts = np.array([0, 3, 10, 11, 18])
    ends = np.array([3, 10, 11, 18, 20])
    packed = sasrec.layout(events, starts, ends, width=8)
    assert len(packed["items"]) < 5
    names = ("items", "positions", "documents")
    with torch.inference_mode():
        hidden = model(*(torch.from_numpy(packed[n]) for n in names)).flatten(0, 1)
        got = hidden[torch.from_numpy(packed["places"])].split((ends - starts).tolist())
        for low, high, states in zip(starts, ends, got, strict=True):
            alone = sasrec.layout(events, np.array([low]), np.array([high]), width=8)
            want = model(*(torch.from_numpy(alone[n]) for n in names))[0]
            torch.testing.assert_close(states, want)


def test_it_learns_and_recommends_like_it_validates(chains):
    trained = sasrec.train(chains, TINY.model_copy(update={"max_epochs": 25}), seed=0, log=quiet)
    assert trained.validation["HR@10"] > 0.8
    cases = chains.cases("valid")
    recs, _, _ = sasrec.recommend(trained.model, chains, cases, 10, exclude_seen=False, chunk=1024)
    ranks = sasrec.validate(trained.model, chains, cases)
    np.testing.assert_array_equal(ranking.rank_of_target(recs, cases.target), np.where(ranks < 10, ranks, -1))
    assert ranking.mean_metrics(ranks, (10,)) == trained.validation


def test_validation_can_leave_out_what_was_seen(chains):
    config = TINY.model_copy(update={"max_epochs": 2, "valid_seen": "left_out"})
    trained = sasrec.train(chains, config, seed=0, log=quiet)
    cases = chains.cases("valid")
    recs, _, _ = sasrec.recommend(trained.model, chains, cases, 10, exclude_seen=True)
    found = ranking.rank_of_target(recs, cases.target)
    assert ranking.mean_metrics(found, (10,)) == pytest.approx(trained.validation)
    allowed = ranking.mean_metrics(sasrec.validate(trained.model, chains, cases), (10,))
    assert allowed != trained.validation


def test_same_seed_same_weights_and_the_global_generator_is_left_alone(chains):
    config = TINY.model_copy(update={"max_epochs": 2})
    before = torch.get_rng_state()
    first, again = (sasrec.train(chains, config, seed=3, log=quiet).model.state_dict() for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_killed_after_any_epoch_ends_the_same(chains, tmp_path):
    whole = sasrec.train(chains, TINY, seed=1, log=quiet)

    def die(line: str) -> None:
        if line.startswith("sasrec: epoch 2/") or line.startswith("sasrec: epoch 4/"):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            sasrec.train(chains, TINY, seed=1, work=str(tmp_path), log=die)
    lines: list[str] = []
    resumed = sasrec.train(chains, TINY, seed=1, work=str(tmp_path), log=lines.append)
    assert lines[0] == "sasrec: resuming after epoch 4"
    left, right = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert [r["NDCG@10"] for r in whole.epochs] == [r["NDCG@10"] for r in resumed.epochs]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_checkpoint_is_said_and_training_begins_again(share, chains, tmp_path):
    config = TINY.model_copy(update={"max_epochs": 1})
    whole = sasrec.train(chains, config, work=str(tmp_path), log=quiet)
    file = tmp_path / "sasrec.pt"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    lines: list[str] = []
    again = sasrec.train(chains, config, work=str(tmp_path), log=lines.append)
    assert "sasrec.pt is " in lines[0] and lines[0].endswith("training begins again from step 0")
    assert again.epochs[0]["NDCG@10"] == whole.epochs[0]["NDCG@10"]


def test_a_pickle_is_not_executed(chains, tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"signature": Evil(), "state": {}}, tmp_path / "sasrec.pt")
    assert pickle  # the file is a zip of a pickle, as torch writes it
    lines: list[str] = []
    sasrec.train(chains, TINY, work=str(tmp_path), log=lines.append)
    assert "damaged" in lines[0]
    assert not (tmp_path / "ran").exists()


def test_other_settings_start_anew(chains, tmp_path):
    config = TINY.model_copy(update={"max_epochs": 1})
    sasrec.train(chains, config, work=str(tmp_path), log=quiet)
    lines: list[str] = []
    sasrec.train(chains, config.model_copy(update={"dropout": 0.2}), work=str(tmp_path), log=lines.append)
    assert "other settings" in lines[0]


def test_nothing_to_learn_from_is_one_sentence(make_dataset):
    with pytest.raises(UserError, match="two training events"):
        sasrec.train(make_dataset([[0, 1, 2], [2, 1, 0]], 3), TINY, log=quiet)
