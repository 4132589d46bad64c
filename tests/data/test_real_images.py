"""Real CHAOS and BTCV images against what pydicom, PIL and nibabel read from the same files."""

import json

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

from fastliver.data.sources import Source
from fastliver.errors import InputError


@pytest.fixture(scope="module")
def ct_3(real_data):
    (study,) = Source(real_data / "chaos", "CT").studies()
    assert study.patient == "CT_3"
    return study.read()


def test_chaos_ct_3_is_counted_and_scaled(ct_3):
    assert ct_3.image.shape == (78, 512, 512)
    assert int(ct_3.label.any((1, 2)).sum()) == 71
    assert ct_3.image.min() >= -1100
    assert ct_3.image.max() > 1000
    assert -200 < np.median(ct_3.image[ct_3.label == 1]) < 250, "liver has the HU of soft tissue"


def test_chaos_ct_3_spacing_is_from_positions_not_thickness(ct_3, real_data):
    files = sorted((real_data / "chaos/Train_Sets/CT/3/DICOM_anon").iterdir())
    header = pydicom.dcmread(files[0], stop_before_pixels=True)
    assert float(header.SliceThickness) == 3.2
    assert ct_3.spacing == pytest.approx((2.0, *(float(v) for v in header.PixelSpacing)), abs=1e-6)


def test_chaos_ct_3_begins_at_the_last_file_since_the_first_is_the_top(ct_3, real_data):
    files = sorted((real_data / "chaos/Train_Sets/CT/3/DICOM_anon").iterdir())
    assert list(ct_3.sources) == files[::-1]
    places = [pydicom.dcmread(f, stop_before_pixels=True).ImagePositionPatient for f in files[::-1]]
    found = [(ct_3.affine @ [0, 0, number, 1])[:3] for number in range(78)]
    np.testing.assert_allclose(found, np.asarray(places, float), atol=1e-3)
    assert (np.diff([place[2] for place in found]) > 0).all()


@pytest.mark.parametrize("rank", [0, 9, 41, 77])
def test_chaos_ct_3_pairs_image_and_mask_by_rank(ct_3, real_data, rank):
    home = real_data / "chaos/Train_Sets/CT/3"
    header = pydicom.dcmread(sorted((home / "DICOM_anon").iterdir())[rank])
    mask = Image.open(home / f"Ground/liver_GT_{rank:03d}.png")
    np.testing.assert_array_equal(ct_3.image[77 - rank], header.pixel_array.astype(np.float32) - 1000)
    np.testing.assert_array_equal(ct_3.label[77 - rank], np.asarray(mask) > 0)


def test_chaos_t1_in_phase_has_its_one_slice_with_liver_at_63(real_data):
    (study,) = Source(real_data / "chaos/Train_Sets", "MR", mr_sequence="t1-in").studies()
    volume = study.read()
    home = real_data / "chaos/Train_Sets/MR/1/T1DUAL"
    (mask,), (image,) = (home / "Ground").iterdir(), (home / "DICOM_anon/InPhase").iterdir()
    assert study.patient == "MR_1"
    assert volume.image.shape == (1, 256, 256)
    np.testing.assert_array_equal(volume.image[0], pydicom.dcmread(image).pixel_array)
    np.testing.assert_array_equal(volume.label[0], np.asarray(Image.open(mask)) == 63)
    assert 0 < volume.label.sum() < np.count_nonzero(np.asarray(Image.open(mask)))


def test_a_sequence_the_tree_lacks_is_said(real_data):
    with pytest.raises(InputError, match=r"T2SPIR.*--mr-sequence"):
        Source(real_data / "chaos", "MR").studies()


@pytest.mark.parametrize(
    ("name", "modality", "patients", "slices", "with_liver"),
    [("Dataset101_ChaosMR", "MR", 12, 415, 269), ("Dataset102_BtcvCT", "CT", 20, 1186, 1066)],
)
def test_nnunet_data_sets_are_counted(real_data, name, modality, patients, slices, with_liver):
    studies = Source(real_data / name, modality).studies()
    found = [study.read().label.any((1, 2)) for study in studies]
    assert len({study.patient for study in studies}) == patients
    assert sum(len(label) for label in found) == slices
    assert sum(int(label.sum()) for label in found) == with_liver


@pytest.mark.parametrize(("name", "modality"), [("Dataset101_ChaosMR", "MR"), ("Dataset102_BtcvCT", "CT")])
def test_nnunet_voxels_lie_where_nibabel_says(real_data, name, modality):
    study = Source(real_data / name, modality).studies()[1]
    volume = study.read()
    file, label = (nibabel.load(path) for path in study.paths)
    voxels, marks = np.asarray(file.dataobj), np.asarray(label.dataobj)
    rng = np.random.default_rng(0)
    d, h, w = (rng.integers(0, side, 200) for side in volume.image.shape)
    lps = volume.affine @ np.stack([w, h, d, np.ones_like(d)])
    ijk = np.linalg.inv(file.affine) @ (np.diag([-1, -1, 1, 1]) @ lps)
    i, j, k = np.rint(ijk[:3]).astype(int)
    np.testing.assert_allclose(ijk[:3], [i, j, k], atol=1e-3)
    np.testing.assert_array_equal(volume.image[d, h, w], voxels[i, j, k].astype(np.float32))
    np.testing.assert_array_equal(volume.label[d, h, w], marks[i, j, k] == 1)
    assert volume.label.sum() == (marks == 1).sum()


def test_the_liver_lies_on_the_patients_right_and_so_left_in_the_picture(real_data, ct_3):
    volumes = [ct_3] + [
        Source(real_data / name, modality).studies()[0].read()
        for name, modality in (("Dataset101_ChaosMR", "MR"), ("Dataset102_BtcvCT", "CT"))
    ]
    for volume in volumes:
        columns = np.nonzero(volume.label)[2]
        assert columns.mean() < volume.label.shape[2] / 2


def test_each_data_set_is_refused_as_the_other_modality(real_data):
    for name, wrong in (("Dataset101_ChaosMR", "CT"), ("Dataset102_BtcvCT", "MR")):
        names = json.loads((real_data / name / "dataset.json").read_text())["channel_names"]
        with pytest.raises(InputError, match=rf"dataset.json: channel_names is .*{names['0']}.*{wrong} belongs here"):
            Source(real_data / name, wrong).studies()
