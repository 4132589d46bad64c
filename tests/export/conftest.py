"""A small CT series lying oddly in its files: turned in the plane, slices from the head down, pixels not square; and
the same series in files of several frames."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from fastliver.data.dicom import read_series
from fastliver.data.study import Volume

ROWS, COLUMNS, SLICES = 24, 32, 5
ORIENTATIONS = {
    "as seen": [1, 0, 0, 0, 1, 0],
    "turned by 180 degrees": [-1, 0, 0, 0, -1, 0],
    "rows to the left": [0, 1, 0, 1, 0, 0],
    "tilted": [1, 0, 0, 0, 0.9659258, 0.2588190],
}


def write_ct(folder: Path, orientation: list[float], **fields) -> list[Path]:
    """The series, pixels at random; a field that is given replaces the default, and None takes it out."""
    rng = np.random.default_rng(3)
    normal = np.cross(orientation[:3], orientation[3:])
    paths = []
    for number in range(SLICES):
        header = Dataset()
        uid = generate_uid()
        header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, uid
        header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = "1.2.3.1", "1.2.3.2", "1.2.3.3"
        header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        header.Modality, header.PatientID, header.PatientName = "CT", "ID7", "Doe^Jane"
        header.StudyDate, header.AccessionNumber, header.StudyID = "20200102", "A1", "S1"
        header.Manufacturer, header.ManufacturerModelName, header.KVP = "Scanners Inc", "Scan 1", 120
        header.AcquisitionDate, header.AcquisitionTime = "20200102", "101112"
        header.SeriesNumber, header.InstanceNumber = 4, SLICES - number
        header.PatientPosition, header.SliceThickness = "HFS", 3.0
        header.Rows, header.Columns, header.SamplesPerPixel = ROWS, COLUMNS, 1
        header.PhotometricInterpretation, header.PixelRepresentation = "MONOCHROME2", 1
        header.BitsAllocated, header.BitsStored, header.HighBit = 16, 16, 15
        header.PixelSpacing, header.ImageOrientationPatient = [0.9, 1.1], orientation
        header.ImagePositionPatient = [float(v) for v in np.array([-20.5, 13.25, 900.0]) - 3.0 * number * normal]
        header.RescaleSlope, header.RescaleIntercept = 1, 0
        header.PixelData = rng.integers(-1000, 1000, (ROWS, COLUMNS)).astype("<i2").tobytes()
        for name, value in fields.items():
            if value is None:
                delattr(header, name)
            else:
                setattr(header, name, value)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, uid
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"{number}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        FileDataset("", header, preamble=b"\0" * 128, file_meta=meta).save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


@pytest.fixture(params=ORIENTATIONS.values(), ids=ORIENTATIONS)
def ct_volume(request, tmp_path) -> Volume:
    return read_series(write_ct(tmp_path / "ct", request.param), "CT", None, range(0), False)


@pytest.fixture
def make_ct(tmp_path) -> Callable[..., Volume]:
    def make(**fields) -> Volume:
        return read_series(write_ct(tmp_path / "made", [1, 0, 0, 0, 1, 0], **fields), "CT", None, range(0), False)

    return make


@pytest.fixture(params=ORIENTATIONS.values(), ids=ORIENTATIONS)
def write_enhanced(request, tmp_path) -> Callable[..., tuple[list[Path], list[Path]]]:
    """Writes the series twice: one slice a file, and as highdicom makes files of several frames from these.

    `frames` says which slices are each file's frames. Gives the single-frame files, from the feet
    to the head, and the others.
    """
    from highdicom.legacy import LegacyConvertedEnhancedCTImage, LegacyConvertedEnhancedMRImage

    def write(modality: str, frames: list[list[int]]) -> tuple[list[Path], list[Path]]:
        fields = dict.fromkeys(("PatientBirthDate", "PatientSex", "ReferringPhysicianName"), "")
        kind, convert = CTImageStorage, LegacyConvertedEnhancedCTImage
        if modality == "MR":
            kind, convert = MRImageStorage, LegacyConvertedEnhancedMRImage
        name = {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Müller^Jürgen", "StudyTime": "101112"}
        single = write_ct(tmp_path / "single", request.param, SOPClassUID=kind, Modality=modality, **fields, **name)
        slices, series = [pydicom.dcmread(path) for path in single], generate_uid()
        enhanced = []
        for number, part in enumerate(frames, 1):
            path = tmp_path / "enhanced" / f"{number}.dcm"
            path.parent.mkdir(exist_ok=True)
            convert([slices[place] for place in part], series, 5, generate_uid(), number).save_as(path)
            enhanced.append(path)
        heights = {path: pydicom.dcmread(path).ImagePositionPatient[2] for path in single}
        return sorted(single, key=lambda path: heights[path]), enhanced

    return write
