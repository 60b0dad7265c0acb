"""An experiment beside its forks, over seeds: means, deviations, and intervals of the differences.

Runs of one number share their seed, so differences are taken run by run: what a seed does to both falls out.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from scipy import stats

from embed.distributed import storage
from embed.eval.benchmarks import Results
from embed.report import charts
from embed.report.draw import escape

LEVEL = 0.95
CHANGE = "change"
MetricKey = tuple[str, int, str]  # of a value in results: benchmark, Matryoshka width, metric


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Results of some runs a column, the first one being what the others are compared with."""

    title: str
    claim: str  # what is expected, in a sentence; "" where nothing is said
    columns: Mapping[str, Sequence[Results]]  # name -> a run's results a seed, seeds in one order
    rows: Mapping[str, Sequence[MetricKey]]  # name -> the values whose mean it shows; the last row sums the others up
    metric: str = "nDCG@10"
    spreads: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)  # name -> rows it is the spread of
    over: str = "seed"  # what a column has a run of each of


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


def parse_docstring(docstring: str | None) -> tuple[str, str]:
    """An experiment's question, the first line of its docstring, and its claim, the line that begins with
    "Hypothesis: "; "" where there is none."""
    lines = (docstring or "").strip().splitlines()
    claim = next((line.removeprefix("Hypothesis: ") for line in lines if line.startswith("Hypothesis: ")), "")
    return (lines or [""])[0], claim


def read_results(columns: Mapping[str, Sequence[storage.Path]]) -> dict[str, list[Results]]:
    """Results of the seeds (or experiments) that every column has a file of; each is what an evaluation has written."""
    names, seeds = list(columns), list(zip(*columns.values(), strict=True))
    whole = [[_results(file) for file in files] for files in seeds if all(file.exists() for file in files)]
    return {name: [row[i] for row in whole] for i, name in enumerate(names)}


def _results(file: storage.Path) -> Results:
    found = json.loads(file.read_text())  # JSON makes strings of the widths
    return {name: {int(width): row for width, row in by_width.items()} for name, by_width in found.items()}


def compute_cells(found: Comparison) -> dict[str, dict[str, Cell]]:
    """Row -> column -> Cell; spreads, the deviation over their rows (n - 1) run by run, stand before the last row.

    Raises ValueError where columns have not the same number of runs, KeyError where a run lacks a value.
    """
    counts = {name: len(runs) for name, runs in found.columns.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"{found.title}: every column needs the same seeds; there are {counts}")
    values = {
        label: {name: np.array([_mean(run, places) for run in runs]) for name, runs in found.columns.items()}
        for label, places in found.rows.items()
    }
    last, total = values.popitem()
    spreads = {
        label: {name: np.std([values[row][name] for row in apart], axis=0, ddof=1) for name in found.columns}
        for label, apart in found.spreads.items()
    }
    return {
        label: {name: _cell(one, next(iter(row.values()))) for name, one in row.items()}
        for label, row in (values | spreads | {last: total}).items()
    }


def _mean(run: Results, places: Sequence[MetricKey]) -> float:
    return 100 * float(np.mean([run[name][width][metric] for name, width, metric in places]))


def _cell(values: np.ndarray, first: np.ndarray) -> Cell:
    n, change = len(values), values - first
    if n < 2:
        return Cell(values.mean(), np.nan, change.mean(), np.nan)
    margin = stats.t.ppf((1 + LEVEL) / 2, n - 1) * change.std(ddof=1) / np.sqrt(n)
    return Cell(float(values.mean()), float(values.std(ddof=1)), float(change.mean()), float(margin))


def comparable(found: Sequence[Comparison]) -> list[Comparison]:
    """Those whose tables have the rows of the first one's, and runs of the same, so that one table can show all."""
    return [one for one in found if (one.rows, one.over) == (found[0].rows, found[0].over)]


def overview(found: Sequence[Comparison]) -> str:
    """Markdown of those alike, transposed: a parent's means, then what each of its forks changes, a line each."""
    lines: dict[str, str] = {}
    for one in comparable(found):
        table, (first, *forks) = compute_cells(one), one.columns
        lines[first] = f"| {first} | " + " | ".join(
            _plus_minus(row[first].mean, row[first].deviation) for row in table.values()
        )
        for name in forks:
            shown = (f"**{_signed(row[name])}**" if row[name].clear else _signed(row[name]) for row in table.values())
            lines[name] = f"| {name} − {first} | " + " | ".join(shown)
    count = len(next(iter(found[0].columns.values()))) if found else 0
    heads = [f"{found[0].metric}, {found[0].over}s: {count}", *found[0].rows] if found else []
    return "\n".join([f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"{line} |" for line in lines.values())])


def sections(found: Sequence[Comparison]) -> str:
    """HTML: what all forks did at a glance, then each; nothing where there are none."""
    if not found:
        return ""
    changes = {  # in the last row of a table, which sums it up
        fork: {CHANGE: cell}
        for one in comparable(found)
        for fork, cell in list(list(compute_cells(one).values())[-1].items())[1:]
    }
    return (
        '<h2>Experiments and their forks</h2><p class="note">What a fork changes in the mean over all tasks, in points '
        f"of {escape(found[0].metric)}: differences are taken seed by seed, bars are {LEVEL:.0%} intervals.</p>"
        f"{figure(changes, [CHANGE])}{''.join(map(section, found))}"
    )


def markdown(found: Comparison) -> str:
    """The claim and a table: means and deviations, then of each fork the difference and its interval's half."""
    first, *forks = found.columns
    heads = [found.metric, *found.columns, *(f"{name} − {first}" for name in forks)]
    lines = [f"**{found.title}** {_claim(found)}", "", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for label, row in compute_cells(found).items():
        shown = [_plus_minus(one.mean, one.deviation) for one in row.values()]
        shown += [f"**{_signed(row[name])}**" if row[name].clear else _signed(row[name]) for name in forks]
        lines.append(f"| {label} | " + " | ".join(shown) + " |")
    return "\n".join([*lines, "", f"± one deviation, of differences {LEVEL:.0%} (bold: zero is outside)."])


def _claim(found: Comparison) -> str:
    count = len(next(iter(found.columns.values())))
    claim = [f"Hypothesis: {found.claim}"] if found.claim else []
    return " ".join([*claim, f"{count} {found.over}{'s' if count > 1 else ''}."])


def _plus_minus(mean: float, deviation: float) -> str:
    return f"{mean:.1f}" + ("" if np.isnan(deviation) else f" ± {deviation:.1f}")


def _signed(cell: Cell) -> str:
    return f"{cell.difference:+.1f}" + ("" if np.isnan(cell.margin) else f" ± {cell.margin:.1f}")


def section(found: Comparison) -> str:
    """HTML that unfolds: the claim, a figure of every fork's differences with their intervals, and the table."""
    table, (first, *forks) = compute_cells(found), found.columns
    heads = "".join(f"<th>{_short(name)}</th>" for name in found.columns)
    heads += "".join(f"<th>{_short(name)} − {_short(first)}</th>" for name in forks)
    rows = []
    for label, row in table.items():
        shown = "".join(f"<td>{_plus_minus(one.mean, one.deviation)}</td>" for one in row.values())
        changes = "".join(f"<td{' class=best' if row[name].clear else ''}>{_signed(row[name])}</td>" for name in forks)
        kind = ' class="all"' if label == next(reversed(table)) else ""
        rows.append(f"<tr{kind}><th>{escape(label)}</th>{shown}{changes}</tr>")
    return (
        f"<details><summary>{escape(found.title)}</summary>"
        f'<p class="note">{escape(_claim(found))}</p>'
        f"{charts.legend(forks) if len(forks) > 1 else ''}{figure(table, forks)}"
        f'<div class="scroll"><table><thead><tr><th>{escape(found.metric)}</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _short(name: str) -> str:
    """A fork without its parent's name, with places where a line may break."""
    return escape(name.rpartition("__")[2]).replace("_", "_<wbr>")


LEFT, WIDE = 184, 200  # of a figure: room for labels, and for the bars; a phone shows both


def figure(table: Mapping[str, Mapping[str, Cell]], forks: Sequence[str]) -> str:
    """Of every row a line, of every fork its difference to the first column as a dot with its interval."""
    ends = [end for row in table.values() for name in forks for end in _ends(row[name])]
    low, high = min([*ends, 0]), max([*ends, 0, min([*ends, 0]) + 1e-9])
    step = 13 * len(forks) + 9
    height = step * len(table) + 24

    def at(value: float) -> float:
        return LEFT + WIDE * (value - low) / (high - low)

    ticks = sorted({low, 0, high})
    axis = f'<path class="grid" d="M{at(0):.1f} 4V{height - 20}"/>' + "".join(
        f'<text x="{at(tick):.1f}" y="{height - 4}" text-anchor="middle">{tick:+.1f}</text>'
        for tick in ticks
        if not tick or abs(at(tick) - at(0)) > 40
    )
    return (
        f'<figure class="differences"><svg viewBox="0 0 {LEFT + WIDE + 30} {height}" role="img" '
        'aria-label="differences with intervals">'
        f"{axis}{''.join(_marks(table, forks, step, at))}</svg></figure>"
    )


def _ends(cell: Cell) -> tuple[float, float]:
    margin = float(np.nan_to_num(cell.margin))
    return cell.difference - margin, cell.difference + margin


def _marks(
    table: Mapping[str, Mapping[str, Cell]], forks: Sequence[str], step: int, at: Callable[[float], float]
) -> Iterator[str]:
    for i, (label, row) in enumerate(table.items()):
        shown = escape(label.rpartition("__")[2])
        yield f'<text x="{LEFT - 12}" y="{step * (i + 0.5) + 4}" text-anchor="end">{shown}</text>'
        for j, name in enumerate(forks):
            y, (low, high) = step * i + 13 * j + 11, _ends(row[name])
            colour = charts.color(j)
            yield f'<path style="stroke:{colour};stroke-width:2" d="M{at(low):.1f} {y}H{at(high):.1f}"/>'
            yield f'<circle cx="{at(row[name].difference):.1f}" cy="{y}" r="4" style="fill:{colour}"/>'
