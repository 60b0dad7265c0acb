"""Parts of a page from plain values: header, facts, contents, sections, Matryoshka and training charts."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embed.eval.benchmarks import Benchmark, Results
from embed.report import charts
from embed.report.draw import escape
from embed.report.runs import Curves
from embed.report.table import by_group

MODALITIES = charts.MODALITIES[:6]


def header(title: str, lead: str, below: str = "", emblem: str = "") -> str:
    """The top of a page: title, a sentence, and what stands below them; `title` and `lead` are HTML."""
    return (
        f'<header class="hero"><div><div class="top"><div><h1>{title}</h1><p class="lead">{lead}</p></div>{emblem}'
        f"</div>{below}</div></header>"
    )


def emblem() -> str:
    """Six modalities that meet in one point."""
    drawn = []
    for i, name in enumerate(MODALITIES):
        y = 18 + 30 * i
        drawn.append(f'<text x="66" y="{y + 4}" text-anchor="end">{name}</text>')
        drawn.append(f'<path style="stroke:{charts.color(i)}" d="M76 {y}C190 {y} 200 93 318 93"/>')
    dot = '<circle cx="326" cy="93" r="9"/>'
    return f'<svg viewBox="0 0 350 186" role="img" aria-label="six modalities, one space">{"".join(drawn)}{dot}</svg>'


def facts(values: Mapping[str, str], config: Mapping[str, Any] | None = None) -> str:
    """Name and value pairs; a config unfolds."""
    entries = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in values.items()
    )
    listing = escape(json.dumps(config, indent=1, default=str)) if config else ""
    folded = (
        f'<details class="config"><summary>Config</summary><pre tabindex="0">{listing}</pre></details>'
        if config
        else ""
    )
    return f'<dl class="facts">{entries}</dl>{folded}' if entries or folded else ""


def contents(titles: Mapping[str, str]) -> str:
    """Links to the sections: id -> title."""
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title in titles.items())
    return f'<nav class="contents" aria-label="contents"><div>{links}</div></nav>' if links else ""


def section(name: str, title: str, note: str, body: str) -> str:
    """A section with its heading and a sentence; all three are HTML."""
    return f'<section id="{name}"><h2>{title}</h2><p class="note">{note}</p>{body}</section>'


def widths(columns: Mapping[str, Results], benchmarks: Sequence[Benchmark], detail: str) -> str:
    """Mean nDCG@10 by Matryoshka width: of every modality for the checkpoint `detail`, and of all for every one."""
    groups = by_group(benchmarks)
    colors = [charts.modality_color(name) for name in groups]
    modalities = [
        _line(name, color, columns[detail], members)
        for (name, members), color in zip(groups.items(), colors, strict=True)
    ]
    checkpoints = [
        _line(name, charts.color(i), results, benchmarks) for i, (name, results) in enumerate(columns.items())
    ]
    by_modality = charts.chart(f"{detail}, by modality", modalities, x_label="dimensions", share=True, log_x=True)
    by_checkpoint = charts.chart(
        "mean of all, by checkpoint", checkpoints, x_label="dimensions", share=True, log_x=True
    )
    if not by_modality and not by_checkpoint:
        return ""
    return (
        f'<div class="charts"><div>{by_modality}{charts.legend(list(groups), colors)}</div>'
        f"<div>{by_checkpoint}{charts.legend(list(columns))}</div></div>"
    )


def _line(name: str, color: str, results: Results, benchmarks: Sequence[Benchmark]) -> charts.Line:
    scored = [results[benchmark.name] for benchmark in benchmarks if results.get(benchmark.name)]
    shared = sorted(set.intersection(*(set(by_width) for by_width in scored))) if scored else []
    means = [float(np.mean([by_width[width].get("ndcg@10", np.nan) for by_width in scored])) for width in shared]
    return charts.Line(name, color, shared, means)


def training(curves: Sequence[Curves]) -> str:
    """HTML: evaluations and loss of every run, then what unfolds: values per task and per dataset."""
    colors = {run.name: charts.color(i) for i, run in enumerate(curves)}
    evaluated = [run for run in curves if run.evals]
    metrics = list(dict.fromkeys(metric for run in evaluated for metric in run.evals))
    main = []
    for metric in metrics[:1]:
        lines = [charts.Line(run.name, colors[run.name], *run.evals.get(metric, ([], []))) for run in evaluated]
        figure = charts.chart(f"evaluation: {metric}", lines, x_label="step", share=True)
        legend = charts.legend([run.name for run in evaluated], [colors[run.name] for run in evaluated])
        main.append(f"<div>{figure}{legend}</div>")
    lines = [charts.Line(run.name, colors[run.name], *run.mean("loss")) for run in curves]
    if figure := charts.chart("loss, all tasks", lines, x_label="step", noisy=True):
        main.append(f"<div>{figure}{charts.legend(list(colors), list(colors.values()))}</div>")
    folded = _per_task(curves) + _per_metric(evaluated, metrics)
    details = f"<details><summary>Every task of every run</summary>{folded}</details>" if folded else ""
    return f'<div class="charts">{"".join(main)}</div>{details}' if main or folded else ""


def _per_task(curves: Sequence[Curves]) -> str:
    """One figure per run and metric, one line per task."""
    tasks = list(dict.fromkeys(task for run in curves for task in run.tasks))
    figures = []
    for metric, heading in (("loss", "loss"), ("accuracy", "in-batch accuracy")):
        for run in curves:
            lines = [
                charts.Line(task, charts.color(tasks.index(task)), *series[metric])
                for task, series in run.tasks.items()
            ]
            share = metric == "accuracy"
            figures.append(charts.chart(f"{run.name}: {heading}", lines, x_label="step", share=share, noisy=True))
    drawn = "".join(figures)
    return f'{charts.legend(tasks)}<div class="charts">{drawn}</div>' if drawn else ""


def _per_metric(curves: Sequence[Curves], metrics: Sequence[str]) -> str:
    """One figure per run, one line per metric of its evaluations."""
    figures = []
    for run in curves:
        lines = [charts.Line(name, charts.color(metrics.index(name)), *series) for name, series in run.evals.items()]
        figures.append(charts.chart(f"{run.name}: evaluations", lines, x_label="step", share=True))
    drawn = "".join(figures)
    return f'{charts.legend(metrics)}<div class="charts">{drawn}</div>' if drawn else ""
