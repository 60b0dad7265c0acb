"""Compare checkpoints: one against others, or an experiment against its forks over several seeds.

Replicates with the same seed are paired: differences are taken replicate by replicate, so the seed's effect cancels.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import stats

from embed.distributed import storage
from embed.eval.benchmarks import MAIN_METRICS, Results, select_metric

LEVEL = 0.95
MetricKey = tuple[str, int, str]  # of a value in results: benchmark, Matryoshka width, metric


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Results of several replicates per column. The first column is the baseline."""

    title: str
    claim: str  # the expectation in one sentence; "" if there is none
    columns: Mapping[str, Sequence[Results]]  # name -> results per replicate, in the same order in every column
    rows: Mapping[str, Sequence[MetricKey]]  # name -> values that the row averages; the last row is the summary
    metric: str = "nDCG@10"
    spreads: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)  # name -> rows of its deviation
    replicates: str = "seed"  # what differs between the results of a column: a seed, an experiment
    references: Mapping[str, Results] = dataclasses.field(default_factory=dict)  # models scored once, at one width


@dataclasses.dataclass(frozen=True)
class Cell:
    """One row of one column, in percent."""

    mean: float
    deviation: float  # over replicates, with n - 1; nan for one replicate
    difference: float  # to the first column
    margin: float  # half the width of the difference's interval; nan for one replicate

    @property
    def significant(self) -> bool:
        """Whether the interval of the difference excludes zero."""
        return bool(abs(self.difference) > self.margin)


def parse_docstring(docstring: str | None) -> tuple[str, str]:
    """Returns an experiment's question, the first line, and its claim, the line that begins with "Hypothesis: "; "" if
    there is none."""
    lines = (docstring or "").strip().splitlines()
    claim = next((line.removeprefix("Hypothesis: ") for line in lines if line.startswith("Hypothesis: ")), "")
    return (lines or [""])[0], claim


def read_results(columns: Mapping[str, Sequence[storage.Path]]) -> dict[str, list[Results]]:
    """Reads the results.json files of the replicates for which every column has one."""
    replicates = [files for files in zip(*columns.values(), strict=True) if all(file.exists() for file in files)]
    return {name: [load_results(files[i]) for files in replicates] for i, name in enumerate(columns)}


def load_results(file: storage.Path) -> Results:
    """Reads one results.json: benchmark -> width -> metric -> value."""
    results = json.loads(file.read_text())  # JSON has strings for widths
    return {name: {int(width): row for width, row in by_width.items()} for name, by_width in results.items()}


def compute_cells(comparison: Comparison) -> dict[str, dict[str, Cell]]:
    """Compute row -> column -> Cell.

    A spread is the deviation over its rows (n - 1) in each replicate; spreads stand before the last row.

    Raises ValueError where columns differ in their number of replicates, KeyError where a value is missing.
    """
    counts = {name: len(replicates) for name, replicates in comparison.columns.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"{comparison.title}: every column needs the same seeds; there are {counts}")
    values = {
        label: {
            name: np.array([_mean_percent(results, keys) for results in replicates])
            for name, replicates in comparison.columns.items()
        }
        for label, keys in comparison.rows.items()
    }
    summary_label, summary = values.popitem()
    spreads = {
        label: {name: np.std([values[row][name] for row in rows], axis=0, ddof=1) for name in comparison.columns}
        for label, rows in comparison.spreads.items()
    }
    return {
        label: {name: _compare_to(next(iter(row.values())), column) for name, column in row.items()}
        for label, row in (values | spreads | {summary_label: summary}).items()
    }


def format_references(comparison: Comparison) -> dict[str, list[str]]:
    """Format row -> the score of each reference, in percent.

    A dash where a reference lacks a benchmark, and in rows of shorter or quantized vectors and of spreads.
    """
    first = next(iter(comparison.columns.values()))[0]

    def score(results: Results, keys: Sequence[MetricKey]) -> float | None:
        values = []
        for name, width, metric in keys:
            row = results[name][max(results[name])] if results.get(name) else {}
            if width != max(first[name]) or metric not in row:
                return None
            values.append(row[metric])
        return 100 * float(np.mean(values))

    scores = {
        label: [score(results, keys) for results in comparison.references.values()]
        for label, keys in comparison.rows.items()
    }
    missing = ["–"] * len(comparison.references)
    return {
        **dict.fromkeys(comparison.spreads, missing),
        **{label: ["–" if value is None else f"{value:.1f}" for value in row] for label, row in scores.items()},
    }


def _mean_percent(results: Results, keys: Sequence[MetricKey]) -> float:
    return 100 * float(np.mean([results[name][width][metric] for name, width, metric in keys]))


def _compare_to(baseline: np.ndarray, values: np.ndarray) -> Cell:
    n = len(values)
    change = values - baseline
    if n < 2:
        return Cell(values.mean(), np.nan, change.mean(), np.nan)
    margin = stats.t.ppf((1 + LEVEL) / 2, n - 1) * change.std(ddof=1) / np.sqrt(n)
    return Cell(float(values.mean()), float(values.std(ddof=1)), float(change.mean()), float(margin))


def select_comparable(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Returns those that share the first one's rows and replicates, so that one table can hold them."""
    first = comparisons[0]
    return [other for other in comparisons if (other.rows, other.replicates) == (first.rows, first.replicates)]


def format_overview(comparisons: Sequence[Comparison]) -> str:
    """Markdown, one line per column of the comparable ones: a parent's means, then the changes by each fork."""
    lines: dict[str, str] = {}
    for comparison in select_comparable(comparisons) if comparisons else ():
        cells = compute_cells(comparison)
        baseline, *forks = comparison.columns
        means = [format_mean(row[baseline]) for row in cells.values()]
        lines[baseline] = _markdown_row([baseline, *means])
        for name in forks:
            changes = [format_difference(row[name], bold=True) for row in cells.values()]
            lines[name] = _markdown_row([f"{name} − {baseline}", *changes])
    first = comparisons[0] if comparisons else None
    count = len(next(iter(first.columns.values()))) if first else 0
    heads = [f"{first.metric}, {first.replicates}s: {count}", *first.rows] if first else []
    return "\n".join([_markdown_row(heads), "|---" * len(heads) + "|", *lines.values()])


def format_markdown(comparison: Comparison) -> str:
    """Markdown: the claim, then means and deviations, the scores of references, then each fork's difference and the
    margin of its interval."""
    baseline, *forks = comparison.columns
    differences = [f"{name} − {baseline}" for name in forks]
    heads = [comparison.metric, *comparison.columns, *comparison.references, *differences]
    references = format_references(comparison)
    lines = [f"**{comparison.title}** {describe(comparison)}", "", _markdown_row(heads), "|---" * len(heads) + "|"]
    for label, row in compute_cells(comparison).items():
        means = [format_mean(cell) for cell in row.values()]
        changes = [format_difference(row[name], bold=True) for name in forks]
        lines.append(_markdown_row([label, *means, *references[label], *changes]))
    return "\n".join([*lines, "", f"± one deviation; of differences, the {LEVEL:.0%} interval (bold: excludes zero)."])


def format_comparison(results_by_name: Mapping[str, Results]) -> str:
    """Markdown: nDCG@10 at full width of several checkpoints, and each one's difference to the first, in percent.

    The last row is the mean over the benchmarks on which all were scored. Graded pairs have a table of their own, of
    Spearman's correlation.
    """
    tables = []
    for metric, heading in MAIN_METRICS.items():
        scores = {name: select_metric(results, metric) for name, results in results_by_name.items()}
        if any(scores.values()):
            tables.append(_format_scores(heading, scores))
    return "\n\n".join(tables)


def _format_scores(heading: str, scores: Mapping[str, Mapping[str, float]]) -> str:
    baseline, *others = scores
    heads = [heading, *scores, *(f"{name} − {baseline}" for name in others)]
    benchmarks = dict.fromkeys(benchmark for row in scores.values() for benchmark in row)
    shared = [benchmark for benchmark in benchmarks if all(benchmark in row for row in scores.values())]
    table = {benchmark: [row.get(benchmark) for row in scores.values()] for benchmark in benchmarks}
    if shared:
        table["mean"] = [float(np.mean([row[benchmark] for benchmark in shared])) for row in scores.values()]
    lines = [_markdown_row(heads), "|---" * len(heads) + "|"]
    for label, (first, *rest) in table.items():
        changes = ["–" if first is None or score is None else f"{100 * (score - first):+.1f}" for score in rest]
        values = ["–" if score is None else f"{100 * score:.1f}" for score in (first, *rest)]
        lines.append(_markdown_row([label, *values, *changes]))
    return "\n".join(lines)


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def describe(comparison: Comparison) -> str:
    """The claim, and over how many replicates the means are."""
    count = len(next(iter(comparison.columns.values())))
    claim = [f"Hypothesis: {comparison.claim}"] if comparison.claim else []
    return " ".join([*claim, f"{count} {comparison.replicates}{'s' if count > 1 else ''}."])


def format_mean(cell: Cell) -> str:
    """The mean and its deviation over replicates."""
    return f"{cell.mean:.1f}" + ("" if np.isnan(cell.deviation) else f" ± {cell.deviation:.1f}")


def format_difference(cell: Cell, bold: bool = False) -> str:
    """The difference and its margin; `bold` sets significant ones in Markdown's bold."""
    text = f"{cell.difference:+.1f}" + ("" if np.isnan(cell.margin) else f" ± {cell.margin:.1f}")
    return f"**{text}**" if bold and cell.significant else text
