"""The SFT task table: each task turns a dataset into documents to train on.

A task is one function in ``TASKS``. Labels are columns (the item and the place in its SID that each token predicts), carried from here to
the loss; nothing is ever looked up by its text. Only training events are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dig_ray.errors import UserError
from dig_ray.recommender.config import RecommenderConfig
from dig_ray.recommender.packing import Documents

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dig_ray.catalog.dataset import Dataset
    from dig_ray.semantic_ids.sid_catalog import SidCatalog


@dataclass(frozen=True)
class TaskInputs:
    """What tasks are made of.

    Attributes:
        dataset: catalogue, events and split; only its training events are read.
        sids: Semantic IDs of the same items, in the same order.
        tokenizer: the policy's.
        config: tasks with their weights, and how long histories and texts may be.
        sid_start: vocabulary id of SID token 0.
        bos, eos: vocabulary ids of the tokens that begin and end a document.
        item_interests, user_interests: one text for each item and each user, None or "" where nothing was mined; None where nothing was
            mined for anybody.
    """

    dataset: Dataset
    sids: SidCatalog
    tokenizer: PreTrainedTokenizerBase
    config: RecommenderConfig
    sid_start: int
    bos: int
    eos: int
    item_interests: Sequence[str | None] | None = None
    user_interests: Sequence[str | None] | None = None


def check_same_items(sids: SidCatalog, dataset: Dataset, where: object) -> None:
    """Refuse Semantic IDs that are not, row by row, those of the dataset's items.

    Args:
        sids: one Semantic ID for each item.
        dataset: the catalogue.
        where: what the sentence begins with, such as the directory of the Semantic IDs.

    Raises:
        UserError: they are of other items or in another order.
    """
    if len(sids.item_ids) == dataset.n_items and bool((np.asarray(sids.item_ids) == dataset.item_ids).all()):
        return
    missing = sorted(set(dataset.item_ids.tolist()) - set(np.asarray(sids.item_ids).tolist()))
    what = f"item {missing[0]!r} has none" if missing else "they are in another order or for more items"
    raise UserError(
        f"{where}: these Semantic IDs are not those of this catalogue ({what}); make them from it again"
    )


class SidStream:
    """Item indices to the flat stream of their SID tokens, vectorised.

    Args:
        sids: the catalogue's Semantic IDs.
        sid_start: vocabulary id of SID token 0.
    """

    def __init__(self, sids: SidCatalog, sid_start: int) -> None:
        table = sids.token_table.astype(np.int64)
        self.lengths = sids.lengths.astype(np.int64)
        self.start = np.concatenate([[0], np.cumsum(self.lengths)])
        self.tokens = (table[table >= 0] + sid_start).astype(np.int32)
        self.depths = np.nonzero(table >= 0)[1].astype(np.int8)

    def flat(
        self, items: NDArray[np.integer]
    ) -> tuple[NDArray[np.int32], NDArray[np.int8], NDArray[np.int64]]:
        """The SIDs of items (n,), one after the other: vocabulary ids, each token's depth, and the number in ``items`` of whose it is."""
        count = self.lengths[items]
        owner = np.repeat(np.arange(len(items)), count)
        at = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
        source = self.start[np.asarray(items)[owner]] + at
        return self.tokens[source], self.depths[source], owner

    def prompt(self, items: NDArray[np.integer], bos: int) -> NDArray[np.int64]:
        """The history as the policy reads it: bos, then every item's SID."""
        return np.concatenate([[bos], self.flat(items)[0]]).astype(np.int64)


def windows(lengths: NDArray[np.integer], size: int) -> NDArray[np.int64]:
    """Cut sequences into windows of at most ``size``: int64 (W, 4) rows of (sequence, begin, end, first trained).

    A sequence that fits is one window. A longer one is covered by windows that overlap by half; what a window shares with the one
    before is context there and trained only once.
    """
    rows = []
    half = max(1, size // 2)
    lengths = np.asarray(lengths, np.int64)
    short = lengths <= size
    whole = np.flatnonzero(short & (lengths > 0))
    rows.append(np.stack([whole, np.zeros_like(whole), lengths[whole], np.zeros_like(whole)], axis=1))
    for sequence in np.flatnonzero(~short).tolist():
        begin, trained, n = 0, 0, int(lengths[sequence])
        while trained < n:
            end = min(begin + size, n)
            rows.append(np.array([[sequence, begin, end, trained]], np.int64))
            trained = end
            begin = min(begin + half, max(0, n - size)) if end < n else n
    out = np.concatenate(rows).astype(np.int64)
    return out[np.lexsort((out[:, 1], out[:, 0]))]


def next_sid(inputs: TaskInputs) -> Documents:
    """History to next item, at every position: bos, SID, SID, ... of one user's training events."""
    offsets, items = inputs.dataset.train_sequences()
    cuts = windows(np.diff(offsets), inputs.config.max_history)
    return _sequence_documents(
        inputs, items, offsets[cuts[:, 0]] + cuts[:, 1], cuts[:, 2] - cuts[:, 1], cuts[:, 3] - cuts[:, 1]
    )


def _sequence_documents(
    inputs: TaskInputs,
    items: NDArray[np.integer],
    begin: NDArray[np.int64],
    count: NDArray[np.int64],
    context: NDArray[np.int64],
) -> Documents:
    """Documents of ``items[begin:begin + count]``, of which the first ``context`` items are read but not trained."""
    stream = SidStream(inputs.sids, inputs.sid_start)
    document = np.repeat(np.arange(len(begin)), count)
    place = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    chosen = np.asarray(items)[begin[document] + place]
    tokens, depths, owner = stream.flat(chosen)
    trained = (place >= context[document])[owner]
    target = np.where(trained, chosen[owner], -1).astype(np.int32)
    sid_tokens = np.bincount(document[owner], minlength=len(begin)) if len(begin) else np.zeros(0, np.int64)
    offsets = np.concatenate([[0], np.cumsum(sid_tokens + 1)]).astype(np.int64)
    total = int(offsets[-1])
    is_bos = np.zeros(total, bool)
    is_bos[offsets[:-1]] = True
    out = Documents(
        tokens=np.full(total, inputs.bos, np.int32),
        offsets=offsets,
        target_item=np.full(total, -1, np.int32),
        target_depth=np.zeros(total, np.int8),
        text_target=np.zeros(total, bool),
    )
    out.tokens[~is_bos] = tokens
    out.target_item[~is_bos] = target
    out.target_depth[~is_bos] = depths
    return out


def title_to_sid(inputs: TaskInputs) -> Documents:
    """Title to SID, one document per item that has a title."""
    return _text_to_sid(inputs, "Title", _titles(inputs))


def sid_to_title(inputs: TaskInputs) -> Documents:
    """SID to title, one document per item that has a title."""
    return _sid_to_text(inputs, "Title", _titles(inputs))


def interests_to_sid(inputs: TaskInputs) -> Documents:
    """Mined deep interests of an item to its SID."""
    return _text_to_sid(inputs, "Interests", _interests(inputs.item_interests, "interests_to_sid"))


def sid_to_interests(inputs: TaskInputs) -> Documents:
    """SID to the item's mined deep interests."""
    return _sid_to_text(inputs, "Interests", _interests(inputs.item_interests, "sid_to_interests"))


def user_interests_to_sid(inputs: TaskInputs) -> Documents:
    """A user's mined interests and history to the SID of the last training item."""
    texts = _interests(inputs.user_interests, "user_interests_to_sid")
    stream = SidStream(inputs.sids, inputs.sid_start)
    offsets, items = inputs.dataset.train_sequences()
    parts = []
    for user, text in enumerate(texts):
        history = items[offsets[user] : offsets[user + 1]][-inputs.config.max_history - 1 :]
        if not text or len(history) < 2:
            continue
        words = _words(inputs, f"Interests: {text}\nHistory: ")
        parts.append(_document(inputs, [words, stream.flat(history[:-1])[0]], int(history[-1]), stream))
    return _join(parts)


TASKS: dict[str, Callable[[TaskInputs], Documents]] = {
    "next_sid": next_sid,
    "title_to_sid": title_to_sid,
    "sid_to_title": sid_to_title,
    "interests_to_sid": interests_to_sid,
    "sid_to_interests": sid_to_interests,
    "user_interests_to_sid": user_interests_to_sid,
}


def build_documents(inputs: TaskInputs) -> Documents:
    """All documents of one epoch: every task of the config, each repeated by its weight (0.5 = every other document)."""
    parts = []
    for task, weight in sorted(inputs.config.tasks.items()):
        if weight <= 0:
            continue
        docs = TASKS[task](inputs)
        n = len(docs)
        take = np.floor(np.arange(round(n * weight)) / weight).astype(np.int64).clip(max=max(n - 1, 0))
        parts.append(docs if weight == 1 else select(docs, take))
    return Documents.concatenate(parts)


def select(docs: Documents, chosen: NDArray[np.integer]) -> Documents:
    """The chosen documents, in that order, repeats allowed."""
    lengths = np.diff(docs.offsets)[chosen]
    inside = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    source = np.repeat(docs.offsets[chosen], lengths) + inside
    return Documents(
        tokens=docs.tokens[source],
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        target_item=docs.target_item[source],
        target_depth=docs.target_depth[source],
        text_target=docs.text_target[source],
    )


def _titles(inputs: TaskInputs) -> list[str]:
    return [t or "" for t in inputs.dataset.items.column("title").to_pylist()]


def _interests(texts: Sequence[str | None] | None, task: str) -> Sequence[str | None]:
    if texts is None:
        raise UserError(
            f"recommender.tasks: {task} needs mined interests and this run has none; mine them first or drop the task"
        )
    return texts


def _words(inputs: TaskInputs, text: str) -> NDArray[np.int32]:
    ids = inputs.tokenizer(text, add_special_tokens=False)["input_ids"][: inputs.config.max_text_tokens]
    return np.array(ids, np.int32)


def _text_to_sid(inputs: TaskInputs, name: str, texts: Sequence[str | None]) -> Documents:
    stream = SidStream(inputs.sids, inputs.sid_start)
    return _join(
        [
            _document(inputs, [_words(inputs, f"{name}: {text}")], item, stream)
            for item, text in enumerate(texts)
            if text and text.strip()
        ]
    )


def _sid_to_text(inputs: TaskInputs, name: str, texts: Sequence[str | None]) -> Documents:
    stream = SidStream(inputs.sids, inputs.sid_start)
    ask = _words(inputs, f"{name}: ")
    parts = []
    for item, text in enumerate(texts):
        if not text or not text.strip():
            continue
        sid = stream.flat(np.array([item]))[0]
        words = _words(inputs, text)
        tokens = np.concatenate([[inputs.bos], sid, ask, words, [inputs.eos]]).astype(np.int32)
        is_text = np.zeros(len(tokens), bool)
        is_text[len(tokens) - len(words) - 1 :] = True
        nothing = np.full(len(tokens), -1, np.int32)
        parts.append((tokens, nothing, np.zeros(len(tokens), np.int8), is_text))
    return _join(parts)


def _document(
    inputs: TaskInputs, before: list[NDArray[Any]], item: int, stream: SidStream
) -> tuple[NDArray[Any], ...]:
    """bos, whatever comes before, then the item's SID as the target."""
    sid, depth, _ = stream.flat(np.array([item]))
    tokens = np.concatenate([[inputs.bos], *before, sid]).astype(np.int32)
    target = np.full(len(tokens), -1, np.int32)
    target[-len(sid) :] = item
    depths = np.zeros(len(tokens), np.int8)
    depths[-len(sid) :] = depth
    return tokens, target, depths, np.zeros(len(tokens), bool)


def _join(parts: Sequence[tuple[NDArray[Any], ...]]) -> Documents:
    if not parts:
        return Documents(
            np.zeros(0, np.int32),
            np.zeros(1, np.int64),
            np.zeros(0, np.int32),
            np.zeros(0, np.int8),
            np.zeros(0, bool),
        )
    tokens, target, depth, text = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Documents(
        tokens=tokens,
        offsets=np.cumsum([0, *(len(p[0]) for p in parts)]).astype(np.int64),
        target_item=target,
        target_depth=depth,
        text_target=text,
    )
