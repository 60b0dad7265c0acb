"""Pixels -> patches, as the Gemma 4 image processor cuts them."""

import math

import numpy as np
from einops import rearrange
from PIL import Image as Pillow


def fitted_size(height: int, width: int, patch: int, most: int) -> tuple[int, int]:
    """The largest (height, width) of the same shape with both sides multiples of `patch` and at most `most` patches.

    Very long images become one patch thick, and as long as their shape and `most` allow.
    """
    factor = math.sqrt(most * patch**2 / (height * width))
    rows, columns = (math.floor(factor * side / patch) for side in (height, width))
    if rows == 0:
        rows, columns = 1, max(1, min(width // height, most))
    elif columns == 0:
        rows, columns = max(1, min(height // width, most)), 1
    return rows * patch, columns * patch


def resize_to_patches(image: np.ndarray, patch: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """u8[h,w,3] -> (f32[p, patch·patch·3] pixels in 0..1 row by row, i32[p,2] column and row of each), p <= `most`."""
    height, width = fitted_size(*image.shape[:2], patch, most)
    if image.shape[:2] != (height, width):
        image = np.asarray(Pillow.fromarray(image).resize((width, height), Pillow.Resampling.BICUBIC))
    pixels = image.astype(np.float32) / 255
    patches = rearrange(pixels, "(r y) (c x) k -> (r c) (y x k)", y=patch, x=patch)
    rows, columns = np.divmod(np.arange(len(patches), dtype=np.int32), width // patch)
    return patches, np.stack([columns, rows], axis=-1).astype(np.int32)
