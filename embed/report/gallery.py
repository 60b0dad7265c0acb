"""Queries and their results as HTML: the strip that opens the page, the gallery and the mistakes."""

from collections.abc import Mapping, Sequence

from embed.data.modalities import Text
from embed.eval.benchmarks import Benchmark, dataset_of
from embed.report import charts, draw
from embed.report.draw import escape
from embed.report.examples import TOP, Example, Result

STRIP_CHARACTERS = 260  # of a text in the strip
PICKED = "Picked: the clearest success in each modality. Queries that are not picked, and mistakes, are below."
NUM_RESULTS = {"text": 1, "audio": 1, "document": 2}  # on a card; the others show three


def strip(examples: Mapping[str, Example], benchmarks: Sequence[Benchmark]) -> str:
    """HTML: one card per modality with a query and its nearest candidates."""
    sizes = {benchmark.name: len(benchmark.corpus) for benchmark in benchmarks}
    cards = "".join(_card(modality, example, sizes[example.benchmark]) for modality, example in examples.items())
    return f'<div class="strip" tabindex="0">{cards}</div><p class="meta picked">{PICKED}</p>' if cards else ""


def _card(modality: str, example: Example, size: int) -> str:
    is_text = all(isinstance(part, Text) for result in example.results for part in result.content)
    count = NUM_RESULTS.get("text" if is_text else modality, len(example.results))
    results = example.results[:count]
    figures = "".join(
        f'<div class="answer{" right" if result.relevant else ""}">'
        f"{draw.content(result.content, STRIP_CHARACTERS)}</div>"
        for result in results
    )
    first = example.results[0]
    mark = '<b class="yes">✓ right</b>' if first.relevant else '<b class="no">✗ wrong</b>'
    return (
        f'<article class="card"><p class="tag"><i style="background:{charts.modality_color(modality)}"></i>'
        f"<b>{escape(modality)}</b><span>{escape(dataset_of(example.benchmark))}</span></p>"
        f'<div class="ask">{draw.content(example.query, STRIP_CHARACTERS)}</div>'
        f'<div class="answers n{len(results)}">{figures}</div>'
        f'<p class="meta">{mark} · first of {size:,} candidates · cosine {first.score:.2f}</p></article>'
    )


def examples_by_dataset(examples: Sequence[Example], benchmarks: Sequence[Benchmark]) -> str:
    """HTML: one entry per dataset that unfolds, with the examples of its benchmarks."""
    sizes = {benchmark.name: len(benchmark.corpus) for benchmark in benchmarks}
    datasets: dict[str, list[Example]] = {}
    for example in examples:
        datasets.setdefault(dataset_of(example.benchmark), []).append(example)
    entries = []
    for dataset, members in datasets.items():
        parts = []
        for name in dict.fromkeys(example.benchmark for example in members):
            size = f"<small>{sizes[name]:,} candidates</small>" if name in sizes else ""
            parts.append(f"<h3>{escape(name)}{size}</h3>")
            parts += [_example(example) for example in members if example.benchmark == name]
        entries.append(
            f"<details><summary>{escape(dataset)}<small>{len(members)}</small></summary>{''.join(parts)}</details>"
        )
    return f'<div class="folds">{"".join(entries)}</div>' if entries else ""


def _example(example: Example) -> str:
    is_text = all(isinstance(part, Text) for result in example.results for part in result.content)
    return (
        f'<article class="example{" text-only" if is_text else ""}"><div class="query"><p class="tag">query</p>'
        f'{draw.content(example.query)}</div><ol class="results" tabindex="0">'
        f"{''.join(map(_result, example.results))}</ol></article>"
    )


def _result(result: Result) -> str:
    classes = "result" + (" right" if result.relevant else "") + (" below" if result.rank > TOP else "")
    mark = "<em>✓ right</em>" if result.relevant else ""
    tag = f'<p class="tag"><b>{result.rank:,}</b>{mark}<span>{result.score:.3f}</span></p>'
    return f'<li class="{classes}">{tag}{draw.content(result.content)}</li>'
