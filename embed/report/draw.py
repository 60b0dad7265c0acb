"""One content as HTML that needs no other file: thumbnails, film strips, page images, players, text and code.

Every text is escaped, and every image, video and audio is decoded and encoded anew, small, as a data URI: no byte of
a dataset's file reaches the browser.
"""

import base64
import functools
import html
import io
from collections.abc import Sequence

import numpy as np
import soundfile
from PIL import Image as Pillow

from embed.data.media.decode import SAMPLE_RATE, MediaError
from embed.data.media.video import CLIP_RATE, CLIP_SIDE
from embed.data.modalities import Content, Part, modality_of, value_of
from embed.data.previews import PAGE_SIDE, Preview

MAX_SIDE = 320  # px of a thumbnail's longer side
TINY = 64  # px; images up to this size are enlarged without smoothing
MAX_CHARACTERS = 420
MAX_AUDIO_SECONDS = 12
BARS = 72  # of a waveform
CONTROL = dict.fromkeys([*range(9), 11, 12, *range(14, 32), 127])  # characters that HTML does not allow


def escape(text: str) -> str:
    """Any string as HTML text or a quoted attribute, without control characters and lone surrogates."""
    return html.escape(text.encode("utf-8", "replace").decode().translate(CONTROL))


def content(parts: Content, max_characters: int = MAX_CHARACTERS) -> str:
    """Draw the parts in order; texts longer than `max_characters` end in an ellipsis."""
    return f'<div class="parts">{"".join(_part(part, max_characters) for part in parts)}</div>'


@functools.lru_cache(maxsize=256)  # one candidate appears under many queries
def _part(part: Part, max_characters: int) -> str:
    try:
        return _preview(modality_of(part).preview(value_of(part)), max_characters)
    except MediaError as error:
        return f'<p class="meta">cannot be drawn: {escape(str(error))}</p>'


def _preview(preview: Preview, max_characters: int) -> str:
    if preview.text is not None:
        return _text(preview.text, max_characters)
    if preview.samples is not None:
        return _audio(preview.samples)
    caption = f'<p class="meta">{escape(preview.caption)}</p>' if preview.caption else ""
    if preview.decode_clip is not None:
        return _video(preview.images, preview.decode_clip()) + caption
    return _image(preview.images[0], preview.description, preview.is_page) + caption


def _text(text: str, max_characters: int) -> str:
    shown = escape(truncate(text, max_characters))
    if looks_like_code(text):
        return f'<pre tabindex="0"><code>{shown}</code></pre>'
    return f'<p class="text" dir="auto">{shown}</p>'


def truncate(text: str, max_characters: int) -> str:
    """The text, or its beginning up to the last space or line break within reach and an ellipsis."""
    if len(text) <= max_characters:
        return text
    head = text[:max_characters]
    word_end = max(head.rfind(" "), head.rfind("\n"))
    return (head[:word_end] if word_end > max_characters // 2 else head).rstrip() + " …"


def looks_like_code(text: str) -> bool:
    """Lines that are indented, or end as statements and blocks do."""
    lines = [line for line in text.splitlines() if line.strip()]
    return len(lines) > 1 and any(
        line.startswith(("  ", "\t")) or line.rstrip().endswith(("{", "}", ";")) for line in lines
    )


def _image(pixels: np.ndarray, name: str, is_page: bool = False, longest: int = MAX_SIDE) -> str:
    """u8[h,w,3] -> an img. Sizes that look like a page are kept larger."""
    height, width = pixels.shape[:2]
    is_page = is_page or (width >= 500 and height > 1.2 * width)
    image = Pillow.fromarray(pixels)
    image.thumbnail((PAGE_SIDE,) * 2 if is_page else (longest,) * 2)
    style = "pixels" if max(image.size) <= TINY else "page" if is_page else "photo"
    uri = _uri(image, "PNG") if style == "pixels" else _uri(image, "WEBP", quality=78)
    size = f'width="{image.width}" height="{image.height}"'
    return f'<img class="{style}" src="{uri}" {size} alt="{name}, {width}×{height}">'


def thumbnail(parts: Content, longest: int) -> str:
    """A data URI of the first image, frame or page; "" without one that can be decoded."""
    for part in parts:
        try:
            images = modality_of(part).preview(value_of(part)).images
        except MediaError:
            continue
        if images:
            image = Pillow.fromarray(images[0])
            image.thumbnail((longest, longest))
            return _uri(image, "WEBP", quality=70)
    return ""


def _uri(image: Pillow.Image, form: str, **options) -> str:
    out = io.BytesIO()
    image.save(out, form, **options)
    return data_uri(f"image/{form.lower()}", out.getvalue())


def data_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _video(frames: Sequence[np.ndarray], clip: Sequence[np.ndarray]) -> str:
    """The animated clip (still for readers who prefer reduced motion), and below it a strip of frames."""
    still = _image(frames[0], "first frame", longest=CLIP_SIDE)
    if len(clip) > 1:
        moving = [Pillow.fromarray(frame) for frame in clip]
        duration = round(1000 / CLIP_RATE)
        uri = _uri(
            moving[0], "WEBP", save_all=True, append_images=moving[1:], duration=duration, loop=0, quality=72, method=3
        )
        width, height = moving[0].size
        still_uri = still.split('src="')[1].split('"')[0]
        still = (
            f'<picture><source media="(prefers-reduced-motion: reduce)" srcset="{still_uri}">'
            f'<img class="photo" src="{uri}" width="{width}" height="{height}" alt="video, moving"></picture>'
        )
    if len(frames) == 1:
        return still
    thumbs = [Pillow.fromarray(frame) for frame in frames]
    for thumb in thumbs:
        thumb.thumbnail((72, 72))
    width, height = thumbs[0].size
    strip = Pillow.new("RGB", ((width + 2) * len(thumbs) - 2, height))
    for i, thumb in enumerate(thumbs):
        strip.paste(thumb, (i * (width + 2), 0))
    uri = _uri(strip, "WEBP", quality=78)
    return f'{still}<div class="film"><img src="{uri}" width="{strip.width}" height="{height}" alt="film strip"></div>'


def _audio(samples: np.ndarray) -> str:
    """f32[n] at 16 kHz -> its waveform and a player of mono MP3, which every browser plays."""
    seconds = len(samples) / SAMPLE_RATE
    cut = samples[: MAX_AUDIO_SECONDS * SAMPLE_RATE]
    out = io.BytesIO()
    soundfile.write(out, cut, SAMPLE_RATE, format="MP3")
    short = f", first {MAX_AUDIO_SECONDS} s kept" if len(cut) < len(samples) else ""
    return (
        f'{_waveform(cut)}<audio controls preload="none" src="{data_uri("audio/mpeg", out.getvalue())}"></audio>'
        f'<p class="meta">audio · {seconds:.1f} s{short}</p>'
    )


def _waveform(samples: np.ndarray) -> str:
    """One bar per stretch of samples: its peak, relative to the largest."""
    peaks = np.array([np.abs(chunk).max(initial=0) for chunk in np.array_split(samples, BARS)])
    peaks = np.maximum(peaks / max(peaks.max(), 1e-4), 0.04) * 20
    path = "".join(f"M{4 * i + 2} {21 - top:.1f}V{21 + top:.1f}" for i, top in enumerate(peaks))
    return f'<svg class="wave" viewBox="0 0 {4 * BARS} 42" role="img" aria-label="waveform"><path d="{path}"/></svg>'
