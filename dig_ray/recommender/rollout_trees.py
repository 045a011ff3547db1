"""The log-probabilities of many rollouts of one history, for the price of reading the history once.

A prompt and all its rollouts are one document: the prompt's tokens, then the distinct prefixes of the rollouts, each one token that sees
the prompt, its own ancestors and itself. So P + (distinct prefixes) tokens run instead of G times P + C, and the gradient is the same
(GRPO's trainers repeat the prompt G times). Documents are packed into rows like training histories.

Probabilities are taken under the trie's mask: of a prefix's continuations only, the distribution that rollouts are drawn from and
recommendations are ranked by. A prefix with a single continuation costs nothing and is certain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dig_ray.recommender.decoder.prompt_pass import PromptPass, PromptRows, reads_of
from dig_ray.recommender.decoder.read_states import read_more, read_states
from dig_ray.recommender.objective import item_parents
from dig_ray.recommender.trie import TrieDistribution
from dig_ray.semantic_ids.prefix_table import STAY, PrefixTable

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RolloutTrees:
    """B prompts with G rollouts each, laid out for one forward pass: the columns of ``PromptRows``, then those of the prefixes.

    Attributes:
        prompt_columns: how many of the T columns, the first ones, are the prompts'.
        input_ids, position_ids, document: int64 (R, T); document -1 is padding.
        in_prompt: bool (R, T), the tokens that all later ones of their document see.
        ancestors: int64 (R, T, A), columns of a prefix's own ancestors, itself where it has fewer.
        reads: int64 (R, Q), columns whose states are read, 0 where a row has fewer.
        places, nodes: per depth, int64 (n_d,): which of the R * Q reads that depth's token is chosen from, and at which prefix.
        places_after: the same, of the prompts' B ends and then all R * K columns of prefixes.
        choice: int64 (B * G, D), which of a depth's choices a rollout makes; -1 where it has none.
        slot: int64 (B * G, D), which continuation of that choice's prefix it takes, from 0.
        real: bool (B * G, D), whether the rollout has a token at that depth.
    """

    prompt_columns: int
    input_ids: np.ndarray
    position_ids: np.ndarray
    document: np.ndarray
    in_prompt: np.ndarray
    ancestors: np.ndarray
    reads: np.ndarray
    places: list[np.ndarray]
    places_after: list[np.ndarray]
    nodes: list[np.ndarray]
    choice: np.ndarray
    slot: np.ndarray
    real: np.ndarray

    def tensors(self, device: Any) -> dict[str, Any]:
        """All arrays as tensors, for ``tree_states`` and ``tree_log_probs``."""
        import torch

        def move(value: Any) -> Any:
            if isinstance(value, list):
                return [move(one) for one in value]
            if isinstance(value, int):
                return value
            return torch.from_numpy(value).to(device)

        return {name: move(value) for name, value in vars(self).items()}


class TreeBuilder:
    """Lays out rollouts of one catalogue.

    Args:
        table: the catalogue's prefixes.
        sid_start: vocabulary id of SID token 0.
        pad: vocabulary id of padding.
    """

    def __init__(self, table: PrefixTable, sid_start: int, pad: int) -> None:
        self.table, self.sid_start, self.pad = table, sid_start, pad
        parents = item_parents(table)  # (N, D)
        leaf = np.empty(table.n_items, np.int64)
        leaf[table.items] = np.arange(table.n_items)
        children = np.concatenate([parents[:, 1:], leaf[:, None]], axis=1)
        self.parents = parents
        self.slot = np.stack(
            [children[:, d] - table.child_start[d][parents[:, d]] for d in range(table.depth)], axis=1
        )
        tokens = np.stack([table.tokens[d][children[:, d]] for d in range(table.depth)], axis=1)
        self.tokens = tokens.astype(np.int64)
        self.real = tokens != STAY
        self.open = np.stack(  # (N, D) whether there is a choice
            [np.diff(table.child_start[d])[parents[:, d]] > 1 for d in range(table.depth)], axis=1
        )
        depths = np.arange(table.depth)
        self.last_choice = np.where(self.open, depths, -1).max(axis=1)  # -1 for a catalogue of one item

    def build(self, prompts: Sequence[np.ndarray], items: np.ndarray) -> RolloutTrees:
        """Lay out B prompts (vocabulary ids) and their rollouts, items int64 (B, G)."""
        groups = items.shape[1]
        flat = items.reshape(-1)
        owner = np.repeat(np.arange(len(prompts)), groups)
        depth = self.table.depth
        # the distinct prefixes of each prompt, depth by depth, as (prompt, node)
        found: list[
            tuple[np.ndarray, np.ndarray, np.ndarray]
        ] = []  # owner, node, number of the parent prefix
        number = np.full((len(flat), depth), -1, np.int64)  # which prefix of its depth a rollout passes
        for d in range(1, depth):
            through = np.flatnonzero(self.last_choice[flat] >= d)
            key = owner[through] * len(self.table.tokens[d - 1]) + self.parents[flat[through], d]
            _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
            number[through, d] = inverse
            example = through[first]
            found.append((owner[example], self.parents[flat[example], d], number[example, d - 1]))
        at_prompts = PromptRows.of(prompts, self.pad)
        row_of, lengths = at_prompts.row, at_prompts.lengths
        more = sum((np.bincount(who, minlength=len(prompts)) for who, _, _ in found), np.zeros_like(lengths))
        begin, per_row = np.empty_like(more), np.zeros(len(at_prompts.input_ids), np.int64)
        order = np.argsort(row_of, kind="stable")
        behind = np.cumsum(more[order]) - more[order]  # prefixes of all prompts before, in the order of rows
        np.add.at(per_row, row_of, more)
        begin[order] = behind - (np.cumsum(per_row) - per_row)[row_of[order]]
        split, added = at_prompts.input_ids.shape[1], int(per_row.max())
        input_ids, position, document = (
            np.pad(values, ((0, 0), (0, added)), constant_values=fill)
            for values, fill in (
                (at_prompts.input_ids, self.pad),
                (at_prompts.position_ids, 0),
                (at_prompts.document, -1),
            )
        )
        in_prompt = document >= 0
        shape = input_ids.shape
        own = np.broadcast_to(np.arange(shape[1]), shape)
        ancestors = np.repeat(own[..., None], max(depth - 1, 1), axis=2).copy()

        rows = [row_of]
        columns = [at_prompts.column + lengths - 1]
        begin = begin + split
        nodes = [np.zeros(len(prompts), np.int64)]
        columns_by_depth: list[np.ndarray] = []
        for d, (whom, node, parent) in enumerate(found, start=1):
            # prefixes of a depth are sorted by prompt
            rank = np.arange(len(whom)) - np.searchsorted(whom, whom)
            column = begin[whom] + rank
            at = row_of[whom], column
            input_ids[at] = self.table.tokens[d - 1][node] + self.sid_start
            position[at] = lengths[whom] + d - 1
            document[at] = whom
            if d > 1:  # parents are among the prefixes one depth up, all of which are laid out
                above = columns_by_depth[-1][parent]
                ancestors[at[0], at[1]] = ancestors[row_of[whom], above]
                ancestors[at[0], at[1], d - 2] = above
                ancestors[at[0], at[1], d - 1 :] = column[:, None]
            begin = begin + np.bincount(whom, minlength=len(prompts))
            columns_by_depth.append(column)
            rows.append(row_of[whom])
            columns.append(column)
            nodes.append(node)
        number[:, 0] = owner
        open_choice = self.open[flat]
        reads, places = reads_of(np.concatenate(rows), np.concatenate(columns), len(input_ids))
        after = [np.arange(len(prompts))]
        after += [
            len(prompts) + row * added + column - split
            for row, column in zip(rows[1:], columns[1:], strict=True)
        ]
        return RolloutTrees(
            prompt_columns=split,
            input_ids=input_ids,
            position_ids=position,
            document=document,
            in_prompt=in_prompt,
            ancestors=ancestors,
            reads=reads,
            places=np.split(places, np.cumsum([len(one) for one in rows])[:-1]),
            places_after=after,
            nodes=nodes,
            choice=np.where(open_choice, number, -1),
            slot=self.slot[flat],
            real=self.real[flat],
        )


def tree_mask(document: Tensor, in_prompt: Tensor, ancestors: Tensor) -> Tensor:
    """Boolean attention mask (R, 1, T, T): a prompt is causal, a prefix sees its prompt, its ancestors and itself."""
    import torch

    at = torch.arange(document.shape[1], device=document.device)
    same = document[:, None, :] == document[:, :, None]
    mask = same & in_prompt[:, None, :] & (at[None, None, :] <= at[None, :, None])
    return mask.scatter(2, ancestors, True)[:, None]


def tree_states(decoder: Any, tree: dict[str, Any], known: PromptPass | None = None) -> dict[str, Any]:
    """Last hidden states, dropout off: ``states`` (n, d), and ``places`` in them by depth.

    Args:
        decoder: a Hugging Face decoder stack, its dropout off.
        tree: what ``RolloutTrees.tensors`` gives.
        known: what the decoder made of the tree's prompts, where it has read them; None reads them now.
    """
    import torch

    mask = tree_mask(tree["document"], tree["in_prompt"], tree["ancestors"])
    ids, positions = tree["input_ids"], tree["position_ids"]
    if known is None:
        states = read_states(decoder, ids, positions, mask, tree["reads"])
        return {"states": states, "places": tree["places"]}
    at, states = tree["prompt_columns"], known.ends
    if at < ids.shape[1]:
        more = read_more(decoder, ids[:, at:], positions[:, at:], mask[:, :, at:], known.layers)
        states = torch.cat([states, more])
    return {"states": states, "places": tree["places_after"]}


def tree_log_probs(
    trie: TrieDistribution,
    read: dict[str, Any],
    rows: Tensor,
    tree: dict[str, Any],
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Each rollout's log-probabilities and entropies, (B * G, D) each; 0 where there is no choice.

    Args:
        trie: distributions over the catalogue's prefixes.
        read: what ``tree_states`` gives for this tree.
        rows: (n_sid, d), the head's rows of the SID tokens.
        tree: what ``RolloutTrees.tensors`` gives.
        temperature: logits are divided by it; above 0.
    """
    import torch

    log_probs, entropies = [], []
    for depth in range(trie.table.depth):
        choice, slot = tree["choice"][:, depth], tree["slot"][:, depth]
        made = choice >= 0
        step = trie.at(depth, read["states"][read["places"][depth]], rows, tree["nodes"][depth], temperature)
        entropy = -(step.exp() * step.masked_fill(step == -torch.inf, 0.0)).sum(1)
        at = choice.clamp(min=0)
        if not len(step):  # no rollout has a choice here
            zero = torch.zeros(len(choice), device=choice.device)
            log_probs.append(zero)
            entropies.append(zero)
            continue
        log_probs.append(torch.where(made, step[at, torch.where(made, slot, 0)], 0.0))
        entropies.append(torch.where(made, entropy[at], 0.0))
    return torch.stack(log_probs, 1), torch.stack(entropies, 1)
