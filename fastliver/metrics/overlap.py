"""Dice and IoU from counts of pixels.

Two empty masks agree perfectly and score 1; one empty mask against one that isn't scores 0.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class OverlapCounts:
    """Pixels in both masks, in the predicted and in the true one: an array each, one entry a sample."""

    intersection: NDArray[np.int64]
    predicted: NDArray[np.int64]
    true: NDArray[np.int64]

    def pooled(self) -> "OverlapCounts":
        """The counts of all samples together, as one sample."""
        return OverlapCounts(*(np.atleast_1d(part.sum()) for part in (self.intersection, self.predicted, self.true)))

    def select(self, samples: NDArray) -> "OverlapCounts":
        """The counts of some samples, by number or by a boolean mask."""
        return OverlapCounts(self.intersection[samples], self.predicted[samples], self.true[samples])


def overlap_counts(predicted: NDArray, true: NDArray) -> OverlapCounts:
    """Count, per sample, the liver pixels of two masks (N, ...); non-zero is liver.

    Raises:
        ValueError: when the shapes differ.
    """
    if predicted.shape != true.shape:
        raise ValueError(f"predicted has shape {predicted.shape}, true {true.shape}: they must be equal")
    axes = tuple(range(1, predicted.ndim))
    a, b = predicted != 0, true != 0
    return OverlapCounts(*(np.count_nonzero(mask, axis=axes) for mask in (a & b, a, b)))


def dice(counts: OverlapCounts) -> NDArray[np.float64]:
    """2 |A and B| / (|A| + |B|) per sample."""
    total = counts.predicted + counts.true
    return np.where(total == 0, 1.0, 2.0 * counts.intersection / np.maximum(total, 1))


def iou(counts: OverlapCounts) -> NDArray[np.float64]:
    """|A and B| / |A or B| per sample."""
    union = counts.predicted + counts.true - counts.intersection
    return np.where(union == 0, 1.0, counts.intersection / np.maximum(union, 1))
