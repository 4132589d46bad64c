"""From HU or MR signal to [-1, 1], by rules that travel with the slice store and the checkpoint."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastliver.data.study import Modality


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

    def apply(self, volume: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map a whole volume (D, H, W) to float32 in [-1, 1]; one of a single grey value becomes -1."""
        low, high = self.low, self.high
        if self.modality == "MR":
            low, high = (float(value) for value in np.percentile(volume, [self.low, self.high]))
        if high <= low:
            return np.full_like(volume, -1.0)
        scaled = (np.clip(volume, low, high) - np.float32(low)) * np.float32(2.0 / (high - low)) - np.float32(1.0)
        return np.clip(scaled, -1.0, 1.0)
