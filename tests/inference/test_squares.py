"""The way back from the square: held against torch's own bilinear interpolation and hand-made slices."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastliver.data.intensity import IntensityRule
from fastliver.data.resize import Fit
from fastliver.inference.squares import Squares, unfit


@pytest.mark.parametrize("size", [(64, 48), (100, 33)])
def test_enlarging_is_bilinear_interpolation(size) -> None:
    fit = Fit.of(size, (1.0, 1.0), 32)
    squares = torch.rand(3, 32, 32, dtype=torch.float64)
    (top, left), (rows, columns) = fit.offset, fit.scaled
    inside = squares[:, None, top : top + rows, left : left + columns]
    expected = F.interpolate(inside, size, mode="bilinear", align_corners=False)[:, 0]
    assert unfit(fit, squares).shape == (3, *size)
    torch.testing.assert_close(unfit(fit, squares), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (2.0, 1.0), (0.7, 1.3)])
def test_returns_a_smooth_image(spacing) -> None:
    rows, columns = np.mgrid[0:60, 0:80]
    image = np.stack([np.sin(rows / 20) * np.cos(columns / 25), columns / 40 - 1]).astype(np.float32)
    fit = Fit.of((60, 80), spacing, 64)
    restored = unfit(fit, torch.from_numpy(fit.image(image))).numpy()
    assert restored.shape == image.shape
    assert np.abs(restored - image)[:, 3:-3, 3:-3].max() < 0.02


def test_a_mask_returns_to_its_place() -> None:
    """No shift by half a pixel: the centre of an off-centre block stays where it was."""
    mask = np.zeros((1, 90, 60), np.float32)
    mask[0, 20:40, 30:54] = 1
    fit = Fit.of((90, 60), (1.0, 1.0), 32)
    restored = unfit(fit, torch.from_numpy(fit.image(mask * 2 - 1))).numpy() > 0
    inside = np.argwhere(restored[0])
    np.testing.assert_allclose(inside.mean(0), [29.5, 41.5], atol=0.35)
    np.testing.assert_allclose(restored.sum(), 20 * 24, rtol=0.1)


def test_squares_repeat_the_rules_of_training() -> None:
    volume = np.array([-1000, -160, 40, 240, 900, 40], np.float32).reshape(1, 2, 3).repeat(2, 0)
    squares = Squares.of(volume, (1.5, 1.0), IntensityRule("CT", -160, 240), 6)
    expected = torch.tensor([[-1, -1, 0], [1, 1, 0]], dtype=torch.float32).numpy()
    np.testing.assert_allclose(squares.images[0, [1, 4]][:, [0, 2, 5]], expected[:, [0, 1, 2]], atol=0.35)
    assert squares.images.shape == (2, 6, 6)
    assert squares.restore(squares.images.astype(np.float16), batch=1).shape == volume.shape
