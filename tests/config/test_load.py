"""Configs: what resolves to what, and that every mistake is one sentence with file, key, value and a cure."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dig_ray.config import RunConfig, known_keys, load_config, nearest_key, parse_yaml, to_yaml
from dig_ray.errors import UserError

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def sentence(folder: Path, *overrides: str, name: str = "a") -> str:
    with pytest.raises(UserError) as caught:
        load_config(name, overrides, folder)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_interests_that_know_what_a_policy_is_to_predict_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "a", "{}\n")
    overrides = [
        f"mining.users=[{MINER}, model: m}}]",
        "recommender.tasks={next_sid: 1, user_interests_to_sid: 1}",
        "sft.hold_out=1",
    ]
    assert "mining.user_hold_out=0 lets the interests know it; set mining.user_hold_out=2" in sentence(
        tmp_path, *overrides
    )
    load_config("a", [*overrides, "mining.user_hold_out=2"], tmp_path)


def test_file_then_base_then_command_line(tmp_path: Path) -> None:
    write(tmp_path, "base", "seed: 1\nsemantic_ids: {levels: 4, codebook_size: 64}\nstore: out\n")
    write(tmp_path, "a", "extends: base\nseed: 2\nsemantic_ids: {codebook_size: 32}\n")
    config = load_config("a", ["semantic_ids.kmeans.iterations=7", "ray.num_cpus=4"], tmp_path)
    assert (config.name, config.seed, config.store) == ("a", 2, "out")
    assert (config.semantic_ids.levels, config.semantic_ids.codebook_size) == (4, 32)
    assert (config.semantic_ids.kmeans.iterations, config.ray.num_cpus) == (7, 4)


def test_a_name_in_the_file_stays(tmp_path: Path) -> None:
    write(tmp_path, "a", "name: mine\n")
    assert load_config("a", (), tmp_path).name == "mine"
    assert load_config("a", ["name=yours"], tmp_path).name == "yours"
    assert load_config(tmp_path / "a.yaml", (), Path("nowhere")).name == "mine"


def test_values_are_yaml(tmp_path: Path) -> None:
    write(tmp_path, "a", "semantic_ids: {rqvae: {learning_rate: 1e-4}}\n")
    config = load_config(
        "a", ["semantic_ids.codebook_size=[8, 16, 32]", "baselines.run=[popularity]"], tmp_path
    )
    assert config.semantic_ids.rqvae.learning_rate == 1e-4
    assert config.semantic_ids.codebook_size == (8, 16, 32)
    assert config.baselines.run == ("popularity",)
    assert parse_yaml("[no, on, 12:30, 010, 1_000, .5, -2e3, ~, true]") == [
        "no", "on", "12:30", 10, 1000, 0.5, -2000.0, None, True,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("yaml", "parts"),
    [
        ("sed: 3\n", ["a.yaml", "unknown key sed", "value 3", "seed"]),
        ("semantic_ids:\n  lvels: 3\n", ["a.yaml", "semantic_ids.lvels", "semantic_ids.levels"]),
        ("levels: 3\n", ["unknown key levels", "semantic_ids.levels"]),
        ("seed: abc\n", ["a.yaml: seed", '"abc"', "integer"]),
        ("seed: '3'\n", ["a.yaml: seed", "integer"]),
        ("seed: true\n", ["a.yaml: seed", "true", "integer"]),
        ("seed: -1\n", ["a.yaml: seed is -1", "greater than or equal to 0"]),
        ("seed: 1.5\n", ["a.yaml: seed is 1.5"]),
        ("store: 5\n", ["a.yaml: store is 5", "string"]),
        ("semantic_ids: 5\n", ["a.yaml: semantic_ids"]),
        ("semantic_ids:\n", ["a.yaml: semantic_ids"]),
        ("semantic_ids: {method: kmeens}\n", ["semantic_ids.method", "kmeens", "residual_kmeans"]),
        ("baselines: {run: [popularity, x]}\n", ["a.yaml: baselines.run[1]", '"x"']),
        ("semantic_ids: {levels: 2, codebook_size: [4, 4, 4]}\n", ["a.yaml", "semantic_ids", "levels=2"]),
        ("ray: {address: auto, num_cpus: 4}\n", ["a.yaml", "ray", "address=auto", "num_cpus"]),
        ("baselines: {top_k: 5}\n", ["a.yaml: baselines.top_k=5", "evaluation.ks"]),
        ("sft: {use_gpu: true}\nray: {num_gpus: 0}\n", ["a.yaml: sft.use_gpu", "ray.num_gpus=0"]),
        ("name: ../up\n", ["a.yaml: name", "../up"]),
        ("seed: 1\nseed: 2\n", ["a.yaml", "'seed'", "line 1", "line 2"]),
        ("a: [1\n", ["a.yaml", "not valid YAML", "line"]),
        ("- 1\n", ["a.yaml", "list", "mapping"]),
        ("1: 2\n", ["a.yaml", "mapping", "key 1"]),
        ("seed: !!python/object/apply:os.system [touch hacked]\n", ["a.yaml", "not valid YAML"]),
        ("a: &x [1]\nb: *x\n", ["a.yaml", "aliases"]),
        ("extends: a\n", ["circle", "a.yaml"]),
        ("extends: b\n", ["a.yaml", "extends", "'b'"]),
        ("extends: [b]\n", ["a.yaml", "extends"]),
        ("semantic_ids: {rqvae: {learning_rate: .nan}}\n", ["a.yaml", "learning_rate"]),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence(tmp_path: Path, yaml: str, parts: list[str]) -> None:
    write(tmp_path, "a", yaml)
    text = sentence(tmp_path)
    assert all(part in text for part in parts), text


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("sed=3", ["command line", "unknown key sed", "value 3", "the nearest is seed"]),
        ("semantic_ids.kmeans.itertions=3", ["semantic_ids.kmeans.iterations"]),
        ("seed=x", ["command line: seed", '"x"']),
        ("baselines.top_k=5", ["command line: baselines.top_k=5"]),
        ("seed.x=1", ["command line", "seed.x"]),
        ("seed", ["command line", "key=value"]),
        ("=1", ["command line", "key=value"]),
        ("seed=[1", ["command line", "seed", "not valid YAML"]),
        ("seed=", ["command line: seed is null"]),
        ("mining.items[0].model=x", ["an entry of a list cannot be set alone", "mining.items=[...]"]),
        ("mining.items.0.model=x", ["an entry of a list cannot be set alone", "mining.items=[...]"]),
        ("ray={adress: auto}", ["command line", "ray.adress", "ray.address"]),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(
    tmp_path: Path, override: str, parts: list[str]
) -> None:
    write(tmp_path, "a", "seed: 1\n")
    text = sentence(tmp_path, override)
    assert all(part in text for part in parts), text


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["holds no setting", "extends: NAME", "{} for"]),
        ("# only words\n", ["holds no setting"]),
        ("---\n", ["holds no setting"]),
        ("seed: 1\n---\nseed: 2\n", ["line 2 begins a second document"]),
        ("seed: 1\nname: !!binary aGVsbG8=\n", ["line 2: the tag !!binary"]),
        ("name: !!timestamp 2001-01-01\n", ["line 1: the tag !!timestamp"]),
        ("sft: !!set {epochs}\n", ["line 1: the tag !!set"]),
        ("sft: !mine {epochs: 1}\n", ["line 1: the tag !mine"]),
        ("sft:\n\tepochs: 1\n", ["line 2: a tab", "spaces"]),
        ("sft: {true: 1}\n", ["line 1 has a key that is no plain word (true)"]),
        ("sft:\n  1.5: 1\n", ["line 2 has a key"]),
        ("sft: {[a]: 1}\n", ["line 1 has a key"]),
        ("sft: {changes: {4: {}, '4': {}}}\n", ["stands on line 1 and again"]),
        ("sft: {learning_rate: 1e999}\n", ["line 1: 1e999 is too large"]),
        (f"seed: {'9' * 5000}\n", ["line 1 has a number of 5000 digits"]),
        ("seed: 1\nname: a\x00b\n", ["line 2 has the character U+0000"]),
        ("seed: " + "[" * 60 + "]" * 60 + "\n", ["line 1", "more than 50 deep"]),
        ("seed: " + "[" * 20_000 + "\n", ["more than 50 deep"]),
        ("<<: {seed: 1}\n", ["unknown key <<"]),
    ],
)
def test_what_is_no_plain_data_is_named_with_its_line(tmp_path: Path, text: str, parts: list[str]) -> None:
    write(tmp_path, "a", text)
    said = sentence(tmp_path)
    assert "a.yaml" in said and all(part in said for part in parts), said


@given(st.text(max_size=40))
def test_any_text_is_plain_data_or_one_sentence(text: str) -> None:
    try:
        parse_yaml(text)
    except UserError as error:
        assert "\n" not in str(error).strip()


def test_what_is_no_file_is_named_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "wide.yaml").write_text("seed: 1\n", encoding="utf-16")
    (tmp_path / "mark.yaml").write_text("seed: 1\n", encoding="utf-8-sig")
    (tmp_path / "huge.yaml").write_text("#" * (1 << 20) + "\nseed: 1\n")
    assert "is a directory" in sentence(tmp_path, name="folder.yaml")
    assert "no plain file" in sentence(tmp_path, name="pipe.yaml")
    assert "UTF-16" in sentence(tmp_path, name="wide")
    assert "are no config" in sentence(tmp_path, name="huge")
    assert load_config("mark", (), tmp_path).seed == 1


SECRET = "hunter2secret"
ENDPOINT = "engine: openai, name: x, model: m"


@pytest.mark.parametrize(
    "override",
    [
        f'mining.items=[{{{ENDPOINT}, base_url: "http://user:{SECRET}@host/v1"}}]',
        f'mining.items=[{{{ENDPOINT}, base_url: "http://host/v1?key={SECRET}"}}]',
        f'mining.items=[{{{ENDPOINT}, base_url: "http://host/v1", api_key: {SECRET}}}]',
        f'mining.items=[{{{ENDPOINT}, base_url: "http://host/v1", extra: {{my_token: [{SECRET}]}}}}]',
        f"mining.items=[{{{ENDPOINT}, api_key: {SECRET}, base_url: [}}]",
        f"mining.items=[{{{ENDPOINT}, base_url: x, api_key_env: {SECRET}}}]",
        f"api_key={SECRET}",
        f"OPENAI_API_KEY:{SECRET}",
        f"mining.password={SECRET}",
        f"store=s3://AKIA:{SECRET}@bucket/runs",
        f"store=ftp://me:{SECRET}@host/runs",
        f"seed=Bearer {SECRET}",
        f'mining.items=[{{{ENDPOINT}, base_url: "http://host/v1", extra_body: {{api_key: {SECRET}}}}}]',
        f"mining.items=[{{engine: vllm, name: x, model: m, engine_kwargs: {{hf_token: {SECRET}}}}}]",
    ],
)
def test_no_sentence_repeats_a_secret(tmp_path: Path, override: str) -> None:
    write(tmp_path, "a", "seed: 1\n")
    assert SECRET not in sentence(tmp_path, override)
    key, _, value = override.partition("=")
    if value and "{" in value and "[}" not in value:
        write(tmp_path, "a", "mining:\n  items: " + value + "\n")
        assert SECRET not in sentence(tmp_path)


def test_names_that_only_sound_secret_are_shown(tmp_path: Path) -> None:
    write(tmp_path, "a", "mining: {evidence_tokens: many}\n")
    assert '"many"' in sentence(tmp_path)
    write(tmp_path, "a", "mining: {evidence_tokens: 1}\n")
    assert "mining.evidence_tokens is 1:" in sentence(tmp_path)


def test_home_is_read_in_paths_and_no_other_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SECRET_PLACE", "hidden")
    (tmp_path / "base.yaml").write_text("seed: 7\n")
    write(
        tmp_path,
        "a",
        "extends: ~/base.yaml\nstore: ~/runs\ncatalog: {source: table, items: {path: $HOME/items.csv}, "
        "interactions: {path: '${HOME}/inter.csv'}}\nsemantic_ids: {method: file, path: ~/sids.parquet}\n",
    )
    config = load_config("a", (), tmp_path)
    assert config.seed == 7 and config.store == f"{tmp_path}/runs"
    assert config.catalog.items.path == f"{tmp_path}/items.csv"
    assert config.catalog.interactions.path == f"{tmp_path}/inter.csv"
    assert config.semantic_ids.path == f"{tmp_path}/sids.parquet"
    assert "$SECRET_PLACE is not read" in sentence(tmp_path, "store=$SECRET_PLACE/x")
    assert "knows no user 'nobody_here'" in sentence(tmp_path, "store=~nobody_here/x")
    assert load_config("a", ["store=s3://bucket/$x"], tmp_path).store == "s3://bucket/$x"
    assert "empty" in sentence(tmp_path, "catalog.images.root=''")


def test_the_file_that_set_the_wrong_value_is_named(tmp_path: Path) -> None:
    write(tmp_path, "base", "seed: wrong\n")
    write(tmp_path, "a", "extends: base\nstore: out\n")
    assert sentence(tmp_path).startswith(f"{tmp_path}/base.yaml: seed")


def test_missing_files(tmp_path: Path) -> None:
    write(tmp_path, "beauty", "{}")
    assert "did you mean beauty" in sentence(tmp_path, name="beaty")
    assert "does not exist" in sentence(tmp_path, name="no/such.yaml")
    assert "does not exist" in sentence(tmp_path, name="x" * 5000 + ".yaml")
    assert "there is no config" in sentence(tmp_path, name="x" * 5000)
    assert "hunter2" not in sentence(tmp_path, name="API_KEY=hunter2")
    assert "beauty" in sentence(tmp_path, name="../../etc/passwd")
    (tmp_path / "a.yaml").write_bytes(b"seed: \xff\n")
    assert "UTF-8" in sentence(tmp_path)


def test_printed_config_reads_back_as_itself(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "a", "seed: 7\nsemantic_ids: {codebook_size: [4, 5, 6]}\n"))
    again = load_config(write(tmp_path, "b", to_yaml(config)))
    assert again == config


def test_every_shipped_config_is_valid() -> None:
    for path in sorted(CONFIGS.glob("*.yaml")):
        assert load_config(path).name == path.stem


@given(st.text(max_size=40))
def test_any_text_is_plain_data_or_a_user_error(text: str) -> None:
    try:
        value = parse_yaml(text)
    except UserError:
        return
    assert isinstance(value, (dict, list, str, int, float, bool, type(None)))


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(known_keys(RunConfig))), st.data())
def test_a_key_with_one_letter_missing_finds_itself(key: str, data: st.DataObject) -> None:
    leaf = key.rpartition(".")[2]
    if len(leaf) < 6:
        return
    cut = data.draw(st.integers(len(key) - len(leaf), len(key) - 1))
    near = nearest_key(key[:cut] + key[cut + 1 :], sorted(known_keys(RunConfig)))
    assert near.rpartition(".")[0] == key.rpartition(".")[0] or near.rpartition(".")[2] == leaf


MINER = '{engine: openai, name: a, base_url: "http://x/v1"'


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            f"mining.items=[{MINER}, modle: x}}]",
            'unknown key mining.items[0].modle (value "x"); the nearest is mining.items.model',
        ),
        (f"mining.items=[{MINER}}}]", "mining.items[0].model is missing"),
        ("mining.items=[{name: a}]", "does not say its 'engine'"),
        (f"mining.items=[{MINER}, model: m, spend_limit: 3}}]", "set price.input and price.output"),
        (f"mining.items=[{MINER}, model: m}}, {MINER}, model: n}}]", "two miners of the name 'a'"),
        (
            f"mining.items=[{MINER}, model: m}}, {MINER.replace('name: a', 'name: b')}, model: m}}]",
            "would give the same answers",
        ),
        ("mining.caption={engine: openai, name: a, model: m, base_url: 'https://me:pass@x/v1'}", "base_url"),
        (f"mining.judge={MINER}, model: m}}", None),
        ("mining.judge={engine: keyphrase}", "judge needs a model"),
        ("embedding.fields=[title, caption]", "which nobody mines; set mining.caption"),
        (
            "mining={most: 3, items: [{engine: keyphrase}]}",
            "miner keyphrase finds phrases=6, and an answer may have most=3 interests; set phrases to 3 or less",
        ),
        (
            "recommender.tasks={next_sid: 1, user_interests_to_sid: 1}",
            "user_interests_to_sid, whose interests nobody mines; set mining.users",
        ),
    ],
)
def test_a_miner_that_cannot_be_is_one_sentence(tmp_path: Path, override: str, said: str | None) -> None:
    write(tmp_path, "a", "{}\n")
    if said is None:
        load_config("a", [override], tmp_path)
    else:
        assert said in sentence(tmp_path, override)


def test_a_judge_does_not_grade_itself_unless_told_to(tmp_path: Path) -> None:
    write(tmp_path, "a", f"mining: {{items: [{MINER}, model: m}}], judge: {MINER}, model: m}}}}\n")
    assert "mining.self_judging=true" in sentence(tmp_path)
    assert load_config("a", ["mining.self_judging=true"], tmp_path).mining.judged_by_itself() == ["a"]


def test_a_key_in_the_wrong_place_is_not_said_again(tmp_path: Path) -> None:
    write(tmp_path, "a", "{}\n")
    text = sentence(tmp_path, f"mining.items=[{MINER}, model: m, api_key_env: sk-canary}}]")
    assert "sk-canary" not in text and "never the key itself" in text


def test_the_presets_are_as_published() -> None:
    first, second = (load_config(f"deepinterestgr{n}", [], CONFIGS) for n in (1, 2))
    for config in (first, second):
        assert config.grpo is not None and config.recommender.lora is not None
        assert (config.sft.learning_rate, config.sft.epochs) == (3e-4, 3)
        assert (config.grpo.learning_rate, config.grpo.epochs) == (1e-5, 2)
        assert (config.grpo.num_generations, config.grpo.beta, config.evaluation.beam) == (8, 0.001, 20)
        assert config.recommender.backbone == "Qwen/Qwen2.5-7B-Instruct" and config.seed == 42
        assert config.embedding.model == "Qwen/Qwen3-Embedding-4B"
        assert (config.semantic_ids.method, config.semantic_ids.levels) == ("rqvae", 3)
    assert second.grpo.rewards.quality == "gated" and second.grpo.rewards.alpha == 0.5
    assert second.image_embedding.model == "ViT-L-14" and second.catalog.images.missing == "drop"
    assert second.embedding.fields == ("title", "description", "caption", "interests")
    assert [miner.model for miner in first.mining.users] == [
        miner.model for miner in first.mining.item_miners
    ]
    assert len(first.mining.item_miners) == 4 and first.embedding.interests == "positive"
    assert first.grpo.rewards.gamma > 0
