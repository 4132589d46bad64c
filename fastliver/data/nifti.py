"""NIfTI in nnU-Net's raw layout: `imagesTr`, `labelsTr` and `dataset.json`."""

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from fastliver.data.orientation import LPS_FROM_RAS, farthest_apart, to_display
from fastliver.data.series import offer_skipping
from fastliver.data.study import Modality, Study, Volume
from fastliver.errors import InputError

READ_ERRORS = (
    OSError, EOFError, ValueError, TypeError, ArithmeticError, MemoryError, zlib.error, ImageFileError, HeaderDataError
)  # fmt: skip
"""What nibabel raises for a file that is no NIfTI, or a damaged one."""


ENDINGS = (".nii.gz", ".nii")


def is_nifti(path: Path) -> bool:
    """Whether a file is called NIfTI."""
    return path.name.endswith(ENDINGS)


def is_dataset(folder: Path) -> bool:
    """Whether the folder is in nnU-Net's raw layout."""
    return (folder / "dataset.json").is_file() or (folder / "imagesTr").is_dir()


def _description(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    if not path.is_file():
        raise InputError(f"{path}: missing; nnU-Net's raw layout needs it (channel_names, labels, file_ending)")
    try:
        description = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(description, dict):
        raise InputError(
            f"{path}: holds {type(description).__name__}, expected an object with channel_names and labels"
        )
    return description


def _is_ct(name: str) -> bool:
    return name.strip().upper() == "CT"


def _channel(folder: Path, description: dict[str, Any], modality: Modality) -> int:
    """The first channel of the modality: nnU-Net calls CT "CT", and MR whatever its user liked."""
    channels = description.get("channel_names") or description.get("modality")
    if not isinstance(channels, dict) or not channels:
        raise InputError(
            f"{folder / 'dataset.json'}: channel_names is {channels!r}, expected such as {{'0': '{modality}'}}"
        )
    if not all(str(number).isdigit() for number in channels):
        raise InputError(
            f"{folder / 'dataset.json'}: channel_names is {channels}, expected keys 0, 1, ...; correct them"
        )
    for number, name in sorted((int(number), str(name)) for number, name in channels.items()):
        if _is_ct(name) == (modality == "CT"):
            return number
    raise InputError(
        f"{folder / 'dataset.json'}: channel_names is {channels}, but {modality} belongs here; name another data set"
        + (" (nnU-Net's name for CT is CT)" if modality == "CT" else "")
    )


def label_values(labels: Any, liver_label: str | None, path: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The voxel values that are liver, and those that mark what is to be ignored (nnU-Net v2's label "ignore").

    Args:
        labels: dataset.json's: name to value or list of values (nnU-Net v2), or value to name (v1).
        liver_label: a name or a number; None looks for a label called liver.
        path: of dataset.json, for messages.
    """
    values: dict[str, tuple[int, ...]] = {}
    try:
        for key, value in (labels or {}).items():
            if str(key).isdigit() and isinstance(value, str):
                values[value.lower()] = (int(key),)
            else:
                values[str(key).lower()] = tuple(int(v) for v in (value if isinstance(value, list) else [value]))
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"{path}: labels is {labels!r}, expected such as {{'background': 0, 'liver': 1}}") from None
    wanted = (liver_label or "liver").lower()
    ignored = values.get("ignore", ())
    if wanted in values:
        return values[wanted], ignored
    if wanted.isdigit() and any(int(wanted) in group for group in values.values()):
        return (int(wanted),), ignored
    raise InputError(
        f"{path}: labels has {', '.join(values) or 'nothing'}, no {wanted}; name the liver with --liver-label"
    )


def load_nifti(path: Path, dtype: type | None = None) -> tuple[NDArray[Any], NDArray[np.float64], bool]:
    """A file's voxels (I, J, K), the affine of (i, j, k) to LPS mm, and whether the file itself says how they lie.

    Args:
        path: .nii or .nii.gz.
        dtype: of the voxels; None for what they come as.

    Raises:
        InputError: when it can't be read, or holds something else than real numbers in three dimensions.
    """
    try:
        image: Any = nibabel.load(path)
        if image.get_data_dtype().kind not in "biuf":
            raise InputError(f"{path}: holds {image.get_data_dtype()} (colours or complex numbers); name grey values")
        voxels, affine = np.asarray(image.dataobj, dtype), LPS_FROM_RAS @ np.asarray(image.affine, np.float64)
    except READ_ERRORS as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{path}: can't be read as NIfTI ({reason}); copy the file again") from error
    if voxels.ndim == 4 and voxels.shape[3] == 1:
        voxels = voxels[..., 0]
    if voxels.ndim != 3:
        raise InputError(f"{path}: has shape {voxels.shape}, expected three dimensions; name 3-D images")
    return voxels, affine, bool(image.header["qform_code"] or image.header["sform_code"])


def _turned(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64], bool]:
    """A file's voxels (D, H, W) in display orientation, their affine there, and whether the file says how they lie."""
    try:
        voxels, affine, oriented = load_nifti(path, np.float32)
    except InputError as error:
        raise offer_skipping(error) from error
    if not np.isfinite(voxels).all():
        raise InputError(f"{path}: holds values that are not finite; repair the file or add --skip-bad")
    try:
        (turned,), affine = to_display([voxels], affine)
    except ValueError as error:
        raise InputError(f"{path}: {error}, so the orientation is unknown; repair the header") from error
    return turned, affine, oriented


def read_case(image: Path, label: Path | None, liver: Sequence[int], ignored: Sequence[int] = ()) -> Volume:
    """One case of an nnU-Net data set.

    Args:
        image: NIfTI.
        label: NIfTI on the same voxels, in whatever order of the axes; None for a case without.
        liver: its values that are liver.
        ignored: its values that say to learn nothing.

    Raises:
        InputError: names the file and what is wrong with it.
    """
    voxels, affine, oriented = _turned(image)
    notes = [] if oriented else [
        f"{image}: qform and sform say nothing of the orientation; its voxels are taken to run to the left, the front "
        "and the head"
    ]  # fmt: skip
    marks = None
    if label is not None:
        if not label.exists():
            raise InputError(f"{label}: missing, the label of {image}; add it, or leave the image out with --skip-bad")
        marks, label_affine, _ = _turned(label)
        if marks.shape != voxels.shape:
            raise InputError(
                f"{label}: the label has {marks.shape} slices, rows and columns, but its image {image} has "
                f"{voxels.shape}; export the label again on its image's grid"
            )
        apart = farthest_apart(voxels.shape[::-1], affine, label_affine)
        if not apart <= np.linalg.norm(affine[:3, :3], axis=0).min():
            raise InputError(f"{label}: lies {apart:.1f} mm from its image {image}; their affines must agree")
    unknown = () if marks is None else tuple(map(int, np.flatnonzero(np.isin(marks, ignored).any((1, 2)))))
    if unknown:
        notes.append(f"{label}: {len(unknown)} of {len(voxels)} slices are, or are in part, to be ignored; nothing is "
                     "learned from them")  # fmt: skip
    return Volume(
        image=voxels,
        label=None if marks is None else np.isin(marks, liver).astype(np.uint8),
        affine=affine,
        heights=affine[2, 3] + affine[2, 2] * np.arange(len(voxels)),
        sources=(image,) * len(voxels),
        ignored=unknown,
        notes=tuple(notes),
    )


def _read_noted(
    modality: Modality, image: Path, label: Path | None, liver: tuple[int, ...], ignored: tuple[int, ...]
) -> Volume:
    """A case of a data set, whose description is believed; with a note where the grey values contradict it."""
    volume = read_case(image, label, liver, ignored)
    low, high = float(volume.image.min()), float(volume.image.max())
    if modality == "CT" and low >= 0:
        note = f"{image}: grey values from {low:g} to {high:g} are hardly the Hounsfield units of a CT (air -1000)"
        return replace(volume, notes=(*volume.notes, note))
    return volume


def find_studies(
    folder: Path, modality: Modality, liver_label: str | None, patient_pattern: str | None = None
) -> list[Study]:
    """The training cases of an nnU-Net data set; without a `labelsTr` folder they are unlabelled.

    Args:
        folder: the data set's.
        modality: what is wanted of it.
        liver_label: name or number of the liver, if it isn't called liver.
        patient_pattern: regular expression for the patient in a case's name; None for one patient a case.

    Raises:
        InputError: for a data set of another modality, without images or without a liver label, or a case whose name
            doesn't match.
    """
    description = _description(folder)
    channel = _channel(folder, description, modality)
    ending = str(description.get("file_ending", ".nii.gz"))
    labelled = (folder / "labelsTr").is_dir()
    liver: tuple[int, ...] = ()
    ignored: tuple[int, ...] = ()
    if labelled:
        liver, ignored = label_values(description.get("labels"), liver_label, folder / "dataset.json")
    suffix = f"_{channel:04d}{ending}"
    studies = []
    for image in sorted((folder / "imagesTr").glob(f"*{suffix}")):
        if image.name.startswith("."):
            continue
        case = image.name.removesuffix(suffix)
        label = folder / "labelsTr" / f"{case}{ending}" if labelled else None
        studies.append(
            Study(
                modality=modality,
                patient=_patient(case, patient_pattern, image),
                series=image.name,
                paths=(image, *([label] if label and label.exists() else [])),
                labelled=labelled,
                read=partial(_read_noted, modality, image, label, liver, ignored),
                options=str(liver) + (f" ignoring {ignored}" if ignored else ""),
                may_ignore=bool(ignored),
                liver=f"the value {' or '.join(map(str, liver))} unless --liver-label says another" if labelled else "",
            )
        )
    if not studies:
        raise InputError(f"{folder / 'imagesTr'}: no files called *{suffix}; check file_ending and the file names")
    return studies


def _patient(case: str, pattern: str | None, image: Path) -> str:
    """The part of a case's name that is the patient's."""
    if pattern is None:
        return case
    found = re.search(pattern, case)
    if not found or not found.group():
        raise InputError(
            f"{image}: --patient-pattern={pattern} finds no patient in the case's name {case}; correct the pattern"
        )
    return found.group()
