"""The space on paper: items of every modality in its two widest directions, and how far apart the modalities lie."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from embed.data.modalities import MODALITIES, Content, modality_of
from embed.eval.benchmarks import Benchmark
from embed.eval.suite import even_steps
from embed.model.matryoshka import truncate_dim
from embed.report import charts, draw
from embed.report.draw import escape

SIZE, MARGIN = 640, 26  # of the figure
MAX_THUMBNAILS = 40
THUMBNAIL = 26
MAX_MEASURED = 500  # queries, and candidates, of a benchmark between which distances are taken
VISUAL = {modality.name for modality in MODALITIES if modality.is_visual}
MAX_LABEL = 80  # characters of a point's tooltip


@dataclasses.dataclass(frozen=True)
class ModalityGap:
    """Distances of unit vectors, 0 to 2, between the two sides of a benchmark."""

    benchmark: str
    centroids: float  # between the sides' means: the modality gap of Liang et al., arXiv 2203.02053
    relevant: float  # from a query to its nearest relevant candidate, mean
    any: float  # from a query to any candidate, mean


@dataclasses.dataclass(frozen=True)
class Space:
    points: np.ndarray  # f64[n,2]
    explained: float  # share of the variance in the two directions
    modalities: tuple[str, ...]  # of every item
    contents: tuple[Content, ...]
    gaps: tuple[ModalityGap, ...]


def name_modality(content: Content) -> str:
    """The modality of the parts; `interleaved` where there are several."""
    names = {modality_of(part).name for part in content}
    return names.pop() if len(names) == 1 else "interleaved"


def project(
    benchmarks: Sequence[Benchmark], vectors: Sequence[tuple[np.ndarray, np.ndarray]], per_side: int = 40
) -> Space:
    """Project vectors f32[q,e] and f32[n,e] of benchmarks onto their two principal components.

    `per_side` items of each side are taken in even steps, each content once.
    """
    items: dict[Content, np.ndarray] = {}
    gaps = []
    for benchmark, sides in zip(benchmarks, vectors, strict=True):
        queries, corpus = (truncate_dim(side, side.shape[1]) for side in sides)
        for contents, units in ((benchmark.queries, queries), (benchmark.corpus, corpus)):
            for i in even_steps(len(contents), per_side):
                items.setdefault(contents[i], units[i])
        gaps.append(_measure_gap(benchmark, queries, corpus))
    units = np.array(list(items.values()), np.float64)
    centered = units - units.mean(axis=0)
    _, singular_values, axes = np.linalg.svd(centered, full_matrices=False)
    variance = singular_values**2
    explained = float(variance[:2].sum() / max(variance.sum(), 1e-12))
    return Space(centered @ axes[:2].T, explained, tuple(map(name_modality, items)), tuple(items), tuple(gaps))


def _measure_gap(benchmark: Benchmark, queries: np.ndarray, corpus: np.ndarray) -> ModalityGap:
    query_sample = even_steps(len(queries), MAX_MEASURED)
    corpus_sample = even_steps(len(corpus), MAX_MEASURED)
    relevant = [_distances(queries[i], corpus[list(benchmark.relevance[i])]).min() for i in query_sample]
    any_distance = _distances(queries[query_sample], corpus[corpus_sample]).mean()
    centroids = np.linalg.norm(queries.mean(axis=0) - corpus.mean(axis=0))
    return ModalityGap(benchmark.name, float(centroids), float(np.mean(relevant)), float(any_distance))


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distances of unit vectors [...,e] and [n,e]: [...,n]."""
    return np.sqrt(np.maximum(2 - 2 * a @ b.T, 0))


def section(space: Space) -> str:
    """HTML: the map, and the table of gaps, which unfolds."""
    modalities = list(dict.fromkeys(space.modalities))
    rows = "".join(
        f"<tr><th>{escape(gap.benchmark)}</th><td>{gap.centroids:.2f}</td><td>{gap.relevant:.2f}</td>"
        f"<td>{gap.any:.2f}</td></tr>"
        for gap in space.gaps
    )
    legend = charts.legend(modalities, [charts.modality_color(name) for name in modalities])
    return (
        f'<div class="space">{_map(space)}<div>{legend}<p class="note">{len(space.contents):,} items; the two '
        f"directions hold {space.explained:.0%} of the variance. "
        "Where colors lie apart there is a modality gap: a right answer of another modality is then farther away than "
        "a wrong one of the same.</p></div></div>"
        '<div class="folds"><details><summary>Distances between modalities</summary><p class="note">Of unit vectors: '
        "between the means of the two sides, from a query to its nearest relevant candidate, and to any candidate.</p>"
        '<div class="scroll" tabindex="0"><table><thead><tr><th>benchmark</th><th>means</th><th>relevant</th>'
        f"<th>any</th></tr></thead><tbody>{rows}</tbody></table></div></details></div>"
    )


def _map(space: Space) -> str:
    low = space.points.min(axis=0)
    extent = np.maximum(space.points.max(axis=0) - low, 1e-9)
    positions = MARGIN + (SIZE - 2 * MARGIN) * (space.points - low) / extent
    drawn = "".join([*_circles(space, positions), *_thumbnails(space, positions)])
    return f'<figure><svg viewBox="0 0 {SIZE} {SIZE}" role="img" aria-label="map of the space">{drawn}</svg></figure>'


def _circles(space: Space, positions: np.ndarray) -> Iterator[str]:
    for (x, y), modality, content in zip(positions.tolist(), space.modalities, space.contents, strict=True):
        text = " ".join(getattr(part, "text", f"[{modality_of(part).name}]") for part in content)
        fill = f"fill:{charts.modality_color(modality)};opacity:.7"
        title = f"<title>{escape(draw.truncate(f'{modality}: {text}', MAX_LABEL))}</title>"
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" style="{fill}">{title}</circle>'


def _thumbnails(space: Space, positions: np.ndarray) -> Iterator[str]:
    visual = [i for i, modality in enumerate(space.modalities) if modality in VISUAL]
    for i in even_steps(len(visual), MAX_THUMBNAILS):
        if uri := draw.thumbnail(space.contents[visual[i]], 2 * THUMBNAIL):
            x, y = positions[visual[i]] - THUMBNAIL / 2
            yield f'<image x="{x:.1f}" y="{y:.1f}" width="{THUMBNAIL}" height="{THUMBNAIL}" href="{uri}"/>'
