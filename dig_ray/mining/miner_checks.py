"""What of the mining settings cannot work on this machine, known before Ray starts and without loading a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from dig_ray.errors import UserError
from dig_ray.mining.config import FIELDS, MiningConfig
from dig_ray.mining.prompts import ANSWERS_OF, checked_prompt, prompt_key


def problems(config: MiningConfig, fields: Sequence[str] = FIELDS, local: bool = True) -> list[str]:
    """One sentence for everything that would stop a miner at its start; [] where nothing would. Takes milliseconds.

    Args:
        config: the settings of mining.
        fields: those of ``config.FIELDS`` whose miners will be asked.
        local: whether workers run on this machine, with its environment, packages and files; on a cluster of others only prompts and
            recorded tables are looked at, which the driver reads.

    Checked are prompts (they load, and ask for what the field needs), keys of endpoints (set, and such that a header can carry them),
    packages of the engines, and that recorded tables are there.
    """
    found: list[str] = []
    for field in fields:
        miners = config.miners(field)
        if not miners:
            continue
        key = prompt_key(field)
        _collect(found, partial(checked_prompt, getattr(config, key), ANSWERS_OF[field], key))
        for miner in miners:
            _collect(found, partial(miner.check_machine, local))
    return list(dict.fromkeys(found))


def _collect(found: list[str], check: Callable[[], object]) -> None:
    try:
        check()
    except UserError as error:
        found.append(str(error))
