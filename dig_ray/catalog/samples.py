"""Published (history, target) samples into event sequences with a split per event.

Many projects publish their split as samples: a row is a user, the items so far, the next item, and the part it belongs to.
Trained on as they stand, such rows show every early event again and again; put back into one sequence per user they are what every
other source gives, and each published target is exactly one case.
"""

from __future__ import annotations

import ast
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dig_ray.catalog.config import InteractionsConfig
from dig_ray.catalog.dataset import TRAIN
from dig_ray.catalog.text import as_strings, combined
from dig_ray.errors import UserError

LONGEST_CELL = 1_000_000  # characters of a history written as text
LONGEST_LITERAL = 100_000  # of one that is no JSON: Python's parser needs far more memory than the text


def samples_to_events(
    table: pa.Table, targets: pa.Table, config: InteractionsConfig, duplicates: str, notes: Counter[str]
) -> pa.Table:
    """Samples to interactions in house columns: user_id, item_id, position, split.

    A user's samples are put in order by the length of their history, then by split, position and place in the file. The first history
    starts the user's sequence and is train, as it is nobody's target; after that every history must be all events so far, and its target
    is the next one. Where the longest history of the file has n items, one of n items may also be the latest n events: publishers cut
    there.

    Args:
        table: as the reader gave it; its column ``config.columns.history`` has lists, or texts such as ``[1, 2]`` or ``['a', 'b']``.
        targets: the same rows in house columns, with split (see :func:`dig_ray.catalog.columns.interactions_table`).
        config: its path and mapping.
        duplicates: what happens to rows with the same user, history and target, as in ``catalog.duplicates``.
        notes: ``events_only_in_histories``, ``histories_cut_by_publisher`` and ``duplicate_samples_dropped`` are raised.

    Raises:
        UserError: an empty or unreadable history, the same sample twice, or samples of a user that do not follow one another.
    """
    path, name = config.path, str(config.columns.history)
    lengths, flat = read_histories(table, name, path)
    item_ids = combined(targets.column("item_id"))
    known = pa.concat_arrays([flat, item_ids]).dictionary_encode()
    numbers = known.indices.to_numpy().astype(np.int32)
    history, target = numbers[: len(flat)], numbers[len(flat) :]
    ends = np.cumsum(lengths)
    users = combined(targets.column("user_id")).dictionary_encode()
    user, names = users.indices.to_numpy(), users.dictionary
    split = targets.column("split").to_numpy()
    position = targets.column("position").to_numpy() if "position" in targets.column_names else split
    order = np.lexsort((position, split, lengths, user))

    def told(row: int) -> str:
        return f"data row {row + 1} of user {names[int(user[row])].as_py()!r}"

    longest = int(lengths.max())
    events: list[np.ndarray] = []
    owners: list[int] = []
    parts: list[list[int]] = []
    so_far = np.zeros(0, np.int32)  # of the current user, the first `size` entries
    size, owner = 0, -1
    seen: dict[tuple[bytes, int], int] = {}
    kept: dict[int, int] = {}
    for row in order.tolist():
        past = history[ends[row] - lengths[row] : ends[row]]
        if user[row] != owner:
            owner, seen = int(user[row]), {}
            so_far, size = np.array(past), len(past)
            events.append(so_far)
            owners.append(owner)
            parts.append([TRAIN] * size)
            notes["events_only_in_histories"] += size
        whole = size == len(past)
        cut = len(past) == longest and size > len(past)
        sample = (past.tobytes(), int(target[row]))
        if duplicates != "keep_all" and sample in seen:
            if duplicates == "error":
                raise UserError(
                    f"{path}: {told(row)} is the sample of {told(seen[sample])} again; remove it, or set catalog.duplicates=first, "
                    "last or keep_all"
                )
            notes["duplicate_samples_dropped"] += 1
            if duplicates == "last":
                parts[-1][kept[seen[sample]]] = int(split[row])
            continue
        if not (whole or cut) or not np.array_equal(so_far[size - len(past) : size], past):
            raise UserError(
                f"{path}: the history in {told(row)} ({_short(known.dictionary, past)}) is not the user's events so far "
                f"({_short(known.dictionary, so_far[:size])}); samples of a user must follow one another, so correct the "
                "row, or give a position column where histories are cut"
            )
        notes["histories_cut_by_publisher"] += cut
        if size == len(so_far):
            so_far = np.concatenate([so_far, np.zeros(max(8, size), np.int32)])
        so_far[size] = target[row]
        seen[sample], kept[row] = row, size
        size += 1
        events[-1] = so_far[:size]
        parts[-1].append(int(split[row]))
    counts = np.array([len(one) for one in events])
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    return pa.table(
        {
            "user_id": names.take(pa.array(np.repeat(owners, counts))),
            "item_id": known.dictionary.take(pa.array(np.concatenate(events))),
            "position": pa.array(np.arange(int(counts.sum())) - starts),
            "split": pa.array(np.concatenate([np.array(one, np.int8) for one in parts])),
        }
    )


def _short(ids: pa.Array, items: np.ndarray, most: int = 6) -> str:
    """The latest items of a history, for a message."""
    shown = [str(ids[int(item)].as_py())[:40] for item in items[-most:]]
    return ("..., " if len(items) > most else "") + ", ".join(shown)


def read_histories(table: pa.Table, name: str, path: str) -> tuple[np.ndarray, pa.Array]:
    """A column of lists, or of lists written as text.

    Returns:
        lengths int64 ``(R,)``, and the ids of all rows one after the other as text.

    Raises:
        UserError: no such column, no lists, or a list that is empty or holds something that is no id.
    """
    if name not in table.column_names:
        raise UserError(
            f"{path}: there is no column {name!r}; set catalog.interactions.columns.history to one of "
            f"{', '.join(table.column_names)}"
        )
    column = combined(table.column(name))
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kinds = pa.types
    if kinds.is_string(column.type) or kinds.is_large_string(column.type) or kinds.is_binary(column.type):
        texts = as_strings(column, Counter()).to_pylist()
        rows = [_parse(text, f"{path}: column {name}, data row {n + 1}") for n, text in enumerate(texts)]
        column = pa.array(rows, pa.list_(pa.string()))
    elif not (
        kinds.is_list(column.type)
        or kinds.is_large_list(column.type)
        or kinds.is_fixed_size_list(column.type)
    ):
        raise UserError(
            f"{path}: column {name} is {column.type}, which is no history; give lists of item ids"
        )
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    if (lengths == 0).any():
        raise UserError(
            f"{path}: the history (column {name}) is empty in data row {int(np.argmin(lengths)) + 1}; a sample needs an event "
            "before its target, so remove the row"
        )
    flat = pc.list_flatten(column)
    row_of = np.repeat(np.arange(len(lengths)), lengths)
    if kinds.is_floating(flat.type):
        try:
            flat = pc.cast(flat, pa.int64())  # 12.0 is what a list of integers with gaps turns into
        except pa.ArrowInvalid:
            raise UserError(
                f"{path}: column {name} holds fractions, which are no ids; give text or integers"
            ) from None
    if kinds.is_integer(flat.type):
        flat = flat.cast(pa.string())
    elif kinds.is_string(flat.type) or kinds.is_large_string(flat.type):
        flat = as_strings(flat, Counter())
    else:
        raise UserError(
            f"{path}: column {name} holds lists of {flat.type}, which are no ids; give text or integers"
        )
    blank = pc.fill_null(pc.equal(flat, ""), True).to_numpy(zero_copy_only=False)
    if blank.any():
        raise UserError(
            f"{path}: the history (column {name}) holds an empty id in data row {row_of[int(np.argmax(blank))] + 1}; "
            "correct or remove the row"
        )
    return lengths, flat


def _parse(text: str | None, where: str) -> list[str]:
    """A list written as JSON or as a Python literal; never run as code."""
    text = (text or "").strip()
    if not text or text == "[]":
        return []
    value = None
    if text.startswith("[") and text.endswith("]") and len(text) <= LONGEST_CELL:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            if len(text) <= LONGEST_LITERAL:
                try:
                    value = ast.literal_eval(text)
                except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                    value = None
    if isinstance(value, list) and (ids := [_id(one) for one in value]) and None not in ids:
        return [one for one in ids if one is not None]
    raise UserError(
        f"{where}: {text[:60]!r} is no list of item ids; write it as [1, 2], ['a', 'b'] or [\"a\", \"b\"]"
    )


def _id(value: object) -> str | None:
    """An id as text, None for what is no id."""
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "replace").decode()
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int) and abs(value) < 1 << 63 else None
