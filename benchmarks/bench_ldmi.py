"""Bench: multi-interest models and the covering of users.

    python benchmarks/bench_ldmi.py [--users 1000000] [--only step,cover,retrieval]

step: our training step, all prefixes of a history in one pass, over the same model in plain PyTorch, which pads every prefix to the same
length and routes it on its own, as public code does; the same targets, weights and AdamW (ours in one pass), and the losses are compared;
also with our softmax in bfloat16. cover:
neighbours, cliques and max covering of generated users with 10 items each of 100,000 (popularity as 1 / rank^.8), in a process of its
own whose memory is measured. retrieval: the 50 best of 12,101 items for 22,363 users with 4 interests each, exact, seen items left out.

Two cores, about 3 minutes. Exit code 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from common import Target, conclude

TARGETS: dict[str, Target] = {
    "step_over_plain": (">=", 0.9),
    "loss_difference": ("<=", 1e-4),
    "cover_seconds": ("<=", 120.0),
    "cover_gib": ("<=", 6.0),
    "retrieval_seconds": ("<=", 30.0),
}
PARTS = ("step", "cover", "retrieval")
ITEMS, WIDTH, INTERESTS, LENGTH = 12_101, 64, 4, 20
ROUNDS = 5


def histories(users: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and items of generated users, about as long as Beauty's."""
    lengths = np.minimum(3 + rng.geometric(0.2, users), 60)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return offsets, rng.integers(ITEMS, size=int(offsets[-1])).astype(np.int32)


def step() -> dict[str, Any]:
    """Targets a second of both, by turns, the best of some rounds."""
    import torch

    from dig_ray.multi_interest.config import MultiInterestConfig
    from dig_ray.multi_interest.examples import make_examples
    from dig_ray.multi_interest.loop import Objective, new_model

    offsets, items = histories(2_000, np.random.default_rng(0))
    config = MultiInterestConfig(
        width=WIDTH, interests=INTERESTS, max_length=LENGTH, dropout=0.0, recency=False, temperature=0.07
    )
    examples = make_examples(offsets, items, LENGTH)
    steps = list(examples.batches(1024, 0, 0))[:8]
    count = sum(one.all_targets for one in steps)
    frequency = np.bincount(items, minlength=ITEMS)
    low = config.model_copy(update={"precision": "bfloat16"})
    ours, rounded = (Objective(new_model(ITEMS, one, 0), frequency, 0, 0) for one in (config, low))
    plain = new_model(ITEMS, config, 0)
    plain_steps = [plain_batch(one) for one in steps]

    def trainer(model: Any, losses: Callable[[], Iterator[Any]], **options: Any) -> Callable[[], float]:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, **options)

        def run() -> float:
            begun = time.perf_counter()
            for loss in losses():
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            return time.perf_counter() - begun

        return run

    sides = [
        trainer(ours.model, lambda: (ours(one, None, 0, 1)[0] for one in steps), fused=True),
        trainer(rounded.model, lambda: (rounded(one, None, 0, 1)[0] for one in steps), fused=True),
        trainer(plain, lambda: (plain_loss(plain, *one) for one in plain_steps)),
    ]
    with torch.no_grad():
        difference = max(
            abs(float(ours(one, None, 0, 1)[0]) - float(plain_loss(plain, *other)))
            for one, other in zip(steps, plain_steps, strict=True)
        )
    seconds = [[run() for run in sides] for _ in range(ROUNDS)]
    best = [min(column) for column in zip(*seconds, strict=True)]
    names = ("ours", "ours, softmax in bfloat16", "plain")
    return {
        "targets_per_second": {name: round(count / one) for name, one in zip(names, best, strict=True)},
        "step_over_plain": round(best[2] / best[0], 3),
        "bfloat16_over_plain": round(best[2] / best[1], 3),
        "loss_difference": difference,
    }


def plain_batch(batch: Any) -> tuple[Any, Any, Any]:
    """Every prefix as an example of its own, padded to ``LENGTH``: items, mask and targets."""
    import torch

    rows, masks, targets = [], [], []
    for items, wanted, length in zip(batch.items, batch.targets, batch.lengths.tolist(), strict=True):
        for end in range(1, length + 1):
            rows.append(np.pad(items[:end], (0, LENGTH - end)))
            masks.append(np.arange(LENGTH) < end)
            targets.append(wanted[end - 1])
    return torch.from_numpy(np.stack(rows)), torch.from_numpy(np.stack(masks)), torch.tensor(targets)


def plain_loss(model: Any, items: Any, mask: Any, targets: Any) -> Any:
    """Dynamic routing and the softmax over all items as they are usually written, with the weights of our model."""
    import torch
    from torch.nn import functional as F

    from dig_ray.multi_interest.model import squash

    told = torch.einsum("bld,kde->bkle", model.items(items), model.maps)
    fixed = told.detach()
    logits = torch.zeros(fixed.shape[:3])
    for turn in range(model.config.rounds):
        last = turn == model.config.rounds - 1
        share = torch.softmax(logits, dim=1) * mask[:, None]
        interests = squash(torch.einsum("bkl,bkle->bke", share, told if last else fixed))
        if not last:
            logits = logits + torch.einsum("bke,bkle->bkl", interests, fixed)
    keys = F.normalize(model.items.weight, dim=-1)
    queries = F.normalize(interests, dim=-1) / model.config.temperature
    best = torch.einsum("bkd,bd->bk", queries, keys[targets]).argmax(1)
    return F.cross_entropy(queries[torch.arange(len(best)), best] @ keys.T, targets)


def cover(users: int) -> dict[str, Any]:
    """Seconds of the whole way from histories to a thousandth of the users as cliques, and the peak memory of the process."""
    from dig_ray.multi_interest import covering

    rng = np.random.default_rng(0)
    items_of = 100_000
    chance = 1 / np.arange(1, items_of + 1) ** 0.8
    items = rng.choice(items_of, users * 10, p=chance / chance.sum()).astype(np.int32)
    offsets = np.arange(users + 1, dtype=np.int64) * 10
    budget = max(1, users // 100)
    begun = time.perf_counter()
    found = covering.neighbours(offsets, items, items_of, 10, 200)
    in_graph = time.perf_counter() - begun
    bounds, members = covering.cliques(found)
    chosen = covering.cover(bounds, members, users, budget)
    seconds = time.perf_counter() - begun
    chance_cover = covering.choose_randomly(bounds, members, users, budget, 0)
    return {
        "cover_users": users,
        "cover_seconds": round(seconds, 2),
        "cover_seconds_graph": round(in_graph, 2),
        "cover_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "covered": {
            "greedy": round(chosen.covered / users, 4),
            "random": round(chance_cover.covered / users, 4),
        },
    }


def cover_apart(users: int) -> dict[str, Any]:
    """``cover`` in a process of its own, so that its memory is its own."""
    code = f"import json, sys; sys.path.insert(0, {sys.path[0]!r}); import bench_ldmi; print(json.dumps(bench_ldmi.cover({users})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def retrieval() -> dict[str, Any]:
    """Seconds of lists for as many users as Beauty has."""
    from dig_ray.multi_interest.retrieval import USERS_AT_ONCE, top_items

    users = 22_363
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((users, INTERESTS, WIDTH)).astype(np.float32)
    keys = rng.standard_normal((ITEMS, WIDTH)).astype(np.float32)
    begun = time.perf_counter()
    for low in range(0, users, USERS_AT_ONCE):
        part = queries[low : low + USERS_AT_ONCE]
        seen = np.stack([np.repeat(np.arange(len(part)), 9), rng.integers(ITEMS, size=9 * len(part))], axis=1)
        top_items(part, keys, 50, seen)
    return {"retrieval_seconds": round(time.perf_counter() - begun, 2)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--users", type=int, default=1_000_000, help="that are covered")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    args = parser.parse_args()
    makers = {"step": step, "cover": lambda: cover_apart(args.users), "retrieval": retrieval}
    figures: dict[str, Any] = {}
    for part in args.only.split(","):
        found = makers[part]()
        print(f"{part}: {found}", flush=True)
        figures |= found
    return conclude("ldmi", figures, TARGETS)


if __name__ == "__main__":
    sys.exit(main())
