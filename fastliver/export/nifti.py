"""Volumes as NIfTI: on the very voxels of a NIfTI source, or on a DICOM series' grid."""

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from fastliver.data.nifti import READ_ERRORS, is_nifti
from fastliver.data.orientation import LPS_FROM_RAS, SHEAR_TOLERANCE_DEGREES, from_display, grid_shear
from fastliver.data.study import Volume
from fastliver.errors import InputError
from fastliver.files import write_file


def write_nifti(path: Path, array: NDArray[Any], volume: Volume, description: str) -> None:
    """Write a volume as NIfTI-1, whole or not at all.

    Args:
        path: ends in .nii or .nii.gz.
        array: (D, H, W) in display orientation, uint8, int16 or float32.
        volume: what it was made from. A NIfTI source gives its voxel order, affine and form codes; a DICOM series
            gives display orientation (voxels to the left, back and head).
        description: at most 79 characters, for the header's `descrip`.

    Raises:
        InputError: when the source can't be read any more or its grid isn't the volume's, or a DICOM series has no
            grid: slices are missing or lie unevenly.
    """
    image = _on_source(array, volume) if is_nifti(volume.sources[0]) else _on_series(array, volume)
    image.header["descrip"] = description.encode("ascii", "replace")[:79]
    image.header.set_xyzt_units("mm")
    data = image.to_bytes()
    write_file(path, gzip.compress(data, 6, mtime=0) if path.name.endswith(".gz") else data)


def _on_source(array: NDArray[Any], volume: Volume) -> nibabel.Nifti1Image:
    path = volume.sources[0]
    try:
        source: Any = nibabel.load(path)
        affine = np.asarray(source.affine, np.float64)
        voxels = from_display(array, volume.affine, LPS_FROM_RAS @ affine)
    except (*READ_ERRORS, ValueError) as error:
        raise InputError(f"{path}: changed since it was read ({error}); run again") from error
    image = nibabel.Nifti1Image(voxels, affine)
    header = source.header
    if hasattr(header, "get_sform") and hasattr(header, "get_qform"):
        # Both forms as the source has them, so that programs which prefer either one overlay the two.
        qform, code = header.get_qform(coded=True)
        image.set_qform(qform, int(code)) if qform is not None else image.set_qform(None, 0)
        sform, code = header.get_sform(coded=True)
        image.set_sform(sform, int(code)) if sform is not None else image.set_sform(None, 0)
        image.header["pixdim"][1:4] = header["pixdim"][1:4]
    return image


def _on_series(array: NDArray[Any], volume: Volume) -> nibabel.Nifti1Image:
    on_grid = volume.affine[2, 3] + volume.affine[2, 2] * np.arange(len(volume.heights))
    off = np.abs(volume.heights - on_grid)
    if off.max() > volume.affine[2, 2] / 2:
        first = int(np.argmax(off > volume.affine[2, 2] / 2))
        raise InputError(
            f"{volume.sources[first]}: slices are missing or lie unevenly, so that NIfTI would put this one at "
            f"{on_grid[first]:.1f} mm instead of {volume.heights[first]:.1f} mm; complete the series, or write DICOM"
        )
    affine = LPS_FROM_RAS @ volume.affine
    image = nibabel.Nifti1Image(np.ascontiguousarray(array.transpose(2, 1, 0)), affine)
    scanner = 1
    image.set_sform(affine, scanner)
    if grid_shear(volume.affine) > SHEAR_TOLERANCE_DEGREES:
        # A qform holds no shear: readers that prefer it would put the slices elsewhere.
        image.set_qform(None, 0)
    else:
        image.set_qform(affine, scanner)
    return image
