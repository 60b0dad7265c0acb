"""Pixels to patches: sizes within the budget and near the image's shape, places counted once, pixels untouched."""

import numpy as np
import pytest

from embed.data.media.patches import fitted_size, resize_to_patches

RNG = np.random.default_rng(0)
SIZES = [tuple(int(side) for side in 2 ** RNG.uniform(0, 13, 2)) for _ in range(300)]
BUDGETS = (1, 7, 70, 280, 1120)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 10_000 + width).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("most", BUDGETS)
def test_sizes_keep_to_the_budget_the_grid_and_the_shape(most):
    for height, width in SIZES:
        tall, wide = fitted_size(height, width, 48, most)
        assert tall % 48 == wide % 48 == 0
        rows, columns = tall // 48, wide // 48
        assert min(rows, columns) >= 1 and rows * columns <= most, (height, width)
        ideal = np.sqrt(most * height / width), np.sqrt(most * width / height)
        if min(ideal) >= 1:
            assert 0 <= ideal[0] - rows < 1 and 0 <= ideal[1] - columns < 1, (height, width)
        else:
            assert {rows, columns} == {1, most}, (height, width)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1, 1), (768, 768)),
        ((100, 100), (768, 768)),
        ((480, 640), (672, 912)),
        ((1080, 1920), (576, 1056)),
        ((1, 5000), (48, 13440)),
        ((5000, 1), (13440, 48)),
        ((480, 1344), (480, 1344)),
    ],
)
def test_sizes_are_those_of_the_reference(size, expected):
    """From get_aspect_ratio_preserving_size of transformers, patches of 3·16 pixels and 280 soft tokens."""
    assert fitted_size(size[0], size[1], 48, 280) == expected


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3), (32, 32), (97, 501), (640, 480)])
@pytest.mark.parametrize(("patch", "most"), [(48, 70), (8, 16), (4, 1)])
def test_every_place_of_the_grid_comes_once_row_by_row(size, patch, most):
    patches, xy = resize_to_patches(picture(*size), patch, most)
    assert patches.shape == (len(xy), patch * patch * 3) and patches.dtype == np.uint8
    assert xy.dtype == np.int32 and len(xy) <= most
    columns, rows = xy.max(axis=0) + 1
    assert xy.tolist() == [[column, row] for row in range(rows) for column in range(columns)]


@pytest.mark.parametrize(("rows", "columns", "most"), [(10, 28, 280), (1, 1, 1), (7, 10, 70), (2, 8, 16)])
def test_an_image_of_the_exact_size_comes_back_unchanged(rows, columns, most):
    image = picture(rows * 8, columns * 8)
    patches, xy = resize_to_patches(image, 8, most)
    again = np.zeros_like(image)
    for content, (column, row) in zip(patches, xy, strict=True):
        again[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = content.reshape(8, 8, 3)
    assert (again == image).all()


def test_resizing_keeps_colors_and_sides():
    image = np.zeros((300, 500, 3), np.uint8)
    image[:, :250, 0], image[:, 250:, 2] = 200, 100
    patches, xy = resize_to_patches(image, 16, 60)
    means = patches.reshape(len(xy), -1, 3).mean(axis=1)
    left, right = xy[:, 0] == 0, xy[:, 0] == xy[:, 0].max()
    assert np.allclose(means[left], [200, 0, 0], atol=1) and np.allclose(means[right], [0, 0, 100], atol=1)


@pytest.mark.parametrize(
    ("image", "patch", "most"),
    [
        (np.zeros((0, 5, 3), np.uint8), 48, 280),
        (np.zeros((5, 5, 3), np.uint8), 48, 0),
        (np.zeros((5, 5, 3), np.uint8), 0, 280),
        (np.zeros((5, 5, 3), np.float32), 48, 280),
        (np.zeros((5, 5, 4), np.uint8), 48, 280),
        (np.zeros((5, 5), np.uint8), 48, 280),
    ],
)
def test_what_is_no_image_or_no_budget_is_refused(image, patch, most):
    with pytest.raises(ValueError, match=r"expected an image|must be positive"):
        resize_to_patches(image, patch, most)
