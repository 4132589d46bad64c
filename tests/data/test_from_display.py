"""Back from display orientation: every orientation's voxels return to their places."""

from itertools import permutations, product

import numpy as np
import pytest

from fastliver.data.orientation import from_display, to_display


@pytest.mark.parametrize("axes", list(permutations(range(3))))
@pytest.mark.parametrize("signs", list(product((1, -1), repeat=3)))
def test_returns_every_voxel(axes, signs) -> None:
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(3, 4, 5))
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[axis, column] = sign * (1.5 + column)
    affine[:3, :3] = rotation(0.2) @ affine[:3, :3]
    affine[:3, 3] = (-7, 40, 300)
    (turned,), display = to_display([volume], affine)
    np.testing.assert_array_equal(from_display(turned, display, affine), volume)


def rotation(angle: float) -> np.ndarray:
    """An oblique slice plane: turned about the patient's left-right axis."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


@pytest.mark.parametrize(
    "change", [np.diag([1.0, 1, 1.5, 1]), np.array([[1.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
               np.array([[1.0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])],
    ids=["other spacing", "a voxel aside", "sheared"],
)  # fmt: skip
def test_refuses_another_grid(change) -> None:
    affine = np.diag([2.0, 3, 4, 1])
    (turned,), display = to_display([np.zeros((3, 4, 5))], affine)
    with pytest.raises(ValueError, match="different grids"):
        from_display(turned, display, affine @ change)
