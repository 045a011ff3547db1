"""A policy that ranks histories: constrained beam search over the full catalogue, and how often free decoding leaves it.

The plain part: nothing here knows Ray or files of lists.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from dig_ray.recommender.decoding import BeamSearcher
    from dig_ray.recommender.policy import SidPolicy
    from dig_ray.recommender.tasks import SidStream
    from dig_ray.semantic_ids.prefix_table import PrefixTable
    from dig_ray.semantic_ids.sid_catalog import SidCatalog


@dataclass
class Decoder:
    """A loaded policy, ready to rank histories.

    Attributes:
        policy: the language model and the tokens that it knows Semantic IDs by.
        sids: Semantic IDs of the catalogue.
        table: which tokens may follow which prefix of them.
        about: what ``policy.json`` says of the policy: ``max_history``, ``normalizer`` and ``levels`` are read.
    """

    policy: SidPolicy
    sids: SidCatalog
    table: PrefixTable
    about: dict[str, Any]
    _searchers: dict[int, BeamSearcher] = field(default_factory=dict, init=False, repr=False)

    @staticmethod
    def load(
        policy_dir: Path, sids: SidCatalog, use_gpu: bool = False, trust_remote_code: bool = False
    ) -> Decoder:
        """Read a policy.

        Args:
            policy_dir: its folder, which SFT or GRPO wrote.
            sids: Semantic IDs of the catalogue.
            use_gpu: compute on CUDA.
            trust_remote_code: whether a backbone may bring code of its own.

        Raises:
            UserError: it is damaged, or was trained on other Semantic IDs.
        """
        from dig_ray.recommender.backbone import load_policy
        from dig_ray.semantic_ids.prefix_table import build_prefix_table

        policy, _, about = load_policy(policy_dir, sids, trust_remote_code=trust_remote_code)
        if use_gpu:
            policy.model.to("cuda")
        return Decoder(
            policy=policy,
            sids=sids,
            table=build_prefix_table(sids.codes, sids.suffix, sids.sizes, sids.n_suffix),
            about=about,
        )

    @cached_property
    def _stream(self) -> SidStream:
        from dig_ray.recommender.tasks import SidStream

        return SidStream(self.sids, self.policy.sid_start)

    def _searcher(self, beam: int) -> BeamSearcher:
        """One searcher per width: it holds the catalogue's table and the packed weights, which no batch changes."""
        from dig_ray.recommender.decoding import BeamSearcher

        if beam not in self._searchers:
            self._searchers[beam] = BeamSearcher(self.policy, self.table, beam, self.about["normalizer"])
        return self._searchers[beam]

    def _prompts(self, histories: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The latest items of each history as the policy reads them, padded: int64 (B, P), lengths int64 (B,)."""
        from dig_ray.recommender.decoding import pad_prompts

        latest = int(self.about["max_history"])
        return pad_prompts(
            [self._stream.prompt(h[-latest:], self.policy.bos) for h in histories], self.policy.pad
        )

    def recommend(
        self, histories: list[np.ndarray], beam: int, k: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The best items of the full catalogue, seen ones allowed and left out.

        Args:
            histories: B item indices each, oldest first.
            beam: width of the search; at least ``k`` is taken.
            k: length of the lists.

        Returns:
            (items, scores) with seen items allowed and (items, scores) without: int32 (B, k) padded -1, float32 (B, k) padded ``-inf``.
        """
        import torch

        prompts, lengths = self._prompts(histories)
        seen = np.full((len(histories), max(len(h) for h in histories)), -1, np.int64)
        for row, history in enumerate(histories):
            seen[row, : len(history)] = history
        searcher = self._searcher(max(beam, k))
        device = self.policy.device
        tensors = [torch.from_numpy(a).to(device) for a in (prompts, lengths, seen)]
        both = searcher.search_both(*tensors)
        out: list[np.ndarray] = []
        for beams in both:
            short = max(0, k - beams.items.shape[1])
            items, scores = beams.items[:, :k].cpu().numpy(), beams.scores[:, :k].cpu().numpy()
            out.append(np.pad(items, ((0, 0), (0, short)), constant_values=-1).astype(np.int32))
            out.append(np.pad(scores, ((0, 0), (0, short)), constant_values=-np.inf).astype(np.float32))
        return out[0], out[1], out[2], out[3]

    def free_invalid(self, histories: list[np.ndarray], beam: int) -> np.ndarray:
        """Bool (B, beam): which beams of unconstrained decoding are no item's codes; arguments as of :meth:`recommend`."""
        import torch

        from dig_ray.recommender.decoding import unconstrained_invalid

        prompts, lengths = self._prompts(histories)
        device = self.policy.device
        return unconstrained_invalid(
            self.policy,
            self.table,
            int(self.about["levels"]),
            torch.from_numpy(prompts).to(device),
            torch.from_numpy(lengths).to(device),
            beam,
        ).numpy()
