"""What the text and the image encoder share on Ray Data: is there room for the actors."""

from __future__ import annotations

from typing import Any

from dig_ray.errors import UserError


def check_room(setting: str, config: Any, resources: dict[str, float]) -> None:
    """Refuse actors that no machine could start: Ray would wait for ever.

    Args:
        setting: the config key under which the settings stand, for the message.
        config: settings that have ``num_cpus`` and ``num_gpus`` of one actor.
        resources: what the cluster has in all, by ``CPU`` and ``GPU``.

    Raises:
        UserError: an actor asks for more than there is.
    """
    for key, need in (("CPU", config.num_cpus), ("GPU", config.num_gpus)):
        if need > resources.get(key, 0):
            raise UserError(
                f"{setting}.num_{key.lower()}s={need}: the cluster has {resources.get(key, 0):g} {key}s, so no actor can start; lower it"
            )
