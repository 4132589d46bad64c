"""Volumes as the networks see them, in squares of one size, and the way back to the source's rows and columns."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastliver.data.intensity import IntensityRule
from fastliver.data.resize import Fit, triangle_matrix


@dataclass(frozen=True)
class Squares:
    """A volume's slices, scaled to [-1, 1] and fitted into squares.

    Attributes:
        fit: how the source's slices lie in the square.
        images: (D, size, size) float32 in [-1, 1].
    """

    fit: Fit
    images: NDArray[np.float32]

    @staticmethod
    def of(volume: NDArray[np.float32], spacing: tuple[float, float], rule: IntensityRule, size: int) -> "Squares":
        """The squares of a volume (D, H, W) whose pixels are `spacing` (row, column) mm apart."""
        fit = Fit.of((volume.shape[1], volume.shape[2]), spacing, size)
        return Squares(fit, fit.image(rule.apply(volume)))

    def restore(self, squares: NDArray[np.floating], batch: int = 32) -> NDArray[np.float32]:
        """`unfit` of (D, size, size) in any floating dtype: (D, H, W) float32, a few slices at a time."""
        restored = np.empty((len(squares), *self.fit.shape), np.float32)
        for start in range(0, len(squares), batch):
            part = torch.from_numpy(np.asarray(squares[start : start + batch], np.float32))
            restored[start : start + batch] = unfit(self.fit, part).numpy()
        return restored


def unfit(fit: Fit, squares: Tensor) -> Tensor:
    """Put fitted slices back on the source's grid; the opposite of `Fit.image`.

    The padding is cut off, and what is left is resampled with the filter that `Fit.image` has: linear where the source
    is finer than the square, a triangle as wide as the step where it is coarser.

    Args:
        fit: how the source's slices lie in the square.
        squares: (N, size, size) floating point, on any device.

    Returns:
        (N, H, W) with the source's H and W, in the dtype and on the device of `squares`.
    """
    (top, left), (rows, columns) = fit.offset, fit.scaled
    inside = squares[:, top : top + rows, left : left + columns]
    down = torch.from_numpy(triangle_matrix(rows, fit.shape[0])).to(squares)
    across = torch.from_numpy(triangle_matrix(columns, fit.shape[1])).to(squares)
    return down @ (inside @ across.T)
