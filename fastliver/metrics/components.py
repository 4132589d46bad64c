"""Post-processing of a mask, for those who want it: the largest connected part, and holes filled.

NumPy arrays are worked on by SciPy, CuPy arrays on their GPU.
"""

from typing import Any

from numpy.typing import NDArray

from fastliver.metrics.arrays import array_module, image_module


def largest_component(mask: NDArray[Any]) -> NDArray[Any]:
    """The largest 6-connected part of a mask (D, H, W) as booleans; of two equal ones the first, of none nothing."""
    parts, count = image_module(mask).label(mask != 0)
    if not count:
        return mask != 0
    sizes = array_module(mask).bincount(parts.ravel())
    sizes[0] = 0
    return parts == sizes.argmax()


def fill_holes(mask: NDArray[Any]) -> NDArray[Any]:
    """The mask (D, H, W) as booleans with every cavity filled that doesn't reach the edge of the volume."""
    return image_module(mask).binary_fill_holes(mask != 0)
