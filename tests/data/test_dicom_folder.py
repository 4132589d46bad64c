"""A folder of DICOM files without labels, such as a PACS exports."""

import numpy as np
import pytest
from pydicom.uid import generate_uid

from fastliver.data.sources import Source
from fastliver.errors import InputError


@pytest.fixture
def export(tmp_path, write_slice):
    """Two MR series of one patient, five and three slices, in one folder."""
    for number in range(5):
        pixels = np.full((16, 16), 10 + number, np.uint16)
        write_slice(tmp_path / f"I{number:03d}", pixels, (0, 0, 4 * number), Modality="MR", SeriesInstanceUID="1.2.1")
    for number in range(3):
        pixels = np.full((16, 16), 20 + number, np.uint16)
        path = tmp_path / f"I{number + 5:03d}"
        write_slice(path, pixels, (0, 0, 4 * number), Modality="MR", SeriesInstanceUID="1.2.2", SeriesDescription="t1")
    return tmp_path


def test_two_series_in_one_folder_are_told_apart_by_their_uid(export):
    studies = Source(export, "MR").studies()
    grey = [study.read().image[:, 0, 0].tolist() for study in studies]
    assert grey == [[10, 11, 12, 13, 14], [20, 21, 22]]
    assert [(study.patient, study.series, study.labelled) for study in studies] == [
        ("someone", "abdomen", False),
        ("someone", "t1", False),
    ]
    assert all(study.read().label is None for study in studies)


def test_a_series_split_over_subfolders_is_one(export):
    (export / "deeper").mkdir()
    (export / "I001").rename(export / "deeper" / "I001")
    assert [len(study.paths) for study in Source(export, "MR").studies()] == [5, 3]


def test_localizers_are_left_out(export, write_slice):
    pixels = np.zeros((16, 16), np.uint16)
    sagittal = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    write_slice(export / "I900", pixels, Modality="MR", SeriesInstanceUID="1.2.3", **sagittal)
    assert [len(study.paths) for study in Source(export, "MR").studies()] == [5, 3]


def test_dicomdir_and_files_that_are_not_dicom_are_passed_over(export, write_slice):
    write_slice(export / "DICOMDIR", np.zeros((16, 16), np.uint16), Modality="MR")
    (export / "README.txt").write_text("burned by a viewer")
    (export / "viewer.exe").write_bytes(b"MZ" + bytes(300))
    (export / "empty").touch()
    assert [len(study.paths) for study in Source(export, "MR").studies()] == [5, 3]


def test_a_structured_report_beside_the_images_is_passed_over(export, write_slice):
    empty = dict.fromkeys(["Rows", "Columns", "PixelData"])
    write_slice(export / "I901", np.zeros((2, 2), np.uint16), Modality="SR", SeriesInstanceUID="1.2.9", **empty)
    assert [len(study.paths) for study in Source(export, "MR").studies()] == [5, 3]


def test_another_modality_is_named_with_one_of_its_files(export):
    with pytest.raises(InputError) as error:
        Source(export, "CT").studies()
    assert str(export) in str(error.value)
    assert f"Modality MR in {export / 'I000'}" in str(error.value)
    assert "name a folder with CT" in str(error.value)


def test_patients_are_known_by_id_or_name_or_study(tmp_path, write_slice):
    pixels = np.zeros((16, 16), np.uint16)
    ids = [
        {"PatientID": "A7", "PatientName": "Doe"},
        {"PatientID": "", "PatientName": "Roe^Jane"},
        {"PatientID": "", "StudyInstanceUID": "1.9.9"},
    ]
    for number, fields in enumerate(ids):
        write_slice(tmp_path / f"{number}.dcm", pixels, SeriesInstanceUID=f"1.2.{number}", **fields)
    assert [study.patient for study in Source(tmp_path, "CT").studies()] == ["A7", "Roe^Jane", "1.9.9"]


def test_a_text_file_called_dcm_is_refused_and_with_skip_bad_left_out(export):
    bad = export / "I010.dcm"
    bad.write_text("this is no image")
    with pytest.raises(InputError) as error:
        Source(export, "MR").studies()
    assert str(bad) in str(error.value)
    assert "not a DICOM file; remove it or add --skip-bad" in str(error.value)
    assert [len(study.read().image) for study in Source(export, "MR", skip_bad=True).studies()] == [5, 3]


def test_what_skip_bad_left_out_while_looking_is_listed(export):
    bad = export / "I010.dcm"
    bad.write_text("this is no image")
    skipped = [line for study in Source(export, "MR", skip_bad=True).studies() for line in study.read().skipped]
    assert [str(bad) in line for line in skipped] == [True]


def test_a_folder_of_bad_files_alone_says_so(tmp_path):
    (tmp_path / "a.dcm").write_text("this is no image")
    with pytest.raises(InputError, match=r"no CT images found.*1 files could not be read.*a\.dcm"):
        Source(tmp_path, "CT", skip_bad=True).studies()


@pytest.mark.parametrize(("place", "words"), [("empty", "no CT images found"), ("gone", "does not exist")])
def test_an_empty_or_absent_folder_is_named(tmp_path, place, words):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as error:
        Source(tmp_path / place, "CT").studies()
    assert str(error.value).startswith(f"{tmp_path / place}: {words}")
    assert "name a folder with CT (CHAOS, nnU-Net raw or DICOM)" in str(error.value)


def test_a_path_that_is_a_file_is_named(tmp_path, write_slice):
    path = write_slice(tmp_path / "one.dcm", np.zeros((4, 4), np.uint16))
    with pytest.raises(InputError, match=r"one.dcm: is a file; name a folder with CT"):
        Source(path, "CT").studies()


def test_compressed_pixels_are_decoded(tmp_path, write_slice):
    from pydicom import dcmread
    from pydicom.uid import RLELossless

    pixels = np.random.default_rng(0).integers(0, 4000, (20, 28)).astype(np.uint16)
    path = write_slice(tmp_path / "a.dcm", pixels, RescaleSlope=2, RescaleIntercept=-1024)
    header = dcmread(path)
    header.compress(RLELossless, generate_instance_uid=False)
    header.save_as(path)
    (study,) = Source(tmp_path, "CT").studies()
    np.testing.assert_array_equal(study.read().image[0], pixels.astype(np.float32) * 2 - 1024)


def test_signed_pixels_and_fractional_slopes_become_hu(tmp_path, write_slice):
    pixels = np.array([[-1024, -1], [0, 3071]], np.int16)
    write_slice(tmp_path / "a.dcm", pixels, RescaleSlope="0.5", RescaleIntercept="-24", SOPInstanceUID=generate_uid())
    (study,) = Source(tmp_path, "CT").studies()
    assert study.read().image[0].tolist() == [[-536.0, -24.5], [-24.0, 1511.5]]
