"""The crowd stage: synthesized users, each made of a user and the users who behave most like that one. Only training events are read."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from dig_ray.artifacts.artifact_tables import write_table
from dig_ray.base import Inputs, Stage
from dig_ray.catalog.dataset import Dataset
from dig_ray.errors import UserError
from dig_ray.multi_interest import covering

if TYPE_CHECKING:
    import pyarrow as pa


def run(config: Any, stage: Stage, inputs: Inputs) -> None:
    """Write ``crowd.parquet``: synthesized users, whom they are made of, and their items.

    Columns crowd_id, user_ids list (the user whose clique it is first), item_ids list, gain (users that no earlier one covers).

    Args:
        config: the config of the run; ``multi_interest.crowd`` is read.
        stage: where to write; its seed decides where cliques are chosen by chance.
        inputs: directories by stage; ``catalog`` is read.

    Raises:
        UserError: there is no user with a training event, or too many users for the graph.
    """
    settings, dataset = config.multi_interest.crowd, Dataset.load(inputs["catalog"])
    offsets, items = dataset.train_sequences()
    some = np.flatnonzero(np.diff(offsets) > 0)
    if not len(some):
        raise UserError(
            "multi_interest.crowd: no user has a training event; lower catalog.k_core or check the split"
        )
    begun = time.monotonic()
    own = np.concatenate([[0], np.cumsum(np.diff(offsets)[some])])
    found = covering.neighbours(
        own, items, dataset.n_items, settings.neighbours, settings.users_per_item, _progress(stage.log)
    )
    bounds, members = covering.cliques(found)
    in_graph = time.monotonic() - begun
    # what chance covers stands beside what was chosen
    chance = covering.choose_randomly(bounds, members, len(some), settings.budget, stage.seed)
    chosen = (
        covering.cover(bounds, members, len(some), settings.budget) if settings.choose == "cover" else chance
    )
    cliques = [members[bounds[number] : bounds[number + 1]] for number in chosen.chosen.tolist()]
    merged = [covering.merge_users(users, own, items, settings.max_items) for users in cliques]
    names = [dataset.user_ids[some[users]].tolist() for users in cliques]
    write_table(
        stage, "crowd", _table(names, [dataset.item_ids[one].tolist() for one in merged], chosen.gains)
    )
    stage.stats.update(
        rows=len(merged),
        users=len(some),
        covered=chosen.covered,
        share_covered=round(chosen.covered / len(some), 4),
        share_covered_by_chance=round(chance.covered / len(some), 4),
        mean_items=round(float(np.mean([len(one) for one in merged])), 2),
        seconds_graph=round(in_graph, 2),
        seconds=round(time.monotonic() - begun, 2),
    )
    stage.log(
        f"crowd: {len(merged):,} synthesized users ({settings.choose}) cover {chosen.covered:,} of {len(some):,} users "
        f"({chosen.covered / len(some):.1%}; random ones {chance.covered / len(some):.1%})"
    )


def _table(users: list[list[str]], items: list[list[str]], gains: np.ndarray) -> pa.Table:
    """Rows of ``crowd.parquet``; a synthesized user is called after the first user it is made of."""
    import pyarrow as pa

    texts = pa.list_(pa.string())
    schema = pa.schema(
        [("crowd_id", pa.string()), ("user_ids", texts), ("item_ids", texts), ("gain", pa.int64())]
    )
    rows: dict[str, Any] = {
        "crowd_id": [f"crowd:{names[0]}" for names in users],
        "user_ids": users,
        "item_ids": items,
        "gain": gains.tolist(),
    }
    return pa.table(rows, schema=schema)


def _progress(log: Callable[[str], None]) -> Callable[[int, int], None]:
    """What ``covering.neighbours`` calls with (users done, users): it says every ten seconds how far the graph is."""
    begun = said = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said > 10 or done == total:
            said = now
            rate = done / max(now - begun, 1e-9)
            log(
                f"crowd: neighbours of {done:,} of {total:,} users, {rate:,.0f} users/s, {(total - done) / max(rate, 1e-9):.0f} s left"
            )

    return progress
