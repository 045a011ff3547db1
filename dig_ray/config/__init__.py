"""One typed tree for a whole run: YAML files, dotted overrides, and errors that name the right key.

A named experiment is ``jobs/configs/NAME.yaml``; ``extends: OTHER`` lays a file over another one, and
``key.sub=value`` on the command line lies over both. The tree is checked whole before anything starts, so
that a typo costs a second and not an hour. Each room owns its part of the tree; this package only puts the
parts together and says what is wrong with an input in one sentence: file, key, value, and the nearest right
key.
"""

from dig_ray.config.config_keys import known_keys, nearest_key
from dig_ray.config.layers import COMMAND_LINE, find_config, parse_overrides, read_layers
from dig_ray.config.load import load_config, resolve, to_yaml
from dig_ray.config.run_config import NAME_PATTERN, RunConfig
from dig_ray.config.yaml_text import parse_yaml

__all__ = [
    "COMMAND_LINE",
    "NAME_PATTERN",
    "RunConfig",
    "find_config",
    "known_keys",
    "load_config",
    "nearest_key",
    "parse_overrides",
    "parse_yaml",
    "read_layers",
    "resolve",
    "to_yaml",
]
