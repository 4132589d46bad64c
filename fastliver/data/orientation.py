"""Turning volumes to display orientation by swapping and flipping axes, never by resampling."""

import itertools
import math

import numpy as np
from nibabel import orientations
from numpy.typing import NDArray

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Maps NIfTI's patient coordinates (to the right, front, head) to DICOM's (to the left, back, head), and back."""

SHEAR_TOLERANCE_DEGREES = 0.1
"""A distance on the grid is then wrong by 0.2 % at most."""


def display_turn(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """How axes (i, j, k) become (column, row, slice) of display orientation: a row for each, with the axis that it
    becomes and -1 where it is reversed (nibabel's orientations).

    Args:
        affine: (4, 4), maps (i, j, k) to LPS patient coordinates in mm.

    Raises:
        ValueError: when the affine is singular, so that an axis has no direction.
    """
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise ValueError("the affine is singular")
    return orientations.ornt_transform(
        orientations.io_orientation(LPS_FROM_RAS @ affine), orientations.axcodes2ornt("LPS")
    )


def farthest_apart(shape: tuple[int, ...], affine: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """How far in mm two affines of one grid of voxels put the same voxel from each other, at most.

    Args:
        shape: (I, J, K) of the grid.
        affine, other: (4, 4), map (i, j, k) to mm.
    """
    # Affine maps differ most at a corner of the grid, whichever that is.
    corners = np.array([(*point, 1.0) for point in itertools.product(*((0, size) for size in shape))])
    return float(np.linalg.norm((corners @ (affine - other).T)[:, :3], axis=1).max())


def grid_shear(affine: NDArray[np.float64]) -> float:
    """Degrees that the axes of a grid of voxels lack of being perpendicular, at most; a tilted gantry gives such."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosines = (axes.T @ axes)[np.triu_indices(3, 1)]
    return math.degrees(math.asin(min(1.0, float(np.abs(cosines).max()))))


def to_display(arrays: list[NDArray], affine: NDArray[np.float64]) -> tuple[list[NDArray], NDArray[np.float64]]:
    """Turn arrays to display orientation.

    Args:
        arrays: each (I, J, K), all of one shape.
        affine: (4, 4), maps (i, j, k) to LPS patient coordinates in mm.

    Returns:
        The arrays as (D, H, W) (rows to posterior, columns to the patient's left, slices to the head) and the affine
        of (column, row, slice).

    Raises:
        ValueError: when the affine is singular, so that an axis has no direction.
    """
    turn = display_turn(affine)
    turned = [np.ascontiguousarray(orientations.apply_orientation(array, turn).transpose(2, 1, 0)) for array in arrays]
    return turned, affine @ orientations.inv_ornt_aff(turn, arrays[0].shape)


def from_display(array: NDArray, affine: NDArray[np.float64], source_affine: NDArray[np.float64]) -> NDArray:
    """The opposite of `to_display`: a volume back in the order of the voxels that it came from.

    Args:
        array: (D, H, W) in display orientation.
        affine: (4, 4) of (column, row, slice) to LPS mm, as `to_display` gave it.
        source_affine: (4, 4) of the source's (i, j, k) to LPS mm, as `to_display` was given it.

    Returns:
        (I, J, K), contiguous.

    Raises:
        ValueError: when the two affines aren't of one grid, so that voxels would land elsewhere.
    """
    to_source = np.linalg.inv(source_affine) @ affine
    turn = np.round(to_source[:3, :3]).astype(int)
    if (np.abs(turn).sum(0) != 1).any() or (np.abs(turn).sum(1) != 1).any():
        raise ValueError("the affines are of different grids")
    columns_rows_slices = array.transpose(2, 1, 0)
    axes = np.abs(turn).argmax(1)
    turned = columns_rows_slices.transpose(axes)
    backwards = [axis for axis in range(3) if turn[axis, axes[axis]] < 0]
    turned = np.flip(turned, tuple(backwards))
    corners = np.array([[0, 0, 0, 1], [*(side - 1 for side in columns_rows_slices.shape), 1]]).T
    placed = (to_source @ corners)[:3]
    expected = np.zeros((3, 2))
    expected[:, 1] = np.array(turned.shape) - 1
    for axis in backwards:
        expected[axis] = expected[axis, ::-1]
    if np.abs(placed - expected).max() > 0.01:
        raise ValueError("the affines are of different grids")
    return np.ascontiguousarray(turned)
