"""The series that an export belongs to: headers of its slices, and the way back to their rows and columns."""

import copy
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from fastliver.data.orientation import from_display
from fastliver.data.pixels import FUNCTIONAL_GROUPS
from fastliver.data.study import Volume
from fastliver.errors import InputError

TOLERANCE_MM = 1e-3
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
GROUPS = ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]
EMPTY_IF_MISSING = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
                    "AccessionNumber", "ReferringPhysicianName")  # fmt: skip
"""Type 2: must be there, may be empty."""


def read_sources(volume: Volume) -> list[Dataset]:
    """Headers of a series, slice by slice: patient, study, geometry and identity, without pixels.

    A frame of an enhanced file (DICOM PS3.3 C.7.6.16) is given as a single-frame image would have it, its geometry at
    the top; `NumberOfFrames` and the identity stay those of its file. What is of type 2 and missing is empty, as is a
    slice thickness of 0; a series without a frame of reference gets a new one, the same for all; SpacingBetweenSlices,
    by which readers count slices that aren't there, is corrected where the positions say otherwise.

    Raises:
        InputError: for a header that nothing can refer to.
    """
    files = {path: _read(path) for path in dict.fromkeys(volume.sources)}
    for path, header in files.items():
        for field in REQUIRED:
            if not header.get(field):
                raise InputError(
                    f"{path}: {field} is missing, so a DICOM object can't refer to it; export the series again, or "
                    "write NIfTI"
                )
    frame = next((header.FrameOfReferenceUID for header in files.values() if header.get("FrameOfReferenceUID")), None)
    frame = frame or generate_uid(prefix=None)
    for header in files.values():
        header.FrameOfReferenceUID = frame
        for field in EMPTY_IF_MISSING:
            if field not in header:
                setattr(header, field, None)
    frames = {path: _single_frames(header) for path, header in files.items()}
    found = [frames[path][number - 1] for path, number in zip(volume.sources, volume.frames, strict=True)]
    column, row, step = volume.affine[:3, :3].T
    normal = np.cross(column, row)
    between = round(float(abs(step @ normal) / np.linalg.norm(normal)), 4)
    for header in found:
        if not header.get("SliceThickness"):  # 0 is as unknown as nothing
            header.SliceThickness = None
    for header in found if len(found) > 1 else ():
        if "SpacingBetweenSlices" in header and abs((header.SpacingBetweenSlices or 0) - between) > TOLERANCE_MM:
            header.SpacingBetweenSlices = between
    return found


def frame_number(header: Dataset, number: int) -> int | None:
    """`number` where a reference to the slice must say it (DICOM PS3.3 Table 10-3): in a file of several frames."""
    return number if int(header.get("NumberOfFrames") or 1) > 1 else None


def _read(path: Path) -> Dataset:
    try:
        return pydicom.dcmread(
            path, stop_before_pixels=True, specific_tags=[*PATIENT_AND_STUDY, *GEOMETRY, *SERIES, *GROUPS], force=True
        )
    except Exception as error:  # pydicom raises what its parsing comes upon
        raise InputError(f"{path}: its header can't be read ({error}); export the series again") from error


def _single_frames(header: Dataset) -> list[Dataset]:
    """A header for each frame of a file, with what the functional groups say of the frame moved to its top level."""
    shared, own = (header.get(keyword) or [] for keyword in GROUPS)
    kept = [name for name in header.dir() if name not in GROUPS]
    frames = []
    for groups in own or [Dataset()]:
        frame = Dataset()
        copy_fields(header, frame, kept)
        for each in (*shared, groups):
            for sequence, keywords in FUNCTIONAL_GROUPS.items():
                for item in each.get(sequence) or ():
                    copy_fields(item, frame, keywords)
        frames.append(frame)
    return frames


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
    """Copy those of the named elements that are there; what is then changed in one dataset stays in the other."""
    for name in names:
        if name in source:
            target[name] = copy.copy(source[name])


def series_number(source: Dataset, offset: int) -> int:
    """A number for a new series, so that a list by number shows it behind the acquired ones."""
    return int(source.get("SeriesNumber") or 0) % 1_000_000 + offset


def encode(dataset: Dataset) -> bytes:
    """The bytes of a DICOM file."""
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()
