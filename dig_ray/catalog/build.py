"""Raw tables to a dataset: number, order, clean by policy, filter, split, and count everything on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dig_ray.catalog.columns.fields import empty_items, is_order_only, rules_of
from dig_ray.catalog.config import CatalogConfig
from dig_ray.catalog.dataset import TRAIN, Dataset
from dig_ray.catalog.splits import global_time, in_order, k_core, leave_last_out
from dig_ray.catalog.stats import statistics
from dig_ray.catalog.text import combined
from dig_ray.errors import UserError, raise_all


@dataclass
class Raw:
    """What a reader gives.

    Attributes:
        items: house columns (see :mod:`dig_ray.catalog.columns.fields`), or None where only ids are known.
        interactions: house columns, rows in file order; None for a catalogue that nobody has used yet.
        notes: counts of what was mended while reading.
        items_file: where items came from, for messages.
        interactions_file: where interactions came from, for messages.
        truth: tables that only the demo world has, by file name.
    """

    items: pa.Table | None
    interactions: pa.Table | None
    notes: Counter[str] = field(default_factory=Counter)
    items_file: str = "items"
    interactions_file: str = "interactions"
    truth: dict[str, pa.Table] = field(default_factory=dict)


@dataclass
class _Events:
    """Parallel arrays, one entry per event; ``time``, ``position``, ``timestamp``, ``rating`` and ``split`` may be None."""

    user: np.ndarray
    item: np.ndarray
    columns: dict[str, np.ndarray]

    def take(self, index: np.ndarray) -> _Events:
        return _Events(self.user[index], self.item[index], {k: v[index] for k, v in self.columns.items()})


def build(
    raw: Raw, config: CatalogConfig, has_picture: Callable[[pa.Table], np.ndarray] | None = None
) -> Dataset:
    """The dataset that the config asks for.

    Args:
        raw: what the reader gave.
        config: the rules.
        has_picture: bool ``(N,)`` of a table of N items: which of them may stay; for ``images.missing`` drop.

    Raises:
        UserError: the data breaks rules whose policy is ``error`` (all of them are said together), nothing is left, or a split is
            impossible.
    """
    faults: list[str] = []
    try:
        dataset = _build(raw, config, has_picture, faults)
    except UserError as error:
        raise_all([*faults, str(error)], BROKEN)
        raise
    raise_all(faults, BROKEN)
    return dataset


BROKEN = "the data cannot be used as they are,"


def _build(
    raw: Raw,
    config: CatalogConfig,
    has_picture: Callable[[pa.Table], np.ndarray] | None,
    faults: list[str],
) -> Dataset:
    """As ``build``; a broken rule goes to ``faults`` and what breaks it is left out, so that what comes after it is looked at, too."""
    notes = Counter(raw.notes)
    rules = [*rules_of(raw.items), *rules_of(raw.interactions)]
    items = _unique_items(raw, config, notes, faults)
    if raw.interactions is None:
        return _counted(_unused(items), notes, rules)
    events, items = _number(raw.interactions, raw, items, config, notes, faults)
    user_ids, events.user = _number_users(raw.interactions, events)
    events = _by_time(events, raw, config)
    events = _without_duplicates(events, user_ids, items, raw, config, notes, faults)
    events = _without_repeats(events, config, notes)
    if config.k_core:
        keep, _ = k_core(events.user, events.item, config.k_core)
        notes["events_outside_k_core"] = int((~keep).sum())
        events = events.take(keep)
    if has_picture is not None:
        raise_all(faults, BROKEN)  # before thousands of pictures are opened
        items, events = _with_pictures(items, events, has_picture, config, notes)
    if config.short_users == "drop":
        short = np.bincount(events.user, minlength=len(user_ids)) < config.min_user_events
        notes["events_of_short_users_dropped"] = int(short[events.user].sum())
        notes["users_short_dropped"] = int(
            (short & (np.bincount(events.user, minlength=len(user_ids)) > 0)).sum()
        )
        events = events.take(~short[events.user])
    if not len(events.user):
        raise UserError(
            f"{raw.interactions_file}: no interaction is left after the filters (k_core {config.k_core}, "
            f"min_user_events {config.min_user_events}, images.missing {config.images.missing}); relax them or give more data"
        )
    present = np.bincount(events.user, minlength=len(user_ids)) > 0
    events.user = (np.cumsum(present) - 1)[events.user]
    user_ids = user_ids[present]
    items, events.item = _used_items(items, events.item, config, notes)
    offsets = np.concatenate(([0], np.cumsum(np.bincount(events.user, minlength=len(user_ids))))).astype(
        np.int64
    )
    split, name = _split(events, offsets, user_ids, raw, config, notes, faults)
    dataset = Dataset(
        items=items,
        user_ids=user_ids,
        offsets=offsets,
        events=events.item.astype(np.int32),
        split=split,
        timestamps=events.columns.get("timestamp"),
        ratings=events.columns.get("rating"),
        split_name=name,
        max_history=config.max_history,
    )
    dataset = _counted(dataset, notes, rules)
    if is_order_only(raw.interactions):
        dataset.stats["time_from"] = dataset.stats["time_to"] = None
    return dataset


def _counted(dataset: Dataset, notes: Counter[str], rules: list[str]) -> Dataset:
    dataset.stats.update(statistics(dataset))
    dataset.stats["rules"] = rules
    dataset.stats["notes"] = {key: int(value) for key, value in sorted(notes.items()) if value}
    return dataset


def _unused(items: pa.Table) -> Dataset:
    """The items, and nobody who used them."""
    nothing = np.zeros(0, np.int32)
    return Dataset(
        items=items,
        user_ids=np.zeros(0, "<U1"),
        offsets=np.zeros(1, np.int64),
        events=nothing,
        split=nothing.astype(np.int8),
        split_name="none",
    )


def _unique_items(raw: Raw, config: CatalogConfig, notes: Counter[str], faults: list[str]) -> pa.Table:
    if raw.items is None:
        assert raw.interactions is not None
        return empty_items(sorted(pc.unique(raw.interactions.column("item_id")).to_pylist()))
    items = raw.items
    ids = combined(items.column("item_id")).dictionary_encode()
    index = ids.indices.to_numpy()
    first = np.unique(index, return_index=True)[1]
    extra = len(index) - len(first)
    if extra and config.duplicate_items == "error":
        second = np.ones(len(index), bool)
        second[first] = False
        name = ids[int(np.argmax(second))].as_py()
        faults.append(
            f"{raw.items_file}: item_id {name!r} stands there more than once ({extra} such rows); remove them or set "
            "catalog.duplicate_items=first"
        )
    notes["duplicate_items_dropped"] = extra
    return items.take(pa.array(np.sort(first))) if extra else items


def _number(
    interactions: pa.Table,
    raw: Raw,
    items: pa.Table,
    config: CatalogConfig,
    notes: Counter[str],
    faults: list[str],
) -> tuple[_Events, pa.Table]:
    """Item numbers for the events; users are still missing."""
    ids = combined(interactions.column("item_id"))
    index = pc.index_in(ids, value_set=combined(items.column("item_id")))
    unknown = index.null_count
    columns = {
        n: interactions.column(n).to_numpy() for n in interactions.column_names if not n.endswith("_id")
    }
    row = np.arange(len(ids))
    if unknown:
        missing = index.is_null()
        name = ids.filter(missing)[0].as_py()
        if config.unknown_items == "error":
            faults.append(
                f"{raw.interactions_file}: item {name!r} is not in {raw.items_file} ({unknown} such interactions"
                f"{_nearly(name, items)}); add the items, or set catalog.unknown_items=drop or add"
            )
        if config.unknown_items != "add":
            notes["interactions_with_unknown_items_dropped"] = unknown
            row = row[~missing.to_numpy(zero_copy_only=False)]
        else:
            new = sorted(pc.unique(ids.filter(missing)).to_pylist())
            notes["items_added_without_text"] = len(new)
            items = pa.concat_tables([items, empty_items(new)], promote_options="permissive").combine_chunks()
            index = pc.index_in(ids, value_set=combined(items.column("item_id")))
    item = pc.fill_null(index, -1).to_numpy()[row].astype(np.int64)
    return _Events(row, item, {k: v[row] for k, v in columns.items()}), items


def _nearly(name: str, items: pa.Table) -> str:
    """What the items file has in place of an id that a tool has written in another way; "" where it has nothing like it."""
    for other in (
        name.strip(),
        name.removesuffix(".0"),
        f"{name}.0",
        name.lstrip("0"),
        name.lower(),
        name.upper(),
    ):
        if other and other != name and pc.index(items.column("item_id"), other).as_py() >= 0:
            return f"; it has {other!r}, so write the ids of both files alike"
    return ""


def _number_users(interactions: pa.Table, events: _Events) -> tuple[np.ndarray, np.ndarray]:
    """Users by ascending id, so that the order of rows in a file decides nothing."""
    encoded = combined(interactions.column("user_id")).dictionary_encode()
    names = np.array(encoded.dictionary.to_pylist())
    order = np.argsort(names, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return names[order], rank[encoded.indices.to_numpy()][events.user]


def _by_time(events: _Events, raw: Raw, config: CatalogConfig) -> _Events:
    """Sorted by user, then time, then position, then place in the file (the sort is stable)."""
    columns = events.columns
    for wanted, column in (("timestamp", "time"), ("position", "position")):
        if config.order == wanted and column not in columns:
            raise UserError(
                f"{raw.interactions_file}: catalog.order is {wanted}, but there is no such column; set "
                f"catalog.interactions.columns.{wanted}, or another order"
            )
    if config.order == "auto" and "time" not in columns and "position" not in columns:
        raise UserError(
            f"{raw.interactions_file}: there is neither a timestamp nor a position column; set "
            "catalog.interactions.columns.timestamp or .position, or catalog.order=file if the rows are in order"
        )
    keys = []  # least important first
    if "position" in columns and config.order != "file":
        keys.append(columns["position"])
    if "time" in columns and config.order in ("auto", "timestamp"):
        keys.append(columns["time"])
    keys.append(events.user)
    return events.take(np.lexsort(tuple(keys)))


def _without_duplicates(
    events: _Events,
    user_ids: np.ndarray,
    items: pa.Table,
    raw: Raw,
    config: CatalogConfig,
    notes: Counter[str],
    faults: list[str],
) -> _Events:
    """Same user, item and time, or, without times, same user and position."""
    columns = events.columns
    if config.duplicates == "keep_all" or not {"time", "position"} & set(columns):
        return events
    what = "item and timestamp" if "time" in columns else "position"
    keys = (
        (events.item, columns["time"], events.user)
        if "time" in columns
        else (columns["position"], events.user)
    )
    order = np.lexsort(keys)  # stable: equal rows stay in event order
    same = np.ones(max(len(order) - 1, 0), dtype=bool)
    for key in keys:
        same &= key[order][1:] == key[order][:-1]
    n = int(same.sum())
    if not n:
        return events
    if config.duplicates == "error":
        at = int(order[int(np.argmax(same))])
        item = items.column("item_id")[int(events.item[at])].as_py()
        faults.append(
            f"{raw.interactions_file}: user {str(user_ids[events.user[at]])!r} has several rows with the same {what} (item "
            f"{item!r}; {n} such rows); set catalog.duplicates=first, last or keep_all"
        )
    notes["duplicate_interactions_dropped"] = n
    drop = order[:-1][same] if config.duplicates == "last" else order[1:][same]
    keep = np.ones(len(order), dtype=bool)
    keep[drop] = False
    return events.take(keep)


def _without_repeats(events: _Events, config: CatalogConfig, notes: Counter[str]) -> _Events:
    if config.repeats == "keep" or not len(events.user):
        return events
    if config.repeats == "collapse_consecutive":
        keep = np.ones(len(events.user), dtype=bool)
        keep[1:] = (events.user[1:] != events.user[:-1]) | (events.item[1:] != events.item[:-1])
    else:
        keep = ~repeated(events.user, events.item)
    notes["repeats_dropped"] = int((~keep).sum())
    return events.take(keep)


def repeated(user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """bool ``(E,)``: the user had this item before."""
    order = np.lexsort((item, user))
    same = (user[order][1:] == user[order][:-1]) & (item[order][1:] == item[order][:-1])
    out = np.zeros(len(user), dtype=bool)
    out[order[1:][same]] = True
    return out


def _with_pictures(
    items: pa.Table,
    events: _Events,
    has_picture: Callable[[pa.Table], np.ndarray],
    config: CatalogConfig,
    notes: Counter[str],
) -> tuple[pa.Table, _Events]:
    """Without the items that have no picture, and their events; then the k-core again.

    Pictures are opened of the first k-core's items only. The largest core of items with pictures lies inside it, so it is the same as if
    all had been opened first.
    """
    stays = np.ones(items.num_rows, dtype=bool)
    if _drops_unused(config):
        stays = np.bincount(events.item, minlength=items.num_rows) > 0
    asked = np.nonzero(stays)[0]
    given = np.asarray(has_picture(items.take(pa.array(asked))), dtype=bool)
    without = np.zeros(items.num_rows, dtype=bool)
    without[asked[~given]] = True
    notes["items_without_picture_dropped"] = int(without.sum())
    keep = ~without[events.item]
    notes["events_of_items_without_picture_dropped"] = int((~keep).sum())
    events = events.take(keep)
    if config.k_core:
        core, _ = k_core(events.user, events.item, config.k_core)
        notes["events_outside_k_core"] += int((~core).sum())
        events = events.take(core)
    events.item = (np.cumsum(~without) - 1)[events.item]
    return items.filter(pa.array(~without)).combine_chunks(), events


def _drops_unused(config: CatalogConfig) -> bool:
    return config.unused_items == "drop" or (config.unused_items == "auto" and config.k_core > 0)


def _used_items(
    items: pa.Table, item: np.ndarray, config: CatalogConfig, notes: Counter[str]
) -> tuple[pa.Table, np.ndarray]:
    used = np.bincount(item, minlength=items.num_rows) > 0
    drop = _drops_unused(config)
    if not drop or used.all():
        return items, item
    notes["unused_items_dropped"] = int((~used).sum())
    return items.filter(pa.array(used)).combine_chunks(), (np.cumsum(used) - 1)[item]


def _check_one_clock(events: _Events, offsets: np.ndarray, raw: Raw, config: CatalogConfig) -> None:
    """Numbers that are no times may count each user's events; a cut by them would put the same places of all histories together."""
    if not is_order_only(raw.interactions) or (
        config.interactions and config.interactions.time_unit == "order"
    ):
        return
    first = events.columns["time"][offsets[:-1]]
    begin = int((first == first.min()).sum())
    if len(first) > 1 and begin > len(first) / 2:
        raise UserError(
            f"{raw.interactions_file}: split global_time needs one clock for all users, but the numbers in place of times begin at "
            f"{first.min():g} for {begin:,} of {len(first):,} users, so they count each user's events; set "
            "catalog.split=leave_last_out, or catalog.interactions.time_unit=order if they are one clock all the same"
        )


def _split(
    events: _Events,
    offsets: np.ndarray,
    user_ids: np.ndarray,
    raw: Raw,
    config: CatalogConfig,
    notes: Counter[str],
    faults: list[str],
) -> tuple[np.ndarray, str]:
    if config.split == "given":
        split = events.columns["split"].astype(np.int8)
        wrong = in_order(offsets, split)
        if wrong >= 0:
            raise UserError(
                f"{raw.interactions_file}: the given split of user {str(user_ids[wrong])!r} is not train, then valid, then test "
                "in the order of events; correct the split column or the timestamps, or choose another catalog.split"
            )
        if not (split == TRAIN).any():
            raise UserError(
                f"{raw.interactions_file}: the given split has no train interaction; correct the split column"
            )
        return split, "given"
    if config.split == "global_time":
        if "timestamp" not in events.columns:
            raise UserError(
                f"{raw.interactions_file}: split global_time needs timestamps and there is no such column; set "
                "catalog.interactions.columns.timestamp, or catalog.split=leave_last_out"
            )
        _check_one_clock(events, offsets, raw, config)
        split = global_time(events.columns["time"], config.ratios)
        return split, "global_time " + ":".join(f"{ratio:g}" for ratio in config.ratios)
    short = int((np.diff(offsets) < config.min_user_events).sum())
    if short and config.short_users == "error":
        user = str(user_ids[int(np.argmax(np.diff(offsets) < config.min_user_events))])
        left = " when what breaks the other rules is left out" if faults else ""
        faults.append(
            f"{raw.interactions_file}: user {user!r} has fewer than {config.min_user_events} events{left} and cannot be split ({short} "
            "such users); set catalog.short_users=train or drop"
        )
    notes["users_short_train_only"] = short
    if short == len(user_ids):
        raise UserError(
            f"{raw.interactions_file}: no user has {config.min_user_events} events, so there is nothing to test on; give longer "
            "histories or another catalog.split"
        )
    return leave_last_out(offsets, config.min_user_events), "leave_last_out"
