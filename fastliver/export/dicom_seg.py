"""Liver masks and probabilities as DICOM SEG (PS3.3 A.51), coded and with references to the segmented images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage, generate_uid
from pydicom.valuerep import DA, TM

from fastliver.data.study import Volume
from fastliver.errors import InputError
from fastliver.export.dicom_mr import MadeBy
from fastliver.export.dicom_source import (
    copy_fields,
    encode,
    frame_number,
    read_sources,
    series_number,
    to_source_planes,
)

SERIES_OFFSET = 2000
LIVER = ("10200004", "SCT", "Liver")
ORGAN = ("123037004", "SCT", "Anatomical Structure")
SINGLE_FRAME = {"CT": CTImageStorage, "MR": MRImageStorage}
UTF_8 = "ISO_IR 192"
DATES_AND_TIMES = {"StudyDate": DA, "StudyTime": TM, "PatientBirthDate": DA}
LEVELS = 255
"""Steps of a probability in a FRACTIONAL segmentation."""


def encode_mask(mask: NDArray[np.uint8], volume: Volume, made_by: MadeBy) -> bytes:
    """A liver mask of a DICOM series as a BINARY segmentation found by a model.

    Args:
        mask: (D, H, W), 1 where liver is, in display orientation.
        volume: the series, read from DICOM.
        made_by: goes into the algorithm identification.

    Raises:
        InputError: when the series' headers lack what a segmentation needs.
    """
    return _encode_of_source(mask, volume, made_by, "BINARY", "Liver")


def encode_probability(probability: NDArray[np.float32], volume: Volume, made_by: MadeBy) -> bytes:
    """The probability of liver, (D, H, W) in [0, 1], as a FRACTIONAL segmentation in 255 steps; see `encode_mask`."""
    return _encode_of_source(probability, volume, made_by, "FRACTIONAL", "Liver probability")


def encode_carried_label(
    label: NDArray[np.uint8], volume: Volume, images: Sequence[Dataset], slices: Sequence[int]
) -> bytes:
    """The CT's liver label as a segmentation of the synthetic MR made from it.

    Args:
        label: (D, H, W), 1 where liver is, in display orientation.
        volume: the CT.
        images: what `write_mr_series` wrote for `slices`.
        slices: the slices that were written.
    """
    planes = to_source_planes(label, volume, read_sources(volume)[0])[list(slices)]
    return encode(_segmentation(images, planes, volume.spacing[0], None, "BINARY", "Liver label of the source CT"))


def _encode_of_source(array: NDArray[Any], volume: Volume, made_by: MadeBy, kind: str, description: str) -> bytes:
    """A segmentation of the series that `volume` was read from; `array` is (D, H, W) in display orientation."""
    headers = read_sources(volume)
    planes = to_source_planes(array, volume, headers[0])
    # highdicom takes single-frame images, or one file whose frames share spacing and orientation. A series may be
    # several files of several frames, so each frame is given to it as an image, and what it refers to put right after.
    places = {}
    for header, number in zip(headers, volume.frames, strict=True):
        file = _reference(header.SOPClassUID, header.SOPInstanceUID)
        header.SOPClassUID, header.SOPInstanceUID = SINGLE_FRAME[header.Modality], generate_uid(prefix=None)
        places[header.SOPInstanceUID] = file, frame_number(header, number)
    segmentation = _segmentation(headers, planes, volume.spacing[0], made_by, kind, description)
    files = list({file.ReferencedSOPInstanceUID: file for file, _ in places.values()}.values())
    segmentation.SourceImageSequence = files
    segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence = files
    for groups in segmentation.PerFrameFunctionalGroupsSequence:
        for derivation in groups.get("DerivationImageSequence") or ():
            for source in derivation.SourceImageSequence:
                file, frame = places[source.ReferencedSOPInstanceUID]
                source.update(file)
                if frame is not None:
                    source.ReferencedFrameNumber = frame
    return encode(segmentation)


def _reference(sop_class: str, sop_instance: str) -> Dataset:
    """An item that refers to an image (PS3.3 Table 10-11)."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_instance
    return item


def _acceptable(image: Dataset, distance: float) -> Dataset:
    """A copy of an image's header that highdicom takes: it checks what readers need not.

    Text is decoded and called UTF-8, since highdicom knows few of the legal names of character sets; dates and times
    that are none are empty; a thickness that nothing says is the distance between slices.
    """
    taken = Dataset()
    copy_fields(image, taken, image.dir())
    taken.decode()
    taken.SpecificCharacterSet = UTF_8
    for keyword, kind in DATES_AND_TIMES.items():
        try:
            kind(str(taken.get(keyword) or ""))
        except ValueError:
            setattr(taken, keyword, None)
    if not taken.get("SliceThickness"):
        taken.SliceThickness = round(distance, 4)
    return taken


def _segmentation(
    images: Sequence[Dataset],
    planes: NDArray[Any],
    distance: float,
    made_by: MadeBy | None,
    kind: str,
    description: str,
) -> Dataset:
    """A segmentation of single-frame images, `distance` mm apart, whose pixels `planes` (N, rows, columns) match."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import Segmentation, SegmentDescription
    from highdicom.sr import CodedConcept

    from fastliver import __version__

    algorithm = None
    if made_by is not None:
        algorithm = AlgorithmIdentificationSequence(
            name=made_by.name[:64],
            family=CodedConcept("123109", "DCM", "Artificial Intelligence"),
            version=made_by.version[:64],
            source="fastliver",
        )
    segment = SegmentDescription(
        segment_number=1,
        segment_label="Liver",
        segmented_property_category=CodedConcept(*ORGAN),
        segmented_property_type=CodedConcept(*LIVER),
        algorithm_type="MANUAL" if made_by is None else "AUTOMATIC",
        algorithm_identification=algorithm,
    )
    try:
        seg = Segmentation(
            source_images=[_acceptable(image, distance) for image in images],
            pixel_array=np.ascontiguousarray(planes),
            segmentation_type=kind,
            segment_descriptions=[segment],
            series_instance_uid=generate_uid(prefix=None),
            series_number=series_number(images[0], SERIES_OFFSET),
            sop_instance_uid=generate_uid(prefix=None),
            instance_number=1,
            manufacturer="fastliver",
            manufacturer_model_name=(made_by.name if made_by else "fastliver")[:64],
            software_versions=(made_by.version if made_by else __version__)[:64],
            device_serial_number="none",
            max_fractional_value=LEVELS,
            omit_empty_frames=bool(planes.any()),
            content_label="LIVER",
            content_description=description,
        )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        first = images[0]
        raise InputError(
            f"series {first.get('SeriesInstanceUID')}: can't be segmented as DICOM SEG ({error}); write NIfTI"
        ) from error
    seg.SeriesDescription = description
    return seg
