"""Synthetic MR as a DICOM series (MR Image Storage, PS3.3 A.4) in the study of the CT that it was made from.

UIDs are new ones under 2.25, the root for UUIDs (PS3.5 B.2). Nothing says that a scanner made the images: no scanner's
name, no acquisition date, no sequence parameters; the scanning sequence, which may not be empty, is RM (research mode).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from fastliver import __version__
from fastliver.data.study import Volume
from fastliver.export.dicom_source import (
    GEOMETRY,
    PATIENT_AND_STUDY,
    copy_fields,
    encode,
    frame_number,
    read_sources,
    series_number,
    to_source_planes,
)
from fastliver.export.grey import WHITE, to_stored
from fastliver.files import write_file

SERIES_OFFSET = 1000
SYNTHETIC = "SYNTHETIC MR IMAGE, NOT ACQUIRED BY A SCANNER: computed from CT"


@dataclass(frozen=True)
class MadeBy:
    """The model behind a result.

    Attributes:
        name: run and training, such as `liver-2026/essnet`.
        version: fastliver's version and the start of the weights' SHA-256.
    """

    name: str
    version: str


def write_mr_series(
    folder: Path, synthetic: NDArray[np.floating], volume: Volume, slices: Sequence[int], made_by: MadeBy
) -> list[Dataset]:
    """Write a series, one file a slice, called 0001.dcm and so on from the feet to the head.

    Args:
        folder: gets the files; it should be one that takes its name when all is written (`files.new_folder`).
        synthetic: (D, H, W) in [-1, 1], in display orientation.
        volume: the CT that it was made from, read from DICOM.
        slices: the slices to write; others are left out.
        made_by: goes into the derivation description.

    Returns:
        What was written, to be referred to.

    Raises:
        InputError: when the source's headers lack what a new series needs.
    """
    headers = read_sources(volume)
    planes = to_source_planes(to_stored(synthetic), volume, headers[0])
    series_uid = generate_uid(prefix=None)
    now = datetime.now()
    written: list[Dataset] = []
    for number, index in enumerate(slices, 1):
        reference = _reference(headers[index], volume.frames[index])
        dataset = _image(headers[index], reference, planes[index], made_by, now)
        dataset.SeriesInstanceUID, dataset.InstanceNumber = series_uid, number
        write_file(folder / f"{number:04d}.dcm", encode(dataset))
        written.append(dataset)
    return written


def _image(
    source: Dataset, reference: Dataset, pixels: NDArray[np.uint16], made_by: MadeBy, now: datetime
) -> FileDataset:
    """One MR image at the place of a CT image."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, generate_uid(prefix=None)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset("", {}, preamble=b"\0" * 128, file_meta=meta)
    copy_fields(source, image, [*PATIENT_AND_STUDY, *GEOMETRY])
    image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
    image.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    image.InstanceCreationDate, image.InstanceCreationTime = date, time
    image.SeriesDate, image.SeriesTime = date, time
    image.ContentDate, image.ContentTime = date, time
    image.Modality = "MR"
    image.SeriesNumber = series_number(source, SERIES_OFFSET)
    image.SeriesDescription = f"Synthetic MR from CT ({made_by.name})"[:64]
    # The equipment that made the images is this program.
    image.Manufacturer, image.ManufacturerModelName = "fastliver", made_by.name[:64]
    image.SoftwareVersions = made_by.version[:64]
    for field in ("PatientPosition", "PositionReferenceIndicator"):
        if field not in image:
            setattr(image, field, None)
    # Without a body part a reader must take the part for a paired one and ask for its side (PS3.3 C.7.3.1).
    image.BodyPartExamined = source.get("BodyPartExamined") or "ABDOMEN"
    if source.get("Laterality"):
        copy_fields(source, image, ["Laterality"])

    description = f"{SYNTHETIC} by fastliver {__version__}, model {made_by.name} {made_by.version}"
    image.DerivationDescription = description[:1024]
    image.SourceImageSequence = [reference]
    image.ContentQualification = "RESEARCH"
    image.BurnedInAnnotation = "NO"
    if source.get("LossyImageCompression") == "01":
        # Once lossy, always lossy (PS3.3 C.7.6.1.1.5).
        names = ["LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"]
        copy_fields(source, image, names)

    image.ScanningSequence, image.SequenceVariant = "RM", "NONE"
    for field in ("ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength"):
        setattr(image, field, None)

    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.WindowCenter, image.WindowWidth = (WHITE + 1) // 2, WHITE + 1
    image.PixelData = np.ascontiguousarray(pixels, "<u2").tobytes()
    return image


def _reference(source: Dataset, number: int) -> Dataset:
    """The CT image, or the frame `number` of it, that a slice was computed from, pixel by pixel."""
    item, purpose = Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    if (frame := frame_number(source, number)) is not None:
        item.ReferencedFrameNumber = frame
    item.SpatialLocationsPreserved = "YES"
    purpose.CodeValue, purpose.CodingSchemeDesignator = "121322", "DCM"
    purpose.CodeMeaning = "Source image for image processing operation"
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item
