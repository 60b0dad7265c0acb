"""The table of results: rows by modality, chance and every checkpoint, with intervals over queries."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from embed.eval.benchmarks import Benchmark, Results, dataset_of, select_metric
from embed.eval.metrics import wilson_interval
from embed.eval.similarity import list_rows
from embed.report.charts import MODALITIES
from embed.report.draw import escape

# Metric -> its heading, its value at random where that is known, and what it means.
METRICS = {
    "hit@1": ("R@1", "chance@1", "Share of queries with a right item in first place; over few labels, accuracy."),
    "hit@10": ("R@10", "chance@10", "Share of queries with a right item among the first ten."),
    "ndcg@10": ("nDCG@10", None, "How high all right items stand among the first ten; 100 is a perfect order."),
    "mrr@10": ("MRR@10", None, "One over the rank of the first right item, where that is among the first ten."),
}
INTERVALS = (
    "Below each score its 95 % interval over queries (Wilson; both directions of a dataset count as one, and for nDCG "
    "and MRR it is an upper bound). Percent, at full width; the best of a row is bold."
)


def by_group(benchmarks: Sequence[Benchmark]) -> dict[str, list[Benchmark]]:
    """Benchmarks by modality, in the order of `charts.MODALITIES`, others after them as they come."""
    names = dict.fromkeys(benchmark.group for benchmark in benchmarks)
    known = [name for name in MODALITIES if name in names]
    others = [name for name in names if name not in MODALITIES]
    return {name: [benchmark for benchmark in benchmarks if benchmark.group == name] for name in known + others}


def results_table(
    columns: Mapping[str, Results], benchmarks: Sequence[Benchmark], lineage: Sequence[Mapping[str, str]] = ()
) -> str:
    """One table per metric, chosen by tabs that need no script; every benchmark unfolds below."""
    scored = [results[name] for results in columns.values() for name in results if results[name]]
    known = {metric for by_width in scored for metric in by_width[max(by_width)]}
    metrics = [metric for metric in METRICS if metric in known]
    rules = "".join(f"#tab{i}:checked~#panel{i}{{display:block}}" for i in range(len(metrics)))
    tabs = "".join(
        f'<input type="radio" name="metric" id="tab{i}"{" checked" if i == 0 else ""}>'
        f'<label for="tab{i}">{METRICS[metric][0]}</label>'
        for i, metric in enumerate(metrics)
    )
    panels = "".join(
        f'<div class="tab" id="panel{i}"><p class="note">{METRICS[metric][2]}</p>'
        f"{_panel(metric, columns, benchmarks, lineage)}</div>"
        for i, metric in enumerate(metrics)
    )
    return f'<style>{rules}</style><div class="tabs">{tabs}{panels}</div><p class="note small">{INTERVALS}</p>'


def _panel(
    metric: str,
    columns: Mapping[str, Results],
    benchmarks: Sequence[Benchmark],
    lineage: Sequence[Mapping[str, str]],
) -> str:
    origins = {row["checkpoint"]: shorten_origin(row.get("from", "")) for row in lineage if "checkpoint" in row}
    heads = "".join(
        f"<th>{breakable(name)}{f'<small>{breakable(origins[name])}</small>' if origins.get(name) else ''}</th>"
        for name in columns
    )
    chance = '<th class="faint">chance</th>' if METRICS[metric][1] else ""
    head = f"<thead><tr><th></th>{chance}{heads}</tr></thead>"
    groups = by_group(benchmarks)
    summary = "".join(
        _row(name, ", ".join(dict.fromkeys(dataset_of(b.name) for b in members)), metric, columns, members)
        for name, members in groups.items()
    )
    summary += _row("mean of all", f"{len(benchmarks)} benchmarks", metric, columns, benchmarks, "all")
    every = "".join(
        _row(b.name, f"{len(b.queries):,} queries · {len(b.corpus):,} candidates", metric, columns, [b])
        for members in groups.values()
        for b in members
    )
    opening = f'<div class="scroll scores" style="--columns:{len(columns)}" tabindex="0"><table>{head}<tbody>'
    closing = "</tbody></table></div>"
    return (
        f"{opening}{summary}{closing}<details><summary>Every dataset, both directions</summary>"
        f"{opening}{every}{closing}</details>"
    )


def _row(
    label: str,
    detail: str,
    metric: str,
    columns: Mapping[str, Results],
    benchmarks: Sequence[Benchmark],
    style: str = "",
) -> str:
    means = [mean_score(metric, results, benchmarks) for results in columns.values()]
    rounded = [round(100 * mean, 1) for mean in means if mean is not None]
    cells = []
    for mean in means:
        if mean is None:
            cells.append('<td class="score">–</td>')
            continue
        low, high = wilson_interval(mean, effective_queries(benchmarks))
        best = " best" if len(rounded) > 1 and round(100 * mean, 1) == max(rounded) else ""
        cells.append(
            f'<td class="score{best}" style="--v:{mean:.3f}">{100 * mean:.1f}'
            f"<small>{100 * low:.0f}–{100 * high:.0f}</small></td>"
        )
    chance = METRICS[metric][1]
    if chance and benchmarks:
        level = float(np.mean([benchmark.chance(int(chance.split("@")[1])) for benchmark in benchmarks]))
        cells.insert(0, f'<td class="faint">{100 * level:.1f}</td>')
    elif chance:
        cells.insert(0, '<td class="faint">–</td>')
    row_class = f' class="{style}"' if style else ""
    return f"<tr{row_class}><th>{breakable(label)}<small>{breakable(detail)}</small></th>{''.join(cells)}</tr>"


def similarity_table(columns: Mapping[str, Results]) -> str:
    """Spearman's correlation of graded pairs, in percent: a row per dataset, then its languages; "" without any."""
    scored = {checkpoint: _full_width_rows(results) for checkpoint, results in columns.items()}
    labels: dict[tuple[str, str], tuple[str, float]] = {}  # (benchmark, metric) -> (label, number of pairs)
    for rows in scored.values():
        for name, row in rows.items():
            for label, pairs, metric in list_rows(row):
                labels.setdefault((name, metric), (label, pairs))
    body = []
    for (name, metric), (label, pairs) in labels.items():
        values = [rows.get(name, {}).get(metric) for rows in scored.values()]
        best = max(round(100 * value, 1) for value in values if value is not None)
        cells = "".join(
            '<td class="score">–</td>'
            if value is None
            else f'<td class="score{" best" if len(columns) > 1 and round(100 * value, 1) == best else ""}" '
            f'style="--v:{max(value, 0):.3f}">{100 * value:.1f}</td>'
            for value in values
        )
        body.append(f"<tr><th>{breakable(name)}<small>{escape(label)} · {pairs:,.0f} pairs</small></th>{cells}</tr>")
    heads = "".join(f"<th>{breakable(name)}</th>" for name in columns)
    return (
        f'<div class="scroll scores" style="--columns:{len(columns)}" tabindex="0"><table><thead><tr><th></th>{heads}'
        f"</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        if body
        else ""
    )


def _full_width_rows(results: Results) -> dict[str, Mapping[str, float]]:
    return {name: results[name][max(results[name])] for name in select_metric(results, "spearman")}


def mean_score(metric: str, results: Results, benchmarks: Sequence[Benchmark]) -> float | None:
    """The mean at full width; None where a benchmark is missing, as means over different sets do not compare."""
    rows = [results[b.name][max(results[b.name])] for b in benchmarks if results.get(b.name)]
    values = [row[metric] for row in rows if metric in row]
    return float(np.mean(values)) if values and len(values) == len(benchmarks) else None


def effective_queries(benchmarks: Sequence[Benchmark]) -> float:
    """How many queries a mean over benchmarks is worth: their harmonic mean for each dataset."""
    datasets = {dataset_of(benchmark.name) for benchmark in benchmarks}
    return len(datasets) / float(np.mean([1 / len(benchmark.queries) for benchmark in benchmarks]))


def checkpoints_table(rows: Sequence[Mapping[str, str]]) -> str:
    """What each checkpoint is made from: one row per checkpoint, columns in order of appearance."""
    heads = list(dict.fromkeys(name for row in rows for name in row if any(other.get(name) for other in rows)))
    body = "".join(
        f"<tr><th>{breakable(row[heads[0]])}</th>"
        + "".join(f"<td>{breakable(row.get(name, ''))}</td>" for name in heads[1:])
        + "</tr>"
        for row in rows
    )
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return (
        '<div class="scroll" tabindex="0"><table class="lineage"><thead><tr>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def datasets_list(benchmarks: Sequence[Benchmark], descriptions: Mapping[str, str]) -> str:
    """One line per dataset: what is searched by what, and how much of it."""
    entries = []
    first = {dataset_of(benchmark.name): benchmark for benchmark in reversed(benchmarks)}
    for members in by_group(benchmarks).values():
        for dataset in dict.fromkeys(dataset_of(benchmark.name) for benchmark in members):
            benchmark = first[dataset]
            size = f"{len(benchmark.queries):,} queries, {len(benchmark.corpus):,} candidates"
            text = escape(descriptions[dataset]) if descriptions.get(dataset) else ""
            entries.append(f"<div><dt>{breakable(dataset)}</dt><dd>{text}<small>{size}</small></dd></div>")
    return f'<dl class="datasets">{"".join(entries)}</dl>'


def shorten_origin(origin: str) -> str:
    """What a checkpoint is made of, briefly.

    "1 × finetune/300 + 1 × finetune__more_media/300" becomes "finetune/300 + more_media/300".
    """
    if " × " not in origin:
        return f"from {origin}" if origin else ""
    parts = [part.partition(" × ") for part in origin.split(" + ")]
    equal = len({weight for weight, _, _ in parts}) == 1
    names = [re.sub(r"^\w*__", "", parent) for _, _, parent in parts]
    if len(parts) == 1:
        return f"{names[0]} alone"
    weighted = [f"{weight} × {name}" for (weight, _, _), name in zip(parts, names, strict=True)]
    return " + ".join(names if equal else weighted)


def breakable(name: str) -> str:
    """Escaped text with places where a line may break."""
    return re.sub(r"([_/])(?=\w)", r"\1<wbr>", escape(name))
