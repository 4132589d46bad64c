"""Grey values that were worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fastliver.data.intensity import IntensityRule, StoredWindow, count_values, percentiles

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


@given(
    pixels=arrays(np.int16, array_shapes(max_dims=2), elements=st.integers(-3000, 3000)),
    slope=st.one_of(st.sampled_from([0.0, 1.0, -1.0]), st.floats(-50, 50)),
    intercept=st.floats(-2000, 2000),
    low=st.floats(-2000, 2000),
    width=st.floats(1, 3000),
)
def test_a_window_of_stored_values_is_the_rule_after_slope_and_intercept(pixels, slope, intercept, low, width):
    window = StoredWindow.of((low, low + width), slope, intercept, (-32768, 32767))
    assert -32768 <= window.low <= window.high <= 32767
    clipped = np.clip(pixels.astype(float), window.low, window.high)
    found = np.clip(clipped * window.scale + window.shift, -1, 1)
    np.testing.assert_allclose(found, np.clip((pixels * slope + intercept - low) / width, 0, 1) * 2 - 1, atol=1e-6)


def test_bounds_that_are_whole_numbers_are_known():
    """-160 HU are 864 in a file whose intercept is -1024."""
    assert StoredWindow.of((-160, 240), 1, -1024, (0, 65535)) == StoredWindow(864, 1264, 1 / 200, -864 / 200 - 1)
    assert StoredWindow.of((-160, 240), 1, -1024, (0, 65535)).whole
    assert StoredWindow.of((-160, 240), 0.5, 0, (-32768, 32767)).low == -320
    assert not StoredWindow.of((-160, 240), 1, -0.5, (-32768, 32767)).whole
    assert not StoredWindow.of((-160, 240), 1e-300, 0, (-(2**63), 2**63 - 1)).whole, "more than doubles hold exactly"


@given(
    slices=st.lists(arrays(np.uint16, array_shapes(max_dims=2), elements=st.integers(0, 600)), min_size=1, max_size=4),
    slope=st.floats(-2, 2, width=32),
    wanted=st.lists(st.one_of(st.sampled_from([0.0, 0.5, 50.0, 99.5, 100.0]), st.floats(0, 100)), min_size=1),
)
def test_percentiles_of_counted_values_are_numpys_bit_for_bit(slices, slope, wanted):
    counted = [count_values(pixels) for pixels in slices]
    grey = [values.astype(np.float32) * np.float32(slope) for values, _ in counted]
    found = percentiles(np.concatenate(grey), np.concatenate([counts for _, counts in counted]), wanted)
    volume = np.concatenate([pixels.ravel().astype(np.float32) * np.float32(slope) for pixels in slices])
    assert found == np.percentile(volume, wanted).tolist()


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "uint32"])
def test_every_value_is_counted(dtype):
    info = np.iinfo(dtype)
    pixels = np.array([[info.min, info.max, 7], [7, info.max, 7]], dtype)
    values, counts = count_values(pixels)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {info.min: 1, info.max: 2, 7: 3}
