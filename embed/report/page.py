"""The page of results: one HTML file that needs nothing else, no script, no server, no network; readable on a phone."""

import dataclasses
import importlib.resources
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from embed.data.modalities import Content
from embed.distributed import storage
from embed.eval import compare
from embed.eval.benchmarks import Benchmark, Results, rank
from embed.model.matryoshka import truncate_dim
from embed.report import comparison, sections, space

TOP = 5
STYLE = importlib.resources.files(__package__) / "style.css"
# A browser that is told so refuses everything that is not in this file.
POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"


@dataclasses.dataclass(frozen=True)
class Result:
    content: Content
    score: float  # cosine
    relevant: bool
    place: int  # 1 is the best


@dataclasses.dataclass(frozen=True)
class Example:
    """One query and what was found for it: the best five, and the best right one where it is not among them."""

    benchmark: str
    query: Content
    results: tuple[Result, ...]


@dataclasses.dataclass(frozen=True)
class Curves:
    """One stage's training: task -> metric -> (steps, values)."""

    stage: str
    lines: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]]


def read_curves(run: storage.Path) -> Curves:
    """The loss and in-batch accuracy of a run, from its metrics.jsonl. A torn last line is left out."""
    lines: dict = defaultdict(lambda: {name: ([], []) for name in ("loss", "accuracy")})
    for line in (run / "metrics.jsonl").read_text().splitlines():
        if not line.endswith("}"):
            continue
        row = json.loads(line)
        if "task" not in row:  # an evaluation's
            continue
        for name, (steps, values) in lines[row["task"]].items():
            if name in row:
                steps.append(row["step"])
                values.append(row[name])
    return Curves(run.name, dict(lines))


def examples(benchmark: Benchmark, queries: np.ndarray, corpus: np.ndarray, count: int) -> list[Example]:
    """Queries in even steps over the benchmark, never by how well they do, from vectors f32[q,e] and f32[n,e]."""
    taken = np.unique(np.linspace(0, len(queries) - 1, min(count, len(queries))).round().astype(int)).tolist()
    return _examples(benchmark, queries, corpus, taken)


def failures(benchmark: Benchmark, queries: np.ndarray, corpus: np.ndarray, count: int) -> list[Example]:
    """The queries that are wrong by most: a wrong candidate is first, and its cosine farthest above the right one's."""
    scores, ranking = rank(benchmark, queries, corpus, 1, corpus.shape[1])
    right = [
        float(
            (truncate_dim(corpus[list(grades)], corpus.shape[1]) @ truncate_dim(query[None], corpus.shape[1])[0]).max()
        )
        for query, grades in zip(queries, benchmark.relevance, strict=True)
    ]
    wrong = [j not in grades for j, grades in zip(ranking[:, 0].tolist(), benchmark.relevance, strict=True)]
    above = np.where(wrong, scores[:, 0] - right, -np.inf)
    worst = [i for i in np.argsort(-above, kind="stable")[:count].tolist() if above[i] > 0]
    return _examples(benchmark, queries, corpus, worst)


def _examples(benchmark: Benchmark, queries: np.ndarray, corpus: np.ndarray, taken: list[int]) -> list[Example]:
    if not taken:
        return []
    few = dataclasses.replace(
        benchmark,
        queries=tuple(benchmark.queries[i] for i in taken),
        relevance=tuple(benchmark.relevance[i] for i in taken),
    )
    scores, ranking = rank(few, queries[taken], corpus, len(corpus), corpus.shape[1])
    chosen = []
    for query, grades, values, order in zip(few.queries, few.relevance, scores.tolist(), ranking.tolist(), strict=True):
        found = [
            Result(benchmark.corpus[j], value, j in grades, place)
            for place, (j, value) in enumerate(zip(order, values, strict=True), 1)
            if j >= 0
        ]
        late = next(([one] for one in found if one.relevant and one.place > TOP), [])
        late = [] if any(one.relevant for one in found[:TOP]) else late
        chosen.append(Example(benchmark.name, query, (*found[:TOP], *late)))
    return chosen


def write(
    path: str | os.PathLike,
    facts: Mapping[str, str],
    columns: Mapping[str, Results],
    benchmarks: Sequence[Benchmark],
    curves: Sequence[Curves] = (),
    gallery: Sequence[Example] = (),
    wrong: Sequence[Example] = (),
    found: space.Space | None = None,
    lineage: Sequence[Mapping[str, str]] = (),
    ablations: Sequence[compare.Comparison] = (),
) -> None:
    """Writes the page, whole or not at all.

    `facts` are shown at the top as they are; `columns` the checkpoints in order, the last one being shown in detail (it
    should be the one that `gallery`, `wrong` and `found` were made with); `benchmarks` the rows, grouped by kind in
    order of appearance; `wrong` examples of failures, `found` the map of the space (`space.project`), `lineage` a row a
    checkpoint, `ablations` experiments beside their forks. A benchmark that a checkpoint was not scored on
    shows as a dash.
    """
    body = [
        sections.header(facts, benchmarks),
        "<main>",
        sections.table(columns, benchmarks),
        sections.widths(columns, benchmarks),
        comparison.sections(ablations),
        sections.training(curves),
        space.section(found) if found else "",
        sections.gallery(gallery, benchmarks),
        sections.failures(wrong, benchmarks),
        sections.lineage(lineage),
        "<footer>Made by embed/report/page.py: one file, without scripts or links to anything outside.</footer></main>",
    ]
    save(path, "results", body)


def save(path: str | os.PathLike, title: str, body: Sequence[str]) -> None:
    """Writes a page of HTML parts in the project's style, whole or not at all."""
    page = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>embed: {title}</title><style>{STYLE.read_text()}</style></head><body>{''.join(body)}</body></html>"
    )
    path = storage.path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with storage.atomic_write(path) as file:
        file.write_text(page, encoding="utf-8")
