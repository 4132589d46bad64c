"""However a volume is stored, it is shown and placed alike: all axis orders and flips, and DICOM against NIfTI."""

import itertools
import json

import nibabel
import numpy as np
import pytest

from fastliver.data.nifti import read_case
from fastliver.data.sources import Source

# A volume whose axes run to the right, anterior and head (RAS), with spacing 2, 1.5 and 3 mm.
RAS = np.random.default_rng(0).integers(-1000, 1000, (5, 4, 3)).astype(np.int16)
TO_RAS = np.array([[2, 0, 0, -30], [0, 1.5, 0, 12], [0, 0, 3, 800], [0, 0, 0, 1]], float)


def stored(order: tuple[int, ...], flips: tuple[bool, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The volume with its axes in another order and some of them reversed, and the affine that undoes both."""
    array = RAS.transpose(order)
    affine = np.eye(4)
    affine[:3, :3] = TO_RAS[:3, list(order)]
    affine[:3, 3] = TO_RAS[:3, 3]
    for axis, flip in enumerate(flips):
        if flip:
            affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
            affine[:3, axis] *= -1
            array = np.flip(array, axis)
    return np.ascontiguousarray(array), affine


WAYS = list(itertools.product(itertools.permutations(range(3)), itertools.product((False, True), repeat=3)))


@pytest.mark.parametrize(("order", "flips"), WAYS)
def test_all_48_ways_to_store_a_volume_show_the_same(tmp_path, write_nifti, order, flips):
    array, affine = stored(order, flips)
    image = write_nifti(tmp_path / "image.nii", array, affine)
    label = write_nifti(tmp_path / "label.nii", (array > 0).astype(np.uint8), affine)
    volume = read_case(image, label, (1,))
    # Rows run to the back and columns to the patient's left: against the axes of RAS.
    shown = RAS[::-1, ::-1].transpose(2, 1, 0)
    np.testing.assert_array_equal(volume.image, shown)
    np.testing.assert_array_equal(volume.label, shown > 0)
    assert volume.spacing == pytest.approx((3, 1.5, 2))
    # Column 0, row 0, slice 0 is the RAS voxel (4, 3, 0), at (-22, 16.5, 800) mm; LPS turns x and y round.
    expected = [[2, 0, 0, 22], [0, 1.5, 0, -16.5], [0, 0, 3, 800], [0, 0, 0, 1]]
    np.testing.assert_allclose(volume.affine, expected, atol=1e-5)


def test_there_are_48_ways():
    assert len({(array.tobytes(), array.shape) for array, _ in itertools.starmap(stored, WAYS)}) == 48


@pytest.mark.parametrize("degrees", [-40, 15, 44])
def test_an_oblique_volume_keeps_its_places(tmp_path, write_nifti, degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    affine = np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1]]) @ TO_RAS
    values = np.arange(RAS.size, dtype=np.int16).reshape(RAS.shape)
    volume = read_case(write_nifti(tmp_path / "image.nii", values, affine), None, ())
    for d, h, w in np.ndindex(volume.image.shape):
        voxel = np.unravel_index(int(volume.image[d, h, w]), RAS.shape)
        ras = nibabel.affines.apply_affine(affine, voxel)
        np.testing.assert_allclose((volume.affine @ [w, h, d, 1])[:3], ras * [-1, -1, 1], atol=1e-4)


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_a_volume_is_the_same_through_dicom_and_nifti(phantom, tmp_path, modality, write_nifti):
    expected = Source(phantom / modality / "1", modality).studies()[0].read()
    # NIfTI's axes are column, row, slice; its coordinates have x and y reversed.
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ expected.affine
    write_nifti(tmp_path / "imagesTr/p_0000.nii.gz", expected.image.transpose(2, 1, 0).astype(np.int16), affine)
    write_nifti(tmp_path / "labelsTr/p.nii.gz", expected.label.transpose(2, 1, 0), affine)
    description = {"channel_names": {"0": "CT" if modality == "CT" else "MRI"}, "labels": {"background": 0, "liver": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    (study,) = Source(tmp_path, modality).studies()
    volume = study.read()
    np.testing.assert_array_equal(volume.image, expected.image)
    np.testing.assert_array_equal(volume.label, expected.label)
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-3)
    assert volume.image.dtype == expected.image.dtype
    assert volume.label.dtype == expected.label.dtype
