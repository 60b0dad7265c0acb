"""The page's sections, each a function from plain results to HTML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from embed.data.modalities import Text
from embed.eval.benchmarks import Benchmark, Results
from embed.report import charts, draw
from embed.report.draw import escape

if TYPE_CHECKING:  # report imports this file
    from embed.report.page import Curves, Example, Result

# Metric -> its heading, the chance that stands beside it, and what it says.
METRICS = {
    "hit@1": ("R@1", "chance@1", "Share of queries with a right item in first place; over few labels, accuracy."),
    "hit@10": ("R@10", "chance@10", "Share of queries with a right item among the first ten."),
    "ndcg@10": ("nDCG@10", None, "How high all right items stand among the first ten; 100 is a perfect order."),
    "mrr@10": ("MRR@10", None, "One over the place of the first right item, where that is among the first ten."),
}
MODALITIES = ("text", "code", "image", "video", "audio", "document")


def header(facts: Mapping[str, str], benchmarks: Sequence[Benchmark]) -> str:
    """Title, picture, and the run's facts."""
    entries = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in facts.items()
    )
    return (
        '<header class="hero"><div><div class="top"><div><h1>One encoder,<br>one vector space</h1>'
        '<p class="lead">Text, code, images, video, audio, document pages, and any mixture of them, searched among '
        f"held-out items it never saw in training: {len(benchmarks)} tasks and directions.</p></div>{_emblem()}</div>"
        f'<dl class="facts">{entries}</dl></div></header>'
    )


def _emblem() -> str:
    """Six modalities, one point."""
    drawn = []
    for i, name in enumerate(MODALITIES):
        y = 18 + 30 * i
        drawn.append(f'<text x="66" y="{y + 4}" text-anchor="end">{name}</text>')
        drawn.append(f'<path style="stroke:{charts.color(i)}" d="M76 {y}C190 {y} 200 93 318 93"/>')
    dot = f'<circle cx="326" cy="93" r="9" style="fill:{charts.color(0)}"/>'
    return f'<svg viewBox="0 0 350 186" role="img" aria-label="six modalities, one space">{"".join(drawn)}{dot}</svg>'


def table(columns: Mapping[str, Results], benchmarks: Sequence[Benchmark]) -> str:
    """One table a metric, chosen by tabs that need no script."""
    known = {metric for results in columns.values() for name in results for metric in _widest(results, name) or ()}
    shown = [metric for metric in METRICS if metric in known]
    rules = "".join(f"#tab{i}:checked~#panel{i}{{display:block}}" for i in range(len(shown)))
    tabs = "".join(
        f'<input type="radio" name="metric" id="tab{i}"{" checked" if i == 0 else ""}>'
        f'<label for="tab{i}">{METRICS[m][0]}</label>'
        for i, m in enumerate(shown)
    )
    panels = "".join(
        f'<div class="tab" id="panel{i}"><p class="note">{METRICS[m][2]} In percent, at full width, best in bold.</p>'
        f"{_panel(m, columns, benchmarks)}</div>"
        for i, m in enumerate(shown)
    )
    return f'<h2 id="results">What each stage brings</h2><style>{rules}</style><div class="tabs">{tabs}{panels}</div>'


def _panel(metric: str, columns: Mapping[str, Results], benchmarks: Sequence[Benchmark]) -> str:
    _, chance, _ = METRICS[metric]
    heads = "".join(f"<th>{escape(name).replace('_', '_<wbr>')}</th>" for name in columns)  # may break the line there
    extra = '<th class="faint">chance</th><th class="faint">best ÷ chance</th>' if chance else ""
    rows = [f"<thead><tr><th>task</th>{heads}{extra}</tr></thead><tbody>"]
    for kind, group in _by_kind(benchmarks):
        means = "".join(f"<td>{_percent(mean)}</td>" for mean in _means(metric, columns, group))
        rows.append(f'<tr class="group"><th>{escape(kind)}</th>{means}{"<td></td><td></td>" if chance else ""}</tr>')
        rows += [_row(metric, chance, columns, benchmark) for benchmark in group]
    means = "".join(f"<td>{_percent(mean)}</td>" for mean in _means(metric, columns, benchmarks))
    rows.append(f'<tr class="all"><th>mean of all</th>{means}{"<td></td><td></td>" if chance else ""}</tr></tbody>')
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>'


def _row(metric: str, chance: str | None, columns: Mapping[str, Results], benchmark: Benchmark) -> str:
    values = [_value(results, benchmark.name, metric) for results in columns.values()]
    rounded = [round(100 * value, 1) for value in values if value is not None]
    cells = []
    for value in values:
        best = value is not None and len(rounded) > 1 and round(100 * value, 1) == max(rounded)
        heat = f' style="--v:{value:.3f}"' if value is not None else ""
        cells.append(f'<td class="score{" best" if best else ""}"{heat}>{_percent(value)}</td>')
    at_random = ""
    if chance:
        level = benchmark.chance(int(chance.split("@")[1]))
        times = f"{max(rounded) / 100 / level:,.0f}×" if rounded and level else "–"
        at_random = f'<td class="faint">{100 * level:.2g}</td><td class="faint">{times}</td>'
    size = f"{len(benchmark.queries):,} queries · {len(benchmark.corpus):,} candidates"
    return f"<tr><th>{escape(benchmark.name)}<small>{size}</small></th>{''.join(cells)}{at_random}</tr>"


def _widest(results: Results, name: str) -> Mapping[str, float] | None:
    return results[name][max(results[name])] if results.get(name) else None


def _value(results: Results, name: str, metric: str) -> float | None:
    return (_widest(results, name) or {}).get(metric)


def _means(metric: str, columns: Mapping[str, Results], benchmarks: Sequence[Benchmark]) -> list[float | None]:
    """Of every column; none where a benchmark is missing, which would compare different sets."""
    means: list[float | None] = []
    for results in columns.values():
        values = [value for b in benchmarks if (value := _value(results, b.name, metric)) is not None]
        means.append(float(np.mean(values)) if values and len(values) == len(benchmarks) else None)
    return means


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _by_kind(benchmarks: Sequence[Benchmark]) -> Iterator[tuple[str, list[Benchmark]]]:
    for kind in dict.fromkeys(benchmark.group for benchmark in benchmarks):
        yield kind, [benchmark for benchmark in benchmarks if benchmark.group == kind]


def widths(columns: Mapping[str, Results], benchmarks: Sequence[Benchmark]) -> str:
    """Mean nDCG@10 against the Matryoshka width: by kind for the last checkpoint, and over everything for each."""
    if not columns:
        return ""
    last = list(columns)[-1]
    groups = dict(_by_kind(benchmarks))
    kinds = [_line(kind, i, columns[last], group) for i, (kind, group) in enumerate(groups.items())]
    stages = [_line(name, i, results, benchmarks) for i, (name, results) in enumerate(columns.items())]
    parts = [
        (charts.chart(f"{last}, by kind", kinds, x_label="numbers kept", share=True), list(groups)),
        (charts.chart("mean of all tasks, by checkpoint", stages, x_label="numbers kept", share=True), list(columns)),
    ]
    drawn = "".join(f"<div>{charts.legend(names)}{figure}</div>" for figure, names in parts)
    return (
        '<h2 id="widths">Shorter vectors</h2><p class="note">Vectors are trained so that their first numbers work '
        f'alone (Matryoshka): nDCG@10 when only those are kept.</p><div class="charts">{drawn}</div>'
    )


def _line(name: str, colour: int, results: Results, benchmarks: Sequence[Benchmark]) -> charts.Line:
    scored = [results[b.name] for b in benchmarks if results.get(b.name)]
    common = sorted(set.intersection(*(set(by_width) for by_width in scored))) if scored else []
    means = [float(np.mean([by_width[width].get("ndcg@10", np.nan) for by_width in scored])) for width in common]
    return charts.Line(name, colour, common, means)


def training(curves: Sequence[Curves]) -> str:
    """Loss and in-batch accuracy of every stage, one colour a task throughout."""
    tasks = list(dict.fromkeys(task for stage in curves for task in stage.lines))
    if not tasks:
        return ""
    drawn = []
    for metric, heading, share in (("loss", "loss", False), ("accuracy", "in-batch accuracy", True)):
        for stage in curves:
            lines = [charts.Line(task, tasks.index(task), *found[metric]) for task, found in stage.lines.items()]
            drawn.append(charts.chart(f"{stage.stage}: {heading}", lines, x_label="step", share=share, noisy=True))
    return (
        '<h2 id="training">Training</h2><p class="note">Faint: every batch; strong: its running mean. Accuracy is the '
        "share of a batch's queries that find their own target first among the candidates of that batch, so it depends "
        f'on the batch size.</p>{charts.legend(tasks)}<div class="charts">{"".join(drawn)}</div>'
    )


def gallery(examples: Sequence[Example], benchmarks: Sequence[Benchmark]) -> str:
    """Queries with their results drawn, under their benchmarks."""
    return _gallery(
        '<h2 id="gallery">What it finds</h2><p class="note">Queries taken in even steps from each test set, not '
        "picked, with the five nearest candidates and their cosines. Right answers are green; where none is among the "
        "five, the first one follows with its place.</p>",
        examples,
        benchmarks,
    )


def failures(examples: Sequence[Example], benchmarks: Sequence[Benchmark]) -> str:
    """The worst queries of each benchmark, as in the gallery."""
    return _gallery(
        '<h2 id="failures">Where it is surest and wrong</h2><p class="note">Of each test set the query whose first '
        "candidate is wrong and farthest above the right one: a mistake, or a right answer that nobody marked.</p>",
        examples,
        benchmarks,
    )


def lineage(rows: Sequence[Mapping[str, str]]) -> str:
    """What each checkpoint comes from: a row a checkpoint, columns as they come."""
    if not rows:
        return ""
    heads = list(dict.fromkeys(name for row in rows for name in row))
    body = "".join(
        f"<tr><th>{escape(row[heads[0]])}</th>"
        + "".join(f"<td>{escape(row.get(name, ''))}</td>" for name in heads[1:])
        + "</tr>"
        for row in rows
    )
    return (
        '<h2 id="lineage">Where the checkpoints come from</h2><div class="scroll"><table class="lineage"><thead><tr>'
        f"{''.join(f'<th>{escape(name)}</th>' for name in heads)}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _gallery(heading: str, examples: Sequence[Example], benchmarks: Sequence[Benchmark]) -> str:
    if not examples:
        return ""
    sizes = {benchmark.name: len(benchmark.corpus) for benchmark in benchmarks}
    out = [heading]
    for name in dict.fromkeys(example.benchmark for example in examples):
        size = f"<small>{sizes[name]:,} candidates</small>" if name in sizes else ""
        out.append(f"<h3>{escape(name)}{size}</h3>")
        out += [_example(example) for example in examples if example.benchmark == name]
    return "".join(out)


def _example(example: Example) -> str:
    words = all(isinstance(part, Text) for result in example.results for part in result.content)
    return (
        f'<article class="example{" words" if words else ""}"><div class="query"><p class="tag">query</p>'
        f'{draw.content(example.query)}</div><ol class="results">'
        f"{''.join(map(_result, example.results))}</ol></article>"
    )


def _result(result: Result) -> str:
    classes = "result" + (" right" if result.relevant else "") + (" later" if result.place > 5 else "")
    mark = "<em>✓ right</em>" if result.relevant else ""
    tag = f'<p class="tag"><b>{result.place:,}</b>{mark}<span>{result.score:.3f}</span></p>'
    return f'<li class="{classes}">{tag}{draw.content(result.content)}</li>'
