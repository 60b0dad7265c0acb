"""Decode encoded images, and images opened by Pillow, to RGB pixels."""

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
DOWNSAMPLE_ABOVE = 16_000_000  # pixels; larger images are averaged down, as models use less
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "ICO")
ACCEPTED = "PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF"
IMAGE_SUFFIXES = frozenset(
    {
        ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
        ".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".mpo", ".ico",
    }
)  # fmt: skip
# What Pillow raised for hundreds of thousands of mutated files: SyntaxError for a header, RuntimeError from libavif;
# EOFError, struct.error and zlib.error for files that end inside a chunk.
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

# Pillow and its libtiff print about broken files without naming them; the errors raised here are named.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)
_libtiff = ctypes.CDLL(_imaging.__file__)  # finds what Pillow was linked with
for _handler in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
    if hasattr(_libtiff, _handler):
        getattr(_libtiff, _handler)(None)


def decode_image(data: bytes) -> np.ndarray:
    """Decode an image to u8[h,w,3] RGB, upright, transparency over white; of an animation, the first frame.

    One of more than 16 megapixels is averaged down. Raises MediaError, also above 64 megapixels.
    """
    check_bytes("an image", data)
    with as_media_error("an image", ACCEPTED, (*ERRORS, Pillow.DecompressionBombError)):
        try:
            image = Pillow.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            raise MediaError(f"not an image ({len(data):,} bytes): give {ACCEPTED}") from None
    return to_rgb(image)


def to_rgb(image: Pillow.Image) -> np.ndarray:
    """Convert an opened image of any mode to u8[h,w,3], as `decode_image` does; of an animation, the current frame.

    Raises MediaError where its file is broken, above 64 megapixels, and for 32 bits per pixel without a known white.
    """
    if min(image.size) < 1:
        raise MediaError(f"image of {image.width}x{image.height} pixels is empty")
    if image.width * image.height > MAX_PIXELS:
        raise MediaError(
            f"image of {image.width}x{image.height} pixels is too large: at most {MAX_PIXELS:,}; scale it down"
        )
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
    """Raise MediaError where an image's file is closed, or a TIFF's pixels lie at fractions of a byte.

    Pillow's AttributeError and TypeError for these would look like a bug here.
    """
    tiles = getattr(image, "tile", ())  # parts not read yet
    if tiles and getattr(image, "fp", None) is None:
        raise MediaError("the image's file was closed before its pixels were read: load() it first, or give its path")
    numbers = [number for tile in tiles for number in (*(tile[1] or ()), tile[2])]
    if not all(isinstance(number, int) for number in numbers):
        raise MediaError("image has pixels at fractions of a byte: the TIFF is broken, save it again")


def _to_eight_bits(image: Pillow.Image) -> Pillow.Image:
    """Convert a loaded image to L, RGB, LA or RGBA; with alpha only where something is transparent."""
    if image.mode in ("I", "F"):
        raise MediaError("image of 32 bits per pixel has no known white: save it with 8 or 16 bits")
    if image.mode.startswith("I;16"):  # Pillow clips instead of scaling
        levels = np.asarray(image)
        bits = int(max(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))))  # a TIFF may have 12 in use
        gray = Pillow.fromarray((levels >> bits - 8).astype(np.uint8))
        if isinstance(key := image.info.get("transparency"), int):
            gray.putalpha(Pillow.fromarray(np.where(levels == key, 0, 255).astype(np.uint8)))
        return gray
    if image.mode == "LAB":  # Pillow converts it by a profile alone
        to_srgb = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
        return to_srgb.apply(image)
    if image.mode == "La":
        return image.convert("LA")
    clear = image.has_transparency_data
    if image.mode not in ("L", "RGB", "LA", "RGBA") or (clear and image.mode in ("L", "RGB")):
        return image.convert("RGBA" if clear else "RGB")
    return image
