"""The space on paper: items of every modality in its two widest directions, and how far apart the modalities lie."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from embed.data.modalities import MODALITIES, Content, modality_of
from embed.eval.benchmarks import Benchmark
from embed.model.matryoshka import truncate_dim
from embed.report import charts, draw
from embed.report.draw import escape

SIZE, EDGE = 640, 26  # of the figure, and what stays free around it
PICTURES = 40  # items that are shown as they look
THUMBNAIL = 26
MEASURED = 500  # queries, and candidates, whose distances are taken
VISUAL = {modality.name for modality in MODALITIES if modality.is_visual}
WORDS = 80  # characters of a text that a point says


@dataclasses.dataclass(frozen=True)
class ModalityGap:
    """Between the two sides of a benchmark: distances of unit vectors, 0 to 2."""

    benchmark: str
    centroids: float  # between the sides' means: the modality gap of Liang et al., arXiv 2203.02053
    pairs: float  # from a query to its nearest right candidate, mean
    others: float  # from a query to any candidate, mean


@dataclasses.dataclass(frozen=True)
class Space:
    places: np.ndarray  # f64[n,2]
    share: float  # of the variance that the two directions hold
    kinds: tuple[str, ...]  # of every item
    contents: tuple[Content, ...]
    gaps: tuple[ModalityGap, ...]


def name_modality(content: Content) -> str:
    names = {modality_of(part).name for part in content}
    return names.pop() if len(names) == 1 else "interleaved"


def project(benchmarks: Sequence[Benchmark], vectors: Sequence[tuple[np.ndarray, np.ndarray]], each: int = 40) -> Space:
    """From the vectors f32[q,e] and f32[n,e] of benchmarks: `each` items of a side in even steps, each content once."""
    items: dict[Content, np.ndarray] = {}
    gaps = []
    for benchmark, sides in zip(benchmarks, vectors, strict=True):
        queries, corpus = (truncate_dim(side, side.shape[1]) for side in sides)
        for contents, units in ((benchmark.queries, queries), (benchmark.corpus, corpus)):
            for i in _even(len(contents), each):
                items.setdefault(contents[i], units[i])
        gaps.append(_gap(benchmark, queries, corpus))
    points = np.array(list(items.values()), np.float64)
    centred = points - points.mean(axis=0)
    _, widths, axes = np.linalg.svd(centred, full_matrices=False)
    share = float((widths[:2] ** 2).sum() / max((widths**2).sum(), 1e-12))
    return Space(centred @ axes[:2].T, share, tuple(map(name_modality, items)), tuple(items), tuple(gaps))


def _gap(benchmark: Benchmark, queries: np.ndarray, corpus: np.ndarray) -> ModalityGap:
    asked, offered = _even(len(queries), MEASURED), _even(len(corpus), MEASURED)
    right = [_distances(queries[i], corpus[list(benchmark.relevance[i])]).min() for i in asked]
    others = _distances(queries[asked], corpus[offered]).mean()
    centroids = np.linalg.norm(queries.mean(axis=0) - corpus.mean(axis=0))
    return ModalityGap(benchmark.name, float(centroids), float(np.mean(right)), float(others))


def _distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of unit vectors [...,e] and [n,e] -> [...,n]."""
    return np.sqrt(np.maximum(2 - 2 * one @ other.T, 0))


def _even(size: int, count: int) -> list[int]:
    """At most `count` of 0..size-1 in even steps."""
    return np.unique(np.linspace(0, size - 1, min(count, size)).round().astype(int)).tolist()


def section(space: Space) -> str:
    """The map, and the table of gaps."""
    kinds = list(dict.fromkeys(space.kinds))
    rows = "".join(
        f"<tr><th>{escape(gap.benchmark)}</th><td>{gap.centroids:.2f}</td><td>{gap.pairs:.2f}</td>"
        f"<td>{gap.others:.2f}</td></tr>"
        for gap in space.gaps
    )
    return (
        f'<h2 id="space">The space</h2><p class="note">{len(space.contents):,} items of all test sets, in the two '
        f"directions in which they differ most ({space.share:.0%} of the variance). Where colours lie apart there is a "
        "modality gap: a right answer of another kind is then farther than a wrong one of the same.</p>"
        f"{charts.legend(kinds)}{_map(space, kinds)}"
        '<p class="note">Distances of unit vectors: between the means of the two sides, from a query to its nearest '
        'right candidate, and to any candidate.</p><div class="scroll"><table><thead><tr><th>task</th><th>means</th>'
        f"<th>right</th><th>any</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _map(space: Space, kinds: Sequence[str]) -> str:
    low, high = space.places.min(axis=0), space.places.max(axis=0)
    at = EDGE + (SIZE - 2 * EDGE) * (space.places - low) / np.maximum(high - low, 1e-9)
    drawn = "".join([*_points(space, kinds, at), *_pictures(space, at)])
    return (
        f'<figure style="max-width:{SIZE}px;margin-bottom:20px"><svg viewBox="0 0 {SIZE} {SIZE}" role="img" '
        f'aria-label="map of the space">{drawn}</svg></figure>'
    )


def _points(space: Space, kinds: Sequence[str], at: np.ndarray) -> Iterator[str]:
    for (x, y), kind, content in zip(at.tolist(), space.kinds, space.contents, strict=True):
        said = " ".join(getattr(part, "text", f"[{modality_of(part).name}]") for part in content)[:WORDS]
        fill = f"fill:{charts.color(kinds.index(kind))};opacity:.7"
        title = f"<title>{escape(f'{kind}: {said}')}</title>"
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" style="{fill}">{title}</circle>'


def _pictures(space: Space, at: np.ndarray) -> Iterator[str]:
    shown = [i for i, kind in enumerate(space.kinds) if kind in VISUAL]
    for i in _even(len(shown), PICTURES):
        if uri := draw.thumbnail(space.contents[shown[i]], 2 * THUMBNAIL):
            x, y = at[shown[i]] - THUMBNAIL / 2
            yield f'<image x="{x:.1f}" y="{y:.1f}" width="{THUMBNAIL}" height="{THUMBNAIL}" href="{uri}"/>'
