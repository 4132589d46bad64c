"""A folder of DICOM files without labels, such as a PACS exports."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import generate_uid

from fastliver.data.intensity import IntensityRule
from fastliver.data.sources import Source
from fastliver.data.store_builder import build_store
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
    skipped = [line for study in Source(export, "MR", skip_bad=True).studies() for line in study.skipped]
    assert [str(bad) in line for line in skipped] == [True]


def test_a_folder_of_bad_files_alone_says_so(tmp_path):
    (tmp_path / "a.dcm").write_text("this is no image")
    with pytest.raises(InputError, match=r"no CT images found.*1 file could not be read.*a\.dcm"):
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


def notes(folder: Path, modality: str = "MR") -> str:
    study = Source(folder, modality).studies()[0]
    return "; ".join((*study.notes, *study.read().notes))


def test_what_is_no_slice_is_told_apart_and_counted(export, write_slice):
    pixels = np.zeros((16, 16), np.uint16)
    empty = dict.fromkeys(["Rows", "Columns", "PixelData"])
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PixelData": bytes(6 * 256)}
    capture = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "ImagePositionPatient": None}
    for name, fields in {
        "J1": {"Modality": "SEG", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"},
        "J2": {"Modality": "SEG", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"},
        "J3": {"Modality": "RTSTRUCT", **empty},
        "J4": {"Modality": "SR", **empty},
        "J5": {"Modality": "MR", **colour},
        "J6": {"Modality": "MR", **capture},
        "J7": {"Modality": "MR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.11.1", **empty},  # presentation state
        "J8": {"Modality": "MR", "ImageType": ["DERIVED", "SECONDARY", "LOCALIZER"]},
    }.items():
        write_slice(export / name, pixels, SeriesInstanceUID=f"1.9.{name[1]}", **fields)
    assert [len(study.paths) for study in Source(export, "MR").studies()] == [5, 3]
    assert notes(export) == (
        f"{export}: passed over what is no MR slice: Modality SEG in {export / 'J1'} and 1 more; Modality RTSTRUCT in "
        f"{export / 'J3'}; Modality SR in {export / 'J4'}; MR as colour image in {export / 'J5'}; MR as Secondary "
        f"Capture Image Storage in {export / 'J6'}; Grayscale Softcopy Presentation State Storage in {export / 'J7'}; "
        f"localizer in {export / 'J8'}"
    )


def test_an_image_without_rows_is_damaged_and_not_passed_over(export, write_slice):
    gone = dict.fromkeys(["Rows", "Columns", "PixelData"])
    write_slice(export / "J1", np.zeros((2, 2), np.uint16), Modality="MR", SeriesInstanceUID="1.2.1", **gone)
    with pytest.raises(InputError, match=r"J1: holds no image \(MR Image Storage\); remove it or add --skip-bad"):
        Source(export, "MR").studies()[0].read()


def test_links_are_followed_and_loops_end(export, tmp_path_factory):
    (export / "loop").symlink_to(export)
    (export / "deeper").mkdir()
    (export / "deeper" / "up").symlink_to("..")
    (export / "itself").symlink_to("itself")
    (export / "nowhere").symlink_to("gone")
    assert [len(study.paths) for study in Source(export, "MR").studies()] == [5, 3]
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "series").symlink_to(export)
    assert [len(study.paths) for study in Source(elsewhere, "MR").studies()] == [5, 3]


def test_what_is_neither_file_nor_folder_is_passed_over(export):
    os.mkfifo(export / "pipe.dcm")
    assert [len(study.paths) for study in Source(export, "MR").studies()] == [5, 3]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_files_and_folders_that_may_not_be_read_are_named(export):
    hidden = export / "I001"
    hidden.chmod(0)
    with pytest.raises(InputError, match=r"I001: can't be read as DICOM \(Permission denied\); remove it or add"):
        Source(export, "MR").studies()
    assert [len(study.paths) for study in Source(export, "MR", skip_bad=True).studies()] == [4, 3]
    hidden.chmod(0o600)
    (export / "closed").mkdir(mode=0)
    with pytest.raises(InputError, match=r"closed: can't be listed \(Permission denied\); make it readable"):
        Source(export, "MR").studies()


def test_gaps_are_noted_with_their_spacing(export):
    (export / "I002").unlink()
    assert f"{export}: slice spacing varies from 4.00 to 8.00 mm" in notes(export)
    volume = Source(export, "MR").studies()[0].read()
    assert volume.heights.tolist() == [0, 4, 12, 16]
    assert volume.spacing[0] == pytest.approx(4)


def test_a_slice_that_is_there_twice_is_named(export, write_slice):
    pixels = np.zeros((16, 16), np.uint16)
    write_slice(export / "I003b", pixels, (0, 0, 12.0005), Modality="MR", SeriesInstanceUID="1.2.1")
    with pytest.raises(InputError, match=r"I003b: ImagePositionPatient is that of I003; .*remove one"):
        Source(export, "MR").studies()[0].read()


def test_gantry_tilt_shears_the_affine_and_is_noted(tmp_path, write_slice):
    """Slices tilted by 20 degrees about the x axis, one above the other along the table."""
    cosine, sine = math.cos(math.radians(20)), math.sin(math.radians(20))
    for number in range(4):
        write_slice(
            tmp_path / f"{number}.dcm",
            np.full((16, 16), number, np.uint16),
            (-5.0, -6.0, 5.0 * number),
            ImageOrientationPatient=[1, 0, 0, 0, round(cosine, 6), round(sine, 6)],
            PixelSpacing=[0.5, 0.75],
        )
    volume = Source(tmp_path, "CT").studies()[0].read()
    assert volume.image[:, 0, 0].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(volume.affine @ [0, 0, 2, 1], [-5, -6, 10, 1], atol=1e-5)
    expected = [-5 + 4 * 0.75, -6 + 3 * 0.5 * cosine, 5 + 3 * 0.5 * sine, 1]
    np.testing.assert_allclose(volume.affine @ [4, 3, 1, 1], expected, atol=1e-5)
    assert volume.notes == (f"{tmp_path}: the gantry was tilted by 20.0 degrees, so that the slices stack askew",)


def test_a_plan_says_what_reading_gives_without_touching_pixels(export, monkeypatch):
    (study, _) = Source(export, "MR").studies()
    volume = study.read()
    monkeypatch.setattr("fastliver.data.series.decode", lambda image: pytest.fail("the pixels were decoded"))
    plan = study.plan()
    assert tuple(item.image.path for item in plan.slices) == volume.sources
    np.testing.assert_array_equal(plan.affine, volume.affine)
    np.testing.assert_array_equal(plan.heights, volume.heights)
    assert (plan.spacing, plan.shape, plan.labelled) == (volume.spacing, (16, 16), False)


@pytest.mark.parametrize("rows_to", [(0, 1, 0), (0, -1, 0), (1, 0, 0), (-1, 0, 0)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_plan_turns_each_slice_as_the_volume_is_turned(tmp_path, write_slice, rows_to, mirrored):
    """Against the pixels' own places: in display orientation x grows with the column and y with the row."""
    columns_to = np.cross(rows_to, (0, 0, -1 if mirrored else 1))
    ramp = np.arange(12, dtype=np.uint16).reshape(3, 4)
    for number in range(2):
        fields = {"ImageOrientationPatient": [*columns_to.tolist(), *rows_to]}
        write_slice(tmp_path / f"{number}.dcm", ramp + 100 * number, (7, 8, 5 * number), **fields)
    (study,) = Source(tmp_path, "CT").studies()
    plan, volume = study.plan(), study.read()
    assert [item.frame.position[2] for item in plan.slices] == [0, 5]
    for number, planned in enumerate(plan.slices):
        turned = plan.turn(ramp) + 100 * int(planned.image.path.stem)
        np.testing.assert_array_equal(turned, volume.image[number])
    row, column = np.indices(ramp.shape)
    places = (
        np.array([7, 8, 0])[:, None, None] + np.multiply.outer(columns_to, column) + np.multiply.outer(rows_to, row)
    )
    x, y = (plan.turn(places[axis]) for axis in (0, 1))
    assert (np.diff(x, axis=1) == 1).all()
    assert (np.diff(y, axis=0) == 1).all()
    np.testing.assert_allclose(volume.affine[:2, 3], [x[0, 0], y[0, 0]])


def test_what_was_left_out_is_told_though_the_first_series_can_not_be_read(export, write_slice, tmp_path_factory):
    """A localizer that isn't called one comes first, and a slice of the next series is cut within its header."""
    sagittal = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}
    write_slice(export / "A", np.zeros((16, 16), np.uint16), Modality="MR", SeriesInstanceUID="1.2.0", **sagittal)
    write_slice(export / "B", np.zeros((16, 16), np.uint16), Modality="SEG", SeriesInstanceUID="1.2.9")
    cut = export / "I003"
    cut.write_bytes(cut.read_bytes()[:300])
    studies = Source(export, "MR", skip_bad=True).studies()
    stores = tmp_path_factory.mktemp("stores")
    store = build_store(studies, IntensityRule("MR", 0.5, 99.5), 16, stores, skip_bad=True)
    assert len(store) == 4 + 3
    unread, localizer = store.meta["skipped"]
    assert unread.startswith(f"{cut}: ")
    assert "not an axial slice" in localizer
    assert f"Modality SEG in {export / 'B'}" in store.meta["notes"][0]
