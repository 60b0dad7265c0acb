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

MODALITIES = ("text", "code", "document", "image", "video", "audio")


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
    modalities = [_line(name, i, columns[detail], members) for i, (name, members) in enumerate(groups.items())]
    checkpoints = [_line(name, i, results, benchmarks) for i, (name, results) in enumerate(columns.items())]
    label = "dimensions"
    parts = [
        (charts.chart(f"{detail}, by modality", modalities, x_label=label, share=True, log_x=True), list(groups)),
        (charts.chart("mean of all, by checkpoint", checkpoints, x_label=label, share=True, log_x=True), list(columns)),
    ]
    drawn = "".join(f"<div>{figure}{charts.legend(names)}</div>" for figure, names in parts if figure)
    return f'<div class="charts">{drawn}</div>' if drawn else ""


def _line(name: str, color: int, results: Results, benchmarks: Sequence[Benchmark]) -> charts.Line:
    scored = [results[benchmark.name] for benchmark in benchmarks if results.get(benchmark.name)]
    shared = sorted(set.intersection(*(set(by_width) for by_width in scored))) if scored else []
    means = [float(np.mean([by_width[width].get("ndcg@10", np.nan) for by_width in scored])) for width in shared]
    return charts.Line(name, color, shared, means)


def training(curves: Sequence[Curves]) -> str:
    """Evaluations and loss of every run, then what unfolds: values per task and per dataset."""
    tasks = list(dict.fromkeys(task for run in curves for task in run.tasks))
    evaluated = [run for run in curves if run.evals]
    names = list(dict.fromkeys(name for run in evaluated for name in run.evals))
    main = []
    if names:
        lines = [
            charts.Line(run.name, i, *run.evals[names[0]]) for i, run in enumerate(evaluated) if names[0] in run.evals
        ]
        figure = charts.chart(f"evaluation: {names[0]}", lines, x_label="step", share=True)
        main.append(f"<div>{figure}{charts.legend([run.name for run in evaluated])}</div>")
    merged = [charts.Line(run.name, i, *run.mean("loss")) for i, run in enumerate(curves)]
    figure = charts.chart("loss, all tasks", merged, x_label="step", noisy=True)
    if figure:
        main.append(f"<div>{figure}{charts.legend([run.name for run in curves])}</div>")
    folded = []
    for run in curves:
        for metric, heading, share in (("loss", "loss", False), ("accuracy", "in-batch accuracy", True)):
            lines = [charts.Line(task, tasks.index(task), *run.tasks[task][metric]) for task in run.tasks]
            folded.append(charts.chart(f"{run.name}: {heading}", lines, x_label="step", share=share, noisy=True))
    for run in evaluated:
        lines = [charts.Line(name, names.index(name), *values) for name, values in run.evals.items()]
        folded.append(charts.chart(f"{run.name}: evaluations", lines, x_label="step", share=True))
    evals = charts.legend(names) if len(names) > 1 else ""
    drawn = "".join(filter(None, folded))
    details = (
        f"<details><summary>Every task of every run</summary>{charts.legend(tasks)}{evals}"
        f'<div class="charts">{drawn}</div></details>'
        if drawn
        else ""
    )
    return f'<div class="charts">{"".join(main)}</div>{details}' if main or drawn else ""
