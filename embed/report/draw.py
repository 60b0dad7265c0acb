"""One content as HTML that needs no other file: thumbnails, film strips, page pictures, players, text and code.

Every text is escaped and every medium is decoded and encoded anew, small, as a data URI: nothing of a file that
somebody else made reaches the browser as it is.
"""

import base64
import functools
import html
import io

import av
import numpy as np
import soundfile
from PIL import Image as Pillow

from embed.data.media import decode
from embed.data.media.pdf import render_pdf
from embed.data.records import Audio, Content, Image, Part, Pdf, Text, Video

MAX_SIDE = 320  # px of a thumbnail's longer side
MAX_PAGE_SIDE = 460  # px, of what looks like a page: its layout is what there is to see
TINY = 64  # px; pictures up to this are shown enlarged, pixel by pixel
MAX_CHARACTERS = 900
MAX_SOUND_SECONDS = 12
STRIP_FRAMES = 6
MOVING_SECONDS, MOVING_RATE, MOVING_LONGEST = 4.0, 8.0, 176  # of the animated preview of a video
BARS = 72  # of a waveform
CONTROL = dict.fromkeys([*range(9), 11, 12, *range(14, 32), 127])  # characters HTML has no place for


def escape(text: str) -> str:
    """Any string as HTML text or a quoted attribute; control characters and lone surrogates are taken out."""
    return html.escape(text.encode("utf-8", "replace").decode().translate(CONTROL))


def content(parts: Content) -> str:
    """Parts in their order."""
    return f'<div class="parts">{"".join(map(_part, parts))}</div>'


@functools.lru_cache(maxsize=256)  # a favourite answer shows up under many queries
def _part(part: Part) -> str:
    try:
        match part:
            case Text(text):
                return _text(text)
            case Image(data):
                return _picture(decode.decode_image(data), "image")
            case Video(data):
                return _video(data)
            case Audio(data):
                return _sound(decode.decode_audio(data))
            case Pdf(data):
                pages = render_pdf(data, longest=MAX_PAGE_SIDE)
                return f'{_picture(pages[0], "PDF page")}<p class="meta">PDF · {_count(len(pages), "page")}</p>'
    except decode.MediaError as error:
        return f'<p class="meta">cannot be drawn: {escape(str(error))}</p>'


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _text(text: str) -> str:
    left = len(text) - MAX_CHARACTERS
    more = f'<p class="meta">… {left:,} more characters</p>' if left > 0 else ""
    shown = escape(text[:MAX_CHARACTERS])
    if looks_like_code(text):
        return f'<pre tabindex="0"><code>{shown}</code></pre>{more}'
    return f'<p class="text" dir="auto">{shown}</p>{more}'


def looks_like_code(text: str) -> bool:
    """Lines that are indented, or end as statements and blocks do."""
    lines = [line for line in text.splitlines() if line.strip()]
    return len(lines) > 1 and any(
        line.startswith(("  ", "\t")) or line.rstrip().endswith(("{", "}", ";")) for line in lines
    )


def _picture(pixels: np.ndarray, name: str, longest: int = MAX_SIDE) -> str:
    """u8[h,w,3] -> an img. Sizes that look like a page are kept larger."""
    height, width = pixels.shape[:2]
    is_page = name == "PDF page" or (width >= 500 and height > 1.2 * width)
    image = Pillow.fromarray(pixels)
    image.thumbnail((MAX_PAGE_SIDE,) * 2 if is_page else (longest,) * 2)
    kind = "pixels" if max(image.size) <= TINY else "page" if is_page else "photo"
    uri = _uri(image, "PNG") if kind == "pixels" else _uri(image, "WEBP", quality=78)
    return (
        f'<img class="{kind}" src="{uri}" width="{image.width}" height="{image.height}" alt="{name}, {width}×{height}">'
    )


def thumbnail(parts: Content, longest: int) -> str:
    """A data URI of the first picture, frame or page, or "" where there is none that can be drawn."""
    for part in parts:
        try:
            match part:
                case Image(data):
                    pixels = decode.decode_image(data)
                case Video(data):
                    pixels = decode.decode_video(data, 1)[0][0]
                case Pdf(data):
                    pixels = render_pdf(data, longest=longest)[0]
                case _:
                    continue
        except decode.MediaError:
            continue
        image = Pillow.fromarray(pixels)
        image.thumbnail((longest, longest))
        return _uri(image, "WEBP", quality=70)
    return ""


def _uri(image: Pillow.Image, form: str, **options) -> str:
    out = io.BytesIO()
    image.save(out, form, **options)
    return data_uri(f"image/{form.lower()}", out.getvalue())


def data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _video(data: bytes) -> str:
    """The clip moving (still where the reader prefers that), and below it up to STRIP_FRAMES of its frames."""
    frames, times = decode.decode_video(data, STRIP_FRAMES)
    still = _picture(frames[0], "first frame", MOVING_LONGEST)
    moving = _moving(data)
    if len(moving) > 1:
        gap = round(1000 / MOVING_RATE)
        uri = _uri(
            moving[0], "WEBP", save_all=True, append_images=moving[1:], duration=gap, loop=0, quality=72, method=3
        )
        width, height = moving[0].size
        calm = still.split('src="')[1].split('"')[0]
        still = (
            f'<picture><source media="(prefers-reduced-motion: reduce)" srcset="{calm}">'
            f'<img class="photo" src="{uri}" width="{width}" height="{height}" alt="video, moving"></picture>'
        )
    if len(frames) == 1:
        return f'{still}<p class="meta">video</p>'
    thumbs = [Pillow.fromarray(frame) for frame in frames]
    for thumb in thumbs:
        thumb.thumbnail((72, 72))
    width, height = thumbs[0].size
    strip = Pillow.new("RGB", ((width + 2) * len(thumbs) - 2, height))
    for i, thumb in enumerate(thumbs):
        strip.paste(thumb, (i * (width + 2), 0))
    uri = _uri(strip, "WEBP", quality=78)
    return (
        f'{still}<div class="film"><img src="{uri}" width="{strip.width}" height="{height}" alt="film strip"></div>'
        f'<p class="meta">video · frames at 0–{times[-1]:.0f} s</p>'
    )


def _moving(data: bytes) -> list[Pillow.Image]:
    """The first seconds at a low rate; nothing where the file cannot be played through, which is not worth a word."""
    found: list[Pillow.Image] = []
    try:
        with av.open(io.BytesIO(data), "r") as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            start = None
            for frame in container.decode(stream):
                start = frame.time if start is None else start
                if frame.time - start >= MOVING_SECONDS:
                    break
                if frame.time - start >= len(found) / MOVING_RATE - 1e-6:
                    found.append(Pillow.fromarray(frame.to_ndarray(format="rgb24")))
                    found[-1].thumbnail((MOVING_LONGEST,) * 2)
    except (av.FFmpegError, ValueError, TypeError, IndexError):
        return []
    return found if len({image.size for image in found}) == 1 else []


def _sound(samples: np.ndarray) -> str:
    """f32[n] at 16 kHz -> its waveform and a player; the sound as mono MP3, which every browser plays."""
    seconds = len(samples) / decode.SAMPLE_RATE
    cut = samples[: MAX_SOUND_SECONDS * decode.SAMPLE_RATE]
    out = io.BytesIO()
    soundfile.write(out, cut, decode.SAMPLE_RATE, format="MP3")
    short = f", first {MAX_SOUND_SECONDS} s kept" if len(cut) < len(samples) else ""
    return (
        f'{_waveform(cut)}<audio controls preload="none" src="{data_uri("audio/mpeg", out.getvalue())}"></audio>'
        f'<p class="meta">audio · {seconds:.1f} s{short}</p>'
    )


def _waveform(samples: np.ndarray) -> str:
    """The loudest sample of each of BARS stretches, scaled to the loudest of all."""
    peaks = np.array([np.abs(chunk).max(initial=0) for chunk in np.array_split(samples, BARS)])
    peaks = np.maximum(peaks / max(peaks.max(), 1e-4), 0.04) * 20
    path = "".join(f"M{4 * i + 2} {21 - top:.1f}V{21 + top:.1f}" for i, top in enumerate(peaks))
    return f'<svg class="wave" viewBox="0 0 {4 * BARS} 42" role="img" aria-label="waveform"><path d="{path}"/></svg>'
