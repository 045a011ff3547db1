"""Bench: constrained beam search against transformers' generate with prefix_allowed_tokens_fn, and its physical floor.

    python benchmarks/bench_decode.py [--rounds 4] [--threads 1]

One model (Llama, 4 layers of width 128, 1.1 M parameters), 3 x 256 codes, prompts of 61 tokens, beam 20; both sides give their
lists by turns. On one thread (the default) the clock is the process's CPU time, which is wall time on an idle machine and blind to
other processes on a busy one; with more threads it is wall time and the machine must be idle. Speedups are ratios of median times within
the run; ratios of best times, where the peer's first calls count before its memory and garbage have grown, stand beside them. The floor is
the arithmetic of decoding with a shared prompt over the matrix-product rate measured beside it on this model's own shapes. About 2 minutes.
Exit code 1 when a target is missed. Verified 2026-11-21 on a shared 2.5 GHz Xeon: see docs/LOG.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from common import conclude

SIZES = (256, 256, 256)
BEAM, ITEMS_OF_HISTORY = 20, 20
TARGETS = {  # figure: (direction, limit)
    "speedup_batch32_10k": (">=", 25.0),
    "speedup_batch32_100k": (">=", 25.0),
    "speedup_batch1_10k": (">=", 6.0),
    "speedup_batch1_100k": (">=", 6.0),
    "identical_lists": (">=", 1.0),
    "time_1m_over_10k": ("<=", 1.10),
    "index_speedup_1m": (">=", 30.0),
    "over_flop_floor_batch32": ("<=", 2.5),
}


def catalogue(n: int, seed: int = 0) -> np.ndarray:
    """int32 (n, 3): distinct random codes."""
    key = np.random.default_rng(seed).choice(256**3, n, replace=False)
    return np.stack([key >> 16, (key >> 8) & 255, key & 255], axis=1).astype(np.int32)


def dict_trie(codes: np.ndarray) -> dict[int, Any]:
    """The peer's index: token -> dict of what follows."""
    root: dict[int, Any] = {}
    for a, b, c in (codes + np.array([0, 256, 512])).tolist():
        root.setdefault(a, {}).setdefault(b, {})[c] = None
    return root


def build_policy() -> Any:
    """A random policy whose vocabulary is the SID tokens: generate normalizes over all of it, and so do we."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from dig_ray.recommender.policy import SidPolicy

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=sum(SIZES),
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            initializer_range=0.1,  # wide enough that scores differ and rankings have no near ties
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
    ).eval()
    return SidPolicy(model=model, sid_start=0, n_sid=sum(SIZES), bos=0, pad=0)


def prompts_of(codes: np.ndarray, users: int, seed: int) -> Any:
    """int64 (users, 61): bos and the SIDs of 20 items."""
    import torch

    items = np.random.default_rng(seed).integers(0, len(codes), (users, ITEMS_OF_HISTORY))
    tokens = (codes[items] + np.array([0, 256, 512])).reshape(users, -1)
    return torch.from_numpy(np.concatenate([np.zeros((users, 1), np.int64), tokens], axis=1))


def generate(policy: Any, trie: dict[int, Any], prompts: Any) -> Any:
    """The peer: (users, beam, 3) tokens, best first."""
    import torch

    width = prompts.shape[1]

    def allowed(_: int, ids: Any) -> list[int]:
        node = trie
        for token in ids[width:].tolist():
            node = node[token]
        return list(node)

    with torch.inference_mode():
        out = policy.model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            num_beams=BEAM,
            num_return_sequences=BEAM,
            min_new_tokens=len(SIZES),
            max_new_tokens=len(SIZES),
            length_penalty=0.0,
            do_sample=False,
            pad_token_id=0,
            prefix_allowed_tokens_fn=allowed,
        )
    return out[:, width:].reshape(len(prompts), BEAM, len(SIZES))


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds (see the module's docstring for the clock) and the result."""
    import torch

    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    result = function()
    return clock() - start, result


def flops_per_user(policy: Any) -> float:
    """Multiply-adds x 2: the prompt once, then the beams of every step but the last, and the head's rows at every step."""
    config = policy.model.config
    weights = sum(p.numel() for n, p in policy.model.named_parameters() if "layers" in n and p.ndim == 2)
    prompt, steps = 1 + ITEMS_OF_HISTORY * len(SIZES), len(SIZES) - 1
    dense = weights * (prompt + BEAM * steps)
    keys = prompt * prompt / 2 + sum(BEAM * (prompt + step) for step in range(1, steps + 1))
    attention = 2 * keys * config.hidden_size * config.num_hidden_layers
    head = config.hidden_size * policy.n_sid * (1 + BEAM * steps)
    return 2.0 * (dense + attention + head)


def gemm_seconds(batch: int) -> Callable[[], float]:
    """Seconds per floating-point operation on the shapes of this model's prefill: its feed-forward matrices."""
    import torch

    rows = batch * (1 + ITEMS_OF_HISTORY * len(SIZES))
    x, y = torch.randn(rows, 128), torch.randn(rows, 512)
    up, down = torch.randn(512, 128), torch.randn(128, 512)

    def once() -> float:
        with torch.inference_mode():
            seconds, _ = timed(lambda: [(torch.mm(x, up.T), torch.mm(y, down.T)) for _ in range(8)])
        return seconds / (8 * 2 * 2 * rows * 128 * 512)

    return once


def speed(rounds: int, log: Callable[[str], None] = print) -> dict[str, Any]:
    """Interleaved rounds on catalogues of 10 k, 100 k and 1 M items (the peer only on the first two)."""
    import torch

    from dig_ray.recommender.decoding import BeamSearcher
    from dig_ray.semantic_ids.prefix_table import build_prefix_table

    policy = build_policy()
    names = {"10k": 10_000, "100k": 100_000, "1m": 1_000_000}
    codes = {name: catalogue(n) for name, n in names.items()}
    none = {name: np.full(len(c), -1, np.int32) for name, c in codes.items()}
    index: dict[str, list[float]] = {"ours": [], "dict": []}
    for _ in range(3):
        index["ours"] += [
            timed(lambda: build_prefix_table(codes["1m"], none["1m"], SIZES, 0))[0] for _ in range(3)
        ]
        index["dict"].append(timed(lambda: dict_trie(codes["1m"]))[0])
    log(f"index of 1 M items: ours {min(index['ours']):.3f} s, dict trie {min(index['dict']):.2f} s")
    searchers, tries = {}, {}
    for name in names:
        table = build_prefix_table(codes[name], none[name], SIZES, 0)
        searchers[name] = BeamSearcher(policy, table, BEAM, "head")
        if name != "1m":
            tries[name] = dict_trie(codes[name])
    times: dict[str, list[float]] = {"floor": []}
    equal = compared = 0
    gemm = gemm_seconds(32)
    for turn in range(rounds):
        for batch in (32, 1):
            for name in names:
                prompts = prompts_of(codes[name], batch, seed=turn)
                lengths = torch.full((batch,), prompts.shape[1])
                for _ in range(4 if batch == 32 else 12):
                    seconds, found = timed(partial(searchers[name].search, prompts, lengths))
                    times.setdefault(f"ours_{batch}_{name}", []).append(seconds / batch)
                    if batch == 32:
                        times["floor"].append(gemm() * flops_per_user(policy))
                if name not in tries:
                    continue
                repeats = 2 if batch == 32 else 6
                for _ in range(repeats):
                    seconds, tokens = timed(partial(generate, policy, tries[name], prompts))
                    times.setdefault(f"peer_{batch}_{name}", []).append(seconds / batch)
                mine = codes[name][found.items.numpy()] + np.array([0, 256, 512])
                equal += int((mine == tokens.numpy()).all((1, 2)).sum())
                compared += batch
        log(
            f"round {turn + 1}/{rounds}: "
            + ", ".join(f"{k} {v[-1] * 1e3:.2f}" for k, v in times.items())
            + " ms/user"
        )
    best = {name: min(values) for name, values in times.items()}
    middle = {name: statistics.median(values) for name, values in times.items()}
    figures: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "clock": "cpu" if torch.get_num_threads() == 1 else "wall",
        "parameters": sum(p.numel() for p in policy.model.parameters()),
        "best_ms_per_user": {name: round(value * 1e3, 3) for name, value in best.items()},
        "median_ms_per_user": {name: round(value * 1e3, 3) for name, value in middle.items()},
        "index_best_seconds": {name: round(min(v), 4) for name, v in index.items()},
        "gemm_gflops_per_second": round(flops_per_user(policy) / middle["floor"] / 1e9, 1),
        "lists_compared": compared,
    }
    for batch in (32, 1):
        for name in tries:
            for label, clock in (("speedup", middle), ("best_over_best", best)):
                ratio = clock[f"peer_{batch}_{name}"] / clock[f"ours_{batch}_{name}"]
                figures[f"{label}_batch{batch}_{name}"] = round(ratio, 2)
    figures["identical_lists"] = equal / compared
    figures["time_1m_over_10k"] = round(middle["ours_32_1m"] / middle["ours_32_10k"], 3)
    figures["index_speedup_1m"] = round(min(index["dict"]) / min(index["ours"]), 1)
    figures["over_flop_floor_batch32"] = round(middle["ours_32_10k"] / middle["floor"], 2)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    figures = speed(args.rounds, lambda line: print(line, flush=True))
    return conclude("decode", figures, TARGETS)


if __name__ == "__main__":
    sys.exit(main())
