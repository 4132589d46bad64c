"""Means and their t-intervals against a table of Student's t."""

import math

import pytest

from fastliver.interval import Estimate, estimate

T = {1: 12.7062047, 2: 4.3026527, 3: 3.1824463, 9: 2.2621572}
"""The 97.5 % quantile by degrees of freedom."""


def test_no_values_have_no_mean():
    assert estimate([]) is None


def test_one_value_has_no_interval():
    found = estimate([0.9])
    assert found == Estimate(0.9, None)
    assert (found.low, found.high) == (None, None)


def test_two_values():
    # Mean 3, variance (1 + 1) / 1 = 2: half the width is t x sqrt(2 / 2).
    found = estimate([2.0, 4.0])
    assert (found.mean, found.half) == pytest.approx((3, T[1]))
    assert (found.low, found.high) == pytest.approx((3 - T[1], 3 + T[1]))


def test_three_values():
    # Mean 2, variance (1 + 1 + 0) / 2 = 1.
    found = estimate([1.0, 3.0, 2.0])
    assert (found.mean, found.half) == pytest.approx((2, T[2] / math.sqrt(3)))


@pytest.mark.parametrize("count", [4, 10])
def test_more_values(count):
    # 0, 1, 0, 1, ...: each a half from the mean.
    found = estimate([float(number % 2) for number in range(count)])
    variance = 0.25 * count / (count - 1)
    assert (found.mean, found.half) == pytest.approx((0.5, T[count - 1] * math.sqrt(variance / count)))


def test_equal_values_have_an_interval_without_width():
    found = estimate([0.1] * 3)
    assert (found.low, found.mean, found.high) == pytest.approx((0.1, 0.1, 0.1), abs=1e-15)


def test_values_far_from_zero_keep_their_spread():
    found = estimate([1e9 + 1, 1e9 + 3, 1e9 + 2])
    assert (found.mean, found.half) == pytest.approx((1e9 + 2, T[2] / math.sqrt(3)))


def test_an_infinite_value_makes_the_mean_infinite_and_raises_nothing():
    assert estimate([1.0, math.inf, 2.0]).mean == math.inf
