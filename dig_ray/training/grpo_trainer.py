"""TRL's GRPOTrainer on Semantic IDs: rollouts from the trie-masked policy, the history read once per group, validation by decoding.

What stays TRL's: the sampler of prompts, accumulation and reuse of rollouts, optimizer, schedule, checkpoints, logging, and all its losses
under their names. What is replaced: generation (``RolloutSampler``), rewards (``weighted_rewards``), the log-probabilities that every loss
is made of (``tree_log_probs``), and ``evaluate``. The loss ``published`` is ours.

One step, on each worker that ``grpo_loop.grpo_worker`` has started:

1. Prompts: TRL's ``RepeatSampler`` gives their numbers, ``Prompts.take`` the histories (``_prepare_inputs``).
2. Rollouts: ``recommender.rollouts.RolloutSampler.draw``, G items of each history, from prompts read once (``_roll_out``).
3. Rewards: ``reward_sum.weighted_rewards`` of the functions that ``rewards.reward_functions`` made, float (B, G).
4. Advantages: ``grpo_objective.advantages``, of each rollout within the group of its prompt.
5. Log-probabilities: ``rollout_trees.TreeBuilder`` lays rollouts out (``_part``), ``rollout_log_probs`` reads them: policy and reference.
6. Loss: ``grpo_objective.published_objective`` or TRL's own (``_compute_loss``); ``transformers.Trainer`` runs it backward.
7. Optimizer: ``transformers.Trainer`` clips the gradients, ``validation.FiniteGradients`` refuses NaN, and AdamW steps.
8. Every ``eval_every_steps``: ``validation.validate`` decodes users, and Ray Train's ``RayTrainReportCallback`` keeps the checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback
from trl import GRPOConfig as TrlGrpoConfig
from trl import GRPOTrainer

from dig_ray.numerics.subset import evenly_spaced
from dig_ray.on_ray.worker import Hopeless
from dig_ray.recommender.decoder.prompt_pass import PromptPass, PromptRows, read_prompts
from dig_ray.recommender.decoder.read_states import can_go_on
from dig_ray.recommender.decoding import BeamSearcher, pad_prompts
from dig_ray.recommender.policy import SidPolicy
from dig_ray.recommender.rollout_trees import TreeBuilder, tree_states
from dig_ray.recommender.rollouts import RolloutSampler, with_target
from dig_ray.recommender.trie import TrieDistribution
from dig_ray.semantic_ids.prefix_table import PrefixTable
from dig_ray.training.grpo_config import GrpoConfig
from dig_ray.training.grpo_objective import advantages, k3, published_objective
from dig_ray.training.reward_sum import RewardError, weighted_rewards
from dig_ray.training.rewards import REWARDS
from dig_ray.training.rollout_batch import Reward, batch_of_items
from dig_ray.training.rollout_log_probs import Reference, attach_log_probs
from dig_ray.training.validation import FiniteGradients, ValidationSet, validate


class Prompts:
    """Histories to roll out from, and what came next.

    Args:
        tokens: int32 (T,), vocabulary ids of all P prompts, one after the other.
        offsets: int64 (P + 1,), prompt ``i`` is ``tokens[offsets[i]:offsets[i + 1]]``.
        targets: int64 (P,), the item that followed each prompt.
        users: int64 (P,), the user whose history each prompt is.
    """

    def __init__(
        self, tokens: np.ndarray, offsets: np.ndarray, targets: np.ndarray, users: np.ndarray
    ) -> None:
        self.tokens, self.offsets, self.targets, self.users = tokens, offsets, targets, users

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: np.ndarray) -> list[np.ndarray]:
        """Token arrays int64 of these prompts."""
        return [
            self.tokens[self.offsets[row] : self.offsets[row + 1]].astype(np.int64) for row in rows.tolist()
        ]


class SidGrpoTrainer(GRPOTrainer):
    """See the module's docstring. ``policy.model`` is trained in place.

    Args:
        policy: the SFT policy; it is moved to the device of ``args``, and its dropout is switched off.
        table: the catalogue's prefixes.
        sids: its Semantic IDs, a ``SidCatalog``.
        prompts: the histories to roll out from, and what came next.
        functions: name -> (reward, weight); of rows in ``REWARDS`` that say so, what they change of advantages is logged.
        config: our settings.
        args: the same under TRL's names, with ``beta`` 0 and TRL's nearest loss; ``config`` has the real ones.
        valid: histories and targets of the validation users.
        searcher: makes the beam search that decodes them, anew at each validation.
        seed: the seed of the noise by which rollouts are drawn.
        tokenizer: the policy's, which is saved beside its weights.
        callbacks: transformers' callbacks, called before our own.
    """

    args: Any
    model: Any
    _buffered_inputs: Any

    def __init__(
        self,
        policy: SidPolicy,
        table: PrefixTable,
        sids: Any,
        prompts: Prompts,
        functions: Mapping[str, tuple[Reward, float]],
        config: GrpoConfig,
        args: TrlGrpoConfig,
        valid: ValidationSet,
        searcher: Callable[[], BeamSearcher],
        seed: int,
        tokenizer: Any,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        from datasets import Dataset

        self._policy, self._sids, self._prompts = policy, sids, prompts
        self._functions, self._settings = functions, config
        self._valid, self._searcher = valid, searcher
        self._table = table
        self._builder = TreeBuilder(table, policy.sid_start, policy.pad)
        self._lookup = TrieDistribution(table, args.device)
        policy.model.to(args.device)
        _no_dropout(policy.model)
        self._reference = Reference(policy, self._lookup, config.temperature) if config.beta > 0 else None
        super().__init__(
            model=policy.model,
            reward_funcs=_never,  # type: ignore[arg-type]
            args=args,
            train_dataset=Dataset.from_dict(
                {"prompt": [""] * len(prompts), "row": list(range(len(prompts)))}
            ),
            eval_dataset=Dataset.from_dict({"prompt": [""]}),  # never read; the trainer insists on one
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )
        self.beta = config.beta
        self._rollouts = RolloutSampler(
            policy, table, config.num_generations, config.method, config.temperature, seed
        )
        attach_log_probs(policy, self._lookup, config.temperature)
        self.add_callback(FiniteGradients(policy.model, lambda: self._batch))
        self.add_callback(_ValidateFirst(self))

    # --- rollouts ---------------------------------------------------------------------------------------

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """The part of the buffered rollouts that this step reads; new rollouts when they are used up.

        TRL shuffles rollouts among the parts; here a part holds whole groups, whose prompts are read once.
        """
        parts = self.args.steps_per_generation
        if self._step % (parts * self.num_iterations) == 0 or self._buffered_inputs is None:
            rows = np.array([one["row"] for one in generation_batch])[:: self.num_generations]
            self._buffered_inputs = self._roll_out(rows)
        return self._buffered_inputs[self._step % parts]

    def _roll_out(self, rows: np.ndarray) -> list[dict[str, Any]]:
        begun = time.perf_counter()
        config, device = self._settings, self.args.device
        prompts, targets = self._prompts.take(rows), self._prompts.targets[rows]
        ids, lengths = pad_prompts(prompts, self._policy.pad)
        known = self._read(prompts)
        with self._evaluating():
            rollouts = self._rollouts.draw(
                torch.from_numpy(ids).to(device),
                torch.from_numpy(lengths).to(device),
                rows,
                self.state.global_step,
                known,
            )
        if config.add_target:
            rollouts = with_target(rollouts, targets)
        drawn = time.perf_counter() - begun
        begun = time.thread_time()  # not what other threads make it wait
        batch = batch_of_items(
            self._sids, rollouts.items, targets, self._prompts.users[rows], rows, rollouts.log_probs
        )
        error: RewardError | None = None
        found = None
        try:
            found = weighted_rewards(self._functions, batch)
        except RewardError as failure:
            error = failure
        # all ranks stop together, or the others would wait for this one for ever
        failed = self._sum(np.array([float(error is not None)]))[0]
        if failed:
            raise Hopeless(f"{error}; mend the reward function" if error else "") from error
        assert found is not None
        advantage = self._advantages(found.total)
        self._note(found, rollouts.items, targets, advantage, drawn, time.thread_time() - begun)
        count = len(rows) // self.args.steps_per_generation
        parts = [
            self._part(
                prompts[low : low + count], rollouts.items[low : low + count], advantage[low : low + count]
            )
            for low in range(0, len(rows), count)
        ]
        parts[0]["known"] = known
        return parts

    def _read(self, prompts: list[np.ndarray]) -> PromptPass | None:
        """The prompts with their graph, for rollouts and the one update that reads them; None where there are several."""
        decoder = self._policy.causal_lm.get_decoder()
        longest = max(len(p) for p in prompts) + self._settings.num_generations * self._table.depth
        once = self.num_iterations == 1 and self.args.steps_per_generation == 1
        if not (once and can_go_on(decoder, longest)):
            return None
        return read_prompts(decoder, PromptRows.of(prompts, self._policy.pad))

    def _advantages(self, total: np.ndarray) -> np.ndarray:
        scale = self._settings.scale_rewards
        if scale != "batch" or self.args.world_size == 1:
            return advantages(total, scale)
        every = self.accelerator.gather(torch.from_numpy(total).to(self.args.device)).cpu().numpy()
        at = self.args.process_index * len(total)
        return advantages(every, scale)[at : at + len(total)]

    def _part(self, prompts: list[np.ndarray], items: np.ndarray, advantage: np.ndarray) -> dict[str, Any]:
        """One part's tree and what the loss compares it with."""
        tree = self._builder.build(prompts, items).tensors(self.args.device)
        mask = tree["real"].long()
        part: dict[str, Any] = {
            "tree": tree,
            "completion_ids": torch.from_numpy(self._builder.tokens[items.reshape(-1)]).to(mask.device),
            "completion_mask": mask,
            "prompt_ids": mask[:, :0],
            "prompt_mask": mask[:, :0],
            "advantages": torch.from_numpy(advantage.reshape(-1)).float().to(mask.device),
            "num_items_in_batch": torch.tensor(
                float(mask.sum()) * self.args.steps_per_generation * self.args.world_size, device=mask.device
            ),
        }
        if self._reference is not None:
            part["ref_per_token_logps"] = self._reference.log_probs(tree)
        if self.num_iterations > 1 or self.args.steps_per_generation > self.args.gradient_accumulation_steps:
            with torch.no_grad():
                part["old_per_token_logps"] = self.model(tree=tree)["log_probs"]
        return part

    # --- loss -------------------------------------------------------------------------------------------

    def _get_per_token_logps_and_entropies(self, model: Any, *_: Any, **__: Any) -> Any:
        """What TRL's losses are made of, by the shared prompt."""
        out = model(tree=self._batch["tree"], known=self._batch.pop("known", None))
        return out["log_probs"], out["entropies"], None

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        self._batch = inputs
        if self._settings.loss_type != "published":
            loss: torch.Tensor = super()._compute_loss(model, inputs)
            return loss
        log_probs, entropies, _ = self._get_per_token_logps_and_entropies(model)
        old = inputs.get("old_per_token_logps")
        old = log_probs.detach() if old is None else old
        reference = inputs.get("ref_per_token_logps")
        low, high = self.epsilon_low, self.epsilon_high
        objective = published_objective(log_probs, old, reference, inputs["advantages"], self.beta, low, high)
        with torch.no_grad():
            ratio = (log_probs - old).sum(1).exp()
            mask, advantage = inputs["completion_mask"], inputs["advantages"]
            clipped = ((ratio < 1 - low) & (advantage < 0)) | ((ratio > 1 + high) & (advantage > 0))
            figures = {
                "entropy": float((entropies * mask).sum() / mask.sum()),
                "clip_ratio/region_mean": float(clipped.float().mean()),
            }
            if reference is not None:
                figures["kl"] = float(k3(log_probs, reference).sum(1).mean())
            self._add(figures)
        return -objective / self.current_gradient_accumulation_steps

    # --- figures ----------------------------------------------------------------------------------------

    def _sum(self, values: np.ndarray) -> np.ndarray:
        """Over all ranks."""
        if self.args.world_size == 1:
            return values
        total = torch.from_numpy(values).to(self.args.device)
        torch.distributed.all_reduce(total)
        return total.cpu().numpy()  # type: ignore[no-any-return]

    def _add(self, figures: Mapping[str, float]) -> None:
        """Log figures of this rank's share as the mean over ranks."""
        total = self._sum(np.array(list(figures.values()))) / self.args.world_size
        for name, value in zip(figures, total.tolist(), strict=True):
            self._metrics["train"][name].append(value)

    def _note(
        self,
        found: Any,
        items: np.ndarray,
        targets: np.ndarray,
        advantage: np.ndarray,
        drawing: float,
        judging: float,
    ) -> None:
        """Rewards by part, groups without a difference, hits, and what quality changed."""
        flat = found.total.max(axis=1) == found.total.min(axis=1)
        hit = items == targets[:, None]
        figures = {
            "reward": float(found.total.mean()),
            "reward_std": float(found.total.std(axis=1).mean()),
            "frac_reward_zero_std": float(flat.mean()),
            "groups_with_hit": float(hit.any(axis=1).mean()),
            "unique_rollouts": float(np.mean([len(set(row)) for row in items.tolist()])),
            "invalid": float((items < 0).mean()),
            "seconds/rollouts": drawing,
            "seconds/rewards": judging,
        }
        for name in found.raw:
            figures[f"rewards/{name}/raw"] = float(found.raw[name].mean())
            figures[f"rewards/{name}/weighted"] = float(found.weighted[name].mean())
        for name in [row.name for row in REWARDS if row.logs_change and row.name in found.weighted]:
            without = self._advantages(found.total - found.weighted[name])
            figures[f"{name}/advantage_change"] = float(np.abs(advantage - without).mean())
        self._add(figures)

    def outside(self, rows: np.ndarray) -> float:
        """Share of probability that the policy without its mask would put outside the catalogue, per token of a rollout."""
        device, at_once = self.args.device, self._settings.prompts_per_step
        head, shares = self._policy.sid_rows(), []
        with torch.no_grad(), self._evaluating():
            for low in range(0, len(rows), at_once):
                some = rows[low : low + at_once]
                prompts = self._prompts.take(some)
                ids, lengths = pad_prompts(prompts, self._policy.pad)
                items = self._rollouts.draw(
                    torch.from_numpy(ids).to(device), torch.from_numpy(lengths).to(device), some, 0
                ).items
                tree = self._builder.build(prompts, items).tensors(device)
                read = tree_states(self._policy.causal_lm.get_decoder(), tree)
                shares += [
                    self._lookup.outside(d, read["states"][read["places"][d]], head, tree["nodes"][d])
                    for d in range(self._table.depth)
                ]
        return float(torch.cat(shares).mean())

    @contextmanager
    def _evaluating(self) -> Any:
        was_training = self._policy.model.training
        self._policy.model.eval()
        try:
            yield
        finally:
            self._policy.model.train(was_training)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Decode the validation users; also say what the policy would do without its mask."""
        more = {"outside": self.outside(evenly_spaced(len(self._prompts), 64))}
        return validate(self, self._policy, self._valid, self._searcher, more=more)


class _ValidateFirst(TrainerCallback):
    """The SFT start is the first validation, so that RL has something to be better than."""

    def __init__(self, trainer: SidGrpoTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0:
            self.trainer.evaluate()


def _never(**_: Any) -> list[float]:
    raise RuntimeError("TRL's generation is replaced, so its rewards are never asked")


def _no_dropout(model: torch.nn.Module) -> None:
    """Rollouts and loss are taken under one distribution, which dropout would blur."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]
