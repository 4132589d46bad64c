"""A DICOM series: how its slices stack, planned from the headers alone, and reading it by that plan."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel import orientations
from numpy.typing import NDArray
from PIL import Image

from fastliver.data.orientation import display_turn
from fastliver.data.pixels import Frame, ImageFile, decode, grey, read_image_file
from fastliver.data.study import Modality, Volume
from fastliver.errors import InputError
from fastliver.words import counted

POSITION_TOLERANCE_MM = 1e-3
SPACING_TOLERANCE = 0.1
TILT_TOLERANCE_DEGREES = 1.0
MISSING = 1.5
"""A gap so many times as wide as usual lacks a slice."""


@dataclass(frozen=True, slots=True)
class PlannedSlice:
    """One slice to be read: a frame of a file, `number` from 0, and its PNG mask where the series has masks."""

    image: ImageFile
    number: int
    mask: Path | None

    @property
    def frame(self) -> Frame:
        """Its place and units."""
        return self.image.frames[self.number]

    @property
    def name(self) -> str:
        """The file's name, and in a file of several frames which one."""
        return self.image.path.name + (f" (frame {self.number + 1})" if len(self.image.frames) > 1 else "")


@dataclass(frozen=True)
class SeriesPlan:
    """What the headers of a series say, in display orientation: slices from the feet to the head.

    Attributes:
        slices: one for each slice of the volume, in its order.
        transpose: whether `turn` swaps rows and columns.
        flip_rows, flip_columns: whether it reverses them afterwards.
        affine: (4, 4) float64 of the volume, as in `Volume`.
        heights: (D,) float64, as in `Volume`.
        liver: grey values of a mask that are liver.
        skip_bad: whether a slice that can't be read is left out; otherwise it ends the reading.
        skipped: as in `Volume`.
        notes: as in `Volume`.
    """

    slices: tuple[PlannedSlice, ...]
    transpose: bool
    flip_rows: bool
    flip_columns: bool
    affine: NDArray[np.float64]
    heights: NDArray[np.float64]
    liver: range
    skip_bad: bool
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def labelled(self) -> bool:
        """Whether the slices have masks."""
        return self.slices[0].mask is not None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a slice in its file, before `turn`."""
        return self.slices[0].image.format.rows, self.slices[0].image.format.columns

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between slices, rows and columns of the volume."""
        column, row, slice_ = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(slice_), float(row), float(column)

    def turn(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """(..., rows, columns) as a file or a mask has them, to display orientation (a view)."""
        turned = pixels.swapaxes(-1, -2) if self.transpose else pixels
        return turned[..., :: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    def files(self) -> list[tuple[ImageFile, list[int]]]:
        """Each file, to be read once, with the places in `slices` of its frames; in order of the first of these."""
        found: dict[Path, tuple[ImageFile, list[int]]] = {}
        for place, item in enumerate(self.slices):
            found.setdefault(item.image.path, (item.image, []))[1].append(place)
        return list(found.values())

    def without(self, failed: Mapping[Path, InputError]) -> "SeriesPlan":
        """The plan of what is left when these image files could not be read.

        Raises:
            InputError: the first failure itself unless `skip_bad` is on; or that nothing is left.
        """
        if not failed:
            return self
        if not self.skip_bad:
            raise offer_skipping(next(iter(failed.values())))
        left = [item for item in self.slices if item.image.path not in failed]
        skipped = (*self.skipped, *(str(failed[path]) for path in sorted(failed)))
        if not left:
            raise _nothing_left(self.slices[0].image.path.parent, skipped)
        return _stack(left, self.liver, self.skip_bad, skipped)


def offer_skipping(error: InputError) -> InputError:
    """The error as a command tells it that can leave files out; its last words are already a remedy."""
    return InputError(f"{error} or add --skip-bad")


def _nothing_left(folder: Path, skipped: Sequence[str]) -> InputError:
    return InputError(f"{folder}: none of its {counted(len(skipped), 'file')} could be read; the first: {skipped[0]}")


def plan_series(
    paths: Sequence[Path],
    modality: Modality,
    masks: Mapping[Path, Path] | None,
    liver: range,
    skip_bad: bool,
) -> SeriesPlan:
    """Plan the reading of one series; its pixels and masks aren't touched.

    Args:
        paths: its files, in any order.
        modality: what the files must be.
        masks: the PNG mask of each file, or None for a series without labels.
        liver: grey values of a mask that are liver.
        skip_bad: leave out files that can't be read, instead of raising.

    Raises:
        InputError: names the file, the field, what was found and what to do.
    """
    slices: list[PlannedSlice] = []
    skipped: list[str] = []
    for path in paths:
        try:
            image = read_image_file(path, modality)
            mask = None
            if masks is not None and not (mask := masks[path]).exists():
                raise InputError(f"{mask}: missing, the mask of {path}; add it")
            if mask is not None and len(image.frames) > 1:
                raise InputError(f"{path}: NumberOfFrames is {len(image.frames)}, but it has one mask, {mask}; export "
                    "the series as single-frame images")  # fmt: skip
            slices += [PlannedSlice(image, number, mask) for number in range(len(image.frames))]
        except InputError as error:
            if not skip_bad:
                raise offer_skipping(error) from error
            skipped.append(str(error))
    if not slices:
        raise _nothing_left(paths[0].parent, skipped)
    return _stack(slices, liver, skip_bad, tuple(skipped))


def _stack(slices: Sequence[PlannedSlice], liver: range, skip_bad: bool, skipped: tuple[str, ...]) -> SeriesPlan:
    """The plan of slices in any order."""
    _check_alike(slices)
    first = slices[0]
    folder = first.image.path.parent
    positions = np.array([item.frame.position for item in slices])
    orientation = np.array(first.frame.orientation)
    order, affine, gaps = stack_grid(
        first.image.path, positions, orientation, first.frame.spacing, first.frame.thickness
    )
    in_order = [slices[index] for index in order]
    for index in map(int, np.flatnonzero(gaps < POSITION_TOLERANCE_MM)):
        raise InputError(
            f"{in_order[index + 1].image.path}: ImagePositionPatient is that of {in_order[index].name}; two slices at "
            "one place can't be told apart: remove one, or put the two series in folders of their own"
        )
    notes = []
    if len(gaps) and np.ptp(gaps) > SPACING_TOLERANCE * np.median(gaps):
        notes.append(f"{folder}: slice spacing varies from {gaps.min():.2f} to {gaps.max():.2f} mm")
    if (tilt := _tilt(affine)) > TILT_TOLERANCE_DEGREES:
        notes.append(f"{folder}: the gantry was tilted by {tilt:.1f} degrees, so that the slices stack askew")
    if inverted := sum(item.image.format.inverted for item in slices):
        notes.append(f"{folder}: {counted(inverted, 'slice')} of MONOCHROME1 (lowest value white), inverted here")

    turn = display_turn(affine)
    if turn[2, 0] != 2:
        raise InputError(f"{folder}: ImagePositionPatient of the slices runs along them, not up; name another series")
    affine = affine @ orientations.inv_ornt_aff(turn, (*shape(first)[::-1], len(slices)))
    if turn[2, 1] < 0:
        in_order.reverse()
    transpose = turn[0, 0] == 1
    reversed_axes = {int(axis): way < 0 for axis, way in turn}
    heights = np.array([item.frame.position[2] for item in in_order])
    return SeriesPlan(
        slices=tuple(in_order),
        transpose=bool(transpose),
        flip_rows=bool(reversed_axes[1]),
        flip_columns=bool(reversed_axes[0]),
        affine=affine,
        # Like the affine, the height is that of the corner that display orientation puts first.
        heights=heights + affine[2, 3] - heights[0],
        liver=liver,
        skip_bad=skip_bad,
        skipped=skipped,
        notes=tuple(notes),
    )


def shape(item: PlannedSlice) -> tuple[int, int]:
    """Rows and columns of a slice in its file."""
    return item.image.format.rows, item.image.format.columns


def _tilt(affine: NDArray[np.float64]) -> float:
    """Degrees between the way from slice to slice and the normal of the slices."""
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    cosine = abs(normal @ affine[:3, 2]) / (np.linalg.norm(normal) * np.linalg.norm(affine[:3, 2]))
    return math.degrees(math.acos(min(1.0, float(cosine))))


def _check_alike(slices: Sequence[PlannedSlice]) -> None:
    values: dict[str, list[tuple[float, ...]]] = {
        "Rows and Columns": [shape(item) for item in slices],
        "PixelSpacing": [item.frame.spacing for item in slices],
        "ImageOrientationPatient": [item.frame.orientation for item in slices],
    }
    differing = {field: np.abs(np.subtract(found, found[0])).max(1) > 1e-3 for field, found in values.items()}
    for number in map(int, np.flatnonzero(np.any(list(differing.values()), axis=0))):
        field = next(name for name, differs in differing.items() if differs[number])
        raise InputError(
            f"{slices[number].image.path}: {field} is {values[field][number]}, but {values[field][0]} in "
            f"{slices[0].name} of the same series; put the two in folders of their own, or remove the one that "
            "doesn't belong"
        )


def stack_grid(
    path: Path,
    positions: NDArray[np.float64],
    orientation: NDArray[np.float64],
    spacing: tuple[float, ...],
    thickness: float,
) -> tuple[list[int], NDArray[np.float64], NDArray[np.float64]]:
    """How slices of one series stack (DICOM PS3.3 C.7.6.2.1.1).

    Args:
        path: a file of the series, for messages.
        positions: (D, 3), ImagePositionPatient of each slice.
        orientation: (6,), ImageOrientationPatient of all of them.
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
    along = positions @ normal
    order = [int(index) for index in np.argsort(along, kind="stable")]
    gaps = np.diff(along[order])
    step = normal * thickness
    if gaps.sum() > 0:
        # Where a slice is missing, the others keep their distance.
        usual = np.median(gaps)
        step = (
            (positions[order[-1]] - positions[order[0]])
            / gaps.sum()
            * (usual if gaps.max() > MISSING * usual else gaps.mean())
        )
    affine = np.eye(4)
    affine[:3, 0] = columns_to * spacing[1]
    affine[:3, 1] = rows_to * spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = positions[order[0]]
    return order, affine, gaps


def read_series(
    paths: Sequence[Path],
    modality: Modality,
    masks: Mapping[Path, Path] | None,
    liver: range,
    skip_bad: bool,
) -> Volume:
    """Read one series by its plan; arguments and errors are those of `plan_series`.

    With `skip_bad` on, what can't be decoded is left out too, and the rest stacked anew.
    """
    plan = plan_series(paths, modality, masks, liver, skip_bad)
    images: dict[tuple[Path, int], NDArray[np.float32]] = {}
    labels: dict[Path, NDArray[np.uint8]] = {}
    failed: dict[Path, InputError] = {}
    for image, places in plan.files():
        items = [plan.slices[place] for place in places]
        try:
            if (mask := items[0].mask) is not None:
                labels[image.path] = read_mask(mask, plan.shape, image.path, plan.liver)
            pixels = decode(image)
            for item in items:
                images[image.path, item.number] = grey(pixels[item.number], image.format, item.frame)
        except InputError as error:
            failed[image.path] = error
    plan = plan.without(failed)
    return Volume(
        image=np.stack([plan.turn(images[item.image.path, item.number]) for item in plan.slices]),
        label=np.stack([plan.turn(labels[item.image.path]) for item in plan.slices]) if plan.labelled else None,
        affine=plan.affine,
        heights=plan.heights,
        sources=tuple(item.image.path for item in plan.slices),
        frames=tuple(item.number + 1 for item in plan.slices),
        skipped=plan.skipped,
        notes=plan.notes,
    )


def read_mask(path: Path, shape: tuple[int, ...], image: Path, liver: range) -> NDArray[np.uint8]:
    """A PNG mask as (rows, columns) uint8, 1 where its grey value is in `liver`."""
    if not path.exists():
        raise InputError(f"{path}: missing, the mask of {image}; add it")
    try:
        with Image.open(path) as opened:
            grey = np.asarray(opened.convert("L"))
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: the mask of {image.name} can't be read ({error}); export it again") from error
    if grey.shape != shape:
        raise InputError(
            f"{path}: the mask is {grey.shape[0]}x{grey.shape[1]}, but its image {image} is {shape[0]}x{shape[1]}; "
            "export it again at the image's size"
        )
    return ((grey >= liver.start) & (grey < liver.stop)).astype(np.uint8)
