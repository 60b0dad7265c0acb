"""Exact search beside FAISS's flat index: queries a second, in turn in one run; and what a short first pass finds.

  pip install faiss-cpu; python -m benchmarks.search [--corpus=1000000] [--width=768] [--queries=1000] [--rounds=3]

Both search the same random unit vectors by dot product on this host, k = 10, and must find the same. FAISS holds the
corpus in memory; here it is a file, of which a chunk is in memory at a time. The Matryoshka pass is tried on vectors
whose numbers fall off as those of a trained embedder do (--falloff), because random ones have nothing in front.
"""

import argparse
import functools
import pathlib
import resource
import statistics
import tempfile
import time
from collections.abc import Callable

import faiss
import jax.numpy as jnp
import numpy as np

from embed.model.matryoshka import truncate_dim
from embed.retrieval.search import top_k, two_stage_top_k

K = 10
BLOCK = 65_536  # rows that are made at a time


def vectors(path: pathlib.Path, count: int, width: int, falloff: float) -> np.ndarray:
    """Random unit vectors in a file, number i of standard deviation (1 + i)^-falloff."""
    out = np.lib.format.open_memmap(path, "w+", np.float32, (count, width))
    rng, scale = np.random.default_rng(0), (1 + np.arange(width, dtype=np.float32)) ** -falloff
    for start in range(0, count, BLOCK):
        rows = out[start : start + BLOCK]
        rows[:] = truncate_dim(rng.standard_normal(rows.shape, np.float32) * scale, width)
    out.flush()
    return np.load(path, mmap_mode="r")


def rate(search: Callable[[], tuple], queries: int) -> tuple[float, np.ndarray]:
    begin = time.perf_counter()
    _, found = search()
    return queries / (time.perf_counter() - begin), found


def memory() -> float:
    """GiB of this process at most, so far; pages of a mapped file count."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def beside_faiss(corpus: np.ndarray, queries: np.ndarray, rounds: int) -> None:
    """In turn; prints medians."""
    searches: dict[str, Callable[[], tuple]] = {
        f"ours, scores in {jnp.dtype(dtype).name}": functools.partial(top_k, queries, corpus, K, dtype)
        for dtype in (jnp.float32, jnp.bfloat16)
    }
    for search in searches.values():
        rate(search, len(queries))  # compiles
    alone, index = memory(), faiss.IndexFlatIP(corpus.shape[1])
    for start in range(0, len(corpus), BLOCK):
        index.add(np.array(corpus[start : start + BLOCK]))
    searches["FAISS flat"] = lambda: index.search(queries, K)
    rates: dict[str, list[float]] = {name: [] for name in searches}
    found = {}
    for _ in range(rounds):
        for name, search in searches.items():
            speed, found[name] = rate(search, len(queries))
            rates[name].append(speed)
    print(f"{len(corpus):,} x {corpus.shape[1]}, {len(queries):,} queries, k = {K}, {rounds} rounds, medians;", end=" ")
    print(f"memory before FAISS {alone:.2f} GiB, the file {corpus.nbytes / 2**30:.2f} GiB\n")
    print("| search | queries/s | ratio to FAISS | same places |\n|---|---|---|---|")
    theirs = statistics.median(rates["FAISS flat"])
    for name, speeds in rates.items():
        same, speed = (found[name] == found["FAISS flat"]).mean(), statistics.median(speeds)
        print(f"| {name} | {speed:.1f} | {speed / theirs:.2f} | {same:.3%} |", flush=True)


def short_beside_whole(corpus: np.ndarray, queries: np.ndarray, keep: int) -> None:
    """Prints a table, a row a width."""
    whole, exact = rate(lambda: top_k(queries, corpus, K), len(queries))
    print(f"\n| first of {corpus.shape[1]} | kept | queries/s | ratio | of the exact ten |\n|---|---|---|---|---|")
    for width in (corpus.shape[1] // 2, corpus.shape[1] // 4, corpus.shape[1] // 8):
        short = np.concatenate([truncate_dim(corpus[i : i + BLOCK], width) for i in range(0, len(corpus), BLOCK)])
        search = functools.partial(two_stage_top_k, queries, corpus, short, K, keep)
        rate(search, len(queries))  # compiles
        speed, found = rate(search, len(queries))
        right = np.mean([len({*a} & {*b}) / K for a, b in zip(found.tolist(), exact.tolist(), strict=True)])
        print(f"| {width} | {keep} | {speed:.1f} | {speed / whole:.2f} | {right:.1%} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("corpus", 1_000_000), ("width", 768), ("queries", 1000), ("rounds", 3), ("keep", 100)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--falloff", type=float, default=0.5)
    given = parser.parse_args()
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((given.queries, given.width), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        corpus = vectors(pathlib.Path(folder) / "even.npy", given.corpus, given.width, 0)
        beside_faiss(corpus, truncate_dim(noise, given.width), given.rounds)
        corpus = vectors(pathlib.Path(folder) / "falling.npy", given.corpus, given.width, given.falloff)
        near = np.array(corpus[rng.integers(given.corpus, size=given.queries)])  # every query is near some item
        noise *= (1 + np.arange(given.width, dtype=np.float32)) ** -given.falloff
        short_beside_whole(corpus, truncate_dim(near + truncate_dim(noise, given.width), given.width), given.keep)


if __name__ == "__main__":
    main()
