"""What a command works through: every study under a path, one after the other, a bad one not in the others' way.

Beyond `Source`, which training reads, a path may be a NIfTI file or a folder of NIfTI files, and patients with and
without labels may stand side by side.
"""

import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from fastliver.data import chaos, dicom, nifti
from fastliver.data.sources import Source
from fastliver.data.study import Modality, Study, Volume, unreadable
from fastliver.data.whereabouts import MisplacedError
from fastliver.errors import InputError

CHANNEL = re.compile(r"_(\d{4})$")
FAT = -100.0
"""HU that any CT goes below, be it clipped to a window, and no MR does."""


@dataclass(frozen=True)
class Case:
    """One series to work on.

    Attributes:
        name: what its results are called: the patient, and the series where the patient has several; fit for a file.
        study: reads it.
    """

    name: str
    study: Study

    @property
    def format(self) -> Literal["dicom", "nifti"]:
        """What its files are."""
        return "nifti" if any(nifti.is_nifti(path) for path in self.study.paths) else "dicom"


def find_cases(source: Source) -> list[Case]:
    """Every study under `source.path`: a NIfTI file, a folder of them, or what `Source` reads.

    Where the folder as a whole can't be taken in, each series (of DICOM) or folder inside is looked at alone; what is
    wrong with one is raised when that case is read.

    Raises:
        InputError: when there is nothing of the modality.
    """
    path = source.path
    if not path.exists():
        raise InputError(
            f"{path}: does not exist; name {source.modality} as NIfTI or a folder (CHAOS, nnU-Net raw or DICOM)"
        )
    if path.is_file() or _nifti_files(path):
        return _named(_nifti_studies(path, source))
    try:
        studies = source.studies()
    except MisplacedError:
        raise
    except InputError:
        studies = _one_by_one(source)
        if not any(study.paths for study in studies):
            raise
    return _named(studies)


def _nifti_files(path: Path) -> list[Path]:
    """The NIfTI files of a folder that isn't a whole nnU-Net data set."""
    if nifti.is_dataset(path):
        return []
    return sorted(item for item in path.iterdir() if nifti.is_nifti(item) and item.name[0] != ".")


def _nifti_studies(path: Path, source: Source) -> list[Study]:
    files = [(_stem(file), file) for file in ([path] if path.is_file() else _nifti_files(path))]
    stems = {stem for stem, _ in files}
    studies = []
    for case, file in files:
        # Beside a file _0000 these are nnU-Net's channels of one case; else they number patients, as in AMOS and WORD.
        first_channel = CHANNEL.sub("_0000", case)
        if case != first_channel and first_channel in stems:
            continue
        studies.append(
            Study(
                modality=source.modality,
                patient=case.removesuffix("_0000"),
                series=file.name,
                paths=(file,),
                labelled=False,
                read=partial(_read_nifti, file, source.modality),
            )
        )
    return studies


def _stem(file: Path) -> str:
    """A NIfTI file's name without its ending."""
    for ending in nifti.ENDINGS:
        if file.name.endswith(ending):
            return file.name.removesuffix(ending)
    raise InputError(f"{file}: not NIfTI (.nii, .nii.gz); for DICOM name the folder of the series")


def _read_nifti(path: Path, modality: Modality) -> Volume:
    """A NIfTI image; nothing in it says what it shows, so its grey values must."""
    volume = nifti.read_case(path, None, ())
    low, high = float(np.min(volume.image)), float(np.max(volume.image))
    if modality == "MR" and low <= FAT:
        raise InputError(
            f"{path}: grey values from {low:g} to {high:g} are Hounsfield units of a CT, but MR belongs here"
        )
    if modality == "CT" and low >= 0:
        raise InputError(
            f"{path}: grey values from {low:g} to {high:g}, expected Hounsfield units (air -1000); name a CT, or "
            "correct its slope and intercept"
        )
    return volume


def _one_by_one(source: Source) -> list[Study]:
    """The studies of each series or folder inside, found alone; one that fails can't be read and has no paths."""
    tree = chaos.modality_folder(source.path, source.modality)
    home = tree or source.path
    if nifti.is_dataset(home) or chaos.is_patient(home):
        return []
    if tree is None:
        with suppress(InputError):
            return dicom.find_studies_apart(home, source.modality)
    studies: list[Study] = []
    for folder in sorted(item for item in home.iterdir() if item.is_dir()):
        try:
            studies += replace(source, path=folder).studies()
        except InputError as error:
            studies.append(unreadable(source.modality, folder.name, str(folder), False, str(error)))
    return studies


def _named(studies: list[Study]) -> list[Case]:
    """Cases with a name each: the patient's, with the series' where a patient has several, numbered at worst."""
    patients = Counter(_file_name(study.patient) for study in studies)
    cases: dict[str, Case] = {}
    for study in studies:
        name = _file_name(study.patient)
        if patients[name] > 1:
            name = f"{name}_{_file_name(Path(study.series).name)}"
        unique, number = name, 2
        while unique in cases:
            unique, number = f"{name}_{number}", number + 1
        cases[unique] = Case(unique, study)
    return list(cases.values())


def _file_name(text: str) -> str:
    """The text with only what every file system takes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._") or "case"
