"""Convert what `Embedder.embed` takes, strings, paths, images, arrays, to parts of a record."""

import io
from collections.abc import Iterable, Mapping, MappingView, Sequence, Set
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from etils import epath
from PIL import Image as Pillow

from embed.data.files import read_file
from embed.data.media.audio import MAX_PEAK
from embed.data.media.decode import to_rgb
from embed.data.media.video import MAX_FRAMES
from embed.data.modalities import Audio, Image, Part, Text, is_part, modality_of, value_of

MAX_CHANNELS = 32


def to_sequence(items: Any) -> Sequence[Any]:
    """Make a sequence of items: a sequence is returned as it is; an iterator or a table's column is read once.

    Raises ValueError for a single item, and for collections without an order or a clear meaning as a list.
    """
    name = type(items).__name__
    if isinstance(items, str | bytes | bytearray | memoryview | PathLike) or not isinstance(items, Iterable):
        raise ValueError(f"expected a list of items, got one {name}: put it in a list")
    if hasattr(items, "read"):
        raise ValueError(f"expected a list of items, got an open file ({name}): give its path, in a list")
    if isinstance(items, Mapping):
        raise ValueError(f"expected a list of items, got a {name}: give list(items.values())")
    if isinstance(items, Set) and not isinstance(items, MappingView):
        raise ValueError(f"expected a list of items, got a {name}, which has no order: give a list, as sorted(items)")
    shape = getattr(items, "shape", None)
    if isinstance(shape, tuple) and len(shape) != 1:
        raise ValueError(
            f"expected a list of items, got a {name} of shape {list(shape)}: if it is one item, put it in a list; of a "
            "table, give a column"
        )
    return items if isinstance(items, Sequence) else list(items)


def to_integer(name: str, value: Any, maximum: int) -> int:
    """Check that an argument is an integer of 1..maximum. Raises ValueError, naming it, also for True and "8"."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} must be an integer of 1..{maximum}; got {_describe(value)}")
    if not 1 <= value <= maximum:
        raise ValueError(f"{name} {value} is not within 1..{maximum}")
    return int(value)


def to_parts(item: Any) -> list[Part | np.ndarray]:
    """Convert an item, a single part or a list of parts in order, to parts of a record and arrays of video frames.

    Raises ValueError for what cannot be embedded, OSError for a file that cannot be read.
    """
    if isinstance(item, list) and not item:
        raise ValueError("an empty list; an input has at least one part")
    return [to_part(part) for part in (item if isinstance(item, list) else [item])]


def to_part(item: Any) -> Part | np.ndarray:
    """Convert one part of an item to a record's part, or an array of video frames u8[i,h,w,3].

    Raises as `to_parts` does.
    """
    if is_part(item):
        modality, value = modality_of(item), value_of(item)
        if not isinstance(value, modality.value):
            holds = "a string" if modality.value is str else "the bytes of an encoded file"
            raise ValueError(f"{type(item).__name__} holds {holds}; got {_describe(value)}")
        return item
    match item:
        case str():
            return Text(item)
        case Path() | epath.Path():
            return read_file(item)
        case Pillow.Image():
            return to_image(item)
        case np.ndarray():
            return _check_frames(item)
    if isinstance(item, tuple) and len(item) == 2 and any(isinstance(element, np.ndarray | list) for element in item):
        return to_audio(*item)
    raise ValueError(
        f"cannot embed {_describe(item)}: give a string, a path, a PIL image, (waveform, rate) with a numpy "
        "array, video frames, or a list of these"
    )


def to_image(image: Pillow.Image) -> Image:
    """Encode an opened image as PNG, with the pixels that its file would give. Raises MediaError as `to_rgb` does."""
    out = io.BytesIO()
    Pillow.fromarray(to_rgb(image)).save(out, "PNG", compress_level=1)
    return Image(out.getvalue())


def to_audio(samples: Any, rate: Any) -> Audio:
    """Encode a waveform f[n] or f[n,channels] in -1..1, an array or a list, with its rate in Hz, as a WAV of floats.

    Samples beyond -1..1 are clipped when the WAV is decoded, like the overshoot of MP3. Raises ValueError for integer
    samples, samples beyond MAX_PEAK (not scaled), channels first, and (rate, samples).
    """
    if isinstance(rate, np.ndarray | list) and np.ndim(samples) == 0:
        raise ValueError("got a tuple (rate, waveform), as scipy returns it: give (waveform, rate)")
    if isinstance(rate, float | np.floating) and rate.is_integer():
        rate = int(rate)
    if isinstance(rate, bool) or not isinstance(rate, int | np.integer):
        raise ValueError(f"the rate of a waveform must be an integer in Hz; got {_describe(rate)}")
    samples = _check_waveform(np.asarray(samples))
    out = io.BytesIO()
    try:
        soundfile.write(out, samples.astype(np.float32), int(rate), format="WAV", subtype="FLOAT")
    except (soundfile.SoundFileError, OverflowError) as error:
        raise ValueError(f"cannot encode a waveform {list(samples.shape)} at {rate} Hz: {error}") from error
    return Audio(out.getvalue())


def _check_waveform(samples: np.ndarray) -> np.ndarray:
    description = f"{samples.dtype}{list(samples.shape)}"
    if np.issubdtype(samples.dtype, np.integer):
        raise ValueError(
            f"a waveform must be f32[n] or f32[n,channels] in -1..1; got {description}: divide int16 by 32768"
        )
    if samples.ndim not in (1, 2) or not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"a waveform must be f32[n] or f32[n,channels] in -1..1; got {description}")
    if not samples.size:
        raise ValueError(f"a waveform has no samples: {description}")
    rows, columns = samples.shape if samples.ndim == 2 else (len(samples), 1)
    if columns > rows and rows <= MAX_CHANNELS:
        raise ValueError(f"a waveform must be f32[n,channels]; got {description}, channels first: give samples.T")
    if columns > MAX_CHANNELS:
        raise ValueError(f"a waveform of {columns} channels has too many: at most {MAX_CHANNELS}; give f32[n,channels]")
    if bad := int((~np.isfinite(samples)).sum()):
        raise ValueError(f"{bad:,} samples of a waveform are not finite (NaN or infinity): repair it")
    if (peak := float(np.abs(samples).max())) > MAX_PEAK:
        raise ValueError(
            f"a waveform must be in -1..1; got samples up to {peak:,.6g}: divide by full scale (32768 for 16 bits)"
        )
    return samples


def _check_frames(frames: np.ndarray) -> np.ndarray:
    if frames.ndim == 4 and frames.shape[-1] == 3 and frames.dtype == np.uint8 and 1 <= len(frames) <= MAX_FRAMES:
        return frames
    advice = ""
    if frames.ndim in (2, 3) and frames.dtype == np.uint8:
        advice = ": pass an image as PIL.Image.fromarray(pixels)"
    elif frames.ndim in (1, 2) and np.issubdtype(frames.dtype, np.number):
        advice = ": pass a waveform with its rate, as the tuple (samples, rate)"
    elif frames.dtype.kind in "OSU":
        advice = ": pass an array of items as a list, array.tolist()"
    raise ValueError(f"a video array must be u8[1..{MAX_FRAMES},h,w,3]; got {frames.dtype}{list(frames.shape)}{advice}")


def _describe(value: Any) -> str:
    """Describe a value in an error: its type, and its contents where they are short."""
    if isinstance(value, tuple):
        return f"a tuple of {', '.join(type(element).__name__ for element in value[:4])}" if value else "an empty tuple"
    name = type(value).__name__
    return f"{name} {value!r}" if isinstance(value, int | float | str | np.generic) and len(repr(value)) < 60 else name
