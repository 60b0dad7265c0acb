"""What shorter vectors of fewer bits lose: the main metrics at every Matryoshka width in float32, int8 and binary."""

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from embed.eval.benchmarks import MAIN_METRICS, Results
from embed.eval.suite import PreparedBenchmark, Vectors, evaluate
from embed.model.matryoshka import truncate_dim
from embed.retrieval import quantize

QUANTIZERS = {"int8": quantize.to_int8, "binary": quantize.to_binary}


def evaluate_precisions(suite: list[PreparedBenchmark], vectors: Vectors, widths: Sequence[int]) -> Results:
    """Score as `evaluate` does, and add the main metric of truncated and then quantized vectors of both sides.

    Its names are "ndcg@10, int8" and "ndcg@10, binary"; of graded pairs "spearman, int8" and "spearman, binary".
    """
    results: dict[str, dict[int, dict[str, float]]] = {
        name: {width: dict(row) for width, row in by_width.items()}
        for name, by_width in evaluate(suite, vectors, widths).items()
    }
    for bits, quantizer in QUANTIZERS.items():
        for width in widths:
            quantized = [
                (
                    quantizer(truncate_dim(first, width)).astype(np.float32),
                    quantizer(truncate_dim(second, width)).astype(np.float32),
                )
                for first, second in vectors
            ]
            for name, by_width in evaluate(suite, quantized, (width,)).items():
                row = by_width[width]
                results[name][width] |= {f"{metric}, {bits}": row[metric] for metric in MAIN_METRICS if metric in row}
    return results


def format_precisions(columns: Mapping[str, Results]) -> str:
    """Markdown: the mean of each main metric over the benchmarks that have it, in percent, by width and precision."""
    heads = [f"{label}, {bits}" for label in _metrics(columns).values() for bits in ("float32", *QUANTIZERS)]
    lines = [f"| checkpoint | dimensions | {' | '.join(heads)} |", "|---" * (2 + len(heads)) + "|"]
    for name, results in columns.items():
        for width in sorted(set.intersection(*(set(by_width) for by_width in results.values())), reverse=True):
            rows = [by_width[width] for by_width in results.values()]
            cells = [
                _mean(rows, key)
                for metric in _metrics(columns)
                for key in (metric, *(f"{metric}, {bits}" for bits in QUANTIZERS))
            ]
            lines.append(f"| {name} | {width} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _metrics(columns: Mapping[str, Results]) -> dict[str, str]:
    """The main metrics that a result has, and their names in tables."""
    rows = [row for results in columns.values() for by_width in results.values() for row in by_width.values()]
    return {metric: label for metric, label in MAIN_METRICS.items() if any(metric in row for row in rows)}


def _mean(rows: Sequence[Mapping[str, float]], metric: str) -> str:
    values = [row[metric] for row in rows if metric in row]
    return f"{100 * statistics.fmean(values):.1f}" if values else "–"
