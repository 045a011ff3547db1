"""Directories of models as people have them: what is wrong with one is said in a sentence, before any weights are loaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dig_ray.errors import UserError
from dig_ray.recommender.backbone import build_policy, build_tokenizer, load_policy, write_about
from dig_ray.recommender.config import LoraConfig, RecommenderConfig
from dig_ray.recommender.pretrained import check_adapter, check_backbone, load_tokenizer, longest_text, source
from dig_ray.training.publish import write_policy_facts


@pytest.fixture
def folder(language_model, tmp_path) -> Path:
    """A copy of the tied model that a test may spoil."""
    return Path(shutil.copytree(language_model["tied"], tmp_path / "model"))


def config(folder: Path, **more) -> RecommenderConfig:
    return RecommenderConfig(backbone=str(folder), **more)


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def test_a_good_directory_passes(folder):
    check_backbone(config(folder))
    check_adapter(config(folder, lora=LoraConfig(target_modules=("q_proj", "v_proj"))))
    check_backbone(RecommenderConfig())
    check_backbone(RecommenderConfig(backbone="Qwen/Qwen2.5-0.5B"))


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


SPOILT = {
    "no directory": (lambda f: shutil.rmtree(f), "there is no such directory"),
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json.*GGUF"),
    "empty config": (lambda f: cut(f / "config.json", 0), "config.json is empty"),
    "half a config": (lambda f: cut(f / "config.json", 0.5), "config.json is no valid JSON"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "config.json holds no object"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
    "empty weights": (lambda f: cut(f / "model.safetensors", 0), "model.safetensors is empty"),
    "half of the weights": (
        lambda f: cut(f / "model.safetensors", 0.5),
        "model.safetensors has .* bytes where its header",
    ),
    "a pickle": (
        as_pickle,
        "a pickle, pytorch_model.bin, which could run code and is never opened.*save_pretrained",
    ),
    "a shard is missing": (shards, "model-00002-of-00002.safetensors is missing"),
    "an encoder": (
        lambda f: edit(f / "config.json", architectures=["BertForMaskedLM"]),
        "BertForMaskedLM, which is no causal",
    ),
    "a vision model": (
        lambda f: edit(f / "config.json", architectures=["Qwen2_5_VLForConditionalGeneration"]),
        "no causal language model",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_directory_is_one_sentence_before_anything_is_loaded(name, folder):
    spoil, sentence = SPOILT[name]
    spoil(folder)
    with pytest.raises(UserError, match=sentence) as error:
        check_backbone(config(folder))
    assert str(error.value).startswith(f"recommender.backbone={str(folder)!r} could not be loaded (")
    assert "\n" not in str(error.value)


def test_the_check_needs_neither_torch_nor_transformers(folder):
    code = (
        "import sys\nfrom dig_ray.recommender.pretrained import check_backbone\n"
        "from dig_ray.recommender.config import RecommenderConfig\n"
        f"check_backbone(RecommenderConfig(backbone={str(folder)!r}))\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def built(folder: Path, make_sids, **more):
    sids = make_sids(20, (3, 3))
    settings = config(folder, **more)
    tokenizer = build_tokenizer(settings, sids, [])
    return build_policy(settings, sids, tokenizer, 0), tokenizer, sids, settings


def test_tensors_that_the_files_lack_are_not_drawn_at_random(folder, make_sids):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    check_backbone(config(folder))
    with pytest.raises(UserError, match="lack 1 of the model's tensors, such as model.layers.1.mlp.up_proj"):
        built(folder, make_sids)


def test_weights_that_are_no_numbers_are_named(folder, make_sids):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="its tensor model.norm.weight holds NaN or infinity"):
        built(folder, make_sids)


def test_a_tokenizer_of_another_size_than_the_model_is_refused(folder):
    """Without tokenizer.json transformers makes one of the special tokens alone, and SID tokens would take the place of words."""
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="its tokenizer has 1 tokens and the model 2.., so"):
        load_tokenizer(config(folder))


def test_how_much_a_model_reads_is_known_from_its_directory(folder):
    assert longest_text(config(folder)) == 512
    assert longest_text(RecommenderConfig()) is None


def test_weights_of_another_size_are_one_sentence(folder, make_sids):
    edit(folder / "config.json", intermediate_size=32)
    with pytest.raises(UserError, match=r"recommender\.backbone=.* could not be loaded"):
        built(folder, make_sids)


@pytest.mark.parametrize(
    "targets, wrong", [(("q_proj", "qkv"), "qkv"), ("layers.*.nothing", "layers"), ("(", r"\(")]
)
def test_a_layer_that_the_model_has_not_is_named(targets, wrong, folder, make_sids):
    """PEFT would leave out one of several without a word."""
    settings = config(folder, lora=LoraConfig(target_modules=targets))
    with pytest.raises(
        UserError, match=rf"recommender.lora.target_modules: '{wrong}.* is no layer of .*; it has .*q_proj"
    ):
        check_adapter(settings)
    with pytest.raises(UserError, match="is no layer of"):
        built(folder, make_sids, lora=settings.lora)


def test_a_tokenizer_without_an_end_of_text_is_refused_and_without_padding_it_pads_with_it(folder):
    assert load_tokenizer(config(folder)).pad_token == "<|endoftext|>"
    edit(folder / "tokenizer_config.json", eos_token=None)
    with pytest.raises(UserError, match="no token that ends a text.*eos_token"):
        load_tokenizer(config(folder))


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_tokenizer_that_was_cut_off_is_one_sentence(share, folder, make_sids):
    cut(folder / "tokenizer.json", share)
    with pytest.raises(UserError, match=r"recommender\.backbone=.* could not be loaded"):
        build_tokenizer(config(folder), make_sids(20, (3, 3)), [])


def test_sid_tokens_of_another_policy_in_the_vocabulary_are_refused(folder, make_sids):
    sids = make_sids(20, (3, 3))
    tokenizer = build_tokenizer(config(folder), sids, [])
    names = sids.token_strings
    other = load_tokenizer(config(folder))
    other.add_tokens([names[3]], special_tokens=True)
    other.save_pretrained(folder)
    with pytest.raises(UserError, match="some of the SID tokens already"):
        build_tokenizer(config(folder), sids, [])
    assert len(tokenizer) == len(other) + len(names) - 1


def evil(folder: Path, mark: Path, name: str, **more) -> None:
    """A model directory whose config names a class in a Python file beside it, which leaves a mark when it runs."""
    folder.mkdir()
    (folder / "evil.py").write_text(
        f"open({str(mark)!r}, 'w').write('ran')\nfrom transformers import PretrainedConfig\n"
        "class A(PretrainedConfig):\n    model_type = 'nosuch'\n"
    )
    about = {"model_type": "nosuch", "auto_map": {"AutoConfig": "evil.A"}, **more}
    (folder / name).write_text(json.dumps(about))


LOADERS = {
    "backbone": (
        "from dig_ray.recommender.config import RecommenderConfig\n"
        "from dig_ray.recommender.pretrained import load_tokenizer\n"
        "load_tokenizer(RecommenderConfig(backbone=folder))",
        "recommender.trust_remote_code=true",
    ),
    "adapter": (
        "from dig_ray.recommender.config import LoraConfig, RecommenderConfig\n"
        "from dig_ray.recommender.pretrained import check_adapter\n"
        "check_adapter(RecommenderConfig(backbone=folder, lora=LoraConfig(target_modules=('q_proj',))))",
        "recommender.trust_remote_code=true",
    ),
    "encoder": (
        "from dig_ray.numerics.encoder import load_encoder\nload_encoder(folder, 'embedding.model')",
        "embedding.trust_remote_code=true",
    ),
}


@pytest.mark.parametrize("loader", LOADERS)
def test_a_models_own_code_never_runs_and_nobody_is_asked(loader, tmp_path):
    """With ``y`` waiting on standard input, which is where transformers would ask."""
    call, setting = LOADERS[loader]
    evil(tmp_path / "evil", tmp_path / "RAN", "config.json")
    code = f"from dig_ray.errors import UserError\nfolder = {str(tmp_path / 'evil')!r}\ntry:\n"
    code += (
        "".join(f"    {line}\n" for line in call.splitlines())
        + "except UserError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input="y\n" * 5, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not (tmp_path / "RAN").exists()
    assert setting in done.stdout and "[y/N]" not in done.stdout, done.stdout


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4, dropout=0.0)])
def test_code_that_is_trusted_by_name_runs(lora, folder, make_sids, tmp_path):
    (folder / "own.py").write_text(
        "from transformers import Qwen2Config, Qwen2ForCausalLM\n"
        "class OwnConfig(Qwen2Config):\n    model_type = 'own'\n"
        "class OwnModel(Qwen2ForCausalLM):\n    config_class = OwnConfig\n"
    )
    edit(
        folder / "config.json",
        model_type="own",
        architectures=["OwnModel"],
        auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
    )
    with pytest.raises(UserError, match="recommender.trust_remote_code=true"):
        built(folder, make_sids, lora=lora)
    policy, tokenizer, sids, settings = built(folder, make_sids, lora=lora, trust_remote_code=True)
    assert type(policy.causal_lm).__name__ == "OwnModel"
    policy.model.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    write_policy_facts(tmp_path / "policy", settings.model_copy(update={"lora": lora}), sids)
    with pytest.raises(UserError):
        load_policy(tmp_path / "policy", sids)
    again, _, _ = load_policy(tmp_path / "policy", sids, trust_remote_code=True)
    assert torch.equal(again.sid_rows(), policy.sid_rows())


def saved(folder: Path, language_model, make_sids, **more):
    policy, tokenizer, sids, settings = built(
        language_model["tied"], make_sids, lora=LoraConfig(rank=4, dropout=0.0), **more
    )
    policy.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    names = sids.token_strings
    about = {
        "sid_fingerprint": sids.fingerprint,
        "n_sid": len(names),
        "first_sid_token": names[0],
        "normalizer": "trie",
        "base_model": settings.backbone,
        "base_revision": None,
        "dtype": settings.dtype,
    }
    write_about(folder, about)
    return policy, sids, about


def test_an_adapter_is_saved_alone_and_the_old_way_is_still_read(language_model, make_sids, tmp_path):
    policy, sids, about = saved(tmp_path / "new", language_model, make_sids, dtype="bfloat16")
    names = set(load_file(tmp_path / "new" / "adapter_model.safetensors"))
    assert not any("base_layer" in name or name.endswith("lm_head.weight") for name in names)
    assert any("trainable_tokens_delta" in name for name in names)
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    policy.model.save_pretrained.func(tmp_path / "old", save_embedding_layers=True)
    old = set(load_file(tmp_path / "old" / "adapter_model.safetensors"))
    assert names < old
    write_about(tmp_path / "old", {key: value for key, value in about.items() if key != "dtype"})
    for folder, dtype in (
        ("new", torch.bfloat16),
        ("old", torch.float32),
    ):  # the old way: the type of its files
        again, _, _ = load_policy(tmp_path / folder, sids)
        assert again.dtype == dtype
        assert torch.equal(again.sid_rows(), policy.sid_rows())


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "tokenizer.json"])
def test_a_policys_file_that_was_cut_off_is_one_sentence(name, share, language_model, make_sids, tmp_path):
    _, sids, _ = saved(tmp_path / "policy", language_model, make_sids)
    cut(tmp_path / "policy" / name, share)
    with pytest.raises(UserError, match="the policy's files cannot be read"):
        load_policy(tmp_path / "policy", sids)


def test_an_adapter_as_a_pickle_is_never_opened(language_model, make_sids, tmp_path):
    _, sids, _ = saved(tmp_path / "policy", language_model, make_sids)
    path = tmp_path / "policy" / "adapter_model.safetensors"
    torch.save(load_file(path), path.with_name("adapter_model.bin"))
    path.unlink()
    with pytest.raises(UserError, match="adapter_model.safetensors is missing"):
        load_policy(tmp_path / "policy", sids)


def test_a_policy_cannot_trust_itself(language_model, make_sids, tmp_path):
    """What ``policy.json`` says of code is not asked: a policy from elsewhere could name any base."""
    evil(tmp_path / "evil", tmp_path / "RAN", "config.json")
    _, sids, about = saved(tmp_path / "policy", language_model, make_sids)
    write_about(
        tmp_path / "policy", about | {"base_model": str(tmp_path / "evil"), "trust_remote_code": True}
    )
    with pytest.raises(UserError, match="the policy adapts .*evil, which could not be loaded"):
        load_policy(tmp_path / "policy", sids)
    assert not (tmp_path / "RAN").exists()


def test_a_base_that_went_away_is_what_is_named(language_model, make_sids, tmp_path):
    _, sids, about = saved(tmp_path / "policy", language_model, make_sids)
    write_about(tmp_path / "policy", about | {"base_model": str(tmp_path / "gone")})
    with pytest.raises(
        UserError, match="the policy adapts .*gone, which could not be loaded .*put that model back"
    ):
        load_policy(tmp_path / "policy", sids)


def test_a_directory_by_a_relative_name_or_below_home_is_known_by_its_whole_path(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    for name in ("model", "./model", "~/model"):
        check_backbone(RecommenderConfig(backbone=name))
        assert source(name) == str(folder)
        assert load_tokenizer(RecommenderConfig(backbone=name)).eos_token
    assert source("org/model") == "org/model"


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match="it is a file.*GGUF file has to become one first"):
        check_backbone(config(tmp_path / "model.gguf"))
