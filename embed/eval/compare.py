"""An experiment beside its forks, over seeds: means, deviations, and intervals of the differences.

Runs of one number share their seed, so differences are taken run by run: what a seed does to both falls out.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from scipy import stats

from embed.eval import charts
from embed.eval.draw import escape
from embed.eval.report import Results

LEVEL = 0.95
ALL = "mean"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Results of some runs a column, the first one being what the others are compared with."""

    title: str
    claim: str  # what is expected, in a sentence
    columns: Mapping[str, Sequence[Results]]  # name -> a run's results a seed, seeds in one order
    benchmarks: Sequence[str]  # those that the claim is about
    metric: str = "ndcg@10"
    width: int | None = None  # None: the widest


@dataclasses.dataclass(frozen=True)
class Cell:
    """One benchmark of one column, in percent."""

    mean: float
    deviation: float  # over seeds, with n - 1; nan of one run
    difference: float  # to the first column
    margin: float  # half of the interval of the difference; nan of one run

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return bool(abs(self.difference) > self.margin)


def cells(found: Comparison) -> dict[str, dict[str, Cell]]:
    """Benchmark -> column -> Cell; and `ALL`, the mean over the benchmarks of each run.

    Raises ValueError where columns have not the same number of runs, KeyError where a run lacks a benchmark.
    """
    counts = {name: len(runs) for name, runs in found.columns.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"{found.title}: every column needs the same seeds; there are {counts}")
    values = {name: np.array([_scores(found, run) for run in runs]) for name, runs in found.columns.items()}
    values = {name: np.concatenate([one, one.mean(axis=1, keepdims=True)], axis=1) for name, one in values.items()}
    first = next(iter(values.values()))
    return {
        benchmark: {name: _cell(one[:, i], first[:, i]) for name, one in values.items()}
        for i, benchmark in enumerate([*found.benchmarks, ALL])
    }


def _scores(found: Comparison, run: Results) -> list[float]:
    by_width = ({int(width): row for width, row in run[name].items()} for name in found.benchmarks)
    return [100 * one[found.width or max(one)][found.metric] for one in by_width]


def _cell(values: np.ndarray, first: np.ndarray) -> Cell:
    n, change = len(values), values - first
    if n < 2:
        return Cell(values.mean(), np.nan, change.mean(), np.nan)
    margin = stats.t.ppf((1 + LEVEL) / 2, n - 1) * change.std(ddof=1) / np.sqrt(n)
    return Cell(float(values.mean()), float(values.std(ddof=1)), float(change.mean()), float(margin))


def markdown(found: Comparison) -> str:
    """The claim and a table: means and deviations, then of each fork the difference and its interval's half."""
    first, *forks = found.columns
    heads = [found.metric, *found.columns, *(f"{name} − {first}" for name in forks)]
    lines = [f"**{found.title}.** {found.claim}", "", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for benchmark, row in cells(found).items():
        shown = [_plus_minus(one.mean, one.deviation) for one in row.values()]
        shown += [f"**{_signed(row[name])}**" if row[name].clear else _signed(row[name]) for name in forks]
        lines.append(f"| {benchmark} | " + " | ".join(shown) + " |")
    seeds = len(next(iter(found.columns.values())))
    return "\n".join(
        [*lines, "", f"{seeds} seeds; ± one deviation, of differences {LEVEL:.0%} (bold: zero is outside)."]
    )


def _plus_minus(mean: float, deviation: float) -> str:
    return f"{mean:.1f}" + ("" if np.isnan(deviation) else f" ± {deviation:.1f}")


def _signed(cell: Cell) -> str:
    return f"{cell.difference:+.1f}" + ("" if np.isnan(cell.margin) else f" ± {cell.margin:.1f}")


def section(found: Comparison) -> str:
    """HTML: the claim, a figure of every fork's differences with their intervals, and the table."""
    table, (first, *forks) = cells(found), found.columns
    heads = "".join(f"<th>{escape(name).replace('_', '_<wbr>')}</th>" for name in found.columns)
    rows = []
    for benchmark, row in table.items():
        shown = "".join(f"<td>{_plus_minus(one.mean, one.deviation)}</td>" for one in row.values())
        changes = "".join(f"<td{' class=best' if row[name].clear else ''}>{_signed(row[name])}</td>" for name in forks)
        kind = ' class="all"' if benchmark == ALL else ""
        rows.append(f"<tr{kind}><th>{escape(benchmark)}</th>{shown}{changes}</tr>")
    more = "".join(f"<th>{escape(name).replace('_', '_<wbr>')} − {escape(first)}</th>" for name in forks)
    return (
        f'<h2>{escape(found.title)}</h2><p class="note">{escape(found.claim)}</p>'
        f"{charts.legend(forks)}{figure(table, forks)}"
        f'<div class="scroll"><table><thead><tr><th>{escape(found.metric)}</th>{heads}{more}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def figure(table: Mapping[str, Mapping[str, Cell]], forks: Sequence[str]) -> str:
    """Of every benchmark a line, of every fork its difference to the first column as a dot with its interval."""
    spread = [abs(row[name].difference) + np.nan_to_num(row[name].margin) for row in table.values() for name in forks]
    most = max([*spread, 1e-9])
    step, left, wide = 14 * len(forks) + 8, 210, 400
    height = step * len(table) + 26
    drawn = "".join(_marks(table, forks, step, lambda value: left + wide * (1 + value / most) / 2))
    middle = left + wide / 2
    axis = f'<path style="stroke:currentColor;opacity:.4" d="M{middle} 4V{height - 20}"/>' + "".join(
        f'<text x="{left + wide * (1 + share) / 2}" y="{height - 4}" text-anchor="middle">{share * most:+.1f}</text>'
        for share in (-1, 0, 1)
    )
    return (
        f'<div class="scroll"><svg viewBox="0 0 {left + wide + 20} {height}" role="img" style="min-width:520px" '
        f'aria-label="differences with intervals">{axis}{drawn}</svg></div>'
    )


def _marks(table: Mapping, forks: Sequence[str], step: int, at: Callable[[float], float]) -> Iterator[str]:
    for i, (benchmark, row) in enumerate(table.items()):
        yield f'<text x="200" y="{step * i + step / 2 + 4}" text-anchor="end">{escape(benchmark)}</text>'
        for j, name in enumerate(forks):
            cell, y = row[name], step * i + 14 * j + 11
            low, high = cell.difference - np.nan_to_num(cell.margin), cell.difference + np.nan_to_num(cell.margin)
            yield f'<path style="stroke:{charts.colour(j)};stroke-width:2" d="M{at(low):.1f} {y}H{at(high):.1f}"/>'
            yield f'<circle cx="{at(cell.difference):.1f}" cy="{y}" r="4" style="fill:{charts.colour(j)}"/>'
