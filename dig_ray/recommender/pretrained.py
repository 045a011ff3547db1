"""Pretrained causal language models by directory or hub id: what can be known of one before it is loaded, and one sentence for each fault.

Weights are read from safetensors alone, so that nothing is unpickled, and Python code that comes with a model never runs unless
``recommender.trust_remote_code`` says so: nobody is asked on a terminal.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dig_ray.artifacts.whole_files import damage_at
from dig_ray.errors import UserError
from dig_ray.recommender.config import RecommenderConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SETTING = "recommender.backbone"
CURE = "give 'decoder', a directory, or a model id that this machine can download"
CAUSAL = ("ForCausalLM", "LMHeadModel")
"""How classes of causal language models end."""
NAMES_SHOWN = 8


def check_backbone(config: RecommenderConfig) -> None:
    """Refuse a pretrained backbone that cannot work, from its directory's files, without loading weights; hub ids pass.

    Cheap: needs neither torch nor transformers.

    Raises:
        UserError: no model in the directory; weights that are missing, cut off or only there as pickles; no causal language model.
    """
    folder = Path(config.backbone).expanduser()
    if config.backbone == "decoder":
        return
    if folder.is_file():
        raise cannot_load(
            config, "it is a file", "name the directory of a model; a GGUF file has to become one first"
        )
    if not folder.is_dir():
        if config.backbone.startswith(("/", "./", "../", "~")):
            raise cannot_load(config, "there is no such directory")
        return
    about = _settings(config, folder / "config.json")
    architectures = about.get("architectures") or []
    causal = config.trust_remote_code or any(str(name).endswith(CAUSAL) for name in architectures)
    if architectures and not causal:
        raise cannot_load(
            config,
            f"its architecture is {architectures[0]}, which is no causal language model",
            "name a decoder such as a Llama, Qwen or GPT-2",
        )
    _check_weights(config, folder)


def _settings(config: RecommenderConfig, path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise cannot_load(
            config,
            f"{path.parent} has no config.json",
            "name a directory that save_pretrained wrote; a GGUF file has to become one first",
        )
    wrong = damage_at(path)
    found = None if wrong else json.loads(path.read_bytes())
    if not isinstance(found, dict):
        raise cannot_load(config, f"config.json {wrong or 'holds no object'}", "fetch the model again")
    return found


def _check_weights(config: RecommenderConfig, folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        wrong = damage_at(index)
        try:
            names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise cannot_load(
                config, f"{index.name} {wrong or 'has no weight_map'}", "fetch the model again"
            ) from None
    elif not (folder / names[0]).is_file():
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        raise cannot_load(
            config,
            f"its weights are a pickle, {pickles[0]}, which could run code and is never opened"
            if pickles
            else f"{folder} has no model.safetensors",
            "name a copy of the model with safetensors, which save_pretrained writes",
        )
    for name in names:
        if wrong := damage_at(folder / name):
            raise cannot_load(config, f"{name} {wrong}", "fetch the model again")


def source(name: str) -> str:
    """A directory of this machine by its whole path, wherever a worker or a later run stands; other names as they are."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name


def load_tokenizer(config: RecommenderConfig) -> PreTrainedTokenizerBase:
    """The backbone's tokenizer with a token that ends texts and one that pads, which is the former where there is none of its own.

    Raises:
        UserError: it cannot be loaded, wants code that is not trusted, or ends no text.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            source(config.backbone), revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except Exception as error:  # no tokenizer, a damaged one, another model's: each has its own type
        raise explained(config, error) from None
    if tokenizer.eos_token is None:
        raise cannot_load(
            config,
            "its tokenizer has no token that ends a text",
            "set eos_token in its tokenizer_config.json",
        )
    known, words = about_directory(config).get("vocab_size"), len(tokenizer)
    if isinstance(known, int) and not known / 2 <= words <= known * 1.05:
        raise cannot_load(
            config,
            f"its tokenizer has {words:,} tokens and the model {known:,}, so the tokenizer is another model's or lacks its tokenizer.json",
            "fetch both again",
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer  # type: ignore[no-any-return]


def load_causal_lm(name: str, revision: str | None, dtype: Any, trust_remote_code: bool) -> Any:
    """The model on the CPU, its weights in one type, from safetensors alone.

    Args:
        name: directory of the model, or its id on the hub.
        revision: commit, branch or tag of a model on the hub; None for its newest.
        dtype: a type of torch, such as ``torch.bfloat16``, or ``"auto"`` for the type it is stored in.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        ValueError: some of its weights are no numbers, or not in the files; transformers would draw those at random.
    """
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        source(name),
        revision=revision,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
    )
    model, found = loaded
    missing = sorted(found["missing_keys"])
    if missing:
        raise ValueError(f"its files lack {len(missing)} of the model's tensors, such as {missing[0]}")
    for key, weight in model.named_parameters():
        if not bool(weight.isfinite().all()):
            raise ValueError(f"its tensor {key} holds NaN or infinity")
    return model


def about_directory(config: RecommenderConfig) -> dict[str, Any]:
    """What the config.json of a backbone's directory says; {} for one that is fetched, or that says nothing."""
    try:
        found = json.loads((Path(config.backbone).expanduser() / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def longest_text(config: RecommenderConfig) -> int | None:
    """Tokens that the backbone reads at once; None where its directory does not say."""
    about = about_directory(config)
    found = about.get("max_position_embeddings", about.get("n_positions"))
    return found if isinstance(found, int) and found > 0 else None


def check_adapter(config: RecommenderConfig) -> None:
    """Refuse LoRA modules that the backbone has not, from its config alone: no weights are read or drawn.

    Raises:
        UserError: see above, or its config cannot be loaded.
    """
    if config.lora is None or config.lora.target_modules == "all-linear":
        return
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    trusted = config.trust_remote_code
    try:
        about = AutoConfig.from_pretrained(
            source(config.backbone), revision=config.revision, trust_remote_code=trusted
        )
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(about, trust_remote_code=trusted)
    except Exception as error:  # as for the weights
        raise explained(config, error) from None
    check_targets(model, config)


def check_targets(model: Any, config: RecommenderConfig) -> None:
    """Refuse LoRA modules that the model has not; PEFT would leave out one of several without a word.

    Args:
        model: the backbone; its weights are not looked at, so it may be on torch's device ``meta``.
        config: settings whose ``lora`` is not None.

    Raises:
        UserError: a name or a pattern in ``recommender.lora.target_modules`` fits no layer; the sentence says which there are.
    """
    import torch

    assert config.lora is not None
    targets = config.lora.target_modules
    if targets == "all-linear":
        return
    linear = (torch.nn.Linear, torch.nn.Embedding)
    names = [n for n, m in model.named_modules() if isinstance(m, linear) or type(m).__name__ == "Conv1D"]
    for target in [targets] if isinstance(targets, str) else targets:
        if isinstance(targets, str):
            try:
                found = any(re.fullmatch(target, name) for name in names)
            except re.error:
                found = False
        else:
            found = any(name == target or name.endswith(f".{target}") for name in names)
        if not found:
            have = sorted({name.rpartition(".")[2] for name in names})
            raise UserError(
                f"recommender.lora.target_modules: {target!r} is no layer of {config.backbone}; it has "
                f"{', '.join(have[:NAMES_SHOWN])}, and all-linear takes them all but the head"
            )


def explained(config: RecommenderConfig, error: Exception) -> UserError:
    """What a loader's error means, in one sentence."""
    text = str(error).strip()
    if "trust_remote_code" in text or "custom code" in text or _brings_code(config):
        return cannot_load(
            config,
            "it wants to run Python code of its own, and recommender.trust_remote_code is false",
            "name a model that transformers knows, or read that code and set recommender.trust_remote_code=true",
        )
    if "safetensors" in text and ("no file named" in text or "does not appear to have" in text):
        return cannot_load(
            config,
            "its weights are not there as safetensors, and pickles are never opened",
            "name a copy of the model with safetensors, which save_pretrained writes",
        )
    if "Unrecognized configuration class" in text:
        return cannot_load(
            config, "it is no causal language model", "name a decoder such as a Llama, Qwen or GPT-2"
        )
    return cannot_load(config, first_line(error))


def first_line(error: BaseException) -> str:
    """Of what an error says, for a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def _brings_code(config: RecommenderConfig) -> bool:
    """Whether a directory names classes in Python files of its own, which were not run."""
    if config.trust_remote_code:
        return False
    return bool(about_directory(config).get("auto_map"))


def cannot_load(config: RecommenderConfig, reason: str, cure: str = CURE) -> UserError:
    """The sentence for a backbone that cannot be had."""
    return UserError(f"{SETTING}={config.backbone!r} could not be loaded ({reason}); {cure}")
