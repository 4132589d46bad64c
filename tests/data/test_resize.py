"""The triangle filter against DALI and PyTorch, which say what an antialiased resize is."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import center_of_mass, gaussian_filter
from torch.nn.functional import interpolate

from fastliver.data.resize import Fit, resize_rows, triangle_matrix

SIZES = [((512, 512), (256, 256)), ((257, 257), (256, 256)), ((37, 53), (24, 40)), ((20, 31), (41, 64)),
         ((100, 60), (7, 5)), ((33, 33), (33, 70)), ((5, 9), (64, 64))]  # fmt: skip
SIDES = st.integers(1, 130)


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return triangle_matrix(image.shape[0], size[0]) @ image @ triangle_matrix(image.shape[1], size[1]).T


def noise(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_it_is_dalis_antialiased_resize(before, after):
    dali = pytest.importorskip("nvidia.dali")
    image = noise(before)

    @dali.pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def pipeline():
        pixels = dali.fn.external_source(name="image", layout="HWC", dtype=dali.types.FLOAT, ndim=3)
        return dali.fn.resize(pixels, size=after, interp_type=dali.types.INTERP_LINEAR, antialias=True)

    built = pipeline()
    built.build()
    built.feed_input("image", [image[..., None]])
    (output,) = built.run()
    # DALI places its taps in single precision, which at sizes that don't divide costs a few 1e-6.
    np.testing.assert_allclose(resized(image, after), output.as_array()[0, ..., 0], atol=6e-6)


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_it_is_pytorchs_away_from_the_edges(before, after):
    image = noise(before)
    expected = interpolate(
        torch.from_numpy(image)[None, None].double(), size=after, mode="bilinear", antialias=True, align_corners=False
    )[0, 0].numpy()
    inner = []
    for size_in, size_out in zip(before, after, strict=True):
        step = size_in / size_out
        centre, reach = (np.arange(size_out) + 0.5) * step, max(step, 1.0) + 0.5
        inner.append((centre - reach >= 0) & (centre + reach <= size_in))
    found = resized(image, after)[np.ix_(*inner)]
    assert found.size or after == (7, 5) or before == (5, 9)
    np.testing.assert_allclose(found, expected[np.ix_(*inner)], atol=2e-6)


def test_halving_weighs_four_pixels_1_3_3_1():
    """By hand: a triangle of half-width 2 centred between two pixels; the edge pixel stands for those beyond, too."""
    expected = np.array([[4, 3, 1, 0, 0, 0], [0, 1, 3, 3, 1, 0], [0, 0, 0, 1, 3, 4]]) / 8
    np.testing.assert_allclose(triangle_matrix(6, 3), expected, atol=1e-7)


def test_doubling_weighs_two_pixels_1_3():
    expected = np.array([[4, 0], [3, 1], [1, 3], [0, 4]]) / 4
    np.testing.assert_allclose(triangle_matrix(2, 4), expected, atol=1e-7)


@given(SIDES, SIDES)
def test_rows_sum_to_one_and_no_weight_is_negative(size_in, size_out):
    matrix = triangle_matrix(size_in, size_out)
    assert matrix.shape == (size_out, size_in)
    assert matrix.dtype == np.float32
    assert matrix.min() >= 0
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-6)


@pytest.mark.parametrize(("size_in", "size_out"), [(512, 256), (512, 64), (256, 512), (257, 256), (320, 256)])
def test_a_label_is_where_the_image_filter_sees_more_of_it_than_not(size_in, size_out):
    label = (gaussian_filter(noise((1, size_in, size_in)), 8) > 0).astype(np.uint8)
    label[:, :8] = label[:, -8:] = label[:, :, :8] = label[:, :, -8:] = 0  # PyTorch's edges differ
    share = interpolate(torch.from_numpy(label)[None].double(), size=size_out, mode="bilinear", antialias=True)[0]
    clear = (share - 0.5).abs().numpy() > 1e-4
    assert clear.mean() > 0.98
    fitted = Fit.of((size_in, size_in), (1, 1), size_out).label(label)
    np.testing.assert_array_equal(fitted[clear], share.numpy()[clear] > 0.5)


@pytest.mark.parametrize(("size_in", "size_out"), [(512, 256), (512, 128), (64, 256), (300, 256)])
def test_a_label_is_not_shifted_against_the_image(size_in, size_out):
    blob = (np.hypot(*(np.mgrid[:size_in, :size_in] - np.array([0.4, 0.55])[:, None, None] * size_in)) < size_in / 5)[
        None
    ]
    fit = Fit.of((size_in, size_in), (1, 1), size_out)
    label = fit.label(blob.astype(np.uint8))
    image = fit.image(blob.astype(np.float32))
    np.testing.assert_allclose(center_of_mass(label), center_of_mass(image), atol=0.1)
    np.testing.assert_array_equal(fit.label(blob[:, ::-1, ::-1].astype(np.uint8)), label[:, ::-1, ::-1])


@pytest.mark.parametrize("size", [1, 2, 63, 256])
def test_equal_sizes_change_nothing(size):
    np.testing.assert_array_equal(triangle_matrix(size, size), np.eye(size, dtype=np.float32))


def test_a_square_slice_of_the_stores_size_is_stored_as_it_is():
    images = np.stack([noise((64, 64)), noise((64, 64)) / 2])
    labels = (images > 0).astype(np.uint8)
    fit = Fit.of((64, 64), (1.25, 1.25), 64)
    np.testing.assert_array_equal(fit.image(images), images)
    np.testing.assert_array_equal(fit.label(labels), labels)
    np.testing.assert_array_equal(fit.affine(np.eye(4)), np.eye(4))
    assert fit.image(images).dtype == np.float32
    assert fit.label(labels).dtype == np.uint8


@pytest.mark.parametrize("side", [1, 3, 500])
def test_very_long_slices_keep_at_least_one_row(side):
    fit = Fit.of((side, 2000), (1.0, 1.0), 64)
    assert fit.image(np.zeros((1, side, 2000), np.float32)).shape == (1, 64, 64)
    assert fit.scaled == (max(1, round(64 * side / 2000)), 64)


@given(SIDES, SIDES, st.integers(1, 9))
def test_bands_are_the_whole_matrix(size_in, size_out, width):
    image = np.random.default_rng(size_in).uniform(-1, 1, (size_in, width)).astype(np.float32)
    expected = triangle_matrix(size_in, size_out).astype(float) @ image
    np.testing.assert_allclose(resize_rows(image, size_out), expected, atol=1e-6)
    assert resize_rows(image, size_out).dtype == np.float32


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_an_image_of_a_fit_is_resized_by_both_matrices(before, after):
    image = noise(before)
    expected = triangle_matrix(before[0], after[0]).astype(float) @ image @ triangle_matrix(before[1], after[1]).T
    size = max(after) + 3
    fit = Fit(size, before, after, (1, 2))
    for flipped in (image, image[::-1, ::-1][::-1, ::-1], np.asfortranarray(image)):
        square = fit.image(flipped[None])[0]
        np.testing.assert_allclose(square[1 : 1 + after[0], 2 : 2 + after[1]], expected, atol=2e-6)
        assert (square == -1).sum() == size**2 - after[0] * after[1]
