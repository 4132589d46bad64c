"""From HU or MR signal to [-1, 1], by rules that travel with the slice store and the checkpoint."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastliver.data.study import Modality

ValueCounts = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Grey values, each once, and how often each occurs."""


@dataclass(frozen=True)
class StoredWindow:
    """A window in the values that a file stores, so that slices are clipped before anything else is computed.

    Clipping and the affine maps around it are one: `clip(clip(x, low, high) * scale + shift, -1, 1)` of a stored value
    x is the rule's value of `slope * x + intercept`. The affine part commutes with a resize, the clipping doesn't.

    Attributes:
        low: stored values below become this one.
        high: stored values above become this one.
        scale: from clipped stored values to [-1, 1].
        shift: added after `scale`.
    """

    low: float
    high: float
    scale: float
    shift: float

    @staticmethod
    def of(limits: tuple[float, float], slope: float, intercept: float, stored: tuple[int, int]) -> "StoredWindow":
        """The window whose `limits` are grey values, for stored values that lie in the range `stored`.

        The bounds are finite and lie in that range; a slope of 0 or limits that coincide give one value everywhere.
        """
        low, high = limits
        if high <= low:
            return StoredWindow(*stored, 0.0, -1.0)
        to_window = 2.0 / (high - low)
        scale, shift = slope * to_window, (intercept - low) * to_window - 1.0
        if slope == 0:
            return StoredWindow(*stored, scale, shift)
        bounds = sorted((limit - intercept) / slope for limit in limits)
        lowest, highest = (min(max(bound, stored[0]), stored[1]) for bound in bounds)
        return StoredWindow(lowest, highest, scale, shift)

    @property
    def whole(self) -> bool:
        """Whether both bounds are whole numbers, so that stored integers can be clipped as integers."""
        return all(bound == math.floor(bound) and abs(bound) < 2**53 for bound in (self.low, self.high))


@dataclass(frozen=True)
class IntensityRule:
    """How grey values of one modality become [-1, 1].

    Attributes:
        modality: "CT": `low` and `high` are HU. "MR": they are percentiles of the volume's own values.
        low: maps to -1; what lies below is clipped.
        high: maps to 1; what lies above is clipped.
    """

    modality: Modality
    low: float
    high: float

    @property
    def needs_volume(self) -> bool:
        """Whether the limits depend on all of a volume's values."""
        return self.modality == "MR"

    def apply(self, volume: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map a whole volume (D, H, W) to float32 in [-1, 1]; one of a single grey value becomes -1."""
        low, high = self.low, self.high
        if self.needs_volume:
            low, high = (float(value) for value in np.percentile(volume, [self.low, self.high]))
        if high <= low:
            return np.full_like(volume, -1.0)
        scaled = (np.clip(volume, low, high) - np.float32(low)) * np.float32(2.0 / (high - low)) - np.float32(1.0)
        return np.clip(scaled, -1.0, 1.0)

    def limits(self, counted: Sequence[ValueCounts]) -> tuple[float, float]:
        """The grey values that become -1 and 1, as `apply` finds them in a volume.

        Args:
            counted: the values of each slice; only MR needs them.
        """
        if not self.needs_volume:
            return self.low, self.high
        values = np.concatenate([values for values, _ in counted])
        counts = np.concatenate([counts for _, counts in counted])
        low, high = percentiles(values, counts, (self.low, self.high))
        return low, high


def percentiles(values: NDArray[np.float32], counts: NDArray[np.int64], wanted: Sequence[float]) -> list[float]:
    """`np.percentile(np.repeat(values, counts), wanted)` without the repeating: bit for bit, by its linear method."""
    order = np.argsort(values)
    ends = np.cumsum(counts[order])
    found = []
    for percentile in wanted:
        place = (int(ends[-1]) - 1) * (np.float64(percentile) / np.float32(100))
        before, after = values[order[np.searchsorted(ends, [math.floor(place), math.ceil(place)], side="right")]]
        part, step = place - math.floor(place), after - before
        # From the nearer of the two, as NumPy does.
        found.append(float(before + step * part if part < 0.5 else after - step * (1 - part)))
    return found


def count_values(pixels: NDArray) -> tuple[NDArray, NDArray[np.int64]]:
    """The values of an integer array, each once and ascending, and how often each occurs."""
    if pixels.dtype.itemsize > 2:
        return np.unique(pixels, return_counts=True)
    low = int(pixels.min())
    counts = np.bincount(pixels.ravel().astype(np.intp) - low)
    (present,) = np.nonzero(counts)
    return present + low, counts[present]
