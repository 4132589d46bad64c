"""Data sets in nnU-Net's raw layout (version 2): `imagesTr`, `labelsTr`, `dataset.json`.

Images are NIfTI of one channel called MR, labels 0 background, 1 liver. A slice that the quality filter dropped stays
in its place, since a volume can't have holes, and its label is 2, which nnU-Net knows as "ignore" and learns nothing
from.
"""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastliver.data.nifti import is_dataset
from fastliver.data.orientation import SHEAR_TOLERANCE_DEGREES, grid_shear
from fastliver.data.study import Volume
from fastliver.errors import InputError
from fastliver.export.nifti import write_nifti
from fastliver.files import write_json

ENDING = ".nii.gz"
IGNORE = 2


def check_folder(folder: Path, record: str) -> None:
    """Raise InputError for a folder that nnU-Net wouldn't find, or that holds a data set of somebody else's.

    Args:
        folder: for the data set.
        record: the file that says in a data set of ours what made it.
    """
    if not re.fullmatch(r"Dataset\d{3}_.+", folder.resolve().name):
        raise InputError(
            f"{folder}: nnU-Net finds data sets by the name DatasetNNN_Name; choose one such as "
            f"{folder.parent / 'Dataset501_SyntheticMR'}"
        )
    if is_dataset(folder) and not (folder / record).exists():
        raise InputError(
            f"{folder}: holds an nnU-Net data set that this command didn't make, whose dataset.json would be replaced; "
            "choose a new folder (--with-real puts labelled MR into it)"
        )


def case_paths(folder: Path, case: str) -> list[Path]:
    """Where a case's label and image lie; the image is written last, so a case with an image is whole."""
    return [folder / "labelsTr" / f"{case}{ENDING}", folder / "imagesTr" / f"{case}_0000{ENDING}"]


def write_case(
    folder: Path,
    case: str,
    image: NDArray[Any],
    label: NDArray[np.uint8],
    volume: Volume,
    description: str,
    dropped: Collection[int] = (),
) -> Path:
    """Write one training case.

    Args:
        folder: of the data set.
        case: its name.
        image: (D, H, W) in display orientation, int16 or float32.
        label: (D, H, W), 1 where liver is.
        volume: what it was made from; see `write_nifti`.
        description: for the files' headers.
        dropped: slices whose label becomes "ignore".

    Raises:
        InputError: for a grid that nnU-Net can't read; see also `write_nifti`.
    """
    if grid_shear(volume.affine) > SHEAR_TOLERANCE_DEGREES:
        raise InputError(
            f"{volume.sources[0]}: the slices are shifted against one another (as by a tilted gantry), a grid that "
            "nnU-Net's reader refuses; resample the series, or write another format"
        )
    label_path, path = case_paths(folder, case)
    write_nifti(label_path, ignoring(label, dropped), volume, description)
    write_nifti(path, image, volume, description)
    return path


def ignoring(label: NDArray[np.uint8], dropped: Collection[int]) -> NDArray[np.uint8]:
    """The label (D, H, W) with the dropped slices marked as to be ignored: 2 everywhere."""
    marked = label.copy()
    marked[list(dropped)] = IGNORE
    return marked


def write_description(folder: Path, ignore: bool, description: str) -> None:
    """Write `dataset.json` for the cases that are there.

    Args:
        folder: of the data set.
        ignore: whether labels may hold slices to be ignored.
        description: what the images are.
    """
    labels = {"background": 0, "liver": 1}
    if ignore:
        labels["ignore"] = IGNORE
    count = len(list((folder / "imagesTr").glob(f"[!.]*_0000{ENDING}")))
    write_json(
        folder / "dataset.json",
        {
            "channel_names": {"0": "MR"},
            "labels": labels,
            "numTraining": count,
            "file_ending": ENDING,
            "name": folder.resolve().name,
            "description": description,
        },
    )
