"""Pixels -> patches, as the Gemma 4 image processor cuts them."""

import math

import numpy as np
from PIL import Image as Pillow


def fitted_size(height: int, width: int, patch: int, max_patches: int) -> tuple[int, int]:
    """Find the size (height, width) nearest the image's shape: multiples of `patch`, at most `max_patches` patches.

    A very long image, whose short side would be less than a patch, becomes one row or column of `max_patches` patches.
    Raises ValueError where the image, the patch or the budget is empty.
    """
    if min(height, width, patch, max_patches) < 1:
        raise ValueError(
            f"cannot cut {height}x{width} pixels to {max_patches} patches of {patch}: all must be positive"
        )
    # The reference's order of operations: a shape that fits exactly must not lose a row to another rounding.
    scale = math.sqrt(max_patches * patch**2 / (height * width))
    rows = min(max(math.floor(scale * height / patch), 1), max_patches)
    columns = min(max(math.floor(scale * width / patch), 1), max_patches)
    return rows * patch, columns * patch


def resize_to_patches(image: np.ndarray, patch: int, max_patches: int) -> tuple[np.ndarray, np.ndarray]:
    """Resize and cut u8[h,w,3] to (u8[p, patch·patch·3], i32[p,2] column and row), p <= `max_patches`, row by row.

    The content of a patch is flattened row, column, channel. Raises ValueError where `fitted_size` does, or where the
    image is not u8[h,w,3].
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"expected an image u8[h,w,3], got {image.dtype}{list(image.shape)}")
    height, width = fitted_size(image.shape[0], image.shape[1], patch, max_patches)
    if image.shape[:2] != (height, width):
        image = np.asarray(Pillow.fromarray(image).resize((width, height), Pillow.Resampling.BICUBIC))
    rows, columns = height // patch, width // patch
    patches = image.reshape(rows, patch, columns, patch, 3).swapaxes(1, 2).reshape(rows * columns, patch * patch * 3)
    xy = np.indices((rows, columns), np.int32)[::-1].reshape(2, -1).T
    return patches, np.ascontiguousarray(xy)
