"""DICOM folders: finding the series in them (DICOM PS3.3 C.7.3.1), and the grid of one."""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastliver.data.header import Header, NotDicomError, brief, read_header
from fastliver.data.pixels import is_colour, read_frame
from fastliver.data.series import offer_skipping, plan_series, read_series, stack_grid
from fastliver.data.study import Modality, Study
from fastliver.errors import InputError


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


def _files(folder: Path) -> Iterator[Path]:
    """The files under a folder in order, links followed; a folder that links lead to again is walked once.

    Raises:
        InputError: for a folder that can't be listed.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: can't be listed ({error.strerror}); make it readable") from error

    walked: set[tuple[int, int]] = set()
    found: list[Path] = []
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in walked:
            folders.clear()
            continue
        walked.add((status.st_dev, status.st_ino))
        folders.sort()
        found += [Path(place, name) for name in files if name != "DICOMDIR"]
    return iter(sorted(path for path in found if path.is_file()))


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


def find_studies(folder: Path, modality: Modality, skip_bad: bool) -> list[Study]:
    """The series of one modality anywhere under a folder, told apart by SeriesInstanceUID; they carry no labels.

    Localizers, colour images, screen captures and whatever has another modality (segmentations, RT objects, reports)
    are left out and counted in a note of the first series. Files that aren't DICOM are passed over unless they are
    called .dcm.

    Raises:
        InputError: when no series of the modality is there, or a file can't be read and `skip_bad` is off.
    """
    series: dict[str, list[Header]] = {}
    others: dict[str, list[Path]] = {}
    bad: list[InputError] = []
    for path in _files(folder):
        try:
            header = read_header(path)
        except InputError as error:
            if isinstance(error, NotDicomError) and path.suffix.lower() != ".dcm":
                continue
            if not skip_bad:
                raise offer_skipping(error) from error
            bad.append(error)
            continue
        if (kind := _other_kind(header, modality)) is not None:
            others.setdefault(kind, []).append(path)
        else:
            series.setdefault(header.text("SeriesInstanceUID"), []).append(header)
    passed_over = "; ".join(f"{kind} in {_count(paths)}" for kind, paths in others.items())
    if not series:
        raise InputError(
            f"{folder}: no {modality} images found" + (f", but {passed_over}" if passed_over else "")
            + (f"; {len(bad)} files could not be read, the first: {bad[0]}" if bad else "")
            + f"; name a folder with {modality} (CHAOS, nnU-Net raw or DICOM)"
        )  # fmt: skip
    # What belongs to no series is reported with the first.
    unread = tuple(str(error) for error in bad)
    notes = (f"{folder}: passed over what is no {modality} slice: {passed_over}",) if passed_over else ()
    studies: list[Study] = []
    for uid, headers in series.items():
        first = headers[0]
        paths = tuple(header.path for header in headers)
        told = (unread, notes) if not studies else ((), ())
        arguments = (paths, modality, None, range(0), skip_bad, *told)
        studies.append(
            Study(
                modality=modality,
                patient=first.text("PatientID") or first.text("PatientName") or first.text("StudyInstanceUID"),
                series=first.text("SeriesDescription") or uid,
                paths=paths,
                labelled=False,
                read=partial(read_series, *arguments),
                plan=partial(plan_series, *arguments),
            )
        )
    return studies


def _count(paths: Sequence[Path]) -> str:
    return f"{paths[0]}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
