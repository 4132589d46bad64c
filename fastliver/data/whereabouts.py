"""Where the images lie that a folder was named for by mistake: above it, within it or beside it."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from fastliver.data import chaos, nifti
from fastliver.data.study import Modality
from fastliver.errors import InputError
from fastliver.words import counted

DEEPEST = 3
"""Levels of folders that are looked into for what is meant."""

MOST_FOLDERS = 300
"""Folders that are looked into; who names a disk isn't kept waiting."""

MOST_NAMED = 5


class MisplacedError(InputError):
    """Another folder is meant, which the message names; looking for series in this one would take the wrong ones."""


def refuse_sequence(path: Path) -> None:
    """Raise MisplacedError for one sequence's folder within a CHAOS patient."""
    images = [str(path / folder) for home, folder in chaos.SEQUENCE_FOLDERS.values() if home == path.name]
    if images:
        raise MisplacedError(
            f"{path}: is one sequence of a CHAOS patient; name the patient, {path.absolute().parent}, and the sequence "
            f"with --mr-sequence, or the images without their labels, {' or '.join(images)}"
        )


def refuse_above_chaos(path: Path, modality: Modality) -> None:
    """Raise MisplacedError for a folder with a CHAOS tree further down: as DICOM its sequences would be mixed."""
    trees = _tops(path, lambda folder: chaos.modality_folder(folder, modality) is not None)
    if trees:
        raise MisplacedError(f"{path}: holds a CHAOS tree further down; name that: {_listed(trees)}")


def explain_no_images(path: Path, modality: Modality) -> None:
    """Raise MisplacedError for a folder without DICOM of the modality, if what else it holds says what is meant."""
    if path.name == "Ground" and chaos.is_patient(path.absolute().parent):
        home = path.absolute().parent
        patient = home.parent if home.name in chaos.MR_FOLDERS else home
        raise MisplacedError(f"{path}: no {modality} images found, but masks; name a folder with both: {patient}")
    above = path.absolute().parent
    if path.name in ("imagesTr", "labelsTr", "imagesTs") and nifti.is_dataset(above):
        raise MisplacedError(f"{path}: is a part of an nnU-Net data set; name the data set: {above}")
    if loose := sum(nifti.is_nifti(item) for item in path.iterdir()):
        raise MisplacedError(
            f"{path}: holds {counted(loose, 'NIfTI file')}, but not as an nnU-Net data set, which tells images from "
            "labels; arrange them as imagesTr/<case>_0000.nii.gz and labelsTr/<case>.nii.gz beside a dataset.json, see "
            "docs/formats.md"
        )
    if datasets := _tops(path, nifti.is_dataset):
        raise MisplacedError(f"{path}: holds nnU-Net data sets further down; name one: {_listed(datasets)}")


def other_half(path: Path, modality: Modality) -> str:
    """Words for where a CHAOS tree has the modality, of whose other half `path` is a part."""
    for tree in path.absolute().parents[:2]:
        if (there := chaos.modality_folder(tree, modality)) is not None:
            return f"; its {modality} is in {there}, and --data takes the folder of both, {tree}"
    return ""


def _listed(folders: list[Path]) -> str:
    return " or ".join(map(str, folders[:MOST_NAMED])) + (" or another" if len(folders) > MOST_NAMED else "")


def _tops(path: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    """The folders under a folder that are wanted, without those inside of others."""
    found: list[Path] = []
    for folder in _below(path):
        with suppress(OSError):  # what can't be looked into is told by whoever reads it
            if not any(other in folder.parents for other in found) and wanted(folder):
                found.append(folder)
    return found


def _below(path: Path) -> Iterator[Path]:
    """The folders under a folder, level by level."""
    level, seen = [path], 0
    for _ in range(DEEPEST):
        inner: list[Path] = []
        for folder in level:
            # os.scandir knows what is a folder without asking for each file.
            with suppress(OSError), os.scandir(folder) as items:
                inner += sorted(Path(item) for item in items if item.is_dir())
        seen += len(inner)
        if seen > MOST_FOLDERS:
            return
        yield from inner
        level = inner
