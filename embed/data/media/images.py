"""Encoded images and opened ones -> RGB pixels; a clear error for what cannot be decoded."""

import ctypes
import io
import logging
import math
import struct
import warnings
import zlib

import numpy as np
from PIL import Image as Pillow
from PIL import ImageCms, UnidentifiedImageError, _imaging

from embed.data.media.errors import MediaError, as_media_error, check_bytes

MAX_PIXELS = 64_000_000  # of an image
DOWNSAMPLE_ABOVE = (
    16_000_000  # one with more is averaged down: models see less, and a decoded pixel is four bytes and more
)
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "ICO")
ACCEPTED = "PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF"
IMAGE_SUFFIXES = frozenset(
    {
        ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
        ".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".mpo", ".ico",
    }
)  # fmt: skip
# What Pillow raises for broken files, by hundreds of thousands of mutated ones: SyntaxError where a header and
# RuntimeError where libavif fails; EOFError, struct.error and zlib.error are of files cut within a part it parses.
ERRORS = (OSError, SyntaxError, ValueError, RuntimeError, EOFError, struct.error, zlib.error)
UPRIGHT = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}  # EXIF orientation -> what undoes it
ORIENTATION, BITS_PER_SAMPLE = 0x0112, 0x0102  # EXIF and TIFF tags

# What a broken file makes Pillow and its libtiff print does not name the file; an error of ours does.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)
_libtiff = ctypes.CDLL(_imaging.__file__)  # finds what Pillow was linked with
for _handler in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
    if hasattr(_libtiff, _handler):
        getattr(_libtiff, _handler)(None)


def decode_image(data: bytes) -> np.ndarray:
    """An encoded image -> u8[h,w,3] RGB, upright, transparency over white; of an animation, the first frame.

    One of more than 16 megapixels is averaged down. Raises MediaError, also above 64 megapixels.
    """
    check_bytes("an image", data)
    with as_media_error("an image", ACCEPTED, (*ERRORS, Pillow.DecompressionBombError)):
        try:
            image = Pillow.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            raise MediaError(f"{len(data):,} bytes that are no image: give {ACCEPTED}") from None
    return to_rgb(image)


def to_rgb(image: Pillow.Image) -> np.ndarray:
    """An opened image of any mode -> u8[h,w,3], as `decode_image` gives its file; of an animation, the frame it is at.

    Raises MediaError where its file is broken, above 64 megapixels, and for 32 bits a pixel, whose white is unknown.
    """
    if min(image.size) < 1:
        raise MediaError(f"an image of {image.width}x{image.height} pixels: it is empty")
    if image.width * image.height > MAX_PIXELS:
        raise MediaError(f"an image of {image.width}x{image.height} pixels; at most {MAX_PIXELS:,}: scale it down")
    _check_opened(image)
    with as_media_error("an image", ACCEPTED, ERRORS):
        image.load()
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))  # after loading: Pillow turns some formats itself
    image = _to_eight_bits(image)
    clear = image.has_transparency_data
    if (many := image.width * image.height / DOWNSAMPLE_ABOVE) > 1:
        image = image.reduce(math.ceil(math.sqrt(many)))
    if clear:
        layer = image.convert("RGBA")
        image = Pillow.new("RGB", layer.size, "white")  # two thirds of the memory of an alpha_composite
        image.paste(layer, mask=layer)
    return np.array((image if turn is None else image.transpose(turn)).convert("RGB"))


def _check_opened(image: Pillow.Image) -> None:
    """Raises MediaError where an image's file is closed, or its pixels lie at fractions of a byte, as a TIFF may say:
    Pillow's AttributeError and TypeError for these cannot be told from ours."""
    tiles = getattr(image, "tile", ())  # what is still to be read
    if tiles and getattr(image, "fp", None) is None:
        raise MediaError(
            "an image whose file was closed before its pixels were read: load() it first, or give its path"
        )
    numbers = [number for tile in tiles for number in (*(tile[1] or ()), tile[2])]
    if not all(isinstance(number, int) for number in numbers):
        raise MediaError("an image whose pixels lie at fractions of a byte: the TIFF is broken, save it again")


def _to_eight_bits(image: Pillow.Image) -> Pillow.Image:
    """A loaded image as L, RGB, LA or RGBA; with an alpha channel where anything in it is transparent."""
    if image.mode in ("I", "F"):
        raise MediaError("an image of 32 bits a pixel, whose white is unknown: save it with 8 or 16")
    if image.mode.startswith("I;16"):  # Pillow clips instead of scaling
        levels = np.asarray(image)
        bits = int(max(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))))  # a TIFF may have 12 in use
        grey = Pillow.fromarray((levels >> bits - 8).astype(np.uint8))
        if isinstance(key := image.info.get("transparency"), int):
            grey.putalpha(Pillow.fromarray(np.where(levels == key, 0, 255).astype(np.uint8)))
        return grey
    if image.mode == "LAB":  # Pillow converts it by a profile alone
        to_srgb = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
        return to_srgb.apply(image)
    if image.mode == "La":
        return image.convert("LA")
    clear = image.has_transparency_data
    if image.mode not in ("L", "RGB", "LA", "RGBA") or (clear and image.mode in ("L", "RGB")):
        return image.convert("RGBA" if clear else "RGB")
    return image
