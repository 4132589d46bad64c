"""DICOM folders: finding the series in them (DICOM PS3.3 C.7.3.1), and the grid of one."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastliver.data.header import Header, NotDicomError, brief, read_header
from fastliver.data.pixels import is_colour, read_frame
from fastliver.data.series import offer_skipping, plan_series, read_series, stack_grid
from fastliver.data.study import Modality, Study, unreadable
from fastliver.errors import InputError
from fastliver.words import counted


class NoImagesError(InputError):
    """A folder holds no series of the modality."""


def grid_of(paths: Sequence[Path]) -> tuple[list[int], NDArray[np.float64]]:
    """The order and the affine of a series of single-frame files from its headers alone; see `stack_grid`.

    Raises:
        InputError: names the file and the field that say no place in the patient.
    """
    frames = [read_frame(read_header(path)) for path in paths]
    first = frames[0]
    order, affine, _ = stack_grid(
        paths[0],
        np.array([frame.position for frame in frames]),
        np.array(first.orientation),
        first.spacing,
        first.thickness,
    )
    return order, affine


def _files(folder: Path, on_unlisted: Callable[[Path, InputError], None]) -> list[Path]:
    """The files under a folder in order, links followed; a folder that links lead to again is walked once.

    What macOS puts beside the files that it copies (`._*`, `__MACOSX`) is passed over.

    Args:
        folder: where to look.
        on_unlisted: called with a folder that can't be listed, and why.
    """

    def tell(error: OSError) -> None:
        message = f"{error.filename}: can't be listed ({error.strerror}); make it readable"
        on_unlisted(Path(error.filename), InputError(message))

    walked: set[tuple[int, int]] = set()
    found: list[Path] = []
    for place, folders, files in os.walk(folder, onerror=tell, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in walked:
            folders.clear()
            continue
        walked.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if name != "__MACOSX")
        found += [Path(place, name) for name in files if name != "DICOMDIR" and not name.startswith("._")]
    return sorted(path for path in found if path.is_file())


def _other_kind(header: Header, modality: Modality) -> str | None:
    """What a file is that is no slice of the modality's images, or None for a slice, be it a damaged one."""
    if header.text("Modality") != modality:
        return f"Modality {header.shown('Modality')}"
    kind = brief(header.sop_class)
    if not header.pixels and not kind.endswith("Image Storage"):
        return kind
    if "Secondary Capture" in kind or (header.pixels and is_colour(header)):
        return f"{modality} as {'colour image' if is_colour(header) else kind}"
    return "localizer" if "LOCALIZER" in header.text("ImageType").split("\\") else None


@dataclass(frozen=True)
class _Found:
    """What lies under a folder.

    Attributes:
        folder: that was looked into.
        modality: that was looked for.
        series: the headers of its slices by SeriesInstanceUID.
        others: what else is there, by kind.
        bad: what can't be read, and why.
    """

    folder: Path
    modality: Modality
    series: dict[str, list[Header]] = field(default_factory=dict)
    others: dict[str, list[Path]] = field(default_factory=dict)
    bad: dict[Path, InputError] = field(default_factory=dict)

    def studies(self, skip_bad: bool) -> list[Study]:
        """A study of each series; the first tells what belongs to none.

        Raises:
            NoImagesError: when there is no series.
        """
        passed_over = "; ".join(f"{kind} in {_count(paths)}" for kind, paths in self.others.items())
        if not self.series:
            raise NoImagesError(
                f"{self.folder}: no {self.modality} images found" + (f", but {passed_over}" if passed_over else "")
                + (f"; {counted(len(self.bad), 'file')} could not be read, the first: {next(iter(self.bad.values()))}"
                   if self.bad else "")
                + f"; name a folder with {self.modality} (CHAOS, nnU-Net raw or DICOM)"
            )  # fmt: skip
        first, *others = [self._study(uid, headers, skip_bad) for uid, headers in self.series.items()]
        skipped = tuple(map(str, self.bad.values()))
        told = f"{self.folder}: passed over what is no {self.modality} slice: {passed_over}"
        return [replace(first, skipped=skipped, notes=(told,) if passed_over else ()), *others]

    def _study(self, uid: str, headers: Sequence[Header], skip_bad: bool) -> Study:
        first, paths = headers[0], tuple(header.path for header in headers)
        arguments = (paths, self.modality, None, range(0), skip_bad)
        return Study(
            modality=self.modality,
            patient=first.text("PatientID") or first.text("PatientName") or first.text("StudyInstanceUID"),
            series=first.text("SeriesDescription") or uid,
            paths=paths,
            labelled=False,
            read=partial(read_series, *arguments),
            plan=partial(plan_series, *arguments),
        )


def _look(folder: Path, modality: Modality, skip_bad: bool) -> _Found:
    """Sort what lies under a folder; without `skip_bad` the first thing that can't be read is raised."""
    found = _Found(folder, modality)

    def note(path: Path, error: InputError) -> None:
        if not skip_bad:
            raise offer_skipping(error) from error
        found.bad[path] = error

    for path in _files(folder, note):
        try:
            header = read_header(path)
            if not header.text("Modality") and header.may_be_image:
                raise InputError(f"{path}: Modality is missing, so it may be a damaged {modality} slice; remove it")
        except InputError as error:
            if not isinstance(error, NotDicomError) or path.suffix.lower() == ".dcm":
                note(path, error)
            continue
        if (kind := _other_kind(header, modality)) is not None:
            found.others.setdefault(kind, []).append(path)
        else:
            found.series.setdefault(header.text("SeriesInstanceUID"), []).append(header)
    return found


def find_studies(folder: Path, modality: Modality, skip_bad: bool) -> list[Study]:
    """The series of one modality anywhere under a folder, told apart by SeriesInstanceUID; they carry no labels.

    Localizers, colour images, screen captures and whatever has another modality (segmentations, RT objects, reports)
    are left out and counted in a note of the first series. Files that aren't DICOM are passed over unless they are
    called .dcm.

    Raises:
        InputError: when no series of the modality is there, or something can't be read and `skip_bad` is off.
    """
    return _look(folder, modality, skip_bad).studies(skip_bad)


def find_studies_apart(folder: Path, modality: Modality) -> list[Study]:
    """The same, where one bad file doesn't end the search, and no series is taken for whole that may lack a slice.

    Whose slice a file is that can't be read nobody knows. So the series with a file in the same folder can't be read
    either, and if there is none, the folder is a study of its own that can't. Series elsewhere are as good as ever.

    Raises:
        InputError: when no series of the modality is there.
    """
    found = _look(folder, modality, skip_bad=True)
    bad: dict[Path, InputError] = {}
    for path, error in found.bad.items():
        bad.setdefault(path.parent, offer_skipping(error))
    studies, beside = [], set()
    for study in found.studies(skip_bad=False):
        places = {path.parent for path in study.paths} & bad.keys()
        if places:
            message = f"{bad[min(places)]}; it may be a slice of this series"
            failing = unreadable(modality, study.patient, study.series, False, message)
            studies.append(replace(failing, notes=study.notes))
        else:
            studies.append(replace(study, skipped=()))
        beside |= places
    lonely = [place for place in bad if place not in beside]
    return studies + [unreadable(modality, place.name, str(place), False, str(bad[place])) for place in lonely]


def _count(paths: Sequence[Path]) -> str:
    return f"{paths[0]}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
