"""The page to look at before training on mined negatives: are they wrong answers, or right ones nobody marked?"""

from collections.abc import Iterator

import numpy as np

from embed.distributed import storage
from embed.report import charts, draw, page
from embed.report.draw import escape
from embed.retrieval.corpus_embeddings import PairTable, contents_of
from embed.retrieval.hard_negatives import FALSE_NEGATIVE, NEGATIVE, Mined

BINS = 60
CURVES = ("positives", "negatives that were taken", "left out: close to the positive")


def write(path: storage.Path, facts: dict[str, str], mined: dict[str, tuple[PairTable, Mined]], samples: int) -> None:
    """Writes the page: of every dataset the scores' distributions, and `samples` records in even steps, not picked."""
    entries = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    body = [
        '<header class="hero"><div><h1>Mined negatives</h1><p class="lead">What was taken for a wrong answer, what was '
        f'left out for being too close to the right one.</p><dl class="facts">{entries}</dl></div></header><main>'
    ]
    for name, (found, chosen) in mined.items():
        body += _dataset(name, found, chosen, samples)
    page.save(path, "mined negatives", [*body, "</main>"])


def _dataset(name: str, found: PairTable, chosen: Mined, samples: int) -> Iterator[str]:
    scores = [chosen.positive, *(chosen.scores[chosen.taken_for == kind] for kind in (NEGATIVE, FALSE_NEGATIVE))]
    share = (chosen.negatives >= 0).any(axis=1).mean()
    yield f"<h2>{escape(name)}</h2>"
    yield (
        f'<p class="note">{len(found.records):,} records, {len(found.corpus):,} candidates; {100 * share:.0f} % of the '
        f"records have negatives, {scores[1].size / len(found.records):.1f} each on average; {scores[2].size:,} "
        "candidates were left out as too close.</p>"
    )
    every = np.concatenate(scores)
    edges = np.linspace(every.min(), every.max(), BINS + 1)
    lines = [
        charts.Line(label, i, ((edges[:-1] + edges[1:]) / 2).tolist(), _share(values, edges))
        for i, (label, values) in enumerate(zip(CURVES, scores, strict=True))
    ]
    figure = charts.chart("share of scores", lines, x_label="cosine", share=True, noisy=True)
    yield f'{charts.legend(CURVES)}<div class="charts" style="max-width:640px;margin-bottom:24px">{figure}</div>'
    for row in np.unique(np.linspace(0, len(found.records) - 1, samples).astype(int)).tolist():
        yield _record(found, chosen, row)


def _share(values: np.ndarray, edges: np.ndarray) -> list[float]:
    return (np.histogram(values, edges)[0] / max(len(values), 1)).tolist()


def _record(found: PairTable, chosen: Mined, row: int) -> str:
    query, positive = contents_of(found.asked.source[int(found.records[row])])[:2]
    cards = [_card("the positive", chosen.positive[row], draw.content(positive), " right")]
    for kind, label in ((NEGATIVE, "negative"), (FALSE_NEGATIVE, "left out")):
        for place in np.flatnonzero(chosen.taken_for[row] == kind)[:3]:
            shown = draw.content(found.corpus[int(chosen.ranking[row, place])])
            cards.append(_card(label, chosen.scores[row, place], shown, ""))
    return (
        f'<article class="example"><div class="query"><p class="tag">query</p>{draw.content(query)}</div>'
        f'<ol class="results">{"".join(cards)}</ol></article>'
    )


def _card(label: str, score: float, content: str, kind: str) -> str:
    return f'<li class="result{kind}"><p class="tag"><b>{label}</b><span>{score:.3f}</span></p>{content}</li>'
