"""What a run takes at any size, on paper: bytes, FLOPs, GPU-hours, core-hours and money per stage.

    python jobs/scale.py items=1e6 users=1e8 gpu_hour=2.5 mining_parameters=1.5e9

Unit costs of cores and bytes were measured, those of GPUs and prices are assumptions: docs/SCALE.md. Any field of
dig_ray.console.scale.ScaleConfig is a setting. No hardware, no Ray, no file; half a second.
"""

from __future__ import annotations

import sys

from dig_ray.console.scale import costs, parse, table
from dig_ray.errors import UserError

if __name__ == "__main__":
    try:
        config = parse(sys.argv[1:])
    except UserError as error:
        sys.exit(f"scale: {error}")
    print(f"{config.items:,.0f} items, {config.users:,.0f} users, {config.events_per_user:g} events each")
    print("\n".join(table(costs(config))))
