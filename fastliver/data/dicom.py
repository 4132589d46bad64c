"""DICOM series: finding them in a folder and reading their slices (DICOM PS3.3 C.7.6.2, C.8.2.1, C.8.3.1)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.errors import InvalidDicomError

from fastliver.data.orientation import to_display
from fastliver.data.study import Modality, Study, Volume
from fastliver.errors import InputError

SERIES_TAGS = ["Modality", "SeriesInstanceUID", "SeriesDescription", "PatientID", "PatientName", "StudyInstanceUID",
               "ImageType", "Rows"]  # fmt: skip
GRID_TAGS = ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices",
             "SliceThickness"]  # fmt: skip
POSITION_TOLERANCE_MM = 1e-3
SPACING_TOLERANCE = 0.1


@dataclass(frozen=True)
class _Slice:
    """One decoded slice: `pixels` (rows, columns) float32 after slope and intercept, and where it lies."""

    path: Path
    pixels: NDArray[np.float32]
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing: tuple[float, float]
    thickness: float


def read_header(path: Path, tags: list[str]) -> pydicom.Dataset:
    """The named elements of a file, without its pixels; raises InputError for what isn't DICOM."""
    return _parse(path, stop_before_pixels=True, specific_tags=tags)


def _parse(path: Path, **options: Any) -> pydicom.Dataset:
    try:
        return pydicom.dcmread(path, **options)
    except InvalidDicomError:
        raise InputError(f"{path}: not a DICOM file; remove it or add --skip-bad") from None
    except Exception as error:
        raise InputError(f"{path}: can't be read as DICOM ({error}); remove it or add --skip-bad") from error


def _numbers(dataset: pydicom.Dataset, field: str, count: int, path: Path) -> NDArray[np.float64]:
    value = None
    try:
        value = dataset.get(field)
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        value, numbers = value if value is not None else str(error), np.empty(0)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise InputError(
            f"{path}: {field} is {value!r}, expected {count} numbers; a slice without it has no place in the patient: "
            "export the series again, or leave the file out with --skip-bad"
        )
    return numbers


def _number(dataset: pydicom.Dataset, field: str, default: float, path: Path) -> float:
    """One number; `default` where the element is missing or empty."""
    try:
        value = dataset.get(field)
        number = default if value is None or value == "" else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{path}: {field} is no number ({error}); correct it, or leave the file out with --skip-bad"
        ) from error
    if not math.isfinite(number):
        raise InputError(f"{path}: {field} is {number}; correct it, or leave the file out with --skip-bad")
    return number


def _thickness(dataset: pydicom.Dataset, path: Path) -> float:
    """The distance in mm to a next slice, from the header alone."""
    fields = ("SpacingBetweenSlices", "SliceThickness")
    return next((value for value in (_number(dataset, field, 0, path) for field in fields) if value), 1.0)


def _read_slice(path: Path, modality: Modality) -> _Slice:
    """One file's slice; raises InputError that names file and field."""
    dataset = _parse(path)
    if dataset.get("Rows") is None or "PixelData" not in dataset:
        kind = getattr(dataset.get("SOPClassUID"), "name", "an object of unknown kind")
        raise InputError(f"{path}: holds no image ({kind}); remove it or add --skip-bad")
    if dataset.get("Modality") != modality:
        raise InputError(
            f"{path}: Modality is {dataset.get('Modality')}, expected {modality}; remove the file or add --skip-bad"
        )
    frames, samples = (_number(dataset, field, 1, path) for field in ("NumberOfFrames", "SamplesPerPixel"))
    if frames > 1 or samples > 1:
        raise InputError(
            f"{path}: NumberOfFrames is {frames:g} and SamplesPerPixel {samples:g}; only "
            "grey images of one frame can be read: export the series as single-frame images"
        )
    try:
        pixels = dataset.pixel_array
    except Exception as error:
        raise InputError(
            f"{path}: PixelData can't be decoded ({str(error).partition(chr(10))[0]}); copy the file again "
            "or add --skip-bad"
        ) from error
    slope = _number(dataset, "RescaleSlope", 1, path)
    intercept = _number(dataset, "RescaleIntercept", 0, path)
    row_spacing, column_spacing = (float(value) for value in _numbers(dataset, "PixelSpacing", 2, path))
    if min(row_spacing, column_spacing) <= 0:
        raise InputError(
            f"{path}: PixelSpacing is {[row_spacing, column_spacing]}, expected positive mm; correct it, or leave the "
            "file out with --skip-bad"
        )
    return _Slice(
        path=path,
        pixels=pixels.astype(np.float32) * np.float32(slope) + np.float32(intercept),
        position=_numbers(dataset, "ImagePositionPatient", 3, path),
        orientation=_numbers(dataset, "ImageOrientationPatient", 6, path),
        spacing=(row_spacing, column_spacing),
        thickness=_thickness(dataset, path),
    )


def _check_alike(slices: Sequence[_Slice]) -> None:
    first = slices[0]
    for other in slices[1:]:
        for field, a, b in (
            ("Rows and Columns", first.pixels.shape, other.pixels.shape),
            ("PixelSpacing", first.spacing, other.spacing),
            ("ImageOrientationPatient", tuple(first.orientation.tolist()), tuple(other.orientation.tolist())),
        ):
            if len(a) != len(b) or not np.allclose(a, b, rtol=0, atol=1e-3):
                raise InputError(
                    f"{other.path}: {field} is {b}, but {a} in {first.path.name} of the same series; put the two in "
                    "folders of their own, or remove the one that doesn't belong"
                )


def stack_grid(
    path: Path,
    positions: Sequence[NDArray[np.float64]],
    orientation: NDArray[np.float64],
    spacing: tuple[float, float],
    thickness: float,
) -> tuple[list[int], NDArray[np.float64], NDArray[np.float64]]:
    """How slices of one series stack (DICOM PS3.3 C.7.6.2.1.1).

    Args:
        path: a file of the series, for messages.
        positions: ImagePositionPatient of each slice.
        orientation: ImageOrientationPatient of all of them.
        spacing: between rows and columns in mm.
        thickness: distance to the next slice in mm where there is only one.

    Returns:
        The order along the normal, the affine of (column, row, slice in that order) to LPS mm, and the gaps in mm.

    Raises:
        InputError: when the slices aren't axial.
    """
    columns_to, rows_to = orientation[:3], orientation[3:]
    normal = np.cross(columns_to, rows_to)
    if abs(normal[2]) < math.cos(math.radians(45)):
        raise InputError(
            f"{path}: ImageOrientationPatient is {[round(float(v), 3) for v in orientation]}, not an axial slice; "
            "fastliver works on axial series: name another"
        )
    along = np.array([position @ normal for position in positions])
    order = [int(index) for index in np.argsort(along, kind="stable")]
    gaps = np.diff(along[order])
    step = normal * thickness
    if gaps.sum() > 0:
        # The usual gap: where a slice is missing, the others keep their distance.
        step = (positions[order[-1]] - positions[order[0]]) / gaps.sum() * np.median(gaps)
    affine = np.eye(4)
    affine[:3, 0] = columns_to * spacing[1]
    affine[:3, 1] = rows_to * spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = positions[order[0]]
    return order, affine, gaps


def grid_of(paths: Sequence[Path]) -> tuple[list[int], NDArray[np.float64]]:
    """The order and the affine of a series from its headers alone; see `stack_grid`."""
    headers = [read_header(path, GRID_TAGS) for path in paths]
    positions = [_numbers(header, "ImagePositionPatient", 3, path) for header, path in zip(headers, paths, strict=True)]
    row, column = (float(value) for value in _numbers(headers[0], "PixelSpacing", 2, paths[0]))
    orientation = _numbers(headers[0], "ImageOrientationPatient", 6, paths[0])
    order, affine, _ = stack_grid(paths[0], positions, orientation, (row, column), _thickness(headers[0], paths[0]))
    return order, affine


def read_series(
    paths: Sequence[Path],
    modality: Modality,
    masks: Mapping[Path, Path] | None,
    liver: range,
    skip_bad: bool,
    skipped_before: Sequence[str] = (),
) -> Volume:
    """Read one series.

    Args:
        paths: its files, in any order.
        modality: what the files must be.
        masks: the PNG mask of each file, or None for a series without labels.
        liver: grey values of a mask that are liver.
        skip_bad: leave out files that can't be read, instead of raising.
        skipped_before: what was left out while the series was looked for; goes into the volume's list.

    Raises:
        InputError: names the file, the field, what was found and what to do.
    """
    slices: list[_Slice] = []
    labels: dict[Path, NDArray[np.uint8]] = {}
    skipped: list[str] = []
    for path in paths:
        try:
            slice_ = _read_slice(path, modality)
            if masks is not None:
                labels[path] = read_mask(masks[path], slice_.pixels.shape, path, liver)
            slices.append(slice_)
        except InputError as error:
            if not skip_bad:
                raise
            skipped.append(str(error))
    if not slices:
        raise InputError(f"{paths[0].parent}: none of its {len(paths)} files could be read; the first: {skipped[0]}")
    _check_alike(slices)

    first = slices[0]
    order, affine, gaps = stack_grid(
        first.path, [item.position for item in slices], first.orientation, first.spacing, first.thickness
    )
    slices = [slices[index] for index in order]
    notes: list[str] = []
    for index in np.flatnonzero(gaps < POSITION_TOLERANCE_MM):
        raise InputError(
            f"{slices[index + 1].path}: ImagePositionPatient is that of {slices[index].path.name}; two slices at one "
            "place can't be told apart: remove one, or put the two series in folders of their own"
        )
    if len(gaps) and np.ptp(gaps) > SPACING_TOLERANCE * np.median(gaps):
        notes.append(f"{first.path.parent}: slice spacing varies from {gaps.min():.2f} to {gaps.max():.2f} mm")

    arrays: list[NDArray] = [np.stack([item.pixels for item in slices]).transpose(2, 1, 0)]
    if masks is not None:
        arrays.append(np.stack([labels[item.path] for item in slices]).transpose(2, 1, 0))
    # The slice number rides along, so that each slice keeps its file when the order is turned.
    numbers = np.broadcast_to(np.arange(len(slices)), arrays[0].shape)
    turned, affine = to_display([*arrays, numbers], affine)
    in_order = [slices[index] for index in turned[-1][:, 0, 0]]
    return Volume(
        image=turned[0],
        label=turned[1] if masks is not None else None,
        affine=affine,
        # Like the affine, the height is that of the corner that display orientation puts first.
        heights=np.array([item.position[2] for item in in_order]) + affine[2, 3] - in_order[0].position[2],
        sources=tuple(item.path for item in in_order),
        skipped=(*skipped_before, *skipped),
        notes=tuple(notes),
    )


def read_mask(path: Path, shape: tuple[int, ...], image: Path, liver: range) -> NDArray[np.uint8]:
    """A PNG mask as (rows, columns) uint8, 1 where its grey value is in `liver`."""
    if not path.exists():
        raise InputError(f"{path}: missing, the mask of {image}; add it, or leave the image out with --skip-bad")
    try:
        with Image.open(path) as opened:
            grey = np.asarray(opened.convert("L"))
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(
            f"{path}: the mask of {image.name} can't be read ({error}); export it again, or leave "
            "the image out with --skip-bad"
        ) from error
    if grey.shape != shape:
        raise InputError(
            f"{path}: the mask is {grey.shape[0]}x{grey.shape[1]}, but its image {image} is {shape[0]}x{shape[1]}; "
            "export it again at the image's size, or leave the image out with --skip-bad"
        )
    return ((grey >= liver.start) & (grey < liver.stop)).astype(np.uint8)


def find_studies(folder: Path, modality: Modality, skip_bad: bool) -> list[Study]:
    """The series of one modality anywhere under a folder, told apart by SeriesInstanceUID; they carry no labels.

    Localizers are left out. Files that aren't DICOM are passed over unless they are called .dcm.

    Raises:
        InputError: when no series of the modality is there, or a file can't be read and `skip_bad` is off.
    """
    series: dict[str, list[tuple[Path, pydicom.Dataset]]] = {}
    others: dict[str, Path] = {}
    bad: list[InputError] = []
    for path in sorted(item for item in folder.rglob("*") if item.is_file() and item.name != "DICOMDIR"):
        if path.suffix.lower() != ".dcm" and not pydicom.misc.is_dicom(path):
            continue
        try:
            header = read_header(path, SERIES_TAGS)
        except InputError as error:
            if not skip_bad:
                raise
            bad.append(error)
            continue
        if header.get("Modality") != modality:
            others.setdefault(str(header.get("Modality")), path)
        elif "LOCALIZER" not in (header.get("ImageType") or ()):
            series.setdefault(str(header.get("SeriesInstanceUID")), []).append((path, header))
    if not series:
        found = "; ".join(f"Modality {name} in {path}" for name, path in others.items())
        raise InputError(
            f"{folder}: no {modality} images found" + (f", but {found}" if found else "")
            + (f"; {len(bad)} files could not be read, the first: {bad[0]}" if bad else "")
            + f"; name a folder with {modality} (CHAOS, nnU-Net raw or DICOM)"
        )  # fmt: skip
    studies = []
    for number, (uid, files) in enumerate(series.items()):
        # A file without a readable header belongs to no series: it is reported with the first.
        unread = tuple(str(error) for error in bad) if number == 0 else ()
        first = files[0][1]
        paths = tuple(path for path, _ in files)
        studies.append(
            Study(
                modality=modality,
                patient=str(first.get("PatientID") or first.get("PatientName") or first.get("StudyInstanceUID")),
                series=str(first.get("SeriesDescription") or uid),
                paths=paths,
                labelled=False,
                read=partial(read_series, paths, modality, None, range(0), skip_bad, unread),
            )
        )
    return studies
