"""The CHAOS tree as it lies on disk: `CT/<id>/{DICOM_anon,Ground}` and `MR/<id>/{T1DUAL,T2SPIR}/...`.

Its DICOM headers were rewritten, so patient and sequence are read from folder names.
"""

import os
from functools import partial
from pathlib import Path
from typing import Literal

from fastliver.data.header import NotDicomError, read_header
from fastliver.data.series import plan_series, read_series
from fastliver.data.study import Modality, Study, unreadable
from fastliver.errors import InputError
from fastliver.words import counted

Sequence = Literal["t2-spir", "t1-in", "t1-out"]

CT_LIVER = range(1, 256)
MR_LIVER = range(56, 71)
SEQUENCE_FOLDERS: dict[Sequence, tuple[str, str]] = {
    "t2-spir": ("T2SPIR", "DICOM_anon"),
    "t1-in": ("T1DUAL", "DICOM_anon/InPhase"),
    "t1-out": ("T1DUAL", "DICOM_anon/OutPhase"),
}
MR_FOLDERS = {home for home, _ in SEQUENCE_FOLDERS.values()}


def _patients(folder: Path) -> list[Path]:
    """Patient folders, in order of number; `folder` may be a patient itself."""
    if is_patient(folder):
        return [folder]
    folders = [item for item in folder.iterdir() if item.is_dir()]
    return sorted(
        folders, key=lambda item: (not item.name.isdigit(), int(item.name) if item.name.isdigit() else 0, item.name)
    )


def is_patient(folder: Path) -> bool:
    """Whether the folder is one patient's, or one sequence of theirs: images and masks belong together in it."""
    return _holds(folder, "DICOM_anon", "T1DUAL", "T2SPIR")


def _holds(folder: Path, *names: str) -> bool:
    """Whether one of these folders is in a folder; not where that can't be looked into."""
    return any(os.path.isdir(folder / name) for name in names)


def modality_folder(root: Path, modality: Modality) -> Path | None:
    """Where a CHAOS tree at `root` keeps a modality, whether `root` is the tree, the modality or a patient in it."""
    for folder in (root / "Train_Sets" / modality, root / modality, root):
        if folder.is_dir() and kind(folder) == modality:
            return folder
    return None


def kind(folder: Path) -> Modality | None:
    """Which half of a CHAOS tree the folder is, or None when it is neither."""
    if folder.name in MR_FOLDERS and _holds(folder, "DICOM_anon"):
        return "MR"
    for patient in _patients(folder):
        if _holds(patient, "DICOM_anon"):
            return "CT"
        if _holds(patient, "T1DUAL", "T2SPIR"):
            return "MR"
    return None


def _files(folder: Path, pattern: str = "*") -> list[Path]:
    """Visible files in a folder in order of name; none where the folder is missing."""
    return sorted(item for item in folder.glob(pattern) if item.is_file() and not item.name.startswith("."))


def _holds_image(path: Path) -> bool | None:
    """Whether a file's header announces an image; None where it is damaged."""
    try:
        header = read_header(path)
    except InputError as error:
        # What neither is DICOM nor called so never was an image (Thumbs.db).
        return False if isinstance(error, NotDicomError) and path.suffix.lower() != ".dcm" else None
    if "Rows" in header:
        return True
    return None if header.may_be_image else False


def _masks_by_rank(images: list[Path], ground: Path) -> dict[Path, Path]:
    """CT: mask and image of the same rank among the sorted names belong together.

    Files without an image have no mask; they are named, or left out, when the series is read. A file that can't be
    read may be an image whose mask is there, or not: whichever makes the numbers agree.
    """
    masks = _files(ground, "*.png")
    kinds = {image: _holds_image(image) for image in images}
    with_unread = [image for image in images if kinds[image] is not False]
    without = [image for image in images if kinds[image]]
    for candidates in (with_unread, without):
        if len(candidates) == len(masks):
            return dict(zip(candidates, masks, strict=True))
    raise InputError(
        f"{ground}: {counted(len(masks), 'mask')} for {counted(len(with_unread), 'image')} in "
        f"{ground.parent / 'DICOM_anon'}; CHAOS pairs them by rank, so a missing or extra file shifts all that follow: "
        "complete the folder or remove the patient"
    )


def _masks_by_stem(images: list[Path], in_phase: list[Path], ground: Path) -> dict[Path, Path]:
    """MR: the mask has its image's name; T1-DUAL masks have the in-phase names, by rank for the out-phase images."""
    if len(images) != len(in_phase):
        raise InputError(
            f"{images[0].parent}: {counted(len(images), 'image')}, but {len(in_phase)} in the in-phase folder, whose "
            "masks they share; complete both folders"
        )
    return {image: ground / f"{named.stem}.png" for image, named in zip(images, in_phase, strict=True)}


def find_studies(folder: Path, modality: Modality, sequence: Sequence, skip_bad: bool) -> list[Study]:
    """Every patient of one modality in a CHAOS tree; one without a `Ground` folder is unlabelled.

    Args:
        folder: `Train_Sets/CT`, `Train_Sets/MR` or one patient's folder.
        modality: "CT" or "MR".
        sequence: which MR sequence.
        skip_bad: leave out files that can't be read, instead of raising when they are read.

    Raises:
        InputError: when no patient has such images, or masks are missing.
    """
    studies = []
    for patient in _patients(folder):
        home, images_in = patient, "DICOM_anon"
        if modality == "MR":
            home, images_in = patient / SEQUENCE_FOLDERS[sequence][0], SEQUENCE_FOLDERS[sequence][1]
        images, ground = _files(home / images_in), home / "Ground"
        if not images:
            # Without masks either, the patient has no such sequence.
            if (home / images_in).is_dir() and _files(ground, "*.png"):
                place, name = home / images_in, f"{modality}_{patient.name}"
                message = f"{place}: no images, but masks in {ground}; complete the folder or remove the patient"
                studies.append(unreadable(modality, name, str(place), True, message))
            continue
        masks: dict[Path, Path] | None = None
        if ground.is_dir() and modality == "CT":
            masks = _masks_by_rank(images, ground)
        elif ground.is_dir():
            named = _files(home / SEQUENCE_FOLDERS["t1-in"][1]) if sequence == "t1-out" else images
            masks = _masks_by_stem(images, named, ground)
        liver = CT_LIVER if modality == "CT" else MR_LIVER
        arguments = (images, modality, masks, liver, skip_bad)
        grey = f"grey from {liver.start} to {liver.stop - 1}"
        studies.append(
            Study(
                modality=modality,
                patient=f"{modality}_{patient.name}",
                series=str(home / images_in),
                paths=(*images, *(mask for mask in (masks or {}).values() if mask.exists())),
                labelled=masks is not None,
                read=partial(read_series, *arguments),
                plan=partial(plan_series, *arguments),
                liver=grey if masks is not None else "",
            )
        )
    if not studies:
        wanted = "<id>/DICOM_anon" if modality == "CT" else "<id>/" + "/".join(SEQUENCE_FOLDERS[sequence])
        raise InputError(f"{folder}: no images under {wanted}; check the folder" + (
            " or choose another --mr-sequence" if modality == "MR" else ""))  # fmt: skip
    return studies
