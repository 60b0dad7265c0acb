"""Speed of exact search beside FAISS's flat index, and recall of a first pass over truncated vectors.

  pip install faiss-cpu; python -m benchmarks.search [--corpus=1000000] [--width=768] [--queries=1000] [--rounds=3]

Both search the same random unit vectors by dot product on this host, k = 10, in turn, and must agree. FAISS holds the
corpus in memory; embed reads it from a file, one chunk at a time. The truncated pass runs on vectors whose dimensions
decay as a trained embedder's do (--falloff), because in random ones all dimensions matter equally.
"""

import argparse
import functools
import pathlib
import resource
import statistics
import tempfile
import time
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from embed.model.matryoshka import truncate_dim
from embed.retrieval.search import top_k, two_stage_top_k

K = 10
BLOCK_ROWS = 65_536  # made at a time


def make_vectors(path: pathlib.Path, count: int, width: int, falloff: float) -> np.ndarray:
    """Write random unit vectors to a file; dimension i has the standard deviation (1 + i)^-falloff."""
    out = np.lib.format.open_memmap(path, "w+", np.float32, (count, width))
    rng, scale = np.random.default_rng(0), (1 + np.arange(width, dtype=np.float32)) ** -falloff
    for start in range(0, count, BLOCK_ROWS):
        rows = out[start : start + BLOCK_ROWS]
        rows[:] = truncate_dim(rng.standard_normal(rows.shape, np.float32) * scale, width)
    out.flush()
    return np.load(path, mmap_mode="r")


def measure_rate(search: Callable[[], tuple], queries: int) -> tuple[float, np.ndarray]:
    begin = time.perf_counter()
    _, indices = search()
    return queries / (time.perf_counter() - begin), indices


def peak_gib() -> float:
    """Return the peak memory of this process so far; pages of a mapped file count."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def compare_with_faiss(corpus: np.ndarray, queries: np.ndarray, rounds: int) -> None:
    """Search in turn; print medians."""
    import faiss

    searches: dict[str, Callable[[], tuple]] = {
        f"ours, scores in {jnp.dtype(dtype).name}": functools.partial(top_k, queries, corpus, K, dtype)
        for dtype in (jnp.float32, jnp.bfloat16)
    }
    for search in searches.values():
        measure_rate(search, len(queries))  # compiles
    alone, index = peak_gib(), faiss.IndexFlatIP(corpus.shape[1])
    for start in range(0, len(corpus), BLOCK_ROWS):
        index.add(np.array(corpus[start : start + BLOCK_ROWS]))
    searches["FAISS flat"] = lambda: index.search(queries, K)
    rates: dict[str, list[float]] = {name: [] for name in searches}
    indices = {}
    for _ in range(rounds):
        for name, search in searches.items():
            speed, indices[name] = measure_rate(search, len(queries))
            rates[name].append(speed)
    print(f"{len(corpus):,} x {corpus.shape[1]}, {len(queries):,} queries, k = {K}, {rounds} rounds, medians;", end=" ")
    print(f"memory before FAISS {alone:.2f} GiB, the file {corpus.nbytes / 2**30:.2f} GiB\n")
    print("| search | queries/s | ratio to FAISS | same results |\n|---|---|---|---|")
    theirs = statistics.median(rates["FAISS flat"])
    for name, speeds in rates.items():
        same, speed = (indices[name] == indices["FAISS flat"]).mean(), statistics.median(speeds)
        print(f"| {name} | {speed:.1f} | {speed / theirs:.2f} | {same:.3%} |", flush=True)


def compare_truncated(corpus: np.ndarray, queries: np.ndarray, keep: int) -> None:
    """Print a table, one row per width."""
    full_rate, exact = measure_rate(lambda: top_k(queries, corpus, K), len(queries))
    print(f"\n| first of {corpus.shape[1]} | kept | queries/s | ratio | of the exact ten |\n|---|---|---|---|---|")
    for width in (corpus.shape[1] // 2, corpus.shape[1] // 4, corpus.shape[1] // 8):
        short = np.concatenate(
            [truncate_dim(corpus[i : i + BLOCK_ROWS], width) for i in range(0, len(corpus), BLOCK_ROWS)]
        )
        search = functools.partial(two_stage_top_k, queries, corpus, short, K, keep)
        measure_rate(search, len(queries))  # compiles
        speed, indices = measure_rate(search, len(queries))
        right = np.mean([len({*a} & {*b}) / K for a, b in zip(indices.tolist(), exact.tolist(), strict=True)])
        print(f"| {width} | {keep} | {speed:.1f} | {speed / full_rate:.2f} | {right:.1%} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=int, default=1_000_000, help="vectors in the corpus (default: %(default)s)")
    parser.add_argument("--width", type=int, default=768, help="dimensions (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=1000, help="queries per search (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, whose median is printed (default: %(default)s)")
    parser.add_argument("--keep", type=int, default=100, help="candidates of the truncated pass (default: %(default)s)")
    falloff = "exponent by which the dimensions' size decays (default: %(default)s)"
    parser.add_argument("--falloff", type=float, default=0.5, help=falloff)
    args = parser.parse_args()
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((args.queries, args.width), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        corpus = make_vectors(pathlib.Path(folder) / "even.npy", args.corpus, args.width, 0)
        compare_with_faiss(corpus, truncate_dim(noise, args.width), args.rounds)
        corpus = make_vectors(pathlib.Path(folder) / "falling.npy", args.corpus, args.width, args.falloff)
        near = np.array(corpus[rng.integers(args.corpus, size=args.queries)])  # every query is near some item
        noise *= (1 + np.arange(args.width, dtype=np.float32)) ** -args.falloff
        compare_truncated(corpus, truncate_dim(near + truncate_dim(noise, args.width), args.width), args.keep)


if __name__ == "__main__":
    main()
