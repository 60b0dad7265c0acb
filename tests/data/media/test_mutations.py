"""Thousands of mutated files of every format that is read: each gives a result or a MediaError, and prints nothing."""

import io
import sys
import warnings
from collections.abc import Callable, Iterator

import av
import numpy as np
import pytest
from PIL import Image as Pillow
from test_forms import CHECKBOX, TEXT, form_pdf
from test_media import DECODERS, PHOTO, WHOLE, av_sound, image_file, page_pdf, pdf_file, sine, sound_file

from embed.data.media.decode import MediaError

TURNED = Pillow.Exif()
TURNED[0x0112] = 6
TURNED[0x010E] = "a photo"
PHOTO_PIL = Pillow.fromarray(PHOTO)
DEEP = Pillow.fromarray(PHOTO[..., 0].astype(np.uint16) << 8)


def frames(kind: str, **options) -> bytes:
    return image_file(PHOTO_PIL, kind, save_all=True, append_images=[PHOTO_PIL.rotate(180)], duration=100, **options)


def images() -> dict[str, bytes]:
    tiff = {
        f"tiff-{how}": image_file(PHOTO, "TIFF", compression=how)
        for how in ("raw", "packbits", "tiff_deflate", "jpeg", "tiff_lzw")
    }
    return tiff | {
        "png-rgba": image_file(PHOTO_PIL.convert("RGBA"), exif=TURNED),
        "png-16": image_file(DEEP, transparency=7),
        "png-gray": image_file(PHOTO_PIL.convert("L"), transparency=7),
        "png-1": image_file(PHOTO_PIL.convert("1")),
        "apng": frames("PNG"),
        "jpeg-exif": image_file(PHOTO, "JPEG", exif=TURNED, progressive=True),
        "jpeg-cmyk": image_file(PHOTO_PIL.convert("CMYK"), "JPEG"),
        "jpeg-gray": image_file(PHOTO_PIL.convert("L"), "JPEG"),
        "mpo": frames("MPO"),
        "webp-lossless": image_file(PHOTO_PIL.convert("RGBA"), "WEBP", lossless=True, exif=TURNED),
        "webp-frames": frames("WEBP"),
        "gif-frames": frames("GIF"),
        "bmp": image_file(PHOTO, "BMP"),
        "bmp-palette": image_file(PHOTO_PIL.convert("P"), "BMP"),
        "dib": image_file(PHOTO, "DIB"),
        "tiff-group4": image_file(PHOTO_PIL.convert("1"), "TIFF", compression="group4"),
        "tiff-lab": image_file(Pillow.new("LAB", (9, 9)), "TIFF"),
        "tiff-cmyk": image_file(PHOTO_PIL.convert("CMYK"), "TIFF", exif=TURNED),
        "tiff-16": image_file(DEEP, "TIFF"),
        "tiff-palette": image_file(PHOTO_PIL.convert("P"), "TIFF"),
        "jp2": image_file(PHOTO, "JPEG2000"),
        "j2k": image_file(PHOTO_PIL.convert("RGBA"), "JPEG2000", no_jp2=True),
        "ico": image_file(PHOTO, "ICO"),
        "ico-bmp": image_file(PHOTO, "ICO", bitmap_format="bmp"),
    }


def sounds() -> dict[str, bytes]:
    wave = sine(440, 0.2, 16_000)
    by_soundfile = {
        f"{kind}-{sub}".lower(): sound_file(wave, 16_000, kind, sub)
        for kind, sub in (
            ("WAV", "FLOAT"),
            ("WAV", "PCM_24"),
            ("WAV", "ULAW"),
            ("WAV", "MS_ADPCM"),
            ("WAV", "IMA_ADPCM"),
            ("RF64", "PCM_16"),
            ("W64", "PCM_16"),
            ("AIFF", "PCM_16"),
            ("AIFF", "IMA_ADPCM"),
            ("AU", "PCM_16"),
            ("CAF", "PCM_16"),
            ("CAF", "ALAC_16"),
            ("VOC", "PCM_16"),
            ("OGG", "VORBIS"),
        )
    }
    kinds = (("adts", "aac"), ("asf", "wmav2"), ("ogg", "flac"), ("mp2", "mp2"), ("matroska", "ac3"), ("mov", "alac"))
    return by_soundfile | {f"{kind}-{codec}": av_sound(kind, codec, 0.2) for kind, codec in kinds}


def av_video(kind: str, codec: str) -> bytes:
    """30 frames at 25 a second, of 176x144: codecs of old take few sizes and rates."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height = 176, 144
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for level in range(0, 240, 8):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((144, 176, 3), level, np.uint8), format="rgb24")))
        out.mux(stream.encode(None))
    return file.getvalue()


def videos() -> dict[str, bytes]:
    kinds = (
        ("mpeg", "mpeg1video"),
        ("vob", "mpeg2video"),
        ("flv", "flv"),
        ("asf", "wmv2"),
        ("mov", "mjpeg"),
        ("3gp", "h263"),
        ("avi", "msmpeg4v3"),
        ("webm", "libvpx"),
        ("mp4", "libx265"),
    )
    return {f"{kind}-{codec}": av_video(kind, codec) for kind, codec in kinds}


def pdfs() -> dict[str, bytes]:
    photo = io.BytesIO()
    PHOTO_PIL.save(photo, "PDF")
    forms = {"pdf-form": form_pdf(TEXT % b"ALICE", CHECKBOX % (b"Yes", b"Yes"))}
    text = b"BT /F1 20 Tf 10 40 Td (a filled form) Tj ET"
    return {
        "pdf-photo": photo.getvalue(),
        "pdf-pages": pdf_file((99, 99), (50, 99)),
        "pdf-text": page_pdf(text),
    } | forms


def whole_files() -> dict[str, tuple[str, bytes]]:
    """Name -> (kind, bytes)."""
    more = {"image": images(), "audio": sounds(), "video": videos(), "pdf": pdfs()}
    return WHOLE | {name: (kind, data) for kind, files in more.items() for name, data in files.items()}


def flip_bits(data: bytearray, rng: np.random.Generator) -> None:
    reach = len(data) if rng.integers(2) else min(len(data), 128)
    for at in rng.integers(reach, size=rng.integers(1, 9)):
        data[at] ^= 1 << rng.integers(8)


def set_bytes(data: bytearray, rng: np.random.Generator) -> None:
    for at in rng.integers(min(len(data), 400), size=rng.integers(1, 5)):
        data[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)])


def set_number(data: bytearray, rng: np.random.Generator) -> None:
    """Puts a telling number of 16 or 32 bits into the header."""
    width = int(rng.choice([2, 4]))
    value = int(rng.choice([0, 1, 2 ** (8 * width - 1) - 1, 2 ** (8 * width - 1), 2 ** (8 * width) - 1, len(data)]))
    at = int(rng.integers(max(1, min(len(data), 600) - width)))
    order = "little" if rng.integers(2) else "big"
    data[at : at + width] = (value % 2 ** (8 * width)).to_bytes(width, order)


def cut_short(data: bytearray, rng: np.random.Generator) -> None:
    del data[rng.integers(len(data)) :]


def cut_out(data: bytearray, rng: np.random.Generator) -> None:
    start = rng.integers(len(data))
    del data[start : start + rng.integers(1, 200)]


def double(data: bytearray, rng: np.random.Generator) -> None:
    start = rng.integers(len(data))
    data[start:start] = data[start : start + rng.integers(1, 200)]


def swap(data: bytearray, rng: np.random.Generator) -> None:
    a, b = sorted(rng.integers(len(data), size=2))
    size = min(int(rng.integers(1, 200)), b - a)
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


MUTATIONS: tuple[Callable[[bytearray, np.random.Generator], None], ...] = (
    flip_bits,
    set_bytes,
    set_number,
    cut_short,
    cut_out,
    double,
    swap,
)


def mutated(count: int, seed: int) -> Iterator[tuple[str, str, bytes]]:
    """Yields (name, kind, bytes) of `count` files, evenly of every format, changed once or twice."""
    rng = np.random.default_rng(seed)
    whole = list(whole_files().items())
    for number in range(count):
        name, (kind, data) = whole[number % len(whole)]
        changed = bytearray(data)
        for change in rng.choice(len(MUTATIONS), size=rng.integers(1, 3)):
            if changed:
                MUTATIONS[change](changed, rng)
        yield f"{name} {number}", kind, bytes(changed)


def test_the_whole_files_are_read():
    for kind, data in whole_files().values():
        assert len(DECODERS[kind](data))


@pytest.mark.slow
def test_2000_mutated_files_give_a_result_or_a_media_error_and_print_nothing(capfd):
    files = list(mutated(2000, seed=1))
    capfd.readouterr()  # of the encoders
    refused = 0
    for name, kind, data in files:
        with warnings.catch_warnings(record=True) as warned:
            warnings.filterwarnings("ignore", module=r"PIL\.")  # as embed.data.media.images sets it; pytest has its own
            try:
                DECODERS[kind](data)
            except MediaError as error:
                refused += len(str(error)) > 20
            except Exception as error:
                error.add_note(name)
                raise
        assert not warned, (name, warned)
        sys.stderr.flush()
        printed = capfd.readouterr().err
        assert not printed or "avif" in name, name  # libavif printed before Pillow 13
    assert 500 < refused < 2000
