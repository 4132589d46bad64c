"""Fitting slices into a square: antialiased triangle filter with clamped edges, for images and labels alike."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

BACKGROUND = -1.0
"""What pads an image: air in CT, no signal in MR."""

MORE_THAN_HALF = 0.5 + 1e-5
"""Share of a label under the filter from which a pixel has it. A tie is background, however it is rounded."""

BAND = 8
"""Rows of the triangle matrix that are multiplied together: more multiply more zeros, fewer copy more pixels."""


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


@lru_cache(maxsize=32)
def triangle_bands(size_in: int, size_out: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The triangle matrix in bands of `BAND` rows without the zeros beside them, which are nearly all of it.

    A band is so small that BLAS multiplies it on the thread that asks: slices are resized on several threads at once.

    Returns:
        (bands, taps) pixels that each band reads, and its (bands, BAND, taps) weights; rows beyond the last are zero.
    """
    matrix = triangle_matrix(size_in, size_out)
    matrix = np.pad(matrix, ((0, -size_out % BAND), (0, 0))).reshape(-1, BAND, size_in)
    used = np.any(matrix, axis=1)
    first, last = used.argmax(1), size_in - used[:, ::-1].argmax(1)
    taps = int((last - first).max())
    pixels = np.minimum(first, size_in - taps)[:, None] + np.arange(taps)
    return pixels, np.take_along_axis(matrix, pixels[:, None], axis=2)


def resize_rows(image: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """`triangle_matrix @ image` for an (H, W) image, in a fraction of the time: (size, W)."""
    pixels, weights = triangle_bands(len(image), size)
    rows = image.take(pixels.ravel(), axis=0).reshape(*pixels.shape, -1)
    return (weights @ rows).reshape(-1, image.shape[1])[:size]


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
        square = np.full((len(slices), self.size, self.size), BACKGROUND, np.float32)
        for target, image in zip(self.inside(square), slices, strict=True):  # one fits the cache, a volume doesn't
            target[:] = self.resize(image)
        return square

    def label(self, slices: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(D, H, W) labels, 0 and 1 -> (D, size, size): 1 where the filter sees more 1 than 0.

        The nearest pixel would not do: at half the size four are as near, and to take always the same one of them
        would shift the label against the image by half a pixel of the source.
        """
        square = np.zeros((len(slices), self.size, self.size), np.uint8)
        for target, label in zip(self.inside(square), slices, strict=True):
            if label.any():
                target[:] = self.resize(label.astype(np.float32)) > MORE_THAN_HALF
        return square

    def resize(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """(H, W) image -> `scaled`, the size that it has in the square."""
        return resize_rows(resize_rows(image, self.scaled[0]).T, self.scaled[1]).T

    def inside(self, square: NDArray) -> NDArray:
        """The view of (..., size, size) squares where slices lie."""
        (top, left), (rows, columns) = self.offset, self.scaled
        return square[..., top : top + rows, left : left + columns]

    def affine(self, affine: NDArray[np.float64]) -> NDArray[np.float64]:
        """The affine of (column, row, slice) in the square, from that of the slices before."""
        to_source = np.eye(4)
        for axis, side in ((0, 1), (1, 0)):
            step = self.shape[side] / self.scaled[side]
            to_source[axis, axis] = step
            to_source[axis, 3] = (0.5 - self.offset[side]) * step - 0.5
        return affine @ to_source
