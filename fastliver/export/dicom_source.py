"""The series that an export belongs to: headers of its slices, and the way back to their rows and columns."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from fastliver.data.orientation import from_display
from fastliver.data.study import Volume
from fastliver.errors import InputError

REQUIRED = ("StudyInstanceUID", "SOPClassUID", "SOPInstanceUID")

PATIENT_AND_STUDY = [
    "SpecificCharacterSet",
    # Patient (PS3.3 C.7.1.1), patient study (C.7.2.2)
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize",
    "PatientWeight", "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
    "LongitudinalTemporalInformationModified",
    # Clinical trial (C.7.1.3, C.7.2.3)
    "ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID",
    "ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID", "ClinicalTrialTimePointID",
    # General study (C.7.2.1)
    "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber",
    "ReferringPhysicianName",
]  # fmt: skip
GEOMETRY = [
    "Rows", "Columns", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "SliceThickness",
    "SpacingBetweenSlices", "SliceLocation", "FrameOfReferenceUID", "PositionReferenceIndicator", "PatientPosition",
]  # fmt: skip
SERIES = ["Modality", "SeriesInstanceUID", "SeriesNumber", "SOPClassUID", "SOPInstanceUID", "InstanceNumber",
          "NumberOfFrames", "BodyPartExamined", "Laterality", "LossyImageCompression", "LossyImageCompressionRatio",
          "LossyImageCompressionMethod"]  # fmt: skip
EMPTY_IF_MISSING = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
                    "AccessionNumber", "ReferringPhysicianName")  # fmt: skip
"""Type 2: must be there, may be empty."""


def read_sources(paths: Sequence[Path]) -> list[Dataset]:
    """Headers of a series, slice by slice: patient, study, geometry and identity, without pixels.

    What is of type 2 and missing is empty; a series without a frame of reference gets a new one, the same for all.

    Raises:
        InputError: for a header that nothing can refer to, or an image of several frames.
    """
    headers = [_read(path) for path in paths]
    frame = next((header.FrameOfReferenceUID for header in headers if header.get("FrameOfReferenceUID")), None)
    frame = frame or generate_uid(prefix=None)
    for path, header in zip(paths, headers, strict=True):
        for field in REQUIRED:
            if not header.get(field):
                raise InputError(
                    f"{path}: {field} is missing, so a DICOM object can't refer to it; export the series again, or "
                    "write NIfTI"
                )
        if int(header.get("NumberOfFrames") or 1) > 1:
            raise InputError(f"{path}: an image of several frames; its results can be written as NIfTI only")
        header.FrameOfReferenceUID = frame
        for field in EMPTY_IF_MISSING:
            if field not in header:
                setattr(header, field, None)
    return headers


def _read(path: Path) -> Dataset:
    try:
        return pydicom.dcmread(
            path, stop_before_pixels=True, specific_tags=[*PATIENT_AND_STUDY, *GEOMETRY, *SERIES], force=True
        )
    except Exception as error:  # pydicom raises what its parsing comes upon
        raise InputError(f"{path}: its header can't be read ({error}); export the series again") from error


def to_source_planes(array: NDArray, volume: Volume, first: Dataset) -> NDArray:
    """Slices (D, H, W) in display orientation, in the same order, with the rows and columns of the source's files.

    Args:
        array: the slices.
        volume: that they belong to.
        first: header of the first slice, `volume.sources[0]`.
    """
    orientation = np.asarray(first.ImageOrientationPatient, np.float64)
    row_spacing, column_spacing = (float(value) for value in first.PixelSpacing)
    source = volume.affine.copy()  # slices stay in display order: only rows and columns are the file's
    source[:3, 0], source[:3, 1] = orientation[:3] * column_spacing, orientation[3:] * row_spacing
    source[:3, 3] = np.asarray(first.ImagePositionPatient, np.float64)
    try:
        return from_display(array, volume.affine, source).transpose(2, 1, 0)
    except ValueError as error:
        raise InputError(f"{volume.sources[0]}: changed since it was read ({error}); run again") from error


def copy_fields(source: Dataset, target: Dataset, names: Sequence[str]) -> None:
    """Copy those of the named elements that are there."""
    for name in names:
        if name in source:
            target[name] = source[name]


def series_number(source: Dataset, offset: int) -> int:
    """A number for a new series, so that a list by number shows it behind the acquired ones."""
    return int(source.get("SeriesNumber") or 0) % 1_000_000 + offset


def encode(dataset: Dataset) -> bytes:
    """The bytes of a DICOM file."""
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()
