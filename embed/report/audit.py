"""The page to look at before training on mined negatives: are they wrong answers, or right ones nobody marked?"""

from collections.abc import Iterator

import numpy as np

from embed.distributed import storage
from embed.eval.suite import even_steps
from embed.report import charts, draw, page, sections
from embed.report.draw import escape
from embed.retrieval.corpus_embeddings import PairTable, contents_of
from embed.retrieval.hard_negatives import FALSE_NEGATIVE, NEGATIVE, Mined

BINS = 60
CURVES = ("positives", "negatives that were taken", "left out: close to the positive")
TITLE = "Mined negatives"
LEAD = "What was taken for a wrong answer, and what was left out for being too close to the right one."


def write(path: storage.Path, facts: dict[str, str], mined: dict[str, tuple[PairTable, Mined]], samples: int) -> None:
    """Write the page: per dataset the distributions of scores and `samples` records in even steps, not picked."""
    body = [sections.header(TITLE, LEAD, sections.facts(facts)), "<main>"]
    for name, (table, result) in mined.items():
        body += _dataset(name, table, result, samples)
    page.save(path, "mined negatives", [*body, "</main>"])


def _dataset(name: str, table: PairTable, mined: Mined, samples: int) -> Iterator[str]:
    scores = [mined.positive, *(mined.scores[mined.status == status] for status in (NEGATIVE, FALSE_NEGATIVE))]
    share = (mined.negatives >= 0).any(axis=1).mean()
    yield f"<section><h2>{escape(name)}</h2>"
    yield (
        f'<p class="note">{len(table.records):,} records, {len(table.corpus):,} candidates; {100 * share:.0f} % of the '
        f"records have negatives, {scores[1].size / len(table.records):.1f} each on average; {scores[2].size:,} "
        "candidates were left out as too close.</p>"
    )
    values = np.concatenate(scores)
    edges = np.linspace(values.min(), values.max(), BINS + 1)
    centers = ((edges[:-1] + edges[1:]) / 2).tolist()
    lines = [
        charts.Line(label, charts.color(i), centers, _histogram(values, edges))
        for i, (label, values) in enumerate(zip(CURVES, scores, strict=True))
    ]
    figure = charts.chart("share of scores", lines, x_label="cosine", share=True, noisy=True)
    yield f'<div style="max-width:640px;margin-bottom:24px">{figure}{charts.legend(CURVES)}</div>'
    for row in even_steps(len(table.records), samples):
        yield _record(table, mined, row)
    yield "</section>"


def _histogram(values: np.ndarray, edges: np.ndarray) -> list[float]:
    return (np.histogram(values, edges)[0] / max(len(values), 1)).tolist()


def _record(table: PairTable, mined: Mined, row: int) -> str:
    query, positive = contents_of(table.queries.source[int(table.records[row])])[:2]
    cards = [_card("the positive", mined.positive[row], draw.content(positive), " right")]
    for status, label in ((NEGATIVE, "negative"), (FALSE_NEGATIVE, "left out")):
        for column in np.flatnonzero(mined.status[row] == status)[:3]:
            drawn = draw.content(table.corpus[int(mined.ranking[row, column])])
            cards.append(_card(label, mined.scores[row, column], drawn, ""))
    return (
        f'<article class="example"><div class="query"><p class="tag">query</p>{draw.content(query)}</div>'
        f'<ol class="results" tabindex="0">{"".join(cards)}</ol></article>'
    )


def _card(label: str, score: float, content: str, style: str) -> str:
    return f'<li class="result{style}"><p class="tag"><b>{label}</b><span>{score:.3f}</span></p>{content}</li>'
