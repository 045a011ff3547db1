"""Bench: a GRPO step against TRL's stock GRPOTrainer that generates under a prefix constraint, and what it is made of.

    python jobs/bench_grpo.py [--steps 4] [--threads 1]

One model (Phi-3 architecture, 4 layers of width 128), 3 x 256 codes, 10,000 items, 8 prompts a step of 61 or 151 tokens (20 or 50 items),
8 or 16 rollouts each. The stock trainer gets the same prompts, draws its completions with a callback that lists each prefix's continuations
(what its users do), and reads every prompt once per rollout. Each side runs in processes of its own, by turns; a step is rollouts, rewards,
loss and update, and its time the median without each process's first. On one thread (the default) the clock is the CPU time of the process;
with more threads it is wall time. The machine should be idle. Memory is the growth of the process's peak over what it held before training.

Beside it, in one process: the update alone, ours against repeated prompts with the gradients compared, and rollouts of 32 prompts of
61 tokens against ``generate`` with 16 beams: our 16 beams, the same items in the same order, and 16 drawn without duplicates, which
``generate`` cannot do. About 5 minutes. Exit code 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dig_ray.bench import conclude

SIZES = (256, 256, 256)
N_ITEMS, PROMPTS = 10_000, 8
USERS = 32  # of the rollouts alone
ROUNDS = 2  # processes of each side
CASES = [(20, 8), (20, 16), (50, 8), (50, 16)]  # items of the history, rollouts
TARGETS = {
    **{f"step_speedup_{1 + 3 * items}tokens_g{g}": (">=", 10.0) for items, g in CASES},
    "update_speedup_151tokens_g16": (">=", 12.0),
    "update_gradient_difference": ("<=", 1e-5),
    "beams_as_generate": (">=", 1.0),
    "beams_over_generate": (">=", 20.0),
    "rewards_share_of_step": ("<=", 0.02),
    "peak_memory_ratio": ("<=", 0.5),
}


def catalogue() -> Any:
    """SidCatalog of distinct random codes."""
    from dig_ray.semantic_ids.sid_catalog import SidCatalog

    key = np.random.default_rng(0).choice(256**3, N_ITEMS, replace=False)
    codes = np.stack([key >> 16, (key >> 8) & 255, key & 255], axis=1)
    return SidCatalog.from_codes([f"i{n}" for n in range(N_ITEMS)], codes, SIZES)


def recommender() -> Any:
    from dig_ray.recommender.config import DecoderConfig, RecommenderConfig

    size = DecoderConfig(hidden_size=128, num_layers=4, num_heads=4, ffn_size=512, dropout=0.0)
    return RecommenderConfig(decoder=size, max_history=50)


def histories(items: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(histories int64 (count, items), targets)."""
    rng = np.random.default_rng(items)
    return rng.integers(0, N_ITEMS, (count, items)), rng.integers(0, N_ITEMS, count)


def continuations(token_rows: np.ndarray, width: int) -> Callable[[int, Any], list[int]]:
    """The callback that peers give ``generate``: what may follow the tokens after a prompt of that width."""
    root: dict[int, Any] = {}
    for row in token_rows.tolist():
        node = root
        for token in row:
            node = node.setdefault(int(token), {})

    def allowed(_: int, ids: Any) -> list[int]:
        node = root
        for token in ids[width:].tolist():
            node = node[token]
        return list(node)

    return allowed


def peak() -> int:
    """Bytes of this process's highest resident set."""
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def grpo_config(groups: int, steps: int, threads: int) -> Any:
    from dig_ray.training.grpo_config import GrpoConfig

    return GrpoConfig(
        num_generations=groups,
        prompts_per_step=PROMPTS,
        max_prompts=PROMPTS * steps,
        beta=0.001,
        eval_every_steps=1000,
        method="independent",
        threads_per_worker=threads,
    )


def our_trainer(items: int, groups: int, steps: int, threads: int, folder: str) -> Any:
    """Our trainer, without Ray around it."""
    from dig_ray.recommender.backbone import build_policy, build_tokenizer
    from dig_ray.recommender.tasks import SidStream
    from dig_ray.semantic_ids.prefix_table import build_prefix_table
    from dig_ray.training.grpo_loop import GrpoJob, make_trainer
    from dig_ray.training.publish import write_policy_facts

    sids = catalogue()
    tokenizer = build_tokenizer(recommender(), sids, [])
    policy = build_policy(recommender(), sids, tokenizer, 0)
    start = Path(folder) / "sft"
    policy.model.save_pretrained(start)
    tokenizer.save_pretrained(start)
    write_policy_facts(start, recommender(), sids)
    past, targets = histories(items, PROMPTS * steps)
    stream = SidStream(sids, policy.sid_start)
    prompts = [stream.prompt(one, policy.bos) for one in past]
    job = GrpoJob(
        grpo=grpo_config(groups, steps, threads),
        seed=0,
        policy={path.name: path.read_bytes() for path in start.iterdir()},
        table=build_prefix_table(sids.codes, sids.suffix, sids.sizes, sids.n_suffix),
        sids=sids,
        prompt_tokens=np.concatenate(prompts).astype(np.int32),
        prompt_offsets=np.arange(len(prompts) + 1) * len(prompts[0]),
        targets=targets,
        users=np.zeros(len(targets), np.int64),
        valid_prompts=prompts[:1],
        valid_targets=targets[:1],
        threads=threads,
    )
    return make_trainer(job, folder)


def stock_trainer(items: int, groups: int, steps: int, folder: str) -> Any:
    """TRL's GRPOTrainer as it comes, its generation under a callback that lists each prefix's continuations."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    from dig_ray.recommender.backbone import build_policy, build_tokenizer

    sids = catalogue()
    tokenizer = build_tokenizer(recommender(), sids, [])
    policy = build_policy(recommender(), sids, tokenizer, 0)
    start = Path(folder) / "model"  # the trainer looks for its reference on disk
    policy.model.save_pretrained(start)
    tokenizer.save_pretrained(start)
    tokenizer.padding_side = "left"
    model = AutoModelForCausalLM.from_pretrained(
        start, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    past, targets = histories(items, PROMPTS * steps)
    words = [sids.text_of(item) for item in range(N_ITEMS)]
    texts = [tokenizer.bos_token + "".join(words[item] for item in row) for row in past.tolist()]
    assert len(tokenizer(texts[0])["input_ids"]) == 1 + 3 * items
    goals = [words[target] for target in targets.tolist()]

    def exact(completions: list[str], goal: list[str], **_: Any) -> list[float]:
        return [float(c.replace(" ", "") == g) for c, g in zip(completions, goal, strict=True)]

    def prefix(completions: list[str], goal: list[str], **_: Any) -> list[float]:
        out = []
        for completion, wanted in zip(completions, goal, strict=True):
            same = [
                a == b
                for a, b in zip(completion.replace(" ", "").split("<"), wanted.split("<"), strict=False)
            ][1:]
            out.append(float(np.logical_and.accumulate(same).mean()) if same else 0.0)
        return out

    args = GRPOConfig(
        output_dir=f"{folder}/run",
        per_device_train_batch_size=PROMPTS * groups,
        num_generations=groups,
        max_completion_length=len(SIZES),
        max_steps=steps,
        beta=0.001,
        learning_rate=1e-4,
        generation_kwargs={"min_new_tokens": len(SIZES)},
        reward_weights=[1.0, 0.3],
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=[exact, prefix],  # type: ignore[list-item]
        args=args,
        train_dataset=Dataset.from_dict({"prompt": texts, "goal": goals}),
        processing_class=tokenizer,
    )
    allowed = continuations(sids.token_table[:, : len(SIZES)] + policy.sid_start, 1 + 3 * items)
    generate = model.generate  # type: ignore[misc]
    model.generate = lambda **inputs: generate(**inputs, prefix_allowed_tokens_fn=allowed)  # type: ignore[misc, method-assign]
    return trainer


def arm(side: str, items: int, groups: int, steps: int, threads: int) -> dict[str, Any]:
    """In a process of its own: a few steps of one side."""
    import torch
    from transformers import TrainerCallback

    torch.set_num_threads(threads)
    times: list[float] = []
    now = clock_of(threads)

    class Clock(TrainerCallback):
        begun = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begun = now()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(now() - self.begun)

    # a step begins before its rollouts: they are made when the trainer asks for its inputs
    with tempfile.TemporaryDirectory() as folder:
        if side == "ours":
            trainer = our_trainer(items, groups, steps, threads, folder)
            trainer.callback_handler.callbacks = [
                one for one in trainer.callback_handler.callbacks if type(one).__name__ != "_ValidateFirst"
            ]
        else:
            trainer = stock_trainer(items, groups, steps, folder)
        trainer.add_callback(Clock())
        before = peak()
        trainer.train()
        judged = [
            entry["seconds/rewards"] for entry in trainer.state.log_history if "seconds/rewards" in entry
        ]
    return {
        "seconds": times[1:],
        "memory": peak() - before,
        "rewards": statistics.median(judged) if judged else 0.0,
    }


def step_figures(steps: int, threads: int) -> dict[str, Any]:
    """Every case on both sides, each in a process of its own."""
    out: dict[str, Any] = {}
    ratios, shares = [], []
    for items, groups in CASES:
        seen: dict[str, list[dict[str, Any]]] = {"stock": [], "ours": []}
        for side in ("stock", "ours") * ROUNDS:
            sizes = ["--items", str(items), "--groups", str(groups), "--steps", str(steps)]
            done = subprocess.run(
                [sys.executable, __file__, "--arm", side, *sizes, "--threads", str(threads)],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise SystemExit(f"{side}: {done.stderr[-2000:]}")
            seen[side].append(json.loads(done.stdout.splitlines()[-1]))
        found = {
            side: {
                "seconds": statistics.median(second for one in runs for second in one["seconds"]),
                "memory": max(one["memory"] for one in runs),
                "rewards": statistics.median(one["rewards"] for one in runs),
            }
            for side, runs in seen.items()
        }
        name = f"{1 + 3 * items}tokens_g{groups}"
        ours, stock = found["ours"], found["stock"]
        out[f"step_ms_{name}"] = {s: round(1000 * found[s]["seconds"], 1) for s in ("ours", "stock")}
        out[f"step_speedup_{name}"] = round(stock["seconds"] / ours["seconds"], 2)
        out[f"peak_mb_{name}"] = {s: round(found[s]["memory"] / 1e6, 1) for s in ("ours", "stock")}
        ratios.append(ours["memory"] / stock["memory"])
        shares.append(ours["rewards"] / ours["seconds"])
        print(f"{name}: {out[f'step_speedup_{name}']}x", flush=True)
    out["peak_memory_ratio"] = round(max(ratios), 3)
    out["rewards_share_of_step"] = round(max(shares), 4)
    return out


def clock_of(threads: int) -> Callable[[], float]:
    """See the module's docstring."""
    return time.process_time if threads == 1 else time.perf_counter


def by_turns(
    ours: Callable[[], Any], theirs: Callable[[], Any], threads: int, rounds: int = 5
) -> tuple[float, float]:
    """Seconds of a call of each, medians of calls by turns after one that warms up: a machine that slows down slows both."""
    now = clock_of(threads)
    times: tuple[list[float], list[float]] = [], []
    for number in range(rounds + 1):
        for side, function in zip(times, (ours, theirs), strict=True):
            begun = now()
            function()
            if number:
                side.append(now() - begun)
    return statistics.median(times[0]), statistics.median(times[1])


def setting(items: int, users: int) -> tuple[Any, Any, Any, list[np.ndarray]]:
    """(Semantic IDs, policy, prefix table, prompts of that many items)."""
    from dig_ray.recommender.backbone import build_policy, build_tokenizer
    from dig_ray.recommender.tasks import SidStream
    from dig_ray.semantic_ids.prefix_table import build_prefix_table

    sids = catalogue()
    policy = build_policy(recommender(), sids, build_tokenizer(recommender(), sids, []), 0)
    policy.model.eval()
    table = build_prefix_table(sids.codes, sids.suffix, sids.sizes, sids.n_suffix)
    stream = SidStream(sids, policy.sid_start)
    past, _ = histories(items, users)
    return sids, policy, table, [stream.prompt(one, policy.bos) for one in past]


def update_figures(threads: int) -> dict[str, Any]:
    """The update alone."""
    import torch

    from dig_ray.recommender.rollout_trees import TreeBuilder, tree_log_probs, tree_mask, tree_states
    from dig_ray.recommender.rollouts import RolloutSampler
    from dig_ray.recommender.trie import TrieDistribution

    _, policy, table, prompts = setting(50, PROMPTS)
    builder, trie = TreeBuilder(table, policy.sid_start, policy.pad), TrieDistribution(table)
    parameters = [p for p in policy.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-12)  # so small that both sides keep the same weights
    padded = torch.from_numpy(np.stack(prompts))
    lengths = torch.full((PROMPTS,), padded.shape[1])
    sampler = RolloutSampler(policy, table, 16, "independent")
    items = sampler.draw(padded, lengths, np.arange(PROMPTS), 0).items
    weight = torch.from_numpy(np.random.default_rng(0).standard_normal(items.size)).float()

    def states(tree: dict[str, Any]) -> dict[str, Any]:
        """What any trainer does: the whole stack over all there is."""
        hidden: torch.Tensor = policy.hidden(
            input_ids=tree["input_ids"],
            position_ids=tree["position_ids"],
            attention_mask=tree_mask(tree["document"], tree["in_prompt"], tree["ancestors"]),
            use_cache=False,
        ).last_hidden_state
        read = hidden.gather(1, tree["reads"][..., None].expand(-1, -1, hidden.shape[2])).flatten(0, 1)
        return {"states": read, "places": tree["places"]}

    def update(prompts: list[np.ndarray], items: np.ndarray, ours: bool) -> None:
        tree = builder.build(prompts, items).tensors("cpu")
        optimizer.zero_grad()
        read = tree_states(policy.causal_lm.get_decoder(), tree) if ours else states(tree)
        log_probs, _ = tree_log_probs(trie, read, policy.sid_rows(), tree)
        (-(log_probs.sum(1) - log_probs.sum(1).detach()).exp() * weight).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def gradients() -> list[torch.Tensor]:
        return [p.grad.clone() for p in parameters if p.grad is not None]

    repeated = [prompt for prompt in prompts for _ in range(16)]
    update(prompts, items, ours=True)
    ours = gradients()
    update(repeated, items.reshape(-1, 1), ours=False)
    theirs = gradients()
    norm = sum(float((g**2).sum()) for g in theirs) ** 0.5
    gap = sum(float(((a - b) ** 2).sum()) for a, b in zip(ours, theirs, strict=True)) ** 0.5
    shared, plain = by_turns(
        lambda: update(prompts, items, ours=True),
        lambda: update(repeated, items.reshape(-1, 1), ours=False),
        threads,
    )

    return {
        "update_ms_shared_repeated": {"shared": round(1000 * shared, 1), "repeated": round(1000 * plain, 1)},
        "update_speedup_151tokens_g16": round(plain / shared, 2),
        "update_gradient_difference": gap / norm,
    }


def rollout_figures(threads: int) -> dict[str, Any]:
    """Rollouts alone."""
    import torch

    from dig_ray.recommender.rollouts import RolloutSampler

    sids, policy, table, prompts = setting(20, USERS)
    padded = torch.from_numpy(np.stack(prompts))
    lengths = torch.full((USERS,), padded.shape[1])
    allowed = continuations(sids.token_table[:, : len(SIZES)] + policy.sid_start, padded.shape[1])

    def beams() -> Any:
        with torch.inference_mode():
            return policy.model.generate(
                padded,
                attention_mask=torch.ones_like(padded),
                num_beams=16,
                num_return_sequences=16,
                min_new_tokens=len(SIZES),
                max_new_tokens=len(SIZES),
                length_penalty=0.0,
                do_sample=False,
                pad_token_id=policy.pad,
                renormalize_logits=True,  # probabilities over what is allowed, as ours are
                prefix_allowed_tokens_fn=allowed,
            )

    best, distinct = (RolloutSampler(policy, table, 16, method) for method in ("beam", "sample"))
    found = best.draw(padded, lengths, np.arange(USERS), 0).items
    tokens = beams()[:, padded.shape[1] :].reshape(USERS, 16, -1).numpy() - policy.sid_start
    same = (sids.token_table[found, : len(SIZES)] == tokens).all(2)
    searched, generated = by_turns(
        lambda: best.draw(padded, lengths, np.arange(USERS), 0), beams, threads, rounds=9
    )
    drawn, generated_again = by_turns(
        lambda: distinct.draw(padded, lengths, np.arange(USERS), 0), beams, threads
    )
    return {
        "beams_ms": {"ours": round(1000 * searched, 1), "generate": round(1000 * generated, 1)},
        "beams_as_generate": round(float(same.mean()), 4),
        "beams_over_generate": round(generated / searched, 2),
        "drawn_without_duplicates_ms": round(1000 * drawn, 1),
        "drawn_over_generate_beams": round(generated_again / drawn, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--arm", choices=("ours", "stock"), help=argparse.SUPPRESS)
    parser.add_argument("--items", type=int, default=20, help=argparse.SUPPRESS)
    parser.add_argument("--groups", type=int, default=8, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.arm:
        print(json.dumps(arm(args.arm, args.items, args.groups, args.steps, args.threads)))
        return 0
    import torch

    torch.set_num_threads(args.threads)
    figures = (
        update_figures(args.threads) | rollout_figures(args.threads) | step_figures(args.steps, args.threads)
    )
    return conclude("grpo", figures, TARGETS)


if __name__ == "__main__":
    sys.exit(main())
