"""Augmentation against hand computation, scipy and numpy in float64; image and label stay together."""

from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import interpolate, ndimage, stats
from torch import Tensor

from fastliver.config import EssNetConfig, UNetConfig
from fastliver.data.augment import AFFINE, BIAS, CONTROL, ELASTIC, GAMMA, NOISE, NOISE_SEED, RECIPES, Augmenter, Recipe

CPU = torch.device("cpu")
SHAPE = (40, 56)


def rows_of(augmenter: Augmenter, **parameters: object) -> Tensor:
    """One row of the table that leaves a sample as it is, but for these parameters of `Augmenter.affine`."""
    one = {"flip": 1.0, "shift": (0.0, 0.0), "rotation": 0.0, "shear": 0.0, "scale": (1.0, 1.0), **parameters}
    row = np.zeros((1, augmenter.columns), np.float32)
    row[:, AFFINE] = augmenter.affine(**{name: np.array([value]) for name, value in one.items()}).reshape(1, 6)
    row[:, GAMMA] = 1
    return torch.from_numpy(row)


def sample(seed: int, shape: tuple[int, int] = SHAPE) -> tuple[Tensor, Tensor]:
    """A random image in [-1, 1] that float16 holds and a label of a few values."""
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.uniform(-1, 1, (1, 1, *shape))).half().float()
    return image, torch.from_numpy(rng.integers(0, 200, (1, *shape)).astype(np.uint8))


IMAGE = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]])


@pytest.mark.parametrize(
    ("flip", "shift", "expected"),
    [
        (1, (0, 0), [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]]),
        (-1, (0, 0), [[4, 3, 2, 1], [8, 7, 6, 5], [12, 11, 10, 9], [16, 15, 14, 13]]),
        (1, (-1, 0), [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]),
        (1, (2, -1), [[0, 9, 10, 11], [0, 13, 14, 15], [0, 0, 0, 0], [0, 0, 0, 0]]),
        (-1, (0, -1), [[3, 2, 1, 0], [7, 6, 5, 0], [11, 10, 9, 0], [15, 14, 13, 0]]),
        (1, (0, 4), [[0] * 4] * 4),
    ],
)
def test_flip_and_shift_by_hand(flip, shift, expected):
    """In the image -1 comes in at the edges, in the label 0; both move alike, and no value changes."""
    augmenter = Augmenter(RECIPES["flip-shift"], (4, 4), CPU)
    rows = rows_of(augmenter, flip=float(flip), shift=shift)
    image, label = augmenter(IMAGE[None, None] / 17, IMAGE[None].to(torch.uint8), rows)
    wanted = torch.tensor(expected)
    assert label[0].tolist() == expected
    assert torch.equal(image[0, 0], torch.where(wanted == 0, -1.0, wanted / 17))
    assert (image.dtype, label.dtype) == (torch.float32, torch.uint8)


@pytest.mark.parametrize("shape", [SHAPE, (256, 256)])
def test_flips_and_shifts_change_no_value(shape):
    augmenter = Augmenter(RECIPES["flip-shift"], shape, CPU)
    image, label = sample(1, shape)
    for row in augmenter.draw(np.random.default_rng(0), 12):
        moved, mask = augmenter(image, label, torch.from_numpy(row)[None])
        by_hand = np.pad(image[0, 0].numpy(), 40, constant_values=-1), np.pad(label[0].numpy(), 40)
        (xx, _, x), (_, _, y) = row[AFFINE].reshape(2, 3)
        down, right = round(float(y) * shape[0] / 2), round(float(x) * shape[1] / 2)
        for found, padded in zip((moved[0, 0], mask[0]), by_hand, strict=True):
            turned = padded[:, ::-1] if xx < 0 else padded
            right_then = -right if xx < 0 else right
            expected = np.roll(turned, (-down, -right_then), (0, 1))[40:-40, 40:-40]
            np.testing.assert_array_equal(found.numpy(), expected)


AFFINES = [  # none takes a value from halfway between pixels, where either is the nearest
    {},
    {"rotation": 0.4},
    {"shear": 0.3},
    {"scale": (1.23, 0.71)},
    {"shift": (3.2, -5.4)},
    {"flip": -1.0, "rotation": -0.2, "shear": 0.1, "scale": (0.9, 1.1), "shift": (-2.3, 4.1)},
]


def in_keras_way(flip=1.0, shift=(0.0, 0.0), rotation=0.0, shear=0.0, scale=(1.0, 1.0)) -> tuple[NDArray, NDArray]:
    """Matrix and offset for scipy's `affine_transform` as ImageDataGenerator makes them, mirrored afterwards."""
    turn = [[np.cos(rotation), -np.sin(rotation), 0], [np.sin(rotation), np.cos(rotation), 0], [0, 0, 1]]
    move = [[1, 0, shift[0]], [0, 1, shift[1]], [0, 0, 1]]
    slant = [[1, -np.sin(shear), 0], [0, np.cos(shear), 0], [0, 0, 1]]
    middle = np.eye(3)
    middle[:2, 2] = (np.array(SHAPE) - 1) / 2
    mirror = np.diag([1.0, flip, 1.0])
    matrix = np.linalg.multi_dot([middle, turn, move, slant, np.diag([*scale, 1.0]), mirror, np.linalg.inv(middle)])
    return matrix[:2, :2], matrix[:2, 2]


@pytest.mark.parametrize("affine", AFFINES)
def test_an_affine_map_is_scipys_with_edges_repeated(affine):
    augmenter = Augmenter(Recipe(rotation=1, repeat_edge=True), SHAPE, CPU)
    image, label = sample(2)
    moved, mask = augmenter(image, label, rows_of(augmenter, **affine))
    matrix, offset = in_keras_way(**affine)
    expected = ndimage.affine_transform(image[0, 0].double().numpy(), matrix, offset, order=1, mode="nearest")
    np.testing.assert_allclose(moved[0, 0].numpy(), expected, atol=1e-4)
    nearest = ndimage.affine_transform(label[0].numpy(), matrix, offset, order=0, mode="nearest")
    np.testing.assert_array_equal(mask[0].numpy(), nearest)


@pytest.mark.parametrize("affine", AFFINES)
def test_what_comes_in_from_outside_is_background(affine):
    augmenter = Augmenter(Recipe(rotation=1), SHAPE, CPU)
    image, label = sample(2)
    moved, mask = augmenter(image, label, rows_of(augmenter, **affine))
    matrix, offset = in_keras_way(**affine)
    source = np.tensordot(matrix, np.indices(SHAPE), 1) + offset[:, None, None]
    outside = ((source < -0.5) | (source > np.array(SHAPE)[:, None, None] - 0.5)).any(0)
    expected = ndimage.map_coordinates(image[0, 0].double().numpy(), source, order=1, mode="nearest")
    np.testing.assert_allclose(moved[0, 0].numpy(), np.where(outside, -1, expected), atol=1e-4)
    assert not mask[0].numpy()[outside].any()
    assert outside.any() == bool(affine)


def spline_moves(control: NDArray[np.float32]) -> NDArray[np.float64]:
    """(2, H, W) moves in halves of the sides, x first, from (2, CONTROL, CONTROL) by scipy's B-splines."""
    knots = np.arange(CONTROL + 4) - 3.0
    basis = [
        interpolate.BSpline(knots, np.eye(CONTROL), 3)((np.arange(side) + 0.5) / side * (CONTROL - 3)) for side in SHAPE
    ]
    return np.einsum("ri,kij,cj->krc", basis[0], control.astype(np.float64), basis[1])


def test_an_elastic_map_is_scipys_splines():
    augmenter = Augmenter(Recipe(elastic=0.05), SHAPE, CPU)
    row = torch.from_numpy(augmenter.draw(np.random.default_rng(3), 1))
    moves = spline_moves(row[0, ELASTIC].view(2, CONTROL, CONTROL).numpy())
    assert 0.01 < np.abs(moves).max() <= 2 * 0.05
    image, label = sample(4)
    moved, mask = augmenter(image, label, row)
    source = np.indices(SHAPE) + moves[::-1] * np.array(SHAPE)[:, None, None] / 2
    outside = ((source < -0.5) | (source > np.array(SHAPE)[:, None, None] - 0.5)).any(0)
    expected = ndimage.map_coordinates(image[0, 0].double().numpy(), source, order=1, mode="nearest")
    np.testing.assert_allclose(moved[0, 0].numpy(), np.where(outside, -1, expected), atol=1e-4)
    nearest = ndimage.map_coordinates(label[0].numpy(), source, order=0, mode="nearest")
    np.testing.assert_array_equal(mask[0].numpy(), np.where(outside, 0, nearest))


def test_the_elastic_field_does_not_fold():
    augmenter = Augmenter(RECIPES["full"], SHAPE, CPU)
    for row in augmenter.draw(np.random.default_rng(0), 200):
        x, y = spline_moves(row[ELASTIC].reshape(2, CONTROL, CONTROL))
        x, y = x * SHAPE[1] / 2, y * SHAPE[0] / 2
        (x_down, x_across), (y_down, y_across) = np.gradient(x), np.gradient(y)
        assert ((1 + x_across) * (1 + y_down) - x_down * y_across).min() > 0.3


@pytest.mark.parametrize("augment", ["keras", "full"])
def test_a_label_stays_on_what_it_labels(augment):
    size = (96, 96)
    augmenter = Augmenter(RECIPES[augment], size, CPU)
    y, x = np.indices(size) / 96 - 0.5
    liver = torch.from_numpy(((y + 0.1) / 0.2) ** 2 + ((x + 0.15) / 0.24) ** 2 < 1)
    image = torch.where(liver, 0.6, -0.9).float().expand(32, 1, *size)
    rows = torch.from_numpy(augmenter.draw(np.random.default_rng(5), 32))
    moved, mask = augmenter(image, liver.to(torch.uint8).expand(32, *size), rows)
    seen = moved[:, 0] > -0.3
    dice = 2 * (seen & mask.bool()).sum((1, 2)) / (seen.sum((1, 2)) + mask.sum((1, 2)))
    assert dice.min() > 0.97
    assert len({tuple(m.flatten().tolist()) for m in mask}) == 32


def test_gamma_and_bias_field_by_numpy():
    augmenter = Augmenter(Recipe(gamma=0.5, bias=0.3), SHAPE, CPU)
    row = augmenter.draw(np.random.default_rng(6), 1)
    image, label = sample(7)
    changed, mask = augmenter(image, label, torch.from_numpy(row))
    # x^1, x^2, x^3, y, yx, yx^2, y^2, y^2 x, y^3
    coefficients = np.zeros((4, 4))
    coefficients[[0, 0, 0, 1, 1, 1, 2, 2, 3], [1, 2, 3, 0, 1, 2, 0, 1, 0]] = row[0, BIAS]
    y, x = ((2 * np.arange(side) + 1) / side - 1 for side in SHAPE)
    field = np.exp(np.polynomial.polynomial.polygrid2d(y, x, coefficients))
    values = ((image[0, 0].double().numpy() + 1) / 2) ** float(row[0, GAMMA]) * field
    np.testing.assert_allclose(changed[0, 0].numpy(), 2 * np.clip(values, 0, 1) - 1, atol=1e-5)
    assert torch.equal(mask, label)
    assert field.max() / field.min() > 1.1
    assert np.exp(-0.5) <= row[0, GAMMA] <= np.exp(0.5)


def mixed(number: int) -> int:
    """The hash of a 32-bit number, in Python's integers."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        number = (number ^ (number >> shift)) * factor % 2**32
    return number ^ (number >> 16)


def noise_of(augmenter: Augmenter, seed: int, deviation: float = 0.05) -> NDArray[np.float32]:
    """The noise that is added in the middle of the range, in units of its deviation."""
    row = rows_of(augmenter)
    row[:, NOISE], row[:, NOISE_SEED] = deviation, seed
    shape = augmenter.shape
    image, _ = augmenter(torch.zeros(1, 1, *shape), torch.zeros(1, *shape, dtype=torch.uint8), row)
    return image[0, 0].numpy() / 2 / deviation


@pytest.mark.parametrize("seed", [0, 1, 2**24 - 1])
def test_noise_is_the_hash_of_seed_and_pixel(seed):
    found = noise_of(Augmenter(Recipe(noise=0.1), (5, 7), CPU), seed).ravel()
    for pixel in range(35):
        first = mixed(mixed(pixel) ^ seed)
        second = mixed((first + 0x9E3779B9) % 2**32)
        expected = np.sqrt(-2 * np.log((first + 1) / 2**32)) * np.cos(2 * np.pi * second / 2**32)
        assert found[pixel] == pytest.approx(expected, abs=2e-4)


def test_noise_is_normal_and_new_for_each_seed_and_pixel():
    augmenter = Augmenter(Recipe(noise=0.1), (256, 256), CPU)
    fields = [noise_of(augmenter, seed) for seed in (0, 1, 2, 12345, 2**23)]
    for field in fields:
        assert stats.kstest(field.ravel(), "norm").pvalue > 1e-3
        assert abs(field.mean()) < 0.015 and abs(field.std() - 1) < 0.015
        for axis in (0, 1):
            assert abs(np.mean(field * np.roll(field, 1, axis))) < 0.015
    correlations = np.corrcoef([field.ravel() for field in fields]) - np.eye(5)
    assert np.abs(correlations).max() < 0.015  # 0.004 is the deviation
    np.testing.assert_array_equal(noise_of(augmenter, 12345), fields[3])


@pytest.mark.parametrize("augment", RECIPES)
def test_images_stay_in_range_and_are_reproducible(augment):
    augmenter = Augmenter(RECIPES[augment], SHAPE, CPU)
    rows = torch.from_numpy(augmenter.draw(np.random.default_rng(8), 6))
    image, label = sample(9)
    images, labels = image.expand(6, -1, -1, -1), label.expand(6, -1, -1)
    first = augmenter(images, labels, rows)
    assert first[0].min() >= -1 and first[0].max() <= 1
    for a, b in zip(first, augmenter(images, labels, rows), strict=True):
        assert torch.equal(a, b)
    one = augmenter(images[:1], labels[:1], rows[3:4])
    torch.testing.assert_close(one[0][0], first[0][3], rtol=0, atol=2e-6)
    assert torch.equal(one[1][0], first[1][3])


def test_parameters_lie_in_their_ranges_and_fill_them():
    shape = (64, 64)
    recipe = Recipe(flip=True, shift=0.05, rotation=20, scale=0.1, gamma=0.4, bias=0.2, noise=0.05, elastic=0.02)
    rows = Augmenter(recipe, shape, CPU).draw(np.random.default_rng(0), 4000)
    (xx, xy, _), (yx, yy, _) = rows[:, AFFINE].reshape(-1, 2, 3).transpose(1, 2, 0)
    flipped = xx < 0
    assert 0.46 < flipped.mean() < 0.54
    angle = np.degrees(np.arctan2(np.where(flipped, -xy, xy) * -1, yy))
    across, down = np.hypot(xx, yx), np.hypot(xy, yy)
    for values, low, high in (
        (np.abs(angle), 0, 20),
        (across, 0.9, 1.1),
        (down, 0.9, 1.1),
        (np.log(rows[:, GAMMA]), -0.4, 0.4),
        (rows[:, NOISE], 0, 0.05),
        (rows[:, BIAS], -0.2, 0.2),
        (rows[:, ELASTIC], -0.04, 0.04),
    ):
        span = high - low
        assert low - 1e-5 <= values.min() < low + 0.02 * span
        assert high - 0.02 * span < values.max() <= high + 1e-5
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.03 * span)
    assert len(set(rows[:, NOISE_SEED])) > 3990


def test_a_sample_has_the_same_parameters_however_many_are_drawn():
    augmenter = Augmenter(RECIPES["full"], SHAPE, CPU)
    few, many = (augmenter.draw(np.random.default_rng(1), count) for count in (3, 11))
    np.testing.assert_array_equal(few, many[:3])


def test_every_recipe_has_an_option():
    for section in (EssNetConfig, UNetConfig):
        assert get_args(get_type_hints(section)["augment"]) == ("none", *RECIPES)


def test_the_keras_recipe_is_the_one_that_was_published():
    """rotation_range 0.2; width_shift, height_shift, shear and zoom_range 0.05; horizontal_flip; fill_mode nearest."""
    expected = Recipe(flip=True, shift=0.05, rotation=0.2, shear=0.05, scale=0.05, repeat_edge=True)
    assert RECIPES["keras"] == expected


def test_autocast_around_it_does_not_blur_the_coordinates():
    augmenter = Augmenter(RECIPES["full"], SHAPE, CPU)
    row = torch.from_numpy(augmenter.draw(np.random.default_rng(2), 1))
    plain = augmenter(*sample(3), row)
    with torch.autocast("cpu", torch.bfloat16):
        cast = augmenter(*sample(3), row)
    for a, b in zip(plain, cast, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("augment", RECIPES)
def test_augmentation_does_not_wait_for_the_device(augment, no_sync):
    augmenter = Augmenter(RECIPES[augment], SHAPE, CPU)
    rows = torch.from_numpy(augmenter.draw(np.random.default_rng(2), 1))
    image, label = sample(3)
    with no_sync():
        augmenter(image, label, rows)
