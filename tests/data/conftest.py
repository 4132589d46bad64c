"""Small series and data sets written by hand with pydicom, PIL and nibabel, so that every expected value is known."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from fastliver.data.store import SliceEntry, SliceStore

WriteSlice = Callable[..., Path]


def _write_slice(path: Path, pixels: np.ndarray, position: Any = (0.0, 0.0, 0.0), **fields: Any) -> Path:
    """Write one slice; a field that is given replaces the default, and None takes it out."""
    modality = fields.get("Modality", "CT")
    header = Dataset()
    header.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    header.SOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    header.SeriesInstanceUID = "1.2.3.4"
    header.Modality, header.PatientID, header.SeriesDescription = modality, "someone", "abdomen"
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.Rows, header.Columns = pixels.shape[:2]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit, header.PixelRepresentation = 15, int(pixels.dtype == np.int16)
    header.PixelSpacing, header.SliceThickness = [1.0, 1.0], 3.2
    header.ImageOrientationPatient, header.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [float(v) for v in position]
    header.PixelData = pixels.tobytes()
    for name, value in fields.items():
        if value is not None:
            setattr(header, name, value)
        elif name in header:
            delattr(header, name)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    FileDataset("", header, preamble=b"\0" * 128, file_meta=meta).save_as(path, enforce_file_format=True)
    return path


@pytest.fixture(scope="session")
def write_slice() -> WriteSlice:
    return _write_slice


def _mask(number: int) -> np.ndarray:
    """Mask `number`: its first `number + 1` columns are liver, so that no two are alike."""
    mask = np.zeros((24, 32), bool)
    mask[:, : number + 1] = True
    return mask


@pytest.fixture
def ct_tree(tmp_path: Path) -> Path:
    """`Train_Sets` with CT patient 7: six slices of 24x32 upwards; slice k is k HU, k + 1 columns are liver."""
    home = tmp_path / "Train_Sets" / "CT" / "7"
    (home / "Ground").mkdir(parents=True)
    for number in range(6):
        pixels = np.full((24, 32), number, np.uint16)
        _write_slice(home / "DICOM_anon" / f"i{number:04d},0000b.dcm", pixels, (0, 0, 5 * number))
        Image.fromarray(_mask(number)).save(home / "Ground" / f"liver_GT_{number:03d}.png")
    return tmp_path / "Train_Sets"


@pytest.fixture
def mr_tree(tmp_path: Path) -> Path:
    """`Train_Sets` with MR patient 4: four slices of T2SPIR, and T1DUAL whose masks have the in-phase names.

    T2SPIR is 100 k, in-phase 200 k, out-phase 300 k; k + 1 columns are liver in T2SPIR, k + 3 in T1DUAL. The in-phase
    files have odd numbers and the out-phase files even ones.
    """
    home = tmp_path / "Train_Sets" / "MR" / "4"
    for folder, first, factor in (
        ("T2SPIR/DICOM_anon", 0, 100),
        ("T1DUAL/DICOM_anon/InPhase", 1, 200),
        ("T1DUAL/DICOM_anon/OutPhase", 0, 300),
    ):
        (home / folder.split("/")[0] / "Ground").mkdir(parents=True, exist_ok=True)
        for number in range(4):
            stem = f"IMG-0004-{2 * number + first:05d}"
            pixels = np.full((24, 32), factor * number, np.uint16)
            _write_slice(home / folder / f"{stem}.dcm", pixels, (0, 0, 8 * number), Modality="MR")
            if "OutPhase" not in folder:
                columns = number + (3 if "T1" in folder else 1)
                grey = np.full((24, 32), 252, np.uint8)  # spleen
                grey[:, :columns] = 63
                Image.fromarray(grey).save(home / folder.split("/")[0] / "Ground" / f"{stem}.png")
    return tmp_path / "Train_Sets"


@pytest.fixture
def write_nifti() -> Callable[..., Path]:
    """Write an image with its affine to RAS patient coordinates."""

    def write(path: Path, voxels: np.ndarray, affine: Any = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else np.asarray(affine)), path)
        return path

    return write


@pytest.fixture
def made_store() -> Callable[..., SliceStore]:
    """A store in memory from {patient: [liver pixels of each slice]}, for what needs no images."""

    def make(patients: dict[str, list[int]], size: int = 4, labelled: bool = True) -> SliceStore:
        entries = tuple(
            SliceEntry(patient, study, number, 5.0 * number, (5.0, 1.0, 1.0), f"{patient}.nii.gz", liver)
            for study, (patient, counts) in enumerate(patients.items())
            for number, liver in enumerate(counts)
        )
        images = np.linspace(-1, 1, len(entries) * size * size).reshape(-1, size, size).astype(np.float16)
        labels = (np.arange(images.size) % 2).reshape(images.shape).astype(np.uint8)
        meta = {"modality": "MR", "size": size, "labelled": labelled, "studies": [{"series": "made by hand"}]}
        return SliceStore(Path("made-by-hand"), meta, entries, images, labels)

    return make
