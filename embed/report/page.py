"""The page of results: one HTML file that needs nothing else, no script, no server, no network; readable on a phone."""

import dataclasses
import importlib.resources
import os
from collections.abc import Mapping, Sequence
from typing import Any

from embed.distributed import storage
from embed.eval import compare
from embed.eval.benchmarks import Benchmark, Results
from embed.report import comparison, gallery, sections, space, table
from embed.report.draw import escape
from embed.report.examples import Example
from embed.report.runs import Curves

STYLE = importlib.resources.files(__package__) / "style.css"
# The browser loads nothing that is not in this file.
POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
LEAD = (
    "Text, code, document pages, images, video, audio and any mixture of them, embedded by one model and searched "
    "among held-out items."
)
SOUP = (
    "A soup averages the parameters of several checkpoints: uniform with equal weights, weighted with given ones, "
    "greedy by adding a checkpoint only if the dev score rises."
)


@dataclasses.dataclass(frozen=True)
class Report:
    """What the page shows; what is empty is left out."""

    columns: Mapping[str, Results]  # checkpoint -> its scores; a benchmark without a score shows as a dash
    benchmarks: Sequence[Benchmark]  # of retrieval; graded pairs are in the columns alone
    detail: str = ""  # the checkpoint of `best`, `examples`, `failures` and `projection`; default: the last column
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    descriptions: Mapping[str, str] = dataclasses.field(default_factory=dict)  # dataset -> one line
    lineage: Sequence[Mapping[str, str]] = ()  # per checkpoint, with "checkpoint" and "from"
    curves: Sequence[Curves] = ()
    best: Mapping[str, Example] = dataclasses.field(default_factory=dict)  # modality -> the example that opens the page
    examples: Sequence[Example] = ()
    failures: Sequence[Example] = ()
    projection: space.Space | None = None
    comparisons: Sequence[compare.Comparison] = ()
    baselines: Mapping[str, Results] = dataclasses.field(default_factory=dict)  # columns after the checkpoints


def write(path: str | os.PathLike, report: Report) -> None:
    """Write the page, whole or not at all."""
    parts = [part for part in _sections(report) if part[-1]]
    titles = {name: title for name, title, _, _ in parts}
    top = sections.header(
        "One encoder,<br>one vector space",
        LEAD,
        gallery.strip(report.best, report.benchmarks) + sections.facts(report.facts, report.config),
        sections.emblem(),
    )
    body = [top, sections.contents(titles), "<main>", *(sections.section(*part) for part in parts), "</main>"]
    save(path, "results", body)


def _sections(report: Report) -> list[tuple[str, str, str, str]]:
    """Id, title, sentence and content of every section; without content it is left out."""
    columns, benchmarks = report.columns, report.benchmarks
    scored = {**columns, **report.baselines}
    last = list(columns)[-1] if columns else ""
    detail = report.detail or last
    shown = escape(detail)
    return [
        (
            "results",
            "Results",
            "Each query ranks every candidate of its test set by exact search. Chance is a random ranking.",
            table.results_table(scored, benchmarks, report.lineage) if columns and benchmarks else "",
        ),
        (
            "similarity",
            "Graded similarity",
            "Spearman's correlation of cosines with the scores of pairs, in percent, at full width; 0 at random.",
            table.similarity_table(scored),
        ),
        (
            "checkpoints",
            "Checkpoints",
            SOUP if any(" × " in row.get("from", "") for row in report.lineage) else "What each one starts from.",
            table.checkpoints_table(report.lineage) if report.lineage else "",
        ),
        (
            "datasets",
            "Datasets",
            "Query → target; the reverse direction is searched as well.",
            table.datasets_list(benchmarks, report.descriptions) if benchmarks else "",
        ),
        (
            "widths",
            "Shorter vectors",
            "Vectors are trained so that their first dimensions work alone (Matryoshka): nDCG@10 with only those kept.",
            sections.widths(columns, benchmarks, detail) if columns else "",
        ),
        (
            "forks",
            "Forks",
            comparison.note(report.comparisons),
            comparison.sections(report.comparisons),
        ),
        (
            "training",
            "Training",
            "Faint: every batch; strong: its running mean. In-batch accuracy is the share of queries whose own target "
            "scores highest in the batch, so it depends on the batch size.",
            sections.training(report.curves),
        ),
        (
            "space",
            "The space",
            f"Test items as {shown} embeds them, in the two directions in which they differ most.",
            space.section(report.projection) if report.projection else "",
        ),
        (
            "examples",
            "Examples",
            f"Queries in even steps through each test set, not picked, with the five nearest candidates of {shown} "
            "and their cosines. Right answers are green; where none is among the five, the first one follows.",
            gallery.examples_by_dataset(report.examples, benchmarks),
        ),
        (
            "failures",
            "Mistakes",
            "From each test set, the query whose first candidate is wrong and exceeds the right one by the most: a "
            "mistake, or a right answer without a label.",
            gallery.examples_by_dataset(report.failures, benchmarks),
        ),
    ]


def save(path: str | os.PathLike, title: str, body: Sequence[str]) -> None:
    """Write a page of HTML parts in the project's style, whole or not at all."""
    page = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>embed: {title}</title><style>{STYLE.read_text(encoding='utf-8')}</style></head>"
        f"<body>{''.join(body)}<footer>Made by embed: one file, without scripts or links to other sites.</footer>"
        "</body></html>"
    )
    path = storage.path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with storage.atomic_write(path) as file:
        file.write_text(page, encoding="utf-8")
