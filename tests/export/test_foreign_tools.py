"""Exports of real images as other people's programs see them: dciodvfy, SimpleITK, nnU-Net's own check.

dciodvfy (Debian's dicom3tools) is looked for on PATH and in $DCIODVFY; nnU-Net is the package nnunetv2.
"""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

import fastliver
from fastliver.data.cases import find_cases
from fastliver.data.dicom import read_series
from fastliver.data.sources import Source
from fastliver.export import nnunet
from fastliver.export.dicom_mr import MadeBy, write_mr_series
from fastliver.export.dicom_seg import encode_carried_label, encode_mask, encode_probability
from fastliver.export.grey import to_stored

pytestmark = pytest.mark.slow
BY = MadeBy("liver-run/essnet", "0.1.0+abcdef")


@pytest.fixture(scope="module")
def patient(real_data):
    """CHAOS CT set 3."""
    (case,) = find_cases(Source(real_data / "chaos" / "Train_Sets" / "CT", "CT"))
    return case.study.read()


@pytest.fixture(scope="module")
def synthetic(patient, write_run, tmp_path_factory):
    """Its synthetic MR on its own grid."""
    run = write_run(tmp_path_factory.mktemp("runs") / "tiny")
    return fastliver.load(run, "cpu").synthesize(patient.image, patient.spacing)


@pytest.fixture(scope="module")
def exported(patient, synthetic, tmp_path_factory) -> Path:
    """The series in `mr`, and three segmentations beside it."""
    folder = tmp_path_factory.mktemp("exported")
    images = write_mr_series(folder / "mr", synthetic, patient, range(len(synthetic)), BY)
    (folder / "carried.dcm").write_bytes(encode_carried_label(patient.label, patient, images, range(len(images))))
    (folder / "mask.dcm").write_bytes(encode_mask(patient.label, patient, BY))
    probability = np.clip((patient.image + 200) / 600, 0, 1)[:6]
    part = read_series(patient.sources[:6], "CT", None, range(0), False)
    (folder / "probability.dcm").write_bytes(encode_probability(probability, part, BY))
    (folder / "empty.dcm").write_bytes(encode_mask(np.zeros_like(patient.label[:6]), part, BY))
    return folder


@pytest.mark.parametrize("name", ["mr/0001.dcm", "mr/0040.dcm", "carried.dcm", "mask.dcm", "probability.dcm",
                                  "empty.dcm"])  # fmt: skip
def test_dciodvfy_finds_no_error(exported, name) -> None:
    program = os.environ.get("DCIODVFY") or shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is neither on PATH nor in $DCIODVFY (Debian: dicom3tools)")
    done = subprocess.run([program, exported / name], capture_output=True, text=True)
    said = (done.stdout + done.stderr).splitlines()
    assert any(line in ("MRImage", "Segmentation") for line in said), said
    assert [line for line in said if line.startswith(("Error", "Abort"))] == []
    # CHAOS has no patient id and no study date, which a DICOMDIR would need.
    warnings = [line for line in said if line.startswith("Warning") and "DICOMDIR" not in line]
    assert warnings == []


def test_round_trip_at_the_same_patient_coordinates(patient, synthetic, exported) -> None:
    SimpleITK = pytest.importorskip("SimpleITK")
    stored = to_stored(synthetic)
    paths = sorted((exported / "mr").iterdir())
    # This package
    again = read_series(paths, "MR", None, range(0), False)
    np.testing.assert_allclose(again.affine, patient.affine, atol=1e-9)
    np.testing.assert_array_equal(again.image, stored)
    # pydicom, slice by slice against the CT file that each refers to
    by_uid = {header.SOPInstanceUID: header for header in map(pydicom.dcmread, patient.sources)}
    for index, path in enumerate(paths):
        header = pydicom.dcmread(path)
        source = by_uid[header.SourceImageSequence[0].ReferencedSOPInstanceUID]
        assert header.ImagePositionPatient == source.ImagePositionPatient
        assert header.StudyInstanceUID == source.StudyInstanceUID
        assert header.FrameOfReferenceUID == source.FrameOfReferenceUID
        np.testing.assert_array_equal(header.pixel_array, stored[index])
    # SimpleITK
    image = SimpleITK.ReadImage([str(path) for path in paths])
    voxels = SimpleITK.GetArrayFromImage(image)
    for voxel in ((0, 0, 0), (10, 200, 30), (77, 511, 500)):
        slice_, row, column = voxel
        place = image.TransformIndexToPhysicalPoint((column, row, slice_))
        expected = patient.affine @ [column, row, slice_, 1]
        np.testing.assert_allclose(place, expected[:3], atol=1e-3)
        assert voxels[voxel] == stored[voxel]


def test_nnunet_accepts_the_data_set(patient, synthetic, real_data, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    check = pytest.importorskip("nnunetv2.experiment_planning.verify_dataset_integrity")
    folder = tmp_path / "Dataset501_Synthetic"
    image = to_stored(synthetic).astype(np.int16)
    nnunet.write_case(folder, "synthetic_ct3", image, patient.label, patient, "synthetic", dropped=[0, 1])
    real = Source(real_data / "Dataset101_ChaosMR", "MR").studies()[0]
    volume = real.read()
    assert volume.label is not None
    nnunet.write_case(folder, f"real_{real.patient}", volume.image, volume.label, volume, "real MR")
    nnunet.write_description(folder, True, "synthetic and real MR")
    check.verify_dataset_integrity(str(folder), num_processes=1)
