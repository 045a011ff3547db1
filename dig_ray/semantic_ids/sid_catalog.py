"""SidCatalog: the one-to-one table between items and Semantic IDs, and the numbering of SID tokens.

Decides the collision suffix (METHOD: when two or more items share all codes, *every* item of that bucket gets a suffix
that is unique in it, and no other item has one), how codes and suffixes are numbered as tokens, and what a
``semantic_ids.parquet`` must look like to be believed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dig_ray.errors import UserError
from dig_ray.semantic_ids.sid_file import (
    LEVEL_LETTERS,
    NO_SUFFIX,
    read_codes,
    read_codes_table,
    read_item_ids,
    read_suffixes,
)

LARGEST_CODE = (
    1 << 20
) - 1  # of a file that does not say how large its codebooks are: every code up to it becomes a token


@dataclass(frozen=True, eq=False)
class SidCatalog:
    """Items and their Semantic IDs, both ways.

    Attributes:
        item_ids: (N,) str; row i is item index i everywhere.
        codes: int32 (N, L), ``0 <= codes[:, l] < sizes[l]``.
        suffix: int32 (N,), -1 where the codes alone name the item.
        sizes: codes per level.

    Tokens: code c of level l is ``level_offset[l] + c``; suffix s is ``level_offset[L] + s``.
    """

    item_ids: np.ndarray
    codes: np.ndarray
    suffix: np.ndarray
    sizes: tuple[int, ...]

    @classmethod
    def from_codes(
        cls, item_ids: Sequence[str] | np.ndarray, codes: np.ndarray, sizes: Sequence[int]
    ) -> SidCatalog:
        """Number the suffixes of shared buckets (in item order, from 0) and check the whole.

        Args:
            item_ids: (N,) str.
            codes: int (N, L).
            sizes: L numbers, codes per level.

        Raises:
            UserError: as :meth:`checked`.
        """
        codes = _as_codes(codes, "codes")
        return cls.checked(item_ids, codes, collision_suffix(codes), sizes, "codes")

    @classmethod
    def checked(
        cls,
        item_ids: Sequence[str] | np.ndarray,
        codes: np.ndarray,
        suffix: np.ndarray,
        sizes: Sequence[int],
        what: str,
    ) -> SidCatalog:
        """Build from given parts.

        Args:
            item_ids: (N,) str.
            codes: int (N, L).
            suffix: int (N,), -1 where there is none.
            sizes: L numbers, codes per level.
            what: where they are from, for the message.

        Raises:
            UserError: shapes or ranges do not fit, an id or a Semantic ID stands there twice, or a suffix is missing or not needed.
        """
        ids = np.asarray(item_ids, dtype=object).astype(str)
        codes, suffix = _as_codes(codes, what), np.ascontiguousarray(suffix, dtype=np.int32)
        sizes = tuple(int(s) for s in sizes)
        if ids.ndim != 1 or len(ids) != len(codes) or suffix.shape != (len(codes),):
            raise UserError(
                f"{what}: {len(ids)} item ids, {len(codes)} rows of codes and {len(suffix)} suffixes do not match"
            )
        if not len(ids):
            raise UserError(f"{what}: no items; the catalogue is empty")
        if len(sizes) != codes.shape[1]:
            raise UserError(
                f"{what}: {codes.shape[1]} codes per item, but {len(sizes)} codebook sizes {list(sizes)}"
            )
        if len(sizes) >= len(LEVEL_LETTERS):
            raise UserError(f"{what}: {len(sizes)} levels; at most {len(LEVEL_LETTERS) - 1} are supported")
        unique, first = np.unique(ids, return_index=True)
        if len(unique) < len(ids):
            twice = ids[int(np.setdiff1d(np.arange(len(ids)), first)[0])]
            raise UserError(
                f"{what}: item_id {str(twice)!r} appears more than once; every item needs exactly one Semantic ID"
            )
        bad = (codes < 0) | (codes >= np.asarray(sizes))
        if bad.any():
            row, level = (int(v) for v in np.argwhere(bad)[0])
            raise UserError(
                f"{what}: item {str(ids[row])!r} has code {codes[row, level]} at level {level}, outside 0..{sizes[level] - 1}"
            )
        bucket, size = _buckets(codes)
        shared = size[bucket] > 1
        if (suffix < NO_SUFFIX).any():
            raise UserError(
                f"{what}: negative suffix for item {str(ids[int(np.flatnonzero(suffix < NO_SUFFIX)[0])])!r}"
            )
        wrong = shared != (suffix != NO_SUFFIX)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            reason = (
                "shares all codes with another item but has no suffix"
                if shared[row]
                else "has a suffix it does not need"
            )
            raise UserError(
                f"{what}: item {str(ids[row])!r} {reason}; leave the suffix column out and suffixes are numbered for you"
            )
        pairs = np.stack([bucket[shared], suffix[shared].astype(np.int64)], axis=1)
        if len(np.unique(pairs, axis=0)) < len(pairs):
            order = np.lexsort((pairs[:, 1], pairs[:, 0]))
            same = np.flatnonzero((np.diff(pairs[order], axis=0) == 0).all(axis=1))[0]
            a, b = np.flatnonzero(shared)[order[same : same + 2]]
            raise UserError(
                f"{what}: items {str(ids[a])!r} and {str(ids[b])!r} have the same Semantic ID; it must be one-to-one"
            )
        return cls(ids, codes, suffix, sizes)

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def levels(self) -> int:
        return len(self.sizes)

    @cached_property
    def n_suffix(self) -> int:
        """Suffix tokens in use: the size of the largest bucket, 0 when no two items share all codes."""
        return int(self.suffix.max()) + 1

    @cached_property
    def level_offset(self) -> np.ndarray:
        """int64 (L+1,): first token of each level; the last is where suffix tokens begin."""
        return np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)

    @property
    def n_tokens(self) -> int:
        return int(self.level_offset[-1]) + self.n_suffix

    @cached_property
    def token_table(self) -> np.ndarray:
        """int32 (N, L+1): SID tokens of every item, -1 where there is no suffix."""
        tail = np.where(self.suffix == NO_SUFFIX, -1, self.suffix + self.level_offset[-1])
        return np.column_stack([self.codes + self.level_offset[:-1], tail]).astype(np.int32)

    @cached_property
    def lengths(self) -> np.ndarray:
        """int32 (N,): tokens per item, L or L+1."""
        return (self.levels + (self.suffix != NO_SUFFIX)).astype(np.int32)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over sizes, item ids, codes and suffixes: what a model must have been trained with."""
        digest = hashlib.sha256(json.dumps([list(self.sizes), self.item_ids.tolist()]).encode())
        digest.update(self.codes.astype("<i4").tobytes())
        digest.update(self.suffix.astype("<i4").tobytes())
        return digest.hexdigest()

    def prefix_ids(self, length: int) -> np.ndarray:
        """int64 (N,): which distinct prefix of ``length`` codes (1..L) an item has, numbered in sorted order."""
        if not 1 <= length <= self.levels:
            raise ValueError(f"prefix length {length} is outside 1..{self.levels}")
        return self._index[length - 1][1]

    @cached_property
    def _index(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Per level (sorted keys parent * size + code, each item's position): a trie as flat arrays, safe from overflow."""
        parent = np.zeros(len(self), dtype=np.int64)
        index = []
        for level, size in enumerate((*self.sizes, self.n_suffix + 1)):
            digit = self.codes[:, level] if level < self.levels else self.suffix + 1
            keys, parent = np.unique(parent * size + digit, return_inverse=True)
            index.append((keys, parent.reshape(-1)))
        return index

    @cached_property
    def _item_of_leaf(self) -> np.ndarray:
        leaf = np.empty(len(self), dtype=np.int64)
        leaf[self._index[-1][1]] = np.arange(len(self))
        return leaf

    def items_of(self, tokens: np.ndarray) -> np.ndarray:
        """Item index of each row of SID tokens (M, L) or (M, L+1), -1-padded; -1 where the row is no item. int64 (M,)."""
        tokens = np.asarray(tokens, dtype=np.int64)
        if tokens.ndim != 2 or tokens.shape[1] not in (self.levels, self.levels + 1):
            raise ValueError(
                f"tokens have shape {tokens.shape}, expected (M, {self.levels}) or (M, {self.levels + 1})"
            )
        if tokens.shape[1] == self.levels:
            tokens = np.column_stack([tokens, np.full(len(tokens), -1)])
        known = np.ones(len(tokens), dtype=bool)
        parent = np.zeros(len(tokens), dtype=np.int64)
        for level, size in enumerate((*self.sizes, self.n_suffix + 1)):
            digit = tokens[:, level] - self.level_offset[level]
            if level == self.levels:
                digit = np.where(tokens[:, level] == -1, 0, np.where(digit < 0, -1, digit + 1))
            known &= (digit >= 0) & (digit < size)
            keys = self._index[level][0]
            wanted = parent * size + np.where(known, digit, 0)
            parent = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            known &= keys[parent] == wanted
        return np.where(known, self._item_of_leaf[parent], -1)

    def item_of(self, tokens: Sequence[int] | np.ndarray) -> int:
        """Item index of one token sequence (L or L+1 tokens, trailing -1 allowed); KeyError when it names no item."""
        row = [int(t) for t in tokens]
        while row and row[-1] == -1:
            row.pop()
        if len(row) in (self.levels, self.levels + 1):
            item = int(self.items_of(np.asarray([row]))[0])
            if item >= 0:
                return item
        raise KeyError(f"SID tokens {row} name no item of this catalogue")

    def tokens_of(self, item: int) -> list[int]:
        """SID tokens of one item index, without padding."""
        return [int(t) for t in self.token_table[item, : self.lengths[item]]]

    @cached_property
    def token_strings(self) -> list[str]:
        """(n_tokens,): the spelling of every SID token for a text backbone, ``<a_0> ... <b_0> ...``; suffix last."""
        widths = (*self.sizes, self.n_suffix)
        return [
            f"<{LEVEL_LETTERS[level]}_{code}>" for level, width in enumerate(widths) for code in range(width)
        ]

    def text_of(self, item: int) -> str:
        """The item's SID as text, for example ``<a_12><b_7><c_255><d_0>``."""
        return "".join(self.token_strings[token] for token in self.tokens_of(item))

    def save(self, path: str | Path) -> None:
        """Write ``semantic_ids.parquet``: item_id, codes list<int32>, suffix int32 (null = none); sizes in the metadata."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        offsets = np.arange(len(self) + 1, dtype=np.int32) * self.levels
        table = pa.table(
            {
                "item_id": pa.array(self.item_ids.tolist(), pa.string()),
                "codes": pa.ListArray.from_arrays(pa.array(offsets), pa.array(self.codes.reshape(-1))),
                "suffix": pa.array(self.suffix, mask=self.suffix == NO_SUFFIX),
            }
        )
        table = table.replace_schema_metadata({"dig_ray.codebook_sizes": json.dumps(list(self.sizes))})
        pq.write_table(table, path, compression="zstd")

    @classmethod
    def load(
        cls,
        path: str | Path,
        sizes: Sequence[int] | None = None,
        codes_column: str = "codes",
        skip_uncoded: bool = False,
    ) -> SidCatalog:
        """Read and check a semantic_ids Parquet (ours or brought along).

        What a file may hold stands in :mod:`dig_ray.semantic_ids.sid_file`. Without a ``suffix`` column suffixes are numbered here.

        Args:
            path: the file.
            sizes: codes per level; by default those of the file's metadata, else one more than the largest code of each level.
            codes_column: name of the column with the codes.
            skip_uncoded: leave out rows without any codes (null or an empty list), instead of refusing them.

        Raises:
            UserError: the file is missing, truncated or contradicts itself.
        """
        what = str(path)
        table = read_codes_table(path, codes_column)
        codes, coded = read_codes(table, codes_column, what, skip_uncoded)
        if not coded.all():
            table = table.filter(coded)
        ids = read_item_ids(table, what, np.flatnonzero(coded))
        if sizes is None:
            noted = (table.schema.metadata or {}).get(b"dig_ray.codebook_sizes")
            try:
                sizes = [int(s) for s in json.loads(noted)] if noted else _sizes_of(codes, what)
            except (ValueError, TypeError):
                raise UserError(
                    f"{what}: the codebook sizes in its metadata are not a list of numbers; write it again"
                ) from None
        suffix = read_suffixes(table, what, np.flatnonzero(coded))
        if suffix is None:
            suffix = collision_suffix(codes)
        return cls.checked(ids, codes, suffix, sizes, what)


def collision_suffix(codes: np.ndarray) -> np.ndarray:
    """int32 (N,): 0, 1, ... in item order inside every bucket of two or more items with equal codes, -1 elsewhere."""
    bucket, size = _buckets(codes)
    order = np.argsort(bucket, kind="stable")
    start = np.cumsum(size) - size
    rank = np.empty(len(codes), dtype=np.int32)
    rank[order] = np.arange(len(codes)) - start[bucket[order]]
    return np.where(size[bucket] > 1, rank, NO_SUFFIX).astype(np.int32)


def _buckets(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bucket number of every row (N,) and rows per bucket; equal rows share one. Built level by level, so no overflow."""
    bucket = np.zeros(len(codes), dtype=np.int64)
    for level in range(codes.shape[1]):
        width = int(codes[:, level].max(initial=0)) - int(codes[:, level].min(initial=0)) + 1
        bucket = np.unique(bucket * width + codes[:, level], return_inverse=True)[1].reshape(-1)
    return bucket, np.bincount(bucket) if len(bucket) else np.zeros(0, dtype=np.int64)


def _as_codes(codes: np.ndarray, what: str) -> np.ndarray:
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.shape[1] < 1:
        raise UserError(f"{what}: expected codes of shape (items, levels), got {codes.shape}")
    if not np.issubdtype(codes.dtype, np.integer):
        raise UserError(f"{what}: codes must be whole numbers, got {codes.dtype}")
    return np.ascontiguousarray(codes, dtype=np.int32)


def _sizes_of(codes: np.ndarray, what: str) -> list[int]:
    largest = int(codes.max())
    if largest > LARGEST_CODE:
        raise UserError(
            f"{what}: code {largest} would need as many tokens; number each level's codes from 0, at most {LARGEST_CODE}"
        )
    return [int(code) + 1 for code in codes.max(axis=0)]
