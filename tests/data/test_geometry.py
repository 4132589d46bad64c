"""Where a voxel lies in the patient, by DICOM's own formula (PS3.3 C.7.6.2.1.1), from file to fitted square."""

import itertools

import numpy as np
import pytest
from scipy.ndimage import center_of_mass

from fastliver.data.resize import Fit
from fastliver.data.sources import Source
from fastliver.errors import InputError


def turned(about: str, degrees: float, orientation=(1, 0, 0, 0, 1, 0)) -> list[float]:
    """ImageOrientationPatient of a slice turned about one of the patient's axes."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = {"x": [[1, 0, 0], [0, c, -s], [0, s, c]], "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
            "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]]}[about]  # fmt: skip
    return (np.asarray(turn) @ np.reshape(orientation, (2, 3)).T).T.ravel().round(9).tolist()


ORIENTATIONS = {
    "supine": [1, 0, 0, 0, 1, 0],
    "prone": [-1, 0, 0, 0, -1, 0],
    "seen from the head": [-1, 0, 0, 0, 1, 0],
    "rows and columns exchanged": [0, 1, 0, 1, 0, 0],
    "head to the left, feet up": [1, 0, 0, 0, -1, 0],
    "tilted forward": turned("x", 30),
    "tilted sideways": turned("y", -44),
    "turned in the plane": turned("z", 25),
    "tilted and prone": turned("x", 20, (-1, 0, 0, 0, -1, 0)),
}
SHAPE, SPACING = (7, 20, 28), (1.7, 0.9)  # slices, rows, columns; row and column spacing


def place(orientation, corner, row, column) -> np.ndarray:
    """The patient coordinate of a pixel, with the row index along the column direction, as DICOM has it."""
    along_row, along_column = np.reshape(orientation, (2, 3)).astype(float)
    return np.asarray(corner) + along_row * SPACING[1] * column + along_column * SPACING[0] * row


def corners(orientation, step_mm) -> list[np.ndarray]:
    normal = np.cross(*np.reshape(orientation, (2, 3)))
    return [np.array([-12.5, 30.25, -700.0]) + normal * step_mm * number for number in range(SHAPE[0])]


@pytest.fixture
def series(tmp_path, write_slice):
    """Write random voxels as a series, files in shuffled order; gives the volume read back."""

    def write(voxels, orientation, positions, **fields):
        names = np.random.default_rng(5).permutation(len(voxels))
        for name, pixels, position in zip(names, voxels, positions, strict=True):
            fields = {"PixelSpacing": list(SPACING), "ImageOrientationPatient": list(orientation), **fields}
            write_slice(tmp_path / f"{name}.dcm", pixels, position, **fields)
        (study,) = Source(tmp_path, "CT").studies()
        return study.read()

    return write


@pytest.mark.parametrize("step_mm", [5.0, -5.0], ids=["up", "down"])
@pytest.mark.parametrize("name", ORIENTATIONS)
def test_every_voxel_keeps_its_place_in_the_patient(series, name, step_mm):
    orientation = ORIENTATIONS[name]
    voxels = np.arange(np.prod(SHAPE), dtype=np.uint16).reshape(SHAPE)  # each value says which voxel it was
    positions = corners(orientation, step_mm)
    volume = series(voxels, orientation, positions)
    for d, h, w in itertools.product(*((0, 2, side - 1) for side in volume.image.shape)):
        k, row, column = np.unravel_index(int(volume.image[d, h, w]), SHAPE)
        np.testing.assert_allclose(
            (volume.affine @ [w, h, d, 1])[:3], place(orientation, positions[k], row, column), atol=1e-4
        )
    assert sorted(volume.image.ravel()) == list(range(voxels.size))


@pytest.mark.parametrize("step_mm", [5.0, -5.0], ids=["up", "down"])
@pytest.mark.parametrize("name", ORIENTATIONS)
def test_rows_run_to_the_back_columns_to_the_left_slices_to_the_head(series, name, step_mm):
    voxels = np.zeros(SHAPE, np.uint16)
    affine = series(voxels, ORIENTATIONS[name], corners(ORIENTATIONS[name], step_mm)).affine[:3, :3]
    for axis in range(3):
        assert np.argmax(np.abs(affine[:, axis])) == axis
        assert affine[axis, axis] > 0


def test_each_slice_names_the_file_it_came_from(series):
    voxels = np.arange(7, dtype=np.uint16)[:, None, None] * np.ones(SHAPE, np.uint16)
    for orientation, step in (((1, 0, 0, 0, 1, 0), 4.0), ((1, 0, 0, 0, -1, 0), 4.0)):
        volume = series(voxels, orientation, corners(orientation, step))
        names = np.random.default_rng(5).permutation(7)
        assert [path.stem for path in volume.sources] == [str(names[int(v)]) for v in volume.image[:, 0, 0]]


def test_a_tilted_gantry_shears_the_volume(series):
    voxels = np.zeros(SHAPE, np.uint16)
    positions = [np.array([0.0, 1.5 * number, 5.0 * number]) for number in range(SHAPE[0])]
    volume = series(voxels, (1, 0, 0, 0, 1, 0), positions)
    np.testing.assert_allclose((volume.affine @ [0, 0, 3, 1])[:3], positions[3], atol=1e-6)


@pytest.mark.parametrize("orientation", [(0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1), tuple(turned("x", 46))])
def test_a_series_that_is_not_axial_is_refused(series, orientation):
    with pytest.raises(InputError, match=r"\.dcm: ImageOrientationPatient is .* not an axial slice"):
        series(np.zeros(SHAPE, np.uint16), orientation, corners(orientation, 5.0))


def test_one_slice_is_as_thick_as_it_says(series):
    volume = series(np.zeros((1, 20, 28), np.uint16), (1, 0, 0, 0, 1, 0), [(0, 0, 0)], SliceThickness=3.2)
    assert volume.spacing == pytest.approx((3.2, 1.7, 0.9))


def test_uneven_slice_spacing_is_noted(series):
    positions = [np.array([0, 0, z]) for z in (0, 5, 10, 15, 20, 25, 33.0)]
    volume = series(np.zeros(SHAPE, np.uint16), (1, 0, 0, 0, 1, 0), positions)
    assert len(volume.notes) == 1
    assert "from 5.00 to 8.00 mm" in volume.notes[0]
    even = series(np.zeros(SHAPE, np.uint16), (1, 0, 0, 0, 1, 0), corners((1, 0, 0, 0, 1, 0), 5.0))
    assert even.notes == ()


FITS = [((20, 28), (1.7, 0.9), 32), ((100, 60), (1.0, 1.0), 64), ((33, 47), (0.7, 0.7), 256), ((512, 512), (1, 1), 96)]


@pytest.mark.parametrize(("shape", "spacing", "size"), FITS)
def test_a_fitted_image_shows_each_place_where_the_affine_says(shape, spacing, size):
    """A ramp over the patient is kept by the filter to some hundredths of a pixel, so grey values measure the place."""
    rng = np.random.default_rng(0)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape([*turned("x", 15), 0, 0, 5], (3, 3)).T @ np.diag([spacing[1], spacing[0], 1.0])
    affine[:3, 3] = rng.normal(size=3) * 100
    fit = Fit.of(shape, spacing, size)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    inner = np.zeros((1, size, size), bool)
    edge = 2 + int(2 * max(fit.scaled[0] / shape[0], fit.scaled[1] / shape[1]))  # the filter is cut off there
    top, left = fit.offset
    inner[0, top + edge : top + fit.scaled[0] - edge, left + edge : left + fit.scaled[1] - edge] = True
    assert inner.any()
    for axis in range(2):
        ramp = (affine @ np.stack([columns, rows, 0 * rows, 0 * rows + 1]).reshape(4, -1))[axis].reshape(1, *shape)
        scale = np.ptp(ramp)
        fitted = fit.image(((ramp - ramp.min()) / scale).astype(np.float32)) * scale + ramp.min()
        _, h, w = np.nonzero(inner)
        expected = (fit.affine(affine) @ np.stack([w, h, 0 * w, 0 * w + 1]))[axis]
        np.testing.assert_allclose(fitted[inner], expected, atol=0.08 * max(spacing))


@pytest.mark.parametrize(("shape", "spacing", "size"), FITS)
def test_a_fitted_label_lies_where_the_affine_says(shape, spacing, size):
    place = np.array([0.4 * shape[0], 0.55 * shape[1]])
    far = (np.mgrid[: shape[0], : shape[1]] - place[:, None, None]) / np.array(shape)[:, None, None]
    label = (np.hypot(*far) < 0.3).astype(np.uint8)
    fit = Fit.of(shape, spacing, size)
    row, column = center_of_mass(fit.label(label[None])[0])
    x, y = (fit.affine(np.eye(4)) @ [column, row, 0, 1])[:2]
    np.testing.assert_allclose((y, x), center_of_mass(label), atol=0.15)


@pytest.mark.parametrize(
    ("shape", "spacing", "scaled", "offset"),
    [
        ((100, 60), (1.0, 1.0), (64, 38), (0, 13)),
        ((60, 100), (1.0, 1.0), (38, 64), (13, 0)),
        ((50, 100), (2.0, 1.0), (64, 64), (0, 0)),  # as long in mm
        ((40, 80), (1.0, 2.0), (16, 64), (24, 0)),
    ],
)
def test_a_slice_that_is_not_square_in_mm_is_padded_with_background(shape, spacing, scaled, offset):
    fit = Fit.of(shape, spacing, 64)
    assert (fit.scaled, fit.offset) == (scaled, offset)
    image, label = fit.image(np.full((2, *shape), 0.5, np.float32)), fit.label(np.ones((2, *shape), np.uint8))
    inside = np.zeros((64, 64), bool)
    inside[offset[0] : offset[0] + scaled[0], offset[1] : offset[1] + scaled[1]] = True
    np.testing.assert_allclose(image, np.broadcast_to(np.where(inside, 0.5, -1.0), image.shape), atol=1e-6)
    np.testing.assert_array_equal(label, np.broadcast_to(inside, label.shape))
