"""NIfTI results on the very voxels of their source, whatever its orientation, by nibabel's patient coordinates."""

from dataclasses import replace

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from nibabel.orientations import axcodes2ornt, ornt_transform

from fastliver.data.nifti import read_case
from fastliver.data.orientation import LPS_FROM_RAS
from fastliver.data.series import read_series
from fastliver.errors import InputError
from fastliver.export import nnunet
from fastliver.export.nifti import write_nifti

ORGAN = np.array([30.0, -12.0, 55.0])
"""Where the phantom's organ lies, RAS mm; nothing about the phantom is symmetric."""


def phantom(path, codes: str, angle: float = 0.0, sform: int = 1, qform: int = 1):
    """An ellipsoid of 100 in 0 whose place in the patient doesn't depend on how the voxels are stored."""
    c, s = np.cos(angle), np.sin(angle)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.diag([2.0, 2.5, 4.0])
    affine[:3, 3] = ORGAN - affine[:3, :3] @ np.array([20, 9, 13])
    empty = nibabel.Nifti1Image(np.zeros((40, 32, 24), np.int16), affine)
    turn = ornt_transform(nibabel.io_orientation(affine), axcodes2ornt(codes))
    image = empty.as_reoriented(turn)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in image.shape), indexing="ij"), -1)
    world = grid @ image.affine[:3, :3].T + image.affine[:3, 3]
    inside = (((world - ORGAN) / [18, 10, 14]) ** 2).sum(-1) < 1
    filled = nibabel.Nifti1Image((inside * 100).astype(np.int16), image.affine)
    filled.set_sform(image.affine, sform)
    filled.set_qform(image.affine, qform)
    nibabel.save(filled, path)
    return inside


def centre(path) -> np.ndarray:
    """Where the marked voxels lie in the patient, by nibabel's own coordinates."""
    image = nibabel.load(path)
    voxels = np.argwhere(np.asarray(image.dataobj) > 0)
    return (voxels @ image.affine[:3, :3].T + image.affine[:3, 3]).mean(0)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "PIR", "ASL", "SRP"])
@pytest.mark.parametrize("angle", [0.0, 0.3])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_lands_on_the_voxels_it_came_from(tmp_path, codes, angle, ending) -> None:
    inside = phantom(tmp_path / "mr.nii.gz", codes, angle)
    volume = read_case(tmp_path / "mr.nii.gz", None, ())
    out = tmp_path / f"liver{ending}"
    write_nifti(out, (volume.image > 50).astype(np.uint8), volume, "liver")
    written, source = nibabel.load(out), nibabel.load(tmp_path / "mr.nii.gz")
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(written.dataobj), inside)
    np.testing.assert_array_equal(written.affine, source.affine)
    np.testing.assert_allclose(centre(out), ORGAN, atol=0.8)


@pytest.mark.parametrize(("sform", "qform"), [(1, 0), (0, 1), (4, 2), (0, 0)])
def test_keeps_the_forms_of_its_source(tmp_path, sform, qform) -> None:
    phantom(tmp_path / "mr.nii", "LPS", 0.2, sform, qform)
    volume = read_case(tmp_path / "mr.nii", None, ())
    write_nifti(tmp_path / "liver.nii", volume.image, volume, "x" * 200)
    written, source = nibabel.load(tmp_path / "liver.nii"), nibabel.load(tmp_path / "mr.nii")
    np.testing.assert_array_equal(written.affine, source.affine)
    for form in ("get_sform", "get_qform"):
        (a, code_a), (b, code_b) = (getattr(image.header, form)(coded=True) for image in (written, source))
        assert code_a == code_b
        np.testing.assert_allclose(np.zeros(0) if a is None else a, np.zeros(0) if b is None else b, atol=1e-5)
    assert written.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.asarray(source.dataobj))


def test_a_dicom_series_becomes_nifti_at_the_same_place(ct_volume, tmp_path) -> None:
    write_nifti(tmp_path / "mr.nii.gz", ct_volume.image, ct_volume, "synthetic")
    again = read_case(tmp_path / "mr.nii.gz", None, ())
    np.testing.assert_array_equal(again.image, ct_volume.image)
    np.testing.assert_allclose(again.affine, ct_volume.affine, atol=1e-5)


@pytest.fixture
def dicom_series(make_ct, tmp_path):
    """The volume of a CT series with slices at these heights."""

    def make(heights):
        header = pydicom.dcmread(make_ct().sources[0])
        (tmp_path / "series").mkdir()
        for number, height in enumerate(heights):
            header.ImagePositionPatient = [0, 0, height]
            header.save_as(tmp_path / "series" / f"{number:03d}.dcm")
        return read_series(sorted((tmp_path / "series").iterdir()), "CT", None, range(0), False)

    return make


def test_a_source_that_was_replaced_meanwhile_is_refused(tmp_path) -> None:
    phantom(tmp_path / "mr.nii", "LPS")
    volume = read_case(tmp_path / "mr.nii", None, ())
    phantom(tmp_path / "mr.nii", "LPS", 0.3)
    with pytest.raises(InputError, match=r"mr.nii: changed since it was read"):
        write_nifti(tmp_path / "liver.nii", volume.image, volume, "liver")
    assert not (tmp_path / "liver.nii").exists()


@pytest.mark.parametrize(("heights", "off"), [((0, 5, 10, 25, 30), 25), ((0, 3, 6, 9, 15, 21, 27), 6)])
def test_a_series_that_nifti_can_not_hold_is_refused(dicom_series, tmp_path, heights, off) -> None:
    """Its one distance between slices would put those above a gap, or of another distance, elsewhere."""
    volume = dicom_series(heights)
    with pytest.raises(InputError, match=rf"missing or lie unevenly.* instead of {off}\.0 mm; complete"):
        write_nifti(tmp_path / "liver.nii", volume.image, volume, "liver")
    assert not (tmp_path / "liver.nii").exists()


def test_distances_that_vary_a_little_are_evened_out(dicom_series, tmp_path) -> None:
    """Rounded positions: with the median for the distance, 2.6, the last of 100 slices would be 10 mm off."""
    heights = [round(2.4 * (number // 2) + 2.6 * ((number + 1) // 2), 3) for number in range(100)]
    volume = dicom_series(heights)
    write_nifti(tmp_path / "liver.nii", volume.image, volume, "liver")
    affine = nibabel.load(tmp_path / "liver.nii").affine
    assert np.abs(affine[2, 3] + affine[2, 2] * np.arange(100) - heights).max() < 0.11


def test_a_tilted_gantry_leaves_no_form_that_puts_slices_elsewhere(make_ct, tmp_path) -> None:
    """sform holds the shear. qform can't: with its code set ITK would read it and misplace the volume in silence."""
    volume = make_ct()
    sheared = volume.affine.copy()
    sheared[1, 2] += 0.8
    write_nifti(tmp_path / "tilted.nii", volume.image, replace(volume, affine=sheared), "x")
    header = nibabel.load(tmp_path / "tilted.nii").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 1)
    np.testing.assert_allclose(LPS_FROM_RAS @ header.get_sform(), sheared, atol=1e-4)
    with pytest.raises(RuntimeError, match="orthonormal"):
        SimpleITK.ReadImage(str(tmp_path / "tilted.nii"))
    write_nifti(tmp_path / "upright.nii", volume.image, volume, "x")
    read = SimpleITK.ReadImage(str(tmp_path / "upright.nii"))
    corner = read.TransformIndexToPhysicalPoint((3, 2, 4))
    np.testing.assert_allclose(corner, (volume.affine @ [3, 2, 4, 1])[:3], atol=1e-3)
    with pytest.raises(InputError, match="tilted gantry"):
        nnunet.write_case(tmp_path, "a", volume.image, volume.label, replace(volume, affine=sheared), "x")
    assert not (tmp_path / "labelsTr").exists()
