"""Grey values that were worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fastliver.data.intensity import IntensityRule

CT, MR = IntensityRule("CT", -160, 240), IntensityRule("MR", 0.5, 99.5)


@pytest.mark.parametrize(
    ("hu", "value"),
    [(-3000, -1), (-161, -1), (-160, -1), (-60, -0.5), (40, 0), (140, 0.5), (238, 0.99), (240, 1), (241, 1), (3071, 1)],
)
def test_the_ct_window_maps_its_edges_to_minus_one_and_one(hu, value):
    assert CT.apply(np.full((1, 2, 2), hu, np.float32)) == pytest.approx(value, abs=1e-6)


def test_mr_percentiles_are_those_of_the_whole_volume():
    """Of the values 0..1000, 5 is the 0.5th percentile and 995 the 99.5th."""
    volume = np.random.default_rng(0).permutation(1001).astype(np.float32).reshape(7, 11, 13)
    expected = np.clip((volume - 5) / 990, 0, 1) * 2 - 1
    np.testing.assert_allclose(MR.apply(volume), expected, atol=1e-6)
    assert (MR.apply(volume) == -1).sum() == 6
    assert (MR.apply(volume) == 1).sum() == 6


def test_one_bright_voxel_does_not_darken_an_mr_volume():
    volume = np.random.default_rng(0).uniform(0, 1000, (4, 32, 32)).astype(np.float32)
    bright = volume.copy()
    bright[0, 0, 0] = 1e6
    assert np.abs(MR.apply(bright) - MR.apply(volume)).ravel()[1:].max() < 0.01


@pytest.mark.parametrize("rule", [CT, MR])
def test_a_constant_volume_is_finite(rule):
    values = rule.apply(np.full((2, 3, 4), 77.0, np.float32))
    assert np.unique(values).tolist() == ([-1.0] if rule is MR else [pytest.approx(237 / 200 - 1)])


@pytest.mark.parametrize("rule", [CT, MR])
@given(volume=arrays(np.float32, array_shapes(min_dims=3, max_dims=3), elements=st.floats(-4096, 65535, width=32)))
def test_values_stay_within_minus_one_and_one_and_keep_their_order(rule, volume):
    before = volume.copy()
    values = rule.apply(volume)
    assert values.shape == volume.shape
    assert values.min() >= -1
    assert values.max() <= 1
    assert (np.diff(values.ravel()[np.argsort(volume, axis=None)]) >= 0).all()
    np.testing.assert_array_equal(volume, before)


@pytest.mark.parametrize("rule", [CT, MR])
def test_values_are_single_precision(rule):
    assert rule.apply(np.arange(24, dtype=np.float32).reshape(2, 3, 4)).dtype == np.float32
