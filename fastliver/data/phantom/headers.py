"""DICOM headers as CHAOS's files have them: valid, anonymised, with the oddities that a reader must survive.

Dates are empty, a CT's protocol may say T2SPIR, windows are multi-valued, SliceThickness is not the distance between
slices, and MR has no rescale tags. UIDs come from the patient's key alone, so equal specs give equal bytes.
"""

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    PYDICOM_ROOT_UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

_IMPLEMENTATION = generate_uid(PYDICOM_ROOT_UID, ["fastliver phantom"])
_BLANK = """
    InstanceCreationDate StudyDate SeriesDate AcquisitionDate ContentDate StudyTime AccessionNumber Manufacturer
    InstitutionName ReferringPhysicianName StudyDescription PatientID PatientBirthDate PatientSex PatientAge
    BodyPartExamined Laterality PositionReferenceIndicator
"""


class Series:
    """One patient's series.

    `key` makes the UIDs, `spacing_mm` is between slices, `corner_mm` is x and y of the first pixel's centre.
    """

    def __init__(
        self, modality: str, patient: int, key: str, pixel_mm: float, spacing_mm: float, corner_mm: tuple[float, float]
    ) -> None:
        self.key, self.corner = key, corner_mm
        self.header = Dataset()
        self._common(modality, patient, pixel_mm)
        if modality == "CT":
            self._ct(spacing_mm)
        else:
            self._mr(spacing_mm)

    def file(self, pixels: NDArray[np.uint16], number: int, z_mm: float) -> FileDataset:
        """Instance `number` of the series: `pixels` (rows, columns) at the DICOM height `z_mm`."""
        header = self.header
        header.SOPInstanceUID = self._uid(f"instance {number}")
        header.InstanceNumber = number
        header.ImagePositionPatient = [*self.corner, z_mm]
        header.SliceLocation = round(-z_mm, 3)
        header.Rows, header.Columns = pixels.shape
        header.SmallestImagePixelValue, header.LargestImagePixelValue = int(pixels.min()), int(pixels.max())
        header.PixelData = pixels.astype("<u2").tobytes()
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = header.SOPClassUID
        meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
        meta.TransferSyntaxUID = ImplicitVRLittleEndian if header.Modality == "CT" else ExplicitVRLittleEndian
        meta.ImplementationClassUID = _IMPLEMENTATION
        meta.ImplementationVersionName = "FASTLIVER"
        return FileDataset("", header, preamble=b"\0" * 128, file_meta=meta)

    def _uid(self, role: str) -> str:
        return generate_uid(PYDICOM_ROOT_UID, [self.key, role])

    def _common(self, modality: str, patient: int, pixel_mm: float) -> None:
        header = self.header
        header.SpecificCharacterSet = "ISO_IR 100"
        for blank in _BLANK.split():
            setattr(header, blank, "")
        header.Modality = modality
        header.PatientName = f"CHAOS^{modality}_SET_{patient}"
        header.ProtocolName = "T2SPIR"
        header.StudyInstanceUID, header.SeriesInstanceUID = self._uid("study"), self._uid("series")
        header.FrameOfReferenceUID = self._uid("frame")
        header.StudyID, header.SeriesNumber, header.AcquisitionNumber = str(patient), 4, None
        header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        header.PixelSpacing = [pixel_mm, pixel_mm]
        header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
        header.BitsAllocated = header.BitsStored = 16
        header.HighBit, header.PixelRepresentation = 15, 0

    def _ct(self, spacing_mm: float) -> None:
        header = self.header
        header.SOPClassUID = CTImageStorage
        header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", "HELIX"]
        header.ContrastBolusAgent, header.ScanOptions, header.KVP = "CONTRAST", "HELIX", 120
        header.PatientPosition = "FFS"
        header.SliceThickness = round(1.6 * spacing_mm, 2)  # overlapping slices, as in CHAOS
        header.WindowCenter, header.WindowWidth = [50, 50], [400, 400]
        header.RescaleIntercept, header.RescaleSlope = -1000, 1

    def _mr(self, spacing_mm: float) -> None:
        header = self.header
        header.SOPClassUID = MRImageStorage
        header.ImageType = ["ORIGINAL", "PRIMARY", "M_SE", "M", "SE"]
        header.ScanningSequence, header.SequenceVariant, header.ScanOptions = "SE", "SK", "FS"
        header.MRAcquisitionType, header.EchoTrainLength = "2D", 23
        header.RepetitionTime, header.EchoTime, header.MagneticFieldStrength = 1600, 70, 1.5
        header.PatientPosition = "HFS"
        header.SliceThickness = round(0.85 * spacing_mm, 2)  # a gap between slices
        header.SpacingBetweenSlices = spacing_mm
        header.WindowCenter, header.WindowWidth = 450, 900
