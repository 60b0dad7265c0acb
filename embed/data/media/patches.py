"""Pixels -> patches, as the Gemma 4 image processor cuts them."""

import math

import numpy as np
from PIL import Image as Pillow


def fitted_size(height: int, width: int, patch: int, most: int) -> tuple[int, int]:
    """Pixels (height, width) nearest the image's shape: sides multiples of `patch`, as large as `most` patches allow.

    An image so long that its short side comes to less than a patch is stretched to one row or column of `most` patches.
    Raises ValueError where the image, the patch or the budget is empty.
    """
    if min(height, width, patch, most) < 1:
        raise ValueError(f"cannot cut {height}x{width} pixels to {most} patches of {patch}: all must be positive")
    # The order of operations is the reference's: a shape that fits exactly must not lose a row to another rounding.
    scale = math.sqrt(most * patch**2 / (height * width))
    rows, columns = (min(max(math.floor(scale * side / patch), 1), most) for side in (height, width))
    return rows * patch, columns * patch


def resize_to_patches(image: np.ndarray, patch: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """u8[h,w,3] -> (u8[p, patch·patch·3], i32[p,2] column and row), p <= `most`, row by row.

    The content of a patch is flattened row, column, channel. Raises ValueError where `fitted_size` does, or where the
    image is not u8[h,w,3].
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"expected an image u8[h,w,3], got {image.dtype}{list(image.shape)}")
    height, width = fitted_size(image.shape[0], image.shape[1], patch, most)
    if image.shape[:2] != (height, width):
        image = np.asarray(Pillow.fromarray(image).resize((width, height), Pillow.Resampling.BICUBIC))
    rows, columns = height // patch, width // patch
    cut = image.reshape(rows, patch, columns, patch, 3).swapaxes(1, 2).reshape(rows * columns, patch * patch * 3)
    xy = np.indices((rows, columns), np.int32)[::-1].reshape(2, -1).T
    return cut, np.ascontiguousarray(xy)
