"""Fitting slices into a square: antialiased triangle filter with clamped edges for images, nearest for labels."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

BACKGROUND = -1.0
"""What pads an image: air in CT, no signal in MR."""


@lru_cache(maxsize=32)
def triangle_matrix(size_in: int, size_out: int) -> NDArray[np.float32]:
    """(size_out, size_in) weights of a triangle filter, as wide as the step when shrinking, rows summing to 1.

    Pixels beyond an edge take the edge's value, as DALI's resize has it.
    """
    step = size_in / size_out
    width = max(step, 1.0)
    centres = (np.arange(size_out) + 0.5) * step - 0.5
    reach = int(np.ceil(width))
    offsets = np.arange(-reach, reach + 2)
    taps = np.floor(centres)[:, None].astype(int) + offsets
    weights = np.maximum(0.0, 1.0 - np.abs(taps - centres[:, None]) / width)
    matrix = np.zeros((size_out, size_in))
    rows = np.repeat(np.arange(size_out), len(offsets))
    np.add.at(matrix, (rows, np.clip(taps, 0, size_in - 1).ravel()), weights.ravel())
    return (matrix / matrix.sum(1, keepdims=True)).astype(np.float32)


def nearest_indices(size_in: int, size_out: int) -> NDArray[np.intp]:
    """(size_out,) indices of the pixels under the new pixels' centres (torch's `nearest-exact`)."""
    return np.minimum(((np.arange(size_out) + 0.5) * (size_in / size_out)).astype(np.intp), size_in - 1)


@dataclass(frozen=True)
class Fit:
    """How a slice lies in a square: scaled by its longer side in mm, then centred.

    Attributes:
        size: side of the square in pixels.
        shape: (rows, columns) of the slice before.
        scaled: (rows, columns) of it in the square.
        offset: (row, column) in the square where it starts.
    """

    size: int
    shape: tuple[int, int]
    scaled: tuple[int, int]
    offset: tuple[int, int]

    @staticmethod
    def of(shape: tuple[int, int], spacing: tuple[float, float], size: int) -> "Fit":
        """The fit of slices of `shape` (rows, columns) with `spacing` (row, column) in mm."""
        extent = (shape[0] * spacing[0], shape[1] * spacing[1])
        longer = max(extent)
        rows, columns = (max(1, round(size * side / longer)) for side in extent)
        return Fit(size, shape, (rows, columns), ((size - rows) // 2, (size - columns) // 2))

    def image(self, slices: NDArray[np.float32]) -> NDArray[np.float32]:
        """(D, H, W) images in [-1, 1] -> (D, size, size)."""
        across = triangle_matrix(self.shape[1], self.scaled[1])
        down = triangle_matrix(self.shape[0], self.scaled[0])
        return self._place(down @ (slices @ across.T), BACKGROUND)

    def label(self, slices: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(D, H, W) labels -> (D, size, size)."""
        rows = nearest_indices(self.shape[0], self.scaled[0])
        columns = nearest_indices(self.shape[1], self.scaled[1])
        return self._place(slices[:, rows[:, None], columns], 0)

    def _place(self, slices: NDArray, fill: float) -> NDArray:
        square = np.full((len(slices), self.size, self.size), fill, slices.dtype)
        (top, left), (rows, columns) = self.offset, self.scaled
        square[:, top : top + rows, left : left + columns] = slices
        return square

    def affine(self, affine: NDArray[np.float64]) -> NDArray[np.float64]:
        """The affine of (column, row, slice) in the square, from that of the slices before."""
        to_source = np.eye(4)
        for axis, side in ((0, 1), (1, 0)):
            step = self.shape[side] / self.scaled[side]
            to_source[axis, axis] = step
            to_source[axis, 3] = (0.5 - self.offset[side]) * step - 0.5
        return affine @ to_source
