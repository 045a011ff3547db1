"""Residual k-means: the default quantizer, a stack of Lloyd codebooks where each level codes what the last left over.

Decides how codebooks are fitted and how vectors become codes. Both are bound by matrix products: scores of a chunk stay
in cache, the arg-max runs on them there, and encoding never materialises a residual, because
``(x - c_1[i]) . c_2 = x . c_2 - (c_1 c_2^T)[i]`` turns a residual into one gather from a table of codebook products.
Source of the idea: residual (multi-stage) vector quantization, Chen et al. 2010; Lloyd 1982.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from dig_ray.errors import UserError

CHUNK = 1024  # rows scored at once: 1024 x 256 floats are 1 MB, which stays in a core's L2 cache
START_ROWS, START_WIDTH, START_TRIALS = (
    32,
    64,
    4,
)  # k-means++ start: rows per code, dimensions, candidates per step
COARSE_ROWS, SETTLE_STEPS = 32, 2  # rows per code of the coarse pass, and Lloyd steps on all rows after it
LLOYD_TOLERANCE = 1e-4  # relative gain in distortion below which Lloyd stops early


def check_vectors(x: np.ndarray, sizes: Sequence[int], what: str = "vectors") -> np.ndarray:
    """Return ``x`` as contiguous float32 (N, D), or raise UserError for what cannot be quantized.

    Refused: wrong rank, no rows, NaN or infinity, fewer rows than the largest codebook, and all-equal rows.
    """
    x = np.ascontiguousarray(x, dtype=np.float32)
    if x.ndim != 2 or x.shape[1] == 0:
        raise UserError(
            f"{what}: expected a table of vectors (items, dimensions), got shape {tuple(x.shape)}"
        )
    if not sizes or min(sizes) < 2:
        raise UserError(f"semantic_ids.codebook_size={list(sizes)}: every level needs at least 2 codes")
    if len(x) < max(sizes):
        raise UserError(
            f"{what}: {len(x)} items cannot fill a codebook of {max(sizes)} codes; "
            f"set semantic_ids.codebook_size to at most {len(x)}"
        )
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise UserError(
            f"{what}: {int((~finite).sum())} rows hold NaN or infinity, the first is row {row}; mend or drop them"
        )
    if (x == x[0]).all():
        raise UserError(
            f"{what}: all {len(x)} vectors are equal, so no code can tell items apart; check the item text"
        )
    return x


def fit_residual_kmeans(
    x: np.ndarray,
    sizes: Sequence[int],
    seed: int,
    iterations: int = 10,
    sample: int = 65_536,
    init: str = "kmeans++",
    device: str = "cpu",
    log: Callable[[str], None] | None = None,
) -> list[np.ndarray]:
    """Fit one codebook per level on the residuals of the levels before.

    Args:
        x: float32 (N, D), finite, N >= max(sizes).
        sizes: codes per level.
        seed: decides the sample and the starting centroids; same seed and input, same bytes out.
        iterations: Lloyd steps per level at most.
        sample: rows used for fitting (all rows when N is smaller); encoding always uses every row.
        init: ``"kmeans++"`` (greedy D^2 sampling; Arthur and Vassilvitskii 2007) or ``"random"`` distinct rows.
        device: torch device the arithmetic runs on.
        log: gets one line per level; None says nothing.

    Returns:
        One float32 (K_l, D) array per level.
    """
    x = check_vectors(x, sizes)
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(x), sample, replace=False)) if len(x) > sample else slice(None)
    residual = torch.from_numpy(np.array(x[rows])).to(device)
    codebooks = []
    for level, size in enumerate(sizes):
        centroids, codes, inertia = lloyd(residual, size, rng, iterations, init)
        codebooks.append(centroids.cpu().numpy())
        for start in range(0, len(residual), CHUNK):
            residual[start : start + CHUNK] -= centroids.index_select(0, codes[start : start + CHUNK])
        if log is not None:
            used = int(torch.unique(codes).numel())
            log(
                f"level {level + 1}/{len(sizes)}: {used}/{size} codes used, squared error {inertia / len(residual):.5f}"
            )
    return codebooks


def lloyd(
    x: torch.Tensor, size: int, rng: np.random.Generator, iterations: int, init: str
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Lloyd's k-means on (n, D) rows: centroids (size, D), codes (n,) and the summed squared error.

    A centroid that loses all its rows is put on the farthest row of the cluster with the largest error, so no code is
    dead while there are distinct rows left to give it.
    """
    centroids = _start(x, size, rng, init)
    if (
        len(x) >= 2 * COARSE_ROWS * size
    ):  # move centroids most of the way on fewer rows, then settle on all of them
        step = len(x) // (COARSE_ROWS * size)
        centroids = _iterate(x[::step].contiguous(), centroids, iterations)
        iterations = min(iterations, SETTLE_STEPS)
    centroids = _iterate(x, centroids, iterations)
    codes, best = _assign(x, centroids)
    return centroids, codes, max(_sum_of_squares(x) - 2.0 * float(best.sum(dtype=torch.float64)), 0.0)


def _iterate(x: torch.Tensor, centroids: torch.Tensor, iterations: int) -> torch.Tensor:
    """Lloyd steps until the squared error hardly falls, or ``iterations`` of them."""
    square, previous = _sum_of_squares(x), None
    for _ in range(iterations):
        codes, best = _assign(x, centroids)
        inertia = square - 2.0 * float(best.sum(dtype=torch.float64))
        sums, counts = _cluster_sums(x, codes, len(centroids))
        centroids = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centroids)
        dead = torch.nonzero(counts == 0).flatten()
        if dead.numel():
            _restart(x, codes, centroids, dead)
        elif previous is not None and previous - inertia <= LLOYD_TOLERANCE * max(previous, 1e-12):
            break
        previous = inertia
    return centroids


def _sum_of_squares(x: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dim=1).square().sum(dtype=torch.float64))


def encode(x: np.ndarray, codebooks: Sequence[np.ndarray], device: str = "cpu") -> np.ndarray:
    """Greedy residual codes, int32 (N, L): at every level the nearest centroid to what is left, ties to the lowest code.

    Rows are scored in chunks of one fixed shape (the last is padded), so an item's codes do not depend on its neighbours.
    """
    books = [torch.from_numpy(np.ascontiguousarray(c, dtype=np.float32)).to(device) for c in codebooks]
    every = torch.cat(
        books
    ).T.contiguous()  # one product scores all levels: 768 columns run a third faster than 3 x 256
    bias = [-0.5 * (c * c).sum(1) for c in books]
    columns = np.cumsum([0, *(len(c) for c in books)])
    # table[l][k]: (K_k, K_l), what level l's products gain when level k chose a row; the first holds level l's bias too
    table = [[-(books[k] @ books[level].T) for k in range(level)] for level in range(len(books))]
    for level in range(1, len(books)):
        table[level][0] += bias[level]
    codes = np.empty((len(x), len(books)), dtype=np.int32)
    source = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))

    def work(starts: Sequence[int]) -> None:
        products = torch.empty(CHUNK, every.shape[1], device=device)
        buffers = [torch.empty(CHUNK, len(c), device=device) for c in books]
        for start in starts:
            block = source[start : start + CHUNK].to(device)
            rows = len(block)
            if rows < CHUNK:
                block = torch.cat([block, block.new_zeros(CHUNK - rows, block.shape[1])])
            torch.mm(block, every, out=products)
            chosen: list[torch.Tensor] = []
            for level, scores in enumerate(buffers):
                own = products[:, columns[level] : columns[level + 1]]
                if level == 0:
                    torch.add(own, bias[0], out=scores)
                for k, code in enumerate(chosen):
                    torch.index_select(table[level][k], 0, code, out=scores)
                    own = torch.add(scores, own, out=scores if k + 1 == level else own)
                chosen.append(_argmax(scores))
                codes[start : start + rows, level] = chosen[-1][:rows].cpu().numpy()

    _share_chunks(len(x), torch.device(device), work)
    return codes


def reconstruct(codes: np.ndarray, codebooks: Sequence[np.ndarray], levels: int | None = None) -> np.ndarray:
    """Sum of the first ``levels`` centroids (all by default): float32 (N, D)."""
    levels = len(codebooks) if levels is None else levels
    out = np.zeros((len(codes), codebooks[0].shape[1]), dtype=np.float32)
    for level in range(levels):
        out += codebooks[level][codes[:, level]]
    return out


def _argmax(scores: torch.Tensor) -> torch.Tensor:
    """Index of the row maximum, lowest on ties. NumPy's SIMD arg-max is 3x torch's on two threads (5 ms against 18 ms)."""
    if scores.device.type == "cpu":
        return torch.from_numpy(scores.numpy().argmax(axis=1))
    return scores.argmax(dim=1)


def _assign(x: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest centroid (n,) and its score ``x.c - |c|^2/2`` (n,), from which the squared error follows."""
    transposed = centroids.T.contiguous()
    bias = -0.5 * (centroids * centroids).sum(1)
    codes = torch.empty(len(x), dtype=torch.int64, device=x.device)
    best = torch.empty(len(x), device=x.device)

    def work(starts: Sequence[int]) -> None:
        buffer = torch.empty(CHUNK, len(centroids), device=x.device)
        for start in starts:
            block = x[start : start + CHUNK]
            scores = torch.addmm(bias, block, transposed, out=buffer[: len(block)])
            code = _argmax(scores)
            codes[start : start + CHUNK] = code
            best[start : start + CHUNK] = scores.gather(1, code[:, None])[:, 0]

    _share_chunks(len(x), x.device, work)
    return codes, best


def _share_chunks(rows: int, device: torch.device, work: Callable[[Sequence[int]], None]) -> None:
    """Deal the chunk starts of ``rows`` out to as many threads as torch has, each running its operators on one thread.

    Threads over chunks instead of threads inside every small product: no barrier per chunk (on a machine with other work
    those cost 3x), the arg-max is shared too, and the bits of a chunk do not depend on how many threads there are.
    """
    starts = range(0, rows, CHUNK)
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        work(starts)
        return
    used = max(1, min(threads, len(starts)))
    try:
        with ThreadPoolExecutor(used, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(work, [starts[turn::used] for turn in range(used)]))
    finally:
        torch.set_num_threads(threads)


def _cluster_sums(x: torch.Tensor, codes: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of rows per cluster (size, D) and counts (size,): rows grouped by a stable radix sort, one bag per cluster.

    Deterministic (each bag is summed in row order), and 4x faster than index_add here.
    """
    counts = torch.bincount(codes, minlength=size)
    if x.device.type == "cpu" and size <= 32_767:
        order = torch.from_numpy(np.argsort(codes.numpy().astype(np.int16), kind="stable"))
    else:
        order = torch.argsort(codes, stable=True)
    starts = torch.cumsum(counts, 0) - counts
    return torch.nn.functional.embedding_bag(order, x, starts, mode="sum"), counts


def _restart(x: torch.Tensor, codes: torch.Tensor, centroids: torch.Tensor, dead: torch.Tensor) -> None:
    """Move each dead centroid (in place) onto the worst-coded row of the cluster with the largest summed error."""
    error = ((x - centroids[codes]) ** 2).sum(1)
    total = torch.zeros(len(centroids), device=x.device).index_add_(0, codes, error)
    for code in dead.tolist():
        cluster = int(total.argmax())
        member = torch.where(codes == cluster, error, error.new_tensor(-1.0))
        row = int(member.argmax())
        if float(error[row]) <= 0.0:  # every row sits on its centroid: nothing left to tell apart
            return
        centroids[code] = x[row]
        total[cluster] -= error[row]
        error[row] = 0.0


def _start(x: torch.Tensor, size: int, rng: np.random.Generator, init: str) -> torch.Tensor:
    if init == "random":
        rows = np.sort(rng.choice(len(x), size, replace=False))
        return x[torch.from_numpy(rows).to(x.device)].clone()
    if init != "kmeans++":
        raise UserError(f"semantic_ids.kmeans.init={init!r}: choose random or kmeans++")
    # D^2 sampling only needs distances to a few percent: a subsample of 32 rows per code, projected to 64 dimensions,
    # gives the spread of the full data at a hundredth of the cost
    rows = np.sort(rng.choice(len(x), min(len(x), START_ROWS * size), replace=False))
    some = x[torch.from_numpy(rows).to(x.device)].cpu()
    if some.shape[1] > START_WIDTH:
        some = some @ torch.from_numpy(rng.standard_normal((some.shape[1], START_WIDTH), dtype=np.float32))
    squares = (some * some).sum(1).numpy()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # each step is far too small to share
    try:
        chosen = [int(rng.integers(len(some)))]
        nearest = np.maximum(
            squares - 2.0 * torch.mv(some, some[chosen[0]]).numpy() + squares[chosen[0]], 0.0
        )
        for _ in range(size - 1):
            total = np.cumsum(nearest, dtype=np.float64)
            draws = np.searchsorted(total, rng.random(START_TRIALS) * total[-1], side="right")
            draws = np.minimum(draws, len(some) - 1)
            products = torch.mm(some[torch.from_numpy(draws)], some.T).numpy()
            distance = np.maximum(squares - 2.0 * products + squares[draws, None], 0.0)
            distance = np.minimum(distance, nearest)
            best = int(distance.sum(axis=1, dtype=np.float64).argmin())
            chosen.append(int(draws[best]))
            nearest = distance[best]
    finally:
        torch.set_num_threads(threads)
    return x[torch.from_numpy(rows[chosen]).to(x.device)].clone()
