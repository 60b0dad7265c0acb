"""Content and numbers as self-contained HTML: thumbnails, film strips, players, code, and line charts as SVG."""

import base64
import html
import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image as Pillow

from embed.data import media
from embed.data.records import Audio, Content, Image, Part, Pdf, Text, Video

COLOURS = ("#4269d0", "#e7853b", "#3ca951", "#e0483e", "#a463f2", "#6cc5b0", "#ff8ab7", "#9c6b4e", "#97bbf5")
LARGEST = 256  # pixels of a thumbnail's longer side
MOST_TEXT = 400  # characters shown
MOST_SOUND = 400_000  # bytes of a sound embedded in the page


def content(parts: Content) -> str:
    """Parts in order as HTML; all text is escaped, all media are data URIs."""
    return f'<div class="parts">{"".join(_part(part) for part in parts)}</div>'


def _part(part: Part) -> str:
    try:
        match part:
            case Text(text):
                shown = html.escape(text[:MOST_TEXT] + ("…" if len(text) > MOST_TEXT else ""))
                code = "\n" in text and any(sign in text for sign in ("def ", "return", "{", ";"))
                return f"<pre>{shown}</pre>" if code else f"<p>{shown}</p>"
            case Image(data):
                return _picture(media.decode_image(data))
            case Video(data):
                frames, _ = media.decode_video(data, 4)
                return f'<div class="film">{"".join(_picture(frame) for frame in frames)}</div>'
            case Pdf(data):
                return "".join(_picture(page) for page in media.render_pdf(data, longest=LARGEST))
            case Audio(data):
                return _wave(media.decode_audio(data)) + _player(data)
    except ValueError as error:
        return f'<p class="note">cannot be shown: {html.escape(str(error))}</p>'


def _uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _picture(pixels: np.ndarray) -> str:
    image = Pillow.fromarray(pixels)
    image.thumbnail((LARGEST, LARGEST))
    out = io.BytesIO()
    image.save(out, "PNG" if image.width * image.height <= 128 * 128 else "JPEG", quality=85)
    kind = "image/png" if image.width * image.height <= 128 * 128 else "image/jpeg"
    small = " small" if max(image.size) <= 96 else ""
    return f'<img class="picture{small}" alt="" src="{_uri(out.getvalue(), kind)}">'


def _player(data: bytes) -> str:
    if len(data) > MOST_SOUND:
        return '<p class="note">too long to embed in the page</p>'
    kind = {b"fLaC": "audio/flac", b"RIFF": "audio/wav", b"OggS": "audio/ogg"}.get(data[:4], "audio/mpeg")
    return f'<audio controls preload="none" src="{_uri(data, kind)}"></audio>'


def _wave(samples: np.ndarray) -> str:
    chunks = np.array_split(np.abs(samples), min(90, len(samples)))
    tops = [float(chunk.max()) * 18 + 0.6 for chunk in chunks]
    bars = "".join(
        f'<rect x="{2 * i}" y="{20 - top:.1f}" width="1.4" height="{2 * top:.1f}"/>' for i, top in enumerate(tops)
    )
    return f'<svg class="wave" viewBox="0 0 180 40" aria-hidden="true">{bars}</svg>'


def chart(
    title: str,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    ticks: Sequence[float] = (),
    log: bool = False,
) -> str:
    """Named lines (xs, ys) as an SVG line chart with its legend. `log` draws x in powers of two."""
    lines = {name: line for name, line in lines.items() if len(line[0])}
    if not lines:
        return ""
    place = (lambda x: float(np.log2(x))) if log else float
    xs = [place(x) for line in lines.values() for x in line[0]]
    ys = [float(y) for line in lines.values() for y in line[1]]
    left, right, low, high = min(xs), max(xs), min(0.0, *ys), max(ys) * 1.05 or 1.0

    def point(x: float, y: float) -> str:
        across = 34 + 300 * (place(x) - left) / max(right - left, 1e-9)
        return f"{across:.1f},{150 - 135 * (y - low) / (high - low):.1f}"

    grid = []
    for y in np.linspace(low, high, 4):
        at = point(2**left if log else left, y).split(",")[1]
        grid.append(f'<line x1="34" x2="334" y1="{at}" y2="{at}"/><text x="30" y="{at}" class="y">{y:.2g}</text>')
    for x in ticks or (left, right):
        grid.append(f'<text x="{point(x, low).split(",")[0]}" y="164" class="x">{x:g}</text>')
    drawn, legend = [], []
    for colour, (name, (x, y)) in zip(COLOURS * len(lines), lines.items(), strict=False):
        points = " ".join(point(a, b) for a, b in zip(x, y, strict=True))
        drawn.append(f'<polyline points="{points}" stroke="{colour}"/>')
        legend.append(f'<span><i style="background:{colour}"></i>{html.escape(name)}</span>')
    body = f'<svg viewBox="0 0 340 170">{"".join(grid)}{"".join(drawn)}</svg>'
    return f'<figure><figcaption>{html.escape(title)}</figcaption>{body}<div class="legend">{"".join(legend)}</div></figure>'
