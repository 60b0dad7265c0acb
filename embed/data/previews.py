"""What the results page shows of a part: its text, images, a moving clip, or a waveform, decoded small."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from embed.data.media.audio import decode_audio
from embed.data.media.images import decode_image
from embed.data.media.pdf import render_pdf
from embed.data.media.video import decode_clip, decode_video

STRIP_FRAMES = 6  # of a video's film strip
PAGE_SIDE = 460  # pixels of a page's longer side


@dataclasses.dataclass(frozen=True)
class Preview:
    """Only the fields that apply to the modality are set."""

    text: str | None = None
    images: Sequence[np.ndarray] = ()  # u8[h,w,3]: the image, the first page, or a video's frames in order
    description: str = ""  # of the first image, for readers who do not see it
    is_page: bool = False  # its print is to be read
    decode_clip: Callable[[], Sequence[np.ndarray]] | None = None  # u8[h,w,3] frames of a video's first seconds
    samples: np.ndarray | None = None  # f32[n] at 16 kHz
    caption: str = ""


def preview_text(text: str) -> Preview:
    """Show the text itself."""
    return Preview(text=text)


def preview_image(data: bytes) -> Preview:
    """Show the image. Raises MediaError."""
    return Preview(images=[decode_image(data)], description="image")


def preview_audio(data: bytes) -> Preview:
    """Show the waveform. Raises MediaError."""
    return Preview(samples=decode_audio(data))


def preview_video(data: bytes) -> Preview:
    """Show a strip of frames, and the first seconds moving. Raises MediaError."""
    frames, times = decode_video(data, STRIP_FRAMES)
    caption = "video" if len(frames) == 1 else f"video · frames at 0–{times[-1]:.0f} s"
    return Preview(
        images=list(frames),
        description="first frame",
        decode_clip=functools.partial(decode_clip, data),
        caption=caption,
    )


def preview_pdf(data: bytes) -> Preview:
    """Show the first page. Raises MediaError."""
    pages = render_pdf(data, longest=PAGE_SIDE)
    caption = f"PDF · {len(pages)} page{'' if len(pages) == 1 else 's'}"
    return Preview(images=pages[:1], description="PDF page", is_page=True, caption=caption)
