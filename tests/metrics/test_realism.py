"""Distances between real and synthetic images, against hand computation and float64 definitions."""

import numpy as np
import pytest
import scipy.linalg

from fastliver.metrics.realism import BINS, GreyValues, body_mask, frechet_distance, kernel_distance


def _disc(size: int, radius: float) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return np.hypot(y, x) < radius


def test_body_is_the_largest_bright_part_with_its_holes() -> None:
    image = np.full((32, 32), -1.0, np.float16)
    body = _disc(32, 12)
    image[body] = 0.0
    image[_disc(32, 4)] = -1.0  # air inside
    image[0, :3] = 1.0  # the table
    np.testing.assert_array_equal(body_mask(image), body)


def test_distance_of_shifted_values_is_the_shift() -> None:
    label = _disc(16, 4).astype(np.uint8)
    first = np.where(label, -0.5, 0.5).astype(np.float16)
    second = np.where(label, 0.25, 0.5).astype(np.float16)
    a, b = (GreyValues.of([(image, label)]) for image in (first, second))
    assert a.distance(b, "liver") == pytest.approx(0.75, abs=2 / BINS)
    assert a.distance(b, "slice") == pytest.approx(0.75 * label.mean(), abs=2 / BINS)
    assert a.distance(a, "body") == 0


def test_distance_without_pixels_is_none() -> None:
    image = np.zeros((8, 8), np.float16)
    empty = GreyValues.of([(image, np.zeros((8, 8), np.uint8))])
    assert empty.distance(empty, "liver") is None


def test_extreme_values_are_counted() -> None:
    image = np.array([[-1.0, 1.0]], np.float16)
    counts = GreyValues.of([(image, np.ones((1, 2), np.uint8))]).counts["liver"]
    assert (counts[0], counts[-1], counts.sum()) == (1, 1, 2)


def test_frechet_distance_equals_its_definition() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(300, 6)), rng.normal(0.3, 1.5, size=(400, 6))
    root = scipy.linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real
    spread = np.trace(np.cov(a, rowvar=False) + np.cov(b, rowvar=False) - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(((a.mean(0) - b.mean(0)) ** 2).sum() + spread)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    # In one dimension: (difference of means)^2 + (difference of deviations)^2.
    assert frechet_distance(a[:, :1], 2 * a[:, :1] + 1) == pytest.approx(
        (a[:, 0].mean() + 1) ** 2 + a[:, 0].std(ddof=1) ** 2
    )


def test_kernel_distance_equals_the_sum_over_pairs() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(5, 3)), rng.normal(1, 1, size=(5, 3))

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (float(x @ y) / 3 + 1) ** 3

    pairs = [(i, j) for i in range(5) for j in range(5)]
    within = sum(kernel(x[i], x[j]) for x in (a, b) for i, j in pairs if i != j) / 20
    across = sum(kernel(a[i], b[j]) for i, j in pairs) / 25
    assert kernel_distance(a, b) == (pytest.approx(within - 2 * across), 0.0)


def test_kernel_distance_of_one_distribution_is_near_zero() -> None:
    rng = np.random.default_rng(2)
    mean, deviation = kernel_distance(rng.normal(size=(1100, 4)), rng.normal(size=(1200, 4)))
    assert abs(mean) < 0.05
    assert deviation > 0


def test_small_sets_of_different_size_are_taken_whole() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(7, 2)), rng.normal(size=(4, 2))
    powers = [(x @ y.T / 2 + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))]
    within = [(p.sum() - np.trace(p)) / (n * (n - 1)) for p, n in zip(powers, (7, 4), strict=False)]
    assert kernel_distance(a, b) == (pytest.approx(sum(within) - 2 * powers[2].mean()), 0.0)
