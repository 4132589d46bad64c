"""The metrics of the CHAOS challenge (Kavur et al. 2021): DICE, RAVD, ASSD, MSSD and their score, a volume at a time.

The same code runs on the CPU (NumPy, SciPy) and on a GPU (CuPy), by the kind of array it is given.
"""

import math
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from fastliver.metrics.arrays import array_module, image_module


@dataclass(frozen=True)
class VolumeScores:
    """How one predicted volume agrees with the truth.

    Two empty volumes agree perfectly. Against an empty one the distances are infinite; RAVD is 100 where the
    prediction is empty and infinite where the truth is.

    Attributes:
        dice: 2 |A and B| / (|A| + |B|), 0 to 1.
        iou: |A and B| / |A or B|, 0 to 1.
        ravd: relative absolute volume difference, |V - Vref| / Vref, in percent.
        assd: average symmetric surface distance in mm: the mean over both directed sets of distances pooled.
        mssd: maximum symmetric surface distance in mm.
    """

    dice: float
    iou: float
    ravd: float
    assd: float
    mssd: float

    @property
    def score(self) -> float:
        """CHAOS's score, 0 to 100: the mean of four, each 0 beyond its threshold."""
        parts = (
            100 * self.dice if self.dice >= 0.8 else 0.0,
            100 - 20 * self.ravd if self.ravd <= 5 else 0.0,
            100 - 20 / 3 * self.assd if self.assd <= 15 else 0.0,
            100 - 5 / 3 * self.mssd if self.mssd <= 60 else 0.0,
        )
        return sum(parts) / len(parts)


def volume_scores(predicted: NDArray[Any], true: NDArray[Any], spacing: tuple[float, float, float]) -> VolumeScores:
    """Compare two masks.

    Args:
        predicted: (D, H, W), NumPy or CuPy; non-zero is liver.
        true: alike.
        spacing: between slices, rows and columns in mm.

    Raises:
        ValueError: when the shapes differ.
    """
    if predicted.shape != true.shape:
        raise ValueError(f"predicted has shape {predicted.shape}, true {true.shape}: they must be equal")
    a, b = predicted != 0, true != 0
    intersection, size_a, size_b = (int(mask.sum()) for mask in (a & b, a, b))
    if size_a == 0 and size_b == 0:
        return VolumeScores(1.0, 1.0, 0.0, 0.0, 0.0)
    overlap = (2 * intersection / (size_a + size_b), intersection / (size_a + size_b - intersection))
    if size_a == 0 or size_b == 0:
        return VolumeScores(*overlap, 100.0 if size_b else math.inf, math.inf, math.inf)
    assd, mssd = _surface_distances(a, b, spacing)
    return VolumeScores(*overlap, 100 * abs(size_a - size_b) / size_b, assd, mssd)


def border(mask: NDArray[Any]) -> NDArray[Any]:
    """The voxels of a mask (D, H, W) that its 6-connected erosion takes away; the edge of the volume counts as inside.

    A mask that fills the volume has no other border than that edge.
    """
    return mask ^ image_module(mask).binary_erosion(mask, border_value=0 if bool(mask.all()) else 1)


def _surface_distances(a: NDArray[Any], b: NDArray[Any], spacing: tuple[float, float, float]) -> tuple[float, float]:
    xp, images = array_module(a), image_module(a)
    # Away from both masks there is nothing to measure; one voxel around them keeps their borders what they are.
    box = tuple(slice(max(int(places.min()) - 1, 0), int(places.max()) + 2) for places in xp.nonzero(a | b))
    edge_a, edge_b = border(a[box]), border(b[box])
    to_b = images.distance_transform_edt(~edge_b, sampling=spacing)[edge_a]
    to_a = images.distance_transform_edt(~edge_a, sampling=spacing)[edge_b]
    mean = (float(to_a.sum()) + float(to_b.sum())) / (len(to_a) + len(to_b))
    return mean, max(float(to_a.max()), float(to_b.max()))
