"""The page of results: one self-contained HTML file, readable on a phone, no server and no script needed."""

import dataclasses
import html
import json
import pathlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from embed.api import Embedder, Prepared
from embed.data.records import Content
from embed.eval import draw
from embed.eval.benchmarks import KS, Benchmark
from embed.search import top_k, truncate

Results = Mapping[str, Mapping[int, Mapping[str, float]]]  # benchmark -> width -> metric -> value
TOP = 5
STYLE = """
:root{--ink:#1b1f27;--soft:#5f6878;--line:#dfe3ea;--page:#fbfbfd;--card:#fff;--heat:66,105,208;--good:#2f9e55}
@media(prefers-color-scheme:dark){:root{--ink:#e8ebf1;--soft:#9aa4b5;--line:#2c323d;--page:#13161c;--card:#1b1f27;
--heat:110,150,255;--good:#5fce87}}
*{box-sizing:border-box}body{margin:0 auto;max-width:1120px;padding:28px 18px 80px;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}h1{font-size:30px;line-height:1.15;margin:0 0 6px;
letter-spacing:-.02em}h2{font-size:20px;margin:44px 0 6px}h3{font-size:15px;margin:26px 0 8px}.lead,.note{color:var(--soft);
margin:0 0 14px}.facts{display:flex;flex-wrap:wrap;gap:8px;margin:16px 0}.facts span{background:var(--card);border:1px solid
var(--line);border-radius:9px;padding:6px 11px;font-size:13px;color:var(--soft)}.facts b{color:var(--ink);font-weight:600}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:12px;background:var(--card)}table{border-collapse:collapse;
width:100%;font-size:13px;font-variant-numeric:tabular-nums}th,td{padding:7px 10px;text-align:right;white-space:nowrap;
border-bottom:1px solid var(--line)}tr:last-child td{border-bottom:0}th{color:var(--soft);font-weight:600}th:first-child,
td:first-child{text-align:left;position:sticky;left:0;background:var(--card)}td.best{font-weight:700}small{color:var(--soft)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:14px}figure{margin:0;background:var(--card);
border:1px solid var(--line);border-radius:12px;padding:12px}figcaption{font-weight:600;font-size:13px}svg{width:100%;
display:block}svg line{stroke:var(--line)}svg text{font-size:9px;fill:var(--soft)}.y{text-anchor:end;dominant-baseline:middle}
.x{text-anchor:middle}polyline{fill:none;stroke-width:1.6;stroke-linejoin:round}.legend{display:flex;flex-wrap:wrap;
gap:3px 12px;font-size:11px;color:var(--soft)}.legend i{display:inline-block;width:9px;height:9px;border-radius:3px;
margin-right:4px}.row{display:grid;grid-template-columns:minmax(150px,1.2fr) repeat(5,1fr);gap:8px;margin-bottom:12px;
overflow-x:auto}.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:9px;min-width:120px;
overflow:hidden;font-size:12px}.card.query{border-style:dashed}.card.right{border-color:var(--good);box-shadow:inset 0 0 0 1px
var(--good)}.card header{color:var(--soft);font-size:11px;margin-bottom:5px}.right header{color:var(--good);font-weight:600}
.parts p{margin:0 0 6px;overflow-wrap:anywhere}.parts pre{margin:0;font:10px/1.35 ui-monospace,monospace;max-height:150px;
overflow:auto;white-space:pre-wrap}.picture{max-width:100%;border-radius:6px;border:1px solid var(--line)}.picture.small{
image-rendering:pixelated;width:96px}.film{display:flex;gap:2px}.film .picture{width:auto;min-width:0;flex:1 1 0}.wave{
height:32px;fill:rgb(var(--heat))}audio{width:100%;height:30px}
@media(max-width:700px){.row{grid-template-columns:150px repeat(5,124px)}h1{font-size:24px}}
"""


@dataclasses.dataclass(frozen=True)
class Example:
    """One query and what the final encoder found for it."""

    benchmark: str
    query: Content
    results: tuple[tuple[Content, float, bool], ...]  # content, cosine, whether it is relevant


@dataclasses.dataclass(frozen=True)
class Curves:
    """One stage's training: task -> metric -> (steps, values)."""

    stage: str
    lines: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]]


def read_curves(run: pathlib.Path) -> Curves:
    """The loss and accuracy of a run, from its metrics.jsonl."""
    lines: dict = defaultdict(lambda: {name: ([], []) for name in ("loss", "accuracy")})
    for line in (run / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        for name, (steps, numbers) in lines[values["task"]].items():
            steps.append(values["step"])
            numbers.append(values[name])
    return Curves(run.name, dict(lines))


def examples(embedder: Embedder, ready: tuple[Benchmark, Prepared, Prepared], count: int) -> list[Example]:
    """Evenly spaced queries of a benchmark with their first five results."""
    benchmark, queries, corpus = ready
    width = embedder.encoder.arch.embedding
    vectors = [truncate(embedder.encode(prepared), width) for prepared in (queries, corpus)]
    chosen = np.linspace(0, len(benchmark.queries) - 1, min(count, len(benchmark.queries))).astype(int)
    scores, ranking = top_k(vectors[0][chosen], vectors[1], TOP)
    return [
        Example(
            benchmark.name,
            benchmark.queries[query],
            tuple(
                (benchmark.corpus[item], float(value), item in benchmark.relevance[query])
                for item, value in zip(items.tolist(), values, strict=True)
            ),
        )
        for query, items, values in zip(chosen.tolist(), ranking, scores, strict=True)
    ]


def write(
    path: pathlib.Path,
    facts: Mapping[str, str],
    columns: Mapping[str, Results],
    benchmarks: Sequence[Benchmark],
    curves: Sequence[Curves],
    gallery: Sequence[Example],
) -> None:
    """Writes the page. `columns` are the checkpoints in order; the last one is the one shown in detail."""
    final = columns[list(columns)[-1]]
    chips = "".join(f"<span>{html.escape(k)} <b>{html.escape(v)}</b></span>" for k, v in facts.items())
    body = [
        "<h1>One encoder, one vector space</h1>",
        '<p class="lead">Text, code, images, video, audio, document pages and mixtures, searched in both directions '
        "among held-out items nobody trained on.</p>",
        f'<div class="facts">{chips}</div>',
        "<h2>What each stage brings</h2>",
        f'<p class="note">R@1, then R@{KS[-1]} in small: the share of queries with a right item first, or among the first '
        f"{KS[-1]}. Best R@1 in bold.</p>",
        _table(columns, benchmarks),
        "<h2>Width</h2>",
        '<p class="note">The same vectors cut short and renormalised (Matryoshka).</p>',
        f'<div class="charts">{_widths(final)}</div>',
        "<h2>Training</h2>",
        f'<div class="charts">{"".join(_curves(one) for one in curves)}</div>',
        "<h2>What it finds</h2>",
        '<p class="note">Real queries and the first five of all candidates; right ones are framed in green.</p>',
        *_gallery(gallery),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>embed: results</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}</style></head><body>{''.join(body)}</body></html>"
    )
    path.write_text(page, encoding="utf-8")


def _table(columns: Mapping[str, Results], benchmarks: Sequence[Benchmark]) -> str:
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    rows = [f"<tr><th>task</th><th>candidates</th><th>chance</th>{heads}</tr>"]
    for benchmark in benchmarks:
        widest = [results[benchmark.name][max(results[benchmark.name])] for results in columns.values()]
        best = max(values["hit@1"] for values in widest)
        cells = [
            f'<td class="{"best" if values["hit@1"] == best else ""}" style="background:rgba(var(--heat),'
            f'{0.38 * values["hit@1"]:.3f})">{100 * values["hit@1"]:.1f} <small>{100 * values[f"hit@{KS[-1]}"]:.0f}</small></td>'
            for values in widest
        ]
        chance = " ".join(f"{100 * benchmark.chance(k):.1f}" for k in KS)
        name = html.escape(benchmark.name)
        rows.append(f"<tr><td>{name}</td><td>{len(benchmark.corpus)}</td><td>{chance}</td>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>'


def _widths(final: Results) -> str:
    lines = {
        name: (sorted(by_width), [by_width[width]["ndcg@10"] for width in sorted(by_width)])
        for name, by_width in final.items()
        if name.endswith("query→target")
    }
    ticks = sorted(next(iter(final.values())))
    return draw.chart("nDCG@10 by width", {name.split(":")[0]: line for name, line in lines.items()}, ticks, log=True)


def _curves(one: Curves) -> str:
    return "".join(
        draw.chart(f"{one.stage}: {title}", {task: values[name] for task, values in one.lines.items()})
        for name, title in (("loss", "loss"), ("accuracy", "in-batch accuracy"))
    )


def _gallery(gallery: Sequence[Example]) -> list[str]:
    by_name: dict[str, list[str]] = defaultdict(list)
    for example in gallery:
        cards = [f'<div class="card query"><header>query</header>{draw.content(example.query)}</div>']
        for rank, (found, value, right) in enumerate(example.results, 1):
            mark = f"{rank} · {value:.2f}{' · right' if right else ''}"
            cards.append(
                f'<div class="card{" right" if right else ""}"><header>{mark}</header>{draw.content(found)}</div>'
            )
        by_name[example.benchmark].append(f'<div class="row">{"".join(cards)}</div>')
    return [f"<h3>{html.escape(name)}</h3>{''.join(rows)}" for name, rows in by_name.items()]
