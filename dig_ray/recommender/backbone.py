"""Building, saving and loading a policy: the model, its tokenizer, and which catalogue it speaks.

The vocabulary is always [text tokens][SID tokens] or, from scratch, [bos, pad, eos][SID tokens][text tokens]: SID tokens are one
contiguous range. A saved policy is a Hugging Face directory plus ``policy.json``, which names the SID catalogue it was trained on, so
that a policy is never decoded against another.

**Types.** One rule from SFT over validation, saving, loading and reinforcement learning to decoding:

* the base's weights are in ``recommender.dtype``, whatever type their files are in, and its layers compute in it, in training and in
  decoding alike (``precision=bfloat16`` of a training stage lets float32 weights compute in bfloat16 while they train);
* what an adapter trains (LoRA's matrices and the SID rows) is float32 in memory and on disk, because small updates vanish in bfloat16;
  where a layer reads them it casts them to the base's type;
* without an adapter all weights train in ``recommender.dtype``; their moving average is float32 and is published in ``recommender.dtype``;
* at the head states are cast to the type of the SID rows (``sid_logits``), and probabilities are float32.

``policy.json`` keeps ``dtype``, so that a policy is read back in the types it was trained in. One without it was saved before this rule:
its base is then in the type of its files, as it was read then.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dig_ray.errors import UserError
from dig_ray.recommender.config import RecommenderConfig
from dig_ray.recommender.policy import SidPolicy
from dig_ray.recommender.pretrained import (
    check_targets,
    explained,
    first_line,
    load_causal_lm,
    load_tokenizer,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch
    from transformers import PreTrainedTokenizerBase

    from dig_ray.semantic_ids.sid_catalog import SidCatalog

BOS, PAD, EOS = "<bos>", "<pad>", "<eos>"
DTYPES = ("float32", "bfloat16", "float16")
TEXT_TASKS = {"title_to_sid", "sid_to_title", "interests_to_sid", "sid_to_interests", "user_interests_to_sid"}


def needs_text(config: RecommenderConfig) -> bool:
    """Whether any task with weight reads or writes words."""
    return any(weight > 0 and task in TEXT_TASKS for task, weight in config.tasks.items())


def build_tokenizer(
    config: RecommenderConfig, sids: SidCatalog, texts: Iterable[str]
) -> PreTrainedTokenizerBase:
    """The policy's tokenizer, SID tokens included.

    From scratch: special tokens, SID tokens, then byte-pair tokens learnt on ``texts`` (only if a text task is on). For a pretrained
    model: its own tokenizer with the SID tokens added.

    Raises:
        UserError: the pretrained tokenizer cannot be loaded, or knows some of the SID tokens already.
    """
    names = sids.token_strings
    if config.backbone != "decoder":
        tokenizer = load_tokenizer(config)
        tokenizer.add_tokens(names, special_tokens=True)
        first = token_id(tokenizer, names[0])
        if tokenizer.convert_tokens_to_ids(names) != list(range(first, first + len(names))):
            raise UserError(
                f"recommender.backbone={config.backbone!r}: its vocabulary has some of the SID tokens already, so they cannot lie side by "
                "side; name the model itself and not one that was trained on other Semantic IDs"
            )
        return tokenizer
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = [BOS, PAD, EOS, *names]
    if needs_text(config):
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
        raw.train_from_iterator(
            texts,
            trainers.BpeTrainer(
                vocab_size=len(special) + config.decoder.text_vocabulary,
                special_tokens=special,
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            ),
        )
    else:
        raw = Tokenizer(models.WordLevel({t: i for i, t in enumerate(special)}, unk_token=PAD))
        raw.add_special_tokens(special)
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=BOS, pad_token=PAD, eos_token=EOS)


def build_policy(
    config: RecommenderConfig,
    sids: SidCatalog,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    codebooks: Sequence[np.ndarray] | None = None,
) -> SidPolicy:
    """A fresh policy on the CPU: random weights from scratch, or the pretrained model with new SID rows (and LoRA if asked).

    Args:
        config: backbone, sizes, LoRA and types.
        sids: the catalogue's Semantic IDs, whose tokens the policy speaks.
        tokenizer: what ``build_tokenizer`` made under the same config and Semantic IDs.
        seed: the seed of all random weights and of LoRA's.
        codebooks: per level, (K_l, D) vectors behind the SID tokens; the from-scratch decoder's tokens start from them.

    Raises:
        UserError: the pretrained model cannot be loaded, or has no such layers as ``recommender.lora.target_modules`` names.
    """
    import torch
    from transformers import set_seed

    set_seed(seed)
    names = sids.token_strings
    sid_start = token_id(tokenizer, names[0])
    model: Any
    if config.backbone == "decoder":
        model = _scratch_decoder(config, tokenizer)
        if codebooks is not None and config.decoder.codebook_init > 0:
            matrices = [model.get_input_embeddings().weight]
            if not config.decoder.tie_embeddings:
                matrices.append(model.get_output_embeddings().weight)
            start_from_codebooks(matrices, sid_start, codebooks, config.decoder.codebook_init)
    else:
        try:
            model = load_causal_lm(
                config.backbone, config.revision, getattr(torch, config.dtype), config.trust_remote_code
            )
        except Exception as error:  # missing, damaged, or of another kind: each has its own type
            raise explained(config, error) from None
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=True)
        if config.lora is not None:
            model = _with_lora(model, config, range(sid_start, sid_start + len(names)))
    return policy_of(model, tokenizer, sid_start, len(names))


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """The vocabulary id of one token."""
    found = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(found, int)
    return found


def policy_of(model: Any, tokenizer: PreTrainedTokenizerBase, sid_start: int, n_sid: int) -> SidPolicy:
    """The model with the vocabulary ids of its SID tokens and of what begins and pads a history."""
    bos = tokenizer.bos_token_id
    if bos is None:  # Qwen has none; its end-of-text token opens a document as well
        bos = tokenizer.eos_token_id
    return SidPolicy(
        model=model, sid_start=sid_start, n_sid=n_sid, bos=int(bos), pad=int(tokenizer.pad_token_id)
    )


def add_embedding_dropout(policy: SidPolicy, rate: float) -> None:
    """Dropout on token embeddings while training; the architecture itself has none there."""
    if rate <= 0:
        return
    from torch.nn.functional import dropout

    def hook(module: Any, _inputs: Any, output: Any) -> Any:
        return dropout(output, rate, training=module.training)

    policy.causal_lm.get_input_embeddings().register_forward_hook(hook)


def _scratch_decoder(config: RecommenderConfig, tokenizer: PreTrainedTokenizerBase) -> Any:
    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    size = config.decoder
    model = Phi3ForCausalLM(
        Phi3Config(
            vocab_size=len(tokenizer),
            hidden_size=size.hidden_size,
            intermediate_size=size.ffn_size,
            num_hidden_layers=size.num_layers,
            num_attention_heads=size.num_heads,
            num_key_value_heads=size.num_heads,
            max_position_embeddings=4096,
            original_max_position_embeddings=4096,
            resid_pdrop=size.dropout,
            attention_dropout=size.attention_dropout,
            tie_word_embeddings=size.tie_embeddings,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    return model.to(getattr(torch, config.dtype))


def start_from_codebooks(
    matrices: Sequence[torch.Tensor], sid_start: int, codebooks: Sequence[np.ndarray], deviation: float
) -> None:
    """Set the SID tokens' rows of each matrix (vocabulary, width) to their codebook vectors, in place.

    Tokens of similar items so begin similar. Vectors are projected on the codebooks' leading principal directions (or laid into the
    first dimensions, where the model is wider) and every level is scaled to the same standard deviation. Our choice.
    """
    import torch

    width = matrices[0].shape[1]
    stacked = np.concatenate([np.asarray(book, np.float64) for book in codebooks])
    _, _, directions = np.linalg.svd(stacked - stacked.mean(axis=0), full_matrices=False)
    directions = directions[: min(width, len(directions))]
    at = sid_start
    with torch.no_grad():
        for book in codebooks:
            rows = (np.asarray(book, np.float64) - np.mean(book, axis=0)) @ directions.T
            rows *= deviation / max(float(np.sqrt((rows**2).sum() / (len(rows) * width))), 1e-12)
            for matrix in matrices:
                matrix[at : at + len(rows), : rows.shape[1]] = torch.from_numpy(rows).to(matrix.dtype)
            at += len(rows)


def _with_lora(model: Any, config: RecommenderConfig, sid_ids: range) -> Any:
    """Wrap with PEFT; the new SID rows train in the embedding and, when it is not tied to it, in the head too."""
    import peft

    assert config.lora is not None
    check_targets(model, config)
    names = {id(module): name.rsplit(".", 1)[-1] for name, module in model.named_modules()}
    trainable = {names[id(model.get_input_embeddings())]: list(sid_ids)}
    if not model.config.tie_word_embeddings:
        trainable[names[id(model.get_output_embeddings())]] = list(sid_ids)
    target = config.lora.target_modules
    return _saved_small(
        peft.get_peft_model(
            model,
            peft.LoraConfig(
                task_type="CAUSAL_LM",
                r=config.lora.rank,
                lora_alpha=config.lora.alpha,  # type: ignore[arg-type]
                lora_dropout=config.lora.dropout,
                target_modules=target if isinstance(target, str) else list(target),
                trainable_token_indices=trainable,
            ),
        )
    )


def _saved_small(model: Any) -> Any:
    """Make a PEFT model save its adapter and the SID rows alone.

    The vocabulary has grown, so PEFT would add both matrices of it, whole: ten times what was trained. Rows of new tokens are all among
    those that train, and the others are the base's.
    """
    model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)
    return model


def write_about(directory: Path, about: dict[str, Any]) -> None:
    """Write ``policy.json``: what a reader needs besides the weights.

    Keys: sid_fingerprint, n_sid, first_sid_token, normalizer, max_history, held_out, levels, dtype, base_model (None without LoRA),
    base_revision.
    """
    (directory / "policy.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n")


def load_policy(
    directory: Path, sids: SidCatalog, trainable: bool = False, trust_remote_code: bool = False
) -> tuple[SidPolicy, PreTrainedTokenizerBase, dict[str, Any]]:
    """Read a policy back in eval mode and in the types it was trained in, refusing one trained on another SID catalogue.

    Args:
        directory: where the policy was saved, with ``policy.json`` in it.
        sids: the catalogue's Semantic IDs; they must be those that the policy was trained on.
        trainable: leave an adapter's weights ready to train on, instead of frozen.
        trust_remote_code: run code that comes with it or with an adapter's base; never taken from the policy's own files.

    Returns the policy on the CPU, its tokenizer and the content of ``policy.json``.

    Raises:
        UserError: no saved policy, one of other Semantic IDs, files that cannot be read, or a base model that cannot be loaded.
    """
    from transformers import AutoTokenizer

    about = _read_about(directory, sids)
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code)
        model = _read_model(directory, about, len(tokenizer), trainable, trust_remote_code)
    except UserError:
        raise
    except Exception as error:  # safetensors, tokenizers, PEFT and torch have errors of their own
        raise UserError(
            f"{directory}: the policy's files cannot be read ({first_line(error)}); train it again"
        ) from None
    model.eval()
    sid_start = token_id(tokenizer, about["first_sid_token"])
    return policy_of(model, tokenizer, sid_start, about["n_sid"]), tokenizer, about


def _read_about(directory: Path, sids: SidCatalog) -> dict[str, Any]:
    about_path = directory / "policy.json"
    try:
        about = json.loads(about_path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"{directory}: no policy.json here, so this is not a saved policy; train one first"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{about_path}: not valid JSON ({error}); train the policy again") from None
    needed = {"base_model", "base_revision", "first_sid_token", "n_sid"}
    if not isinstance(about, dict) or not needed <= set(about):
        raise UserError(f"{about_path}: not the policy.json of a saved policy; train the policy again")
    if about.get("sid_fingerprint") != sids.fingerprint:
        raise UserError(
            f"{directory}: this policy was trained on Semantic IDs {str(about.get('sid_fingerprint'))[:12]}, not on "
            f"{sids.fingerprint[:12]}; use the semantic_ids artifact it was trained with, or train again"
        )
    return about


def _read_model(
    directory: Path, about: dict[str, Any], tokens: int, trainable: bool, trust_remote_code: bool
) -> Any:
    """The weights; of an adapter, the base as ``policy.json`` names it with the adapter on it."""
    import torch

    if about["base_model"] is None:
        return load_causal_lm(str(directory), None, "auto", trust_remote_code)
    import peft

    if not (directory / "adapter_model.safetensors").is_file():
        raise OSError("adapter_model.safetensors is missing")
    named = about.get("dtype", "auto")
    dtype = getattr(torch, named) if named in DTYPES else "auto"
    name = about["base_model"]
    try:
        base = load_causal_lm(name, about["base_revision"], dtype, trust_remote_code)
    except Exception as error:  # as for the policy's own files
        raise UserError(
            f"{directory}: the policy adapts {name}, which could not be loaded ({first_line(error)}); put that model back where it was, or "
            "train the policy again"
        ) from None
    if tokens > base.get_input_embeddings().num_embeddings:
        base.resize_token_embeddings(tokens, mean_resizing=False)
    adapted: Any = peft.PeftModel.from_pretrained(base, str(directory), is_trainable=trainable)
    return _saved_small(adapted)
