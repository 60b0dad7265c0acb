"""The page's section on experiments and their forks: differences with intervals, as figures and tables."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from embed.eval.compare import (
    LEVEL,
    Cell,
    Comparison,
    compute_cells,
    describe,
    format_difference,
    format_mean,
    format_references,
    select_comparable,
)
from embed.report import charts
from embed.report.draw import escape

LABEL_WIDTH, BAR_WIDTH = 184, 200  # of a figure; together they fit a phone
LINE_HEIGHT = 13  # of a fork's bar
CHANGE = "change"


def note(comparisons: Sequence[Comparison]) -> str:
    """A sentence for the heading above `sections`."""
    metric = escape(comparisons[0].metric) if comparisons else "the metric"
    return (
        f"Change of the mean over all tasks by each fork, in points of {metric}. Differences are paired by seed; bars "
        f"are {LEVEL:.0%} intervals."
    )


def sections(comparisons: Sequence[Comparison]) -> str:
    """HTML: the change by every fork in one figure, then each comparison; "" if there is none."""
    if not comparisons:
        return ""
    changes: dict[str, dict[str, Cell]] = {}  # of the last row, the summary
    for comparison in select_comparable(comparisons):
        *_, summary = compute_cells(comparison).values()
        _, *forks = comparison.columns
        changes |= {fork: {CHANGE: summary[fork]} for fork in forks}
    return f'{figure(changes, [CHANGE])}<div class="folds">{"".join(map(section, comparisons))}</div>'


def section(comparison: Comparison) -> str:
    """HTML that unfolds: the claim, a figure of the differences with their intervals, and the table."""
    cells = compute_cells(comparison)
    baseline, *forks = comparison.columns
    references = format_references(comparison)
    heads = "".join(f"<th>{_breakable(name)}</th>" for name in (*comparison.columns, *comparison.references))
    heads += "".join(f"<th>{_breakable(name)} − {_breakable(baseline)}</th>" for name in forks)
    rows = []
    for label, row in cells.items():
        means = "".join(f"<td>{format_mean(cell)}</td>" for cell in row.values())
        means += "".join(f"<td>{score}</td>" for score in references[label])
        changes = "".join(
            f"<td{' class=best' if row[name].significant else ''}>{format_difference(row[name])}</td>" for name in forks
        )
        style = ' class="all"' if label == next(reversed(cells)) else ""
        rows.append(f"<tr{style}><th>{escape(label)}</th>{means}{changes}</tr>")
    return (
        f"<details><summary>{escape(comparison.title)}</summary>"
        f'<p class="note">{escape(describe(comparison))}</p>'
        f"{charts.legend(forks) if len(forks) > 1 else ''}{figure(cells, forks)}"
        f'<div class="scroll"><table><thead><tr><th>{escape(comparison.metric)}</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _breakable(name: str) -> str:
    """A fork without its parent's name, with places where a line may break."""
    return escape(name.rpartition("__")[2]).replace("_", "_<wbr>")


def figure(cells: Mapping[str, Mapping[str, Cell]], forks: Sequence[str]) -> str:
    """One line per row, one dot with its interval per fork: the difference to the first column."""
    ends = [end for row in cells.values() for name in forks for end in _interval(row[name])]
    low = min([*ends, 0])
    high = max([*ends, 0, low + 1e-9])
    step = LINE_HEIGHT * len(forks) + 9
    height = step * len(cells) + 24

    def x_at(value: float) -> float:
        return LABEL_WIDTH + BAR_WIDTH * (value - low) / (high - low)

    axis = f'<path class="grid" d="M{x_at(0):.1f} 4V{height - 20}"/>' + "".join(
        f'<text x="{x_at(tick):.1f}" y="{height - 4}" text-anchor="middle">{tick:+.1f}</text>'
        for tick in sorted({low, 0, high})
        if not tick or abs(x_at(tick) - x_at(0)) > 40
    )
    return (
        f'<figure class="differences"><svg viewBox="0 0 {LABEL_WIDTH + BAR_WIDTH + 30} {height}" role="img" '
        'aria-label="differences with intervals">'
        f"{axis}{''.join(_marks(cells, forks, step, x_at))}</svg></figure>"
    )


def _interval(cell: Cell) -> tuple[float, float]:
    margin = float(np.nan_to_num(cell.margin))
    return cell.difference - margin, cell.difference + margin


def _marks(
    cells: Mapping[str, Mapping[str, Cell]], forks: Sequence[str], step: int, x_at: Callable[[float], float]
) -> Iterator[str]:
    for i, (label, row) in enumerate(cells.items()):
        name = escape(label.rpartition("__")[2])
        yield f'<text x="{LABEL_WIDTH - 12}" y="{step * (i + 0.5) + 4}" text-anchor="end">{name}</text>'
        for j, fork in enumerate(forks):
            y = step * i + LINE_HEIGHT * j + 11
            low, high = _interval(row[fork])
            color = charts.color(j)
            yield f'<path style="stroke:{color};stroke-width:2" d="M{x_at(low):.1f} {y}H{x_at(high):.1f}"/>'
            yield f'<circle cx="{x_at(row[fork].difference):.1f}" cy="{y}" r="4" style="fill:{color}"/>'
