"""Does the vector of an interleaved input know the order of its parts? A benchmark that mteb cannot express.

Hypothesis: without training for it, the order is a guess (50 %); a few minutes of training teach it.

    python -m experiments.studies.order --checkpoint=runs/soup_greedy

Texts such as "a red star, then a blue ring" search for [image, "then", image] among all sequences in both orders.
"""

import json

import numpy as np
from ml_collections import ConfigDict

from embed.batch import Candidates
from embed.data.budget import Budget
from embed.data.records import content_hash, to_bytes
from embed.data.sources import open_split, read_records
from embed.data.tasks import Task
from embed.data.writing import write_shards
from embed.distributed import hosts, storage
from embed.embedder import Embedder
from embed.eval import compare
from embed.eval import suite as suites
from embed.eval.benchmarks import Benchmark, Results, from_pairs
from embed.model.matryoshka import truncate_dim
from embed.toy_corpora import sequences
from embed.training.config_check import require_checkpoint, trusted_classes
from embed.training.main import run_script
from experiments.studies.arms import CHECKPOINT_FLAG, SEEDS, train_arm, write_results

NAME = "order"
STEPS = 200
TWO_IMAGES = Budget(52, images=2, patches=16)
TASK = Task("sequences", 32, 1.0, Budget(48), TWO_IMAGES, negatives=1, candidates=Candidates(symmetric=True))


def order_accuracy(benchmark: Benchmark, queries: np.ndarray, corpus: np.ndarray) -> float:
    """Return the share of queries f32[q,e] that are nearer to their answer than to the same parts in reverse order.

    Both are rows of corpus f32[n,e]; ties count half. Raises KeyError where the reverse order is not in the corpus.
    """
    index = {content_hash(content).tobytes(): i for i, content in enumerate(benchmark.corpus)}
    right = [next(iter(grades)) for grades in benchmark.relevance]
    wrong = [index[content_hash(benchmark.corpus[i][::-1]).tobytes()] for i in right]
    width = corpus.shape[1]
    queries, corpus = truncate_dim(queries, width), truncate_dim(corpus, width)
    margin = np.sum(queries * (corpus[right] - corpus[wrong]), axis=1)
    return float(np.mean((margin > 0) + 0.5 * (margin == 0)))


def score_order(embedder: Embedder, params: dict, suite: list[suites.PreparedBenchmark]) -> Results:
    """Score text to sequence: what `evaluate` returns, and at the full width the metric `order`."""
    benchmark, *_ = suite[0]
    vectors, *_ = suites.encode_suite(embedder, params, suite)
    results = suites.evaluate(suite[:1], [vectors], embedder.encoder.arch.matryoshka_dims)
    by_width = results[benchmark.name]
    by_width[max(by_width)]["order"] = order_accuracy(benchmark, *vectors)
    return results


def build_sequences(folder: storage.Path) -> None:
    """Write the sequences' train and test splits under `folder`, unless they are there."""
    with hosts.primary_first("sequences"):
        if not (folder / "manifest.json").exists():
            for split in ("train", "test"):
                write_shards(folder / TASK.name, split, map(to_bytes, sequences.sequence_records(split)))
            (folder / "manifest.json").write_text(json.dumps({"task": "interleaved"}))


def compare_arms(work: storage.Path) -> list[compare.Comparison]:
    """Compare before and after training for the order, over the seeds that have results."""
    root = work / NAME
    files = {"before": [root / "before.json"] * len(SEEDS), "after": [root / str(s) / "results.json" for s in SEEDS]}
    columns = compare.read_results(files)
    if not columns["after"]:
        return []
    ((name, by_width),) = columns["after"][0].items()
    rows = {metric: [(name, max(by_width), metric)] for metric in ("hit@1", "ndcg@10", "order")}
    return [compare.Comparison(*compare.parse_docstring(__doc__), columns, rows, "percent")]


def main(config: ConfigDict, checkpoint: str = "") -> None:
    start, root = require_checkpoint(checkpoint, config.workdir), storage.path(config.workdir) / NAME
    data = root / "data"
    build_sequences(data)
    embedder = Embedder.load(start, trust=trusted_classes(config))
    records = read_records(open_split(data / TASK.name, "test"))
    suite = list(suites.prepare_benchmark(embedder, *from_pairs(NAME, records)))
    write_results(root / "before.json", score_order(embedder, embedder.params, suite))
    for seed in SEEDS:
        folder = root / str(seed)
        train_arm(config, embedder, [TASK], data, folder, start=start, steps=STEPS, seed=seed)
        write_results(folder / "results.json", score_order(embedder, embedder.load_params(folder), suite))
    if hosts.is_primary():
        print("\n\n".join(map(compare.format_markdown, compare_arms(storage.path(config.workdir)))))


if __name__ == "__main__":
    run_script(main, checkpoint=CHECKPOINT_FLAG)
