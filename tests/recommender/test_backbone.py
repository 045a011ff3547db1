"""Backbones: what trains, what is saved, and what is refused when a policy is read."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from dig_ray.errors import UserError
from dig_ray.recommender.backbone import build_policy, build_tokenizer, load_policy, write_about
from dig_ray.recommender.config import DecoderConfig, LoraConfig, RecommenderConfig
from dig_ray.recommender.decoding import BeamSearcher
from dig_ray.recommender.objective import SidLoss

DECODER = DecoderConfig(hidden_size=32, num_layers=2, num_heads=2, ffn_size=64)
LORA = LoraConfig(rank=4, dropout=0.0)


def _built(config, sids, seed=0):
    tokenizer = build_tokenizer(config, sids, ["red kettle"])
    return build_policy(config, sids, tokenizer, seed), tokenizer


def _config(name, language_model):
    if name.startswith("decoder"):
        return RecommenderConfig(
            decoder=DECODER.model_copy(update={"tie_embeddings": name == "decoder-tied"})
        )
    kind, _, way = name.partition("-")
    return RecommenderConfig(backbone=str(language_model[kind]), lora=LORA if way == "lora" else None)


ALL = ["decoder", "decoder-tied", "tied-full", "untied-full", "tied-lora", "untied-lora"]


def _step(policy, sids, table, lr=0.1):
    """One optimisation step on the next-SID loss of a random batch."""
    from dig_ray.recommender.packing import document_mask

    rng = np.random.default_rng(0)
    items = rng.integers(0, len(sids), 24)
    tokens = torch.tensor([[policy.bos, *(t + policy.sid_start for i in items for t in sids.tokens_of(i))]])
    where = [(i, d) for i in items for d in range(len(sids.tokens_of(i)))]
    policy.model.train()
    out = policy.hidden(
        input_ids=tokens, attention_mask=document_mask(torch.zeros_like(tokens)), use_cache=False
    )
    target = tokens[0, 1:] - policy.sid_start
    item, depth = (torch.tensor(column) for column in zip(*where, strict=True))
    loss = SidLoss(table, "head")(out.last_hidden_state[0, :-1], policy.sid_rows(), target, item, depth)
    trained = [p for p in policy.model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=lr)
    loss.backward()
    optimizer.step()
    policy.model.eval()
    return float(loss)


def _table_rows(module):
    """The rows an embedding or head really uses, adapters applied."""
    weight = module.weight if hasattr(module, "weight") else module.original_module.weight
    adapter = getattr(module, "token_adapter", None)
    return (
        (adapter.get_merged_weights(adapter.active_adapters) if adapter is not None else weight)
        .detach()
        .clone()
    )


@pytest.mark.parametrize("name", ["tied-lora", "untied-lora"])
def test_under_lora_the_new_sid_rows_train_and_old_rows_do_not(name, language_model, make_sids, make_table):
    sids = make_sids(20, (3, 3))
    policy, _ = _built(_config(name, language_model), sids)
    lm = policy.causal_lm
    modules = {"input": lm.get_input_embeddings(), "output": lm.get_output_embeddings()}
    before = {k: _table_rows(m) for k, m in modules.items()}
    head = policy.sid_rows().detach().clone()
    _step(policy, sids, make_table(sids))
    first, end = policy.sid_start, policy.sid_start + policy.n_sid
    for key, module in modules.items():
        after = _table_rows(module)
        changed = (after != before[key]).any(dim=1)
        assert changed[first:end].all() if key == "output" else changed[first:end].any(), key
        assert not changed[:first].any() and not changed[end:].any(), key
    assert (policy.sid_rows() != head).any(dim=1).all()
    np.testing.assert_array_equal(policy.sid_rows().detach(), _table_rows(modules["output"])[first:end])
    names = {n for n, p in policy.model.named_parameters() if p.requires_grad}
    assert any("lora_" in n for n in names) and any("trainable_tokens" in n for n in names)
    assert all("lora_" in n or "trainable_tokens" in n for n in names)


@pytest.mark.parametrize("name", ["decoder", "decoder-tied", "tied-full", "untied-full"])
def test_in_full_training_the_sid_rows_are_the_heads_rows(name, language_model, make_sids, make_table):
    sids = make_sids(20, (3, 3))
    policy, _ = _built(_config(name, language_model), sids)
    before = policy.sid_rows().detach().clone()
    _step(policy, sids, make_table(sids))
    assert (policy.sid_rows() != before).any(dim=1).all()
    weight = policy.causal_lm.get_output_embeddings().weight
    assert torch.equal(weight[policy.sid_start : policy.sid_start + policy.n_sid], policy.sid_rows())


def _saved(policy, tokenizer, sids, config, path):
    policy.model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    about = {
        "sid_fingerprint": sids.fingerprint,
        "n_sid": sids.n_tokens,
        "first_sid_token": sids.token_strings[0],
        "normalizer": config.normalizer,
        "max_history": config.max_history,
        "levels": sids.levels,
        "base_model": config.backbone if config.lora is not None else None,
        "base_revision": None,
    }
    write_about(path, about)
    return about


@pytest.mark.parametrize("name", ALL)
def test_a_policy_read_back_gives_the_same_lists(
    name, language_model, make_sids, make_table, make_prompts, tmp_path
):
    sids = make_sids(40, (4, 3))
    config = _config(name, language_model)
    policy, tokenizer = _built(config, sids)
    table = make_table(sids)
    _step(policy, sids, table, lr=0.02)  # off the starting point, adapters included
    prompts, lengths, _ = make_prompts(policy, sids, [3, 7, 5])
    before = BeamSearcher(policy, table, 40).search(prompts, lengths)
    about = _saved(policy, tokenizer, sids, config, tmp_path)
    again, _, read = load_policy(tmp_path, sids)
    assert read == about and not again.model.training
    assert (again.sid_start, again.n_sid, again.bos, again.pad) == (
        policy.sid_start,
        policy.n_sid,
        policy.bos,
        policy.pad,
    )
    after = BeamSearcher(again, table, 40).search(prompts, lengths)
    torch.testing.assert_close(before.scores, after.scores, atol=1e-4, rtol=0)
    assert torch.equal(before.items, after.items)


@pytest.fixture
def saved(make_sids, tmp_path):
    sids = make_sids(20, (3, 3))
    config = RecommenderConfig(decoder=DECODER)
    policy, tokenizer = _built(config, sids)
    _saved(policy, tokenizer, sids, config, tmp_path)
    return tmp_path, sids


def test_a_policy_of_other_semantic_ids_is_refused(saved, make_sids):
    with pytest.raises(UserError, match="was trained on Semantic IDs"):
        load_policy(saved[0], make_sids(20, (3, 3), seed=1))


def test_a_truncated_weights_file_is_one_sentence(saved):
    path = saved[0] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="the policy's files cannot be read"):
        load_policy(*saved)


def test_weights_of_another_shape_are_one_sentence(saved):
    config = json.loads((saved[0] / "config.json").read_text())
    config["hidden_size"] = 64
    (saved[0] / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="cannot be read"):
        load_policy(*saved)


@pytest.mark.parametrize(
    "content, message", [(None, "no policy.json"), ("{", "not valid JSON"), ("[]", "policy.json")]
)
def test_a_directory_that_is_no_policy_is_refused(saved, content, message):
    path = saved[0] / "policy.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_policy(*saved)


class _Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_pickle_in_a_policys_directory_is_never_unpickled(saved, tmp_path):
    trap = tmp_path / "sprung"
    torch.save({"x": _Malice(str(trap))}, saved[0] / "pytorch_model.bin")
    torch.save({"x": _Malice(str(trap))}, saved[0] / "optimizer.pt")
    load_policy(*saved)
    (saved[0] / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        load_policy(*saved)
    assert not trap.exists()


def test_the_same_seed_gives_the_same_weights_and_another_does_not(make_sids):
    sids = make_sids(20, (3, 3))
    config = RecommenderConfig(decoder=DECODER)
    one, same, other = (_built(config, sids, seed)[0].sid_rows() for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_a_backbone_that_is_not_there_is_one_sentence(make_sids, tmp_path):
    config = RecommenderConfig(backbone=str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"recommender\.backbone=.* could not be loaded"):
        build_tokenizer(config, make_sids(5, (3, 3)), [])


def test_tokens_start_from_their_codebooks(make_sids):
    sids = make_sids(40, (6, 5))
    rng = np.random.default_rng(0)
    books = [rng.standard_normal((6, 20)), rng.standard_normal((5, 20))]
    config = RecommenderConfig(decoder=DECODER)
    tokenizer = build_tokenizer(config, sids, [])
    policy = build_policy(config, sids, tokenizer, 0, books)
    rows = policy.sid_rows().detach().numpy()
    read = policy.causal_lm.get_input_embeddings().weight.detach().numpy()[policy.sid_start :][:11]
    np.testing.assert_array_equal(read[:, :11], rows[:11, :11])
    assert not np.array_equal(read[:, 11:], rows[:11, 11:])
    for first, book in ((0, books[0]), (6, books[1])):
        mine = rows[
            first : first + len(book), :11
        ]  # as many dimensions as 11 vectors span; the rest stays random
        theirs = book - book.mean(axis=0)
        gram, wanted = mine @ mine.T, theirs @ theirs.T
        np.testing.assert_allclose(gram / np.trace(gram), wanted / np.trace(wanted), atol=1e-5)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"tasks": {"next_sid": 1.0, "titles": 1.0}}, "'titles' is unknown"),
        ({"tasks": {"title_to_sid": 1.0}}, "next_sid must have a positive weight"),
        ({"lora": {"rank": 4}}, "lora adapts a pretrained model"),
        ({"decoder": {"hidden_size": 30, "num_heads": 4}}, "even multiple of num_heads"),
    ],
)
def test_impossible_settings_are_refused(fields, message):
    from pydantic import ValidationError

    with pytest.raises(ValidationError, match=message):
        RecommenderConfig.model_validate(fields)
