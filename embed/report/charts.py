"""Line charts as inline SVG: colors are the page's CSS variables and follow its light and dark themes."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from embed.report.draw import escape

WIDTH, HEIGHT = 400, 232
LEFT, RIGHT, TOP, BOTTOM = 38, 12, 12, 26
COLORS = 12  # the page defines --c0 .. --c11
MODALITIES = ("text", "code", "document", "image", "video", "audio", "interleaved", "classification", "pdf")
MAX_POINTS = 160


@dataclasses.dataclass(frozen=True)
class Line:
    name: str
    color: str
    xs: Sequence[float]
    ys: Sequence[float]


def color(number: int) -> str:
    return f"var(--c{number % COLORS})"


def modality_color(name: str) -> str:
    """One color per modality throughout the page."""
    return color(MODALITIES.index(name) if name in MODALITIES else len(MODALITIES))


def legend(names: Sequence[str], colors: Sequence[str] | None = None) -> str:
    """Names with their colors, by default in order."""
    colors = colors or [color(i) for i in range(len(names))]
    pairs = zip(names, colors, strict=True)
    items = (f'<li><i style="background:{shade}"></i>{escape(name)}</li>' for name, shade in pairs)
    return f'<ul class="legend">{"".join(items)}</ul>'


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    share: bool = False,
    noisy: bool = False,
    log_x: bool = False,
) -> str:
    """Draw one figure; "" without a finite value.

    `share`: y is 0..1, shown in percent. `noisy`: values faint, their running mean on top; otherwise every value is
    marked. `log_x`: a logarithmic axis with a label at each x, all above zero.
    """
    kept = [line for line in map(_finite, lines) if len(line.xs)]
    if not kept:
        return ""
    x_low, x_high = _extent([line.xs for line in kept])
    if share:
        y_low, y_high = 0.0, _ceiling(max(max(line.ys) for line in kept))
    else:
        y_low, y_high = _range_with_zero([line.ys for line in kept])

    def x_at(x: float) -> float:
        scale = math.log2 if log_x else float
        low, high = scale(x_low), scale(x_high)
        return LEFT + (WIDTH - LEFT - RIGHT) * ((scale(x) - low) / (high - low) if high > low else 0.5)

    def y_at(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (min(max(y, y_low), y_high) - y_low) / (y_high - y_low)

    drawn = []
    for y in _ticks(y_low, y_high, 4):
        label = f"{100 * y:.0f}%" if share else f"{y:g}"
        drawn.append(f'<path class="grid" d="M{LEFT} {y_at(y):.1f}H{WIDTH - RIGHT}"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{y_at(y) + 4:.1f}" text-anchor="end">{label}</text>')
    for x in sorted({x for line in kept for x in line.xs}) if log_x else _ticks(x_low, x_high, 4):
        drawn.append(f'<text x="{x_at(x):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{x:g}</text>')
    drawn.append(
        f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - BOTTOM - 6}" text-anchor="end">{escape(x_label)}</text>'
    )
    for line in kept:
        xs, ys = _thin(np.asarray(line.xs, float), np.asarray(line.ys, float))
        style = f'style="stroke:{line.color}"'
        if noisy:
            drawn.append(f'<path class="raw" {style} d="{_path(xs, ys, x_at, y_at)}"/>')
            ys = _running_mean(ys)
        name = f"<title>{escape(line.name)}</title>"
        drawn.append(f'<path class="line" {style} d="{_path(xs, ys, x_at, y_at)}">{name}</path>')
        points = [(xs[-1], ys[-1])] if noisy else zip(xs, ys, strict=True)
        fill = f'style="fill:{line.color}"'
        drawn += [f'<circle {fill} cx="{x_at(x):.1f}" cy="{y_at(y):.1f}" r="3">{name}</circle>' for x, y in points]
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{"".join(drawn)}</svg></figure>'
    )


def _finite(line: Line) -> Line:
    pairs = sorted((x, y) for x, y in zip(line.xs, line.ys, strict=True) if math.isfinite(x) and math.isfinite(y))
    return dataclasses.replace(line, xs=[x for x, _ in pairs], ys=[y for _, y in pairs])


def _extent(rows: Sequence[Sequence[float]]) -> tuple[float, float]:
    return min(map(min, rows)), max(map(max, rows))


def _range_with_zero(rows: Sequence[Sequence[float]]) -> tuple[float, float]:
    """From zero or the least value to just above the 99.5th percentile: an early spike does not flatten the rest."""
    values = np.concatenate([np.asarray(row, float) for row in rows])
    low, high = min(0.0, float(values.min())), max(float(np.quantile(values, 0.995)), float(values.min()))
    return low, high + 0.06 * (high - low) if high > low else low + 1


def _ceiling(value: float) -> float:
    """The next round share, so that low values stay readable."""
    return next(top for top in (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, math.inf) if value <= top) if value <= 1 else value


def _ticks(low: float, high: float, about: int) -> list[float]:
    if high <= low:
        return [low]
    rough = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _thin(xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most MAX_POINTS means of neighbours."""
    if len(xs) <= MAX_POINTS:
        return xs, ys
    parts = np.array_split(np.arange(len(xs)), MAX_POINTS)
    return np.array([xs[part].mean() for part in parts]), np.array([ys[part].mean() for part in parts])


def _running_mean(ys: np.ndarray) -> np.ndarray:
    """Over a tenth of the points, centered, narrower at the ends."""
    reach = max(1, len(ys) // 20)
    return np.array([ys[max(0, i - reach) : i + reach + 1].mean() for i in range(len(ys))])


def _path(xs, ys, x_at, y_at) -> str:
    return "M" + "L".join(f"{x_at(x):.1f} {y_at(y):.1f}" for x, y in zip(xs, ys, strict=True))
