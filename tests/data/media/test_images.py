"""An image is the same from its file, opened from it, and in memory; in every mode that Pillow has."""

import io
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image as Pillow
from test_media import PHOTO, image_file, png_header

from embed.data.media.decode import IMAGE_SUFFIXES, MediaError, decode_image, to_rgb

RNG = np.random.default_rng(1)
PHOTO_PIL = Pillow.fromarray(PHOTO)
ALPHA = RNG.integers(0, 256, PHOTO.shape[:2], np.uint8)
DEEP = (PHOTO[..., 0].astype(np.uint16) << 8) + 77  # 16 bits; to the eye, PHOTO's red as gray


def with_alpha(image: Pillow.Image) -> Pillow.Image:
    image = image.copy()
    image.putalpha(Pillow.fromarray(ALPHA))
    return image


def with_key(image: Pillow.Image, key) -> Pillow.Image:
    image = image.copy()
    image.info["transparency"] = key
    return image


def turned(image: Pillow.Image, orientation: int) -> Pillow.Image:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    image = image.copy()
    image.info["exif"] = exif.tobytes()
    return image


PALETTE = PHOTO_PIL.quantize(16)
OVER_WHITE = np.round(PHOTO * (ALPHA[..., None] / 255.0) + 255 - ALPHA[..., None])
GREY = PHOTO_PIL.convert("L")
GREY_OVER_WHITE = np.round(np.asarray(GREY) * (ALPHA / 255.0) + 255 - ALPHA)[..., None].repeat(3, 2)
SMOOTH = np.linspace(0, 255, 32, dtype=np.uint8)[None, :, None].repeat(24, 0).repeat(3, 2)
RED_16 = PHOTO[..., :1].repeat(3, 2)


def expected_palette(hidden) -> np.ndarray:
    """What the palette's colors give over white, where those of the indexes `hidden` are transparent."""
    rgb, index = np.array(PALETTE.convert("RGB")), np.asarray(PALETTE)
    rgb[np.isin(index, hidden)] = 255
    return rgb


MODES = {  # image in memory, file's format, pixels expected, how far from them
    "1": (PHOTO_PIL.convert("1"), "PNG", np.asarray(PHOTO_PIL.convert("1").convert("RGB")), 0),
    "L": (GREY, "PNG", np.asarray(GREY.convert("RGB")), 0),
    "L key": (with_key(Pillow.new("L", (4, 3), 9), 9), "PNG", np.full((3, 4, 3), 255), 0),
    "LA": (with_alpha(GREY), "PNG", GREY_OVER_WHITE, 1),
    "La": (with_alpha(GREY).convert("La"), None, GREY_OVER_WHITE, 2),
    "I;16": (Pillow.fromarray(DEEP), "PNG", RED_16, 0),
    "I;16 TIFF": (Pillow.fromarray(DEEP), "TIFF", RED_16, 0),
    "I;16 JPEG 2000": (Pillow.fromarray(DEEP), "JPEG2000", RED_16, 0),
    "I;16 key": (with_key(Pillow.fromarray(np.full((3, 4), 999, np.uint16)), 999), "PNG", np.full((3, 4, 3), 255), 0),
    "I;16B": (Pillow.frombytes("I;16B", (32, 24), DEEP.astype(">u2").tobytes()), "TIFF", RED_16, 0),
    "I;16L": (Pillow.frombytes("I;16L", (32, 24), DEEP.astype("<u2").tobytes()), None, RED_16, 0),
    "I;16N": (Pillow.frombytes("I;16N", (32, 24), DEEP.tobytes()), None, RED_16, 0),
    "RGB": (PHOTO_PIL, "PNG", PHOTO, 0),
    "RGB key": (with_key(Pillow.new("RGB", (4, 3), (1, 2, 3)), (1, 2, 3)), "PNG", np.full((3, 4, 3), 255), 0),
    "RGBX": (PHOTO_PIL.convert("RGBX"), None, PHOTO, 0),
    "RGBA": (with_alpha(PHOTO_PIL), "PNG", OVER_WHITE, 1),
    "RGBA WebP": (with_alpha(PHOTO_PIL), "WEBP", OVER_WHITE, 1),
    "RGBa": (with_alpha(PHOTO_PIL).convert("RGBa"), None, OVER_WHITE, 2),
    "P": (PALETTE, "PNG", np.asarray(PALETTE.convert("RGB")), 0),
    "P key": (with_key(PALETTE, 3), "PNG", expected_palette([3]), 0),
    "P keys": (with_key(PALETTE, bytes([0, 255, 0])), "PNG", expected_palette([0, 2]), 0),
    "P GIF": (PALETTE, "GIF", expected_palette([]), 0),
    "CMYK": (PHOTO_PIL.convert("CMYK"), "TIFF", PHOTO, 1),
    "CMYK JPEG": (Pillow.fromarray(SMOOTH).convert("CMYK"), "JPEG", SMOOTH, 12),
    "YCbCr": (PHOTO_PIL.convert("YCbCr"), None, PHOTO, 6),
    "HSV": (PHOTO_PIL.convert("HSV"), None, PHOTO, 6),
    "LAB": (Pillow.new("LAB", (4, 3), (255, 128, 128)), "TIFF", np.full((3, 4, 3), 255), 2),
    "LAB dark": (Pillow.new("LAB", (4, 3), (50, 128, 128)), "TIFF", np.full((3, 4, 3), 47), 3),
    **{f"turned {n}": (turned(PHOTO_PIL, n), "PNG", None, 0) for n in range(1, 9)},
    "turned JPEG": (turned(Pillow.fromarray(SMOOTH), 6), "JPEG", np.rot90(SMOOTH, -1), 12),
    "turned WebP": (turned(PHOTO_PIL, 3), "WEBP", PHOTO[::-1, ::-1], 0),
}


@pytest.mark.parametrize("name", MODES)
def test_an_image_is_the_same_from_its_file_opened_and_in_memory(name):
    image, kind, expected, far = MODES[name]
    pixels = to_rgb(image)
    assert pixels.dtype == np.uint8 and pixels.flags.writeable
    if expected is not None:
        assert pixels.shape == expected.shape and np.abs(pixels.astype(int) - expected).max() <= far
    if kind:
        more = {"lossless": True} if kind == "WEBP" else {}
        keys = {key: image.info[key] for key in ("transparency", "exif") if key in image.info}
        data = image_file(image, kind, **more, **keys)
        from_file = decode_image(data)
        assert (to_rgb(Pillow.open(io.BytesIO(data))) == from_file).all()
        loaded = Pillow.open(io.BytesIO(data))
        loaded.load()
        assert (to_rgb(loaded) == from_file).all() and (to_rgb(loaded) == from_file).all()
        assert np.abs(from_file.astype(int) - pixels).max() <= far


def test_every_mode_of_pillow_is_tried():
    assert set(Pillow.MODES) - {image.mode for image, *_ in MODES.values()} == {"I", "F", "PA"}


def test_a_palette_with_alpha_is_laid_over_white():
    image = PALETTE.copy()
    image.putalpha(Pillow.fromarray(ALPHA))
    assert image.mode == "PA"
    expected = np.asarray(PALETTE.convert("RGB")) * (ALPHA[..., None] / 255.0) + 255 - ALPHA[..., None]
    assert np.abs(to_rgb(image) - expected).max() <= 1.5


@pytest.mark.parametrize("pixels", [np.full((4, 4), 70_000, np.int32), np.full((4, 4), 0.5, np.float32)])
def test_an_image_whose_white_is_unknown_is_refused_in_memory_and_as_a_file(pixels):
    image = Pillow.fromarray(pixels)
    for refused in (lambda: to_rgb(image), lambda: decode_image(image_file(image, "TIFF"))):
        with pytest.raises(MediaError, match="32 bits per pixel has no known white"):
            refused()


def test_a_tiff_of_12_bits_has_its_white_at_4095():
    tags = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 3)]
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    data = struct.pack("<4sI", b"II*\0", 12) + bytes([0xFF, 0xF8, 0x00, 0]) + struct.pack("<H", len(tags)) + entries
    assert decode_image(data + bytes(4))[0, :, 0].tolist() == [255, 128]


def test_an_image_too_large_empty_or_closed_is_refused(tmp_path):
    with pytest.raises(MediaError, match="at most 64,000,000"):
        to_rgb(Pillow.new("1", (8001, 8000)))
    with pytest.raises(MediaError, match="empty"):
        to_rgb(Pillow.new("RGB", (0, 5)))
    PHOTO_PIL.save(tmp_path / "photo.png")
    with Pillow.open(tmp_path / "photo.png") as closed:
        pass
    with pytest.raises(MediaError, match="closed"):
        to_rgb(closed)
    (tmp_path / "cut.png").write_bytes(image_file(PHOTO)[:-200])
    with pytest.raises(MediaError, match="truncated"):
        to_rgb(Pillow.open(tmp_path / "cut.png"))


def test_the_image_given_is_not_changed():
    image = with_alpha(PHOTO_PIL)
    before = image.tobytes()
    to_rgb(image)
    assert image.mode == "RGBA" and image.tobytes() == before


def test_a_fraction_where_a_tiff_counts_bytes_is_refused():
    data = bytearray(image_file(PHOTO, "TIFF"))
    at = int.from_bytes(data[4:8], "little") + 2
    while data[at : at + 2] != struct.pack("<H", 273):  # where the pixels are
        at += 12
    for kind in (5, 11):  # a ratio, a float
        changed = bytes(data[: at + 2]) + struct.pack("<H", kind) + bytes(data[at + 4 :])
        with pytest.raises(MediaError):
            decode_image(changed)


@pytest.mark.parametrize("error", [TypeError, AttributeError, ImportError, MemoryError])
def test_a_defect_is_not_taken_for_a_broken_file(monkeypatch, error):
    def fail(*args, **options):
        raise error("a change of the library's")

    monkeypatch.setattr(Pillow, "open", fail)
    with pytest.raises(error):
        decode_image(image_file(PHOTO))
    image = PHOTO_PIL.copy()
    monkeypatch.setattr(image, "load", fail)
    with pytest.raises(error):
        to_rgb(image)


def test_every_format_that_is_read_has_its_suffix():
    Pillow.init()
    names = {"PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "ICO"}
    assert {suffix for suffix, name in Pillow.EXTENSION.items() if name in names} <= IMAGE_SUFFIXES
    for name in names:
        assert decode_image(image_file(PHOTO, name)).shape[2] == 3


BROKEN = """
import sys
from embed.data.media.decode import MediaError, decode_image
for path in sys.argv[1:]:
    try:
        decode_image(open(path, "rb").read())
    except MediaError as error:
        pass
"""


def test_broken_images_print_nothing(tmp_path):
    jpeg = image_file(PHOTO, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\0")  # 255 tags that are not there
    lzw = bytearray(image_file(PHOTO, "TIFF", compression="tiff_lzw"))
    lzw[8:99] = b"\xff" * 91  # its pixels
    samples = image_file(PHOTO, "TIFF").replace(struct.pack("<HHI", 277, 3, 1), struct.pack("<HHI", 277, 4, 1))
    at = samples.index(struct.pack("<HHI", 277, 4, 1)) + 8
    samples = samples[:at] + struct.pack("<I", 2051) + samples[at + 4 :]
    files = {
        "exif.jpg": jpeg,
        "lzw.tif": bytes(lzw),
        "samples.tif": samples,
        "large.png": png_header(10_000, 10_000) + struct.pack(">I4sI", 0, b"IDAT", 0),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", BROKEN, *(str(tmp_path / name) for name in files)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
