"""The CHAOS tree: which files are found, and that image, mask and place belong together."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from fastliver.data.sources import Source
from fastliver.errors import InputError


def by_hand(folder: Path, liver: tuple[int, int]) -> list[tuple[float, np.ndarray, np.ndarray, Path]]:
    """(z, units, mask, file) of every slice, paired by rank of the sorted names, from the feet up."""
    found = []
    for image, mask in zip(
        sorted((folder / "DICOM_anon").iterdir()), sorted((folder / "Ground").iterdir()), strict=True
    ):
        header = pydicom.dcmread(image)
        units = header.pixel_array * float(header.get("RescaleSlope", 1)) + float(header.get("RescaleIntercept", 0))
        grey = np.asarray(Image.open(mask)).astype(int)
        found.append((float(header.ImagePositionPatient[2]), units, (grey >= liver[0]) & (grey <= liver[1]), image))
    return sorted(found, key=lambda item: item[0])


@pytest.mark.parametrize(("modality", "patient"), [("CT", "1"), ("CT", "2"), ("MR", "1"), ("MR", "2"), ("MR", "3")])
def test_every_slice_of_the_phantom_has_its_own_mask_and_place(phantom, modality, patient):
    folder = phantom / modality / patient / ("" if modality == "CT" else "T2SPIR")
    volume = Source(phantom / modality / patient, modality).studies()[0].read()
    expected = by_hand(folder, (1, 255) if modality == "CT" else (56, 70))
    assert volume.image.shape == (len(expected), *expected[0][1].shape)
    assert volume.image.dtype == np.float32
    assert volume.label.dtype == np.uint8
    assert volume.label.any()
    for number, (z, units, mask, path) in enumerate(expected):
        np.testing.assert_array_equal(volume.image[number], units)
        np.testing.assert_array_equal(volume.label[number], mask)
        assert volume.sources[number] == path
        assert (volume.affine @ [0, 0, number, 1])[2] == pytest.approx(z, abs=0.01)
    header = pydicom.dcmread(expected[0][3])
    assert volume.spacing[1:] == pytest.approx([float(v) for v in header.PixelSpacing])
    assert volume.spacing[0] == pytest.approx(expected[1][0] - expected[0][0], abs=0.002)
    assert volume.spacing[0] != pytest.approx(float(header.SliceThickness), rel=0.05)


def test_files_run_down_or_up_and_slices_always_ascend_to_the_head(phantom):
    first = [volume.sources[0].name for volume in (study.read() for study in Source(phantom, "MR").studies())]
    names = [sorted(item.name for item in (phantom / "MR" / p / "T2SPIR/DICOM_anon").iterdir()) for p in "123"]
    assert first == [names[0][-1], names[1][-1], names[2][0]]


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_the_root_may_be_the_tree_its_parent_the_modality_or_one_patient(phantom, modality):
    wanted = {"CT": ["CT_1", "CT_2"], "MR": ["MR_1", "MR_2", "MR_3"]}[modality]
    for root in (phantom.parent, phantom, phantom / modality):
        studies = Source(root, modality).studies()
        assert [study.patient for study in studies] == wanted
        assert all(study.modality == modality and study.labelled for study in studies)
    assert [study.patient for study in Source(phantom / modality / "2", modality).studies()] == [f"{modality}_2"]


def test_patients_come_in_order_of_number_and_may_have_any_name(ct_tree):
    for name in ("10", "2", "extra"):
        (ct_tree / "CT" / name).mkdir()
        for part in ("DICOM_anon", "Ground"):
            (ct_tree / "CT" / name / part).symlink_to(ct_tree / "CT" / "7" / part)
    assert [study.patient for study in Source(ct_tree, "CT").studies()] == ["CT_2", "CT_7", "CT_10", "CT_extra"]


@pytest.mark.parametrize(
    ("sequence", "factor", "columns"), [("t2-spir", 100, 1), ("t1-in", 200, 3), ("t1-out", 300, 3)]
)
def test_each_mr_sequence_has_its_masks(mr_tree, sequence, factor, columns):
    (study,) = Source(mr_tree, "MR", mr_sequence=sequence).studies()
    volume = study.read()
    assert volume.image[:, 0, 0].tolist() == [factor * k for k in range(4)]
    assert volume.label.sum((1, 2)).tolist() == [24 * (k + columns) for k in range(4)]
    assert not volume.label[:, :, 12:].any(), "spleen (252) is not liver"


def test_mr_liver_is_grey_56_to_70_and_ct_liver_any_grey_but_0(mr_tree, ct_tree):
    ramp = np.tile(np.arange(32, dtype=np.uint8) + 45, (24, 1))
    Image.fromarray(ramp).save(mr_tree / "MR/4/T2SPIR/Ground/IMG-0004-00000.png")
    label = Source(mr_tree, "MR").studies()[0].read().label
    assert (np.flatnonzero(label[0, 0]) + 45).tolist() == list(range(56, 71))
    Image.fromarray(np.tile(np.arange(32, dtype=np.uint8), (24, 1))).save(ct_tree / "CT/7/Ground/liver_GT_000.png")
    label = Source(ct_tree, "CT").studies()[0].read().label
    assert np.flatnonzero(label[0, 0]).tolist() == list(range(1, 32))


def test_out_phase_images_without_as_many_in_phase_images_are_refused(mr_tree):
    removed = sorted((mr_tree / "MR/4/T1DUAL/DICOM_anon/InPhase").iterdir())[1]
    removed.unlink()
    with pytest.raises(InputError, match=r"OutPhase: 4 images, but 3 in the in-phase folder.*complete"):
        Source(mr_tree, "MR", mr_sequence="t1-out").studies()


def test_a_tree_without_ground_truth_is_unlabelled(ct_tree):
    (ct_tree / "CT/7/Ground").rename(ct_tree / "elsewhere")
    (study,) = Source(ct_tree, "CT").studies()
    assert not study.labelled
    assert study.read().label is None


def test_a_partly_labelled_tree_names_the_bare_patient(ct_tree):
    (ct_tree / "CT/9").mkdir()
    (ct_tree / "CT/9/DICOM_anon").symlink_to(ct_tree / "CT/7/DICOM_anon")
    with pytest.raises(InputError, match=r"CT/9/DICOM_anon: no labels for patient CT_9, but CT_7 has some; add"):
        Source(ct_tree, "CT").studies()


def test_hidden_files_are_no_slices(ct_tree):
    (ct_tree / "CT/7/DICOM_anon/._i0000,0000b.dcm").write_bytes(b"left by a Mac")
    (ct_tree / "CT/7/Ground/._liver_GT_000.png").write_bytes(b"left by a Mac")
    assert len(Source(ct_tree, "CT").studies()[0].read().image) == 6


def test_the_other_modality_is_named(phantom):
    with pytest.raises(InputError, match=r"MR: a CHAOS folder of MR, but CT belongs here"):
        Source(phantom / "MR", "CT").studies()
    with pytest.raises(InputError, match=r"CT/2: a CHAOS folder of CT, but MR belongs here"):
        Source(phantom / "CT/2", "MR").studies()


def test_a_sequence_that_is_not_there_points_to_the_option(phantom):
    with pytest.raises(InputError, match=r"T1DUAL.*--mr-sequence"):
        Source(phantom, "MR", mr_sequence="t1-in").studies()
