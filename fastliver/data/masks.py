"""Liver masks from files that others made: NIfTI, DICOM SEG, and folders of CHAOS PNG."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.errors import InvalidDicomError

from fastliver.data import chaos, dicom
from fastliver.data.nifti import ENDINGS, is_nifti, load_nifti
from fastliver.data.orientation import SHEAR_TOLERANCE_DEGREES, farthest_apart, grid_shear, to_display
from fastliver.errors import InputError
from fastliver.words import counted

LIVER_CODES = {"10200004", "T-62000"}
"""SNOMED CT and SNOMED RT for the liver."""

CHAOS_FOLDERS = {"Train_Sets", "Ground", *chaos.MR_FOLDERS}
"""What a CHAOS tree calls folders besides modalities and patients."""


@dataclass(frozen=True)
class Mask:
    """One volume's mask as its file has it.

    Attributes:
        path: the file, or the folder of PNG.
        voxels: (I, J, K) booleans, True where liver is.
        affine: (4, 4), maps (i, j, k) to LPS patient coordinates in mm; None where nothing says.
        sparse: slices without liver may be left out (DICOM SEG).
    """

    path: Path
    voxels: NDArray[np.bool_]
    affine: NDArray[np.float64] | None
    sparse: bool = False


@dataclass(frozen=True)
class MaskPair:
    """A predicted mask and the true one on one grid in display orientation, (D, H, W), with its spacing in mm."""

    predicted: NDArray[np.bool_]
    true: NDArray[np.bool_]
    spacing: tuple[float, float, float]


def _case_name(path: Path) -> str:
    """The case a file is of: its name without its ending."""
    for ending in (*ENDINGS, ".dcm"):
        if path.name.endswith(ending):
            return path.name.removesuffix(ending)
    return path.name


def _png_files(folder: Path) -> list[Path]:
    return sorted(item for item in folder.iterdir() if item.suffix.lower() == ".png" and not item.name.startswith("."))


def _mr_folder(folder: Path) -> str | None:
    """CHAOS's name for the MR acquisition that a folder of PNG is of; None where the tree doesn't say."""
    return next((name for name in (folder.name, folder.parent.name) if name in chaos.MR_FOLDERS), None)


def _patient(folder: Path, top: Path) -> tuple[str | None, str]:
    """Modality, where a folder above says it, and patient that a folder of PNG under `top` is of."""
    parts = [part for part in folder.relative_to(top).parts if part not in CHAOS_FOLDERS]
    if len(parts) > 1 and parts[0] in ("CT", "MR"):
        return parts[0], parts[1]
    if parts:
        return None, parts[0]
    above = (item.name for item in (top, *top.absolute().parents) if item.name not in CHAOS_FOLDERS)
    return None, next(above, top.name)


def _png_cases(top: Path, sequence: chaos.Sequence | None) -> dict[str, Path]:
    """The folders of PNG by patient; `CT_<id>` and `MR_<id>` where a tree holds both modalities."""
    folders = [top] if _png_files(top) else sorted(i for i in top.rglob("*") if i.is_dir() and _png_files(i))
    wanted = None if sequence is None else chaos.SEQUENCE_FOLDERS[sequence][0]
    chosen = [folder for folder in folders if wanted is None or _mr_folder(folder) in (None, wanted)]
    if folders and not chosen:
        raise InputError(f"{top}: no masks in a folder {wanted}; choose another --mr-sequence than {sequence}")
    patients = {folder: _patient(folder, top) for folder in chosen}
    both = {"CT", "MR"} <= {modality for modality, _ in patients.values()}
    found: dict[str, Path] = {}
    for folder, (modality, patient) in patients.items():
        case = f"{modality}_{patient}" if both and modality else patient
        if case in found:
            several = {_mr_folder(folder), _mr_folder(found[case])} == chaos.MR_FOLDERS
            remedy = f"choose --mr-sequence: {', '.join(chaos.SEQUENCE_FOLDERS)}" if several else "name one of them"
            raise InputError(f"{folder}: a second folder of PNG for {case}, besides {found[case]}; {remedy}")
        found[case] = folder
    return found


def find_masks(path: Path, sequence: chaos.Sequence | None = None) -> dict[str, Path]:
    """The masks under a path by case.

    Args:
        path: a file, a folder of PNG (one case), a folder of files, or a CHAOS tree or a part of it.
        sequence: which MR sequence of a CHAOS tree; None where each patient has one.

    Raises:
        InputError: when there are none, or several of one case.
    """
    if not path.exists():
        raise InputError(f"{path}: does not exist; name a mask (NIfTI, DICOM SEG, folder of PNG) or a folder of masks")
    if path.is_file():
        return {_case_name(path): path}
    files = sorted(item for item in path.iterdir() if item.is_file() and item.name.endswith((*ENDINGS, ".dcm")))
    found: dict[str, Path] = {}
    for item in () if _png_files(path) else files:
        if item.name.startswith("."):
            continue
        if (case := _case_name(item)) in found:
            raise InputError(f"{item}: a second mask of {case}, besides {found[case]}; remove one of them")
        found[case] = item
    found = found or _png_cases(path, sequence)
    if not found:
        raise InputError(f"{path}: no masks found (NIfTI, DICOM SEG .dcm, folders of PNG); check the folder")
    return found


def read_mask(path: Path, label: int | None, sequence: chaos.Sequence | None = None) -> Mask:
    """Read one mask.

    Args:
        path: NIfTI, DICOM SEG, or a folder of CHAOS PNG.
        label: the value that is liver (in a DICOM SEG the segment's number); None finds it out where only one
            can be meant.
        sequence: which MR sequence a CHAOS mask is compared on; in- and out-of-phase images share theirs.

    Raises:
        InputError: names the file and what is wrong with it.
    """
    if path.is_dir():
        return _read_png(path, label, sequence)
    return _read_nifti(path, label) if is_nifti(path) else _read_seg(path, label)


def _liver(values: NDArray[Any], label: int | None, path: Path) -> NDArray[np.bool_]:
    """Where the liver is, if only one value can be meant."""
    if values.dtype.kind == "f":
        between = values[np.isfinite(values) & (values != np.round(values))]
        if between.size:
            raise InputError(
                f"{path}: holds values such as {between[0]:.3g}, which are no labels; of a probability map write the "
                "mask first: 1 where it is above 0.5"
            )
    if label is not None:
        return np.asarray(values == label)
    if not np.isfinite(values).all():
        raise InputError(f"{path}: holds values that are not finite; repair the file, or name the liver with --label")
    found = np.unique(values[values != 0])
    if len(found) > 1:
        shown = ", ".join(f"{value:g}" for value in found[:8])
        raise InputError(f"{path}: holds the labels {shown}; name the liver's with --label")
    return np.asarray(values != 0)


def _read_nifti(path: Path, label: int | None) -> Mask:
    values, affine, _ = load_nifti(path)
    return Mask(path, _liver(values, label, path), affine)


def _read_seg(path: Path, label: int | None) -> Mask:
    import highdicom

    try:
        seg = highdicom.seg.segread(path)
    except InvalidDicomError:
        raise InputError(
            f"{path}: is neither NIfTI (.nii, .nii.gz) nor DICOM SEG; name a mask, or the folder that PNG lie in"
        ) from None
    except Exception as error:
        raise InputError(f"{path}: can't be read as DICOM SEG ({error}); name a segmentation object") from error
    number = label if label is not None else _liver_segment(seg, path)
    if seg.get_volume_geometry(allow_missing_positions=True) is None:
        raise InputError(f"{path}: {_why_no_volume(seg)}; resample images and mask to such a stack (NIfTI will do)")
    try:
        volume = seg.get_volume(segment_numbers=[number], combine_segments=True, relabel=True)
    except Exception as error:
        if seg.SegmentationType == "FRACTIONAL":
            raise InputError(f"{path}: SegmentationType is FRACTIONAL, a probability map; name its mask") from error
        raise InputError(f"{path}: segment {number} can't be read as a volume ({error})") from error
    return Mask(path, np.asarray(volume.array) != 0, np.asarray(volume.affine, np.float64), sparse=True)


def _liver_segment(seg: Any, path: Path) -> int:
    """The number of the segment that is coded or called liver, or of the only one."""
    described = {number: seg.get_segment_description(number) for number in seg.segment_numbers}
    for number, segment in described.items():
        code = segment.segmented_property_type
        if code.value in LIVER_CODES or "liver" in (code.meaning.lower(), segment.segment_label.lower()):
            return int(number)
    if len(described) == 1:
        return int(next(iter(described)))
    labels = ", ".join(f"{number} {segment.segment_label}" for number, segment in described.items())
    raise InputError(f"{path}: holds the segments {labels}, none of them liver; name its number with --label")


def _why_no_volume(seg: Any) -> str:
    """What keeps the frames of a DICOM SEG from being a stack of slices."""
    wanted = "only slices that lie straight above one another, equally far apart, can be compared"
    if seg.get_volume_geometry(allow_missing_positions=True, perpendicular_tol=1.0) is not None:
        return f"its slices are shifted against one another (as by a tilted gantry); {wanted}"
    return f"its slices don't lie on one regular stack; {wanted}"


def _read_png(folder: Path, label: int | None, sequence: chaos.Sequence | None) -> Mask:
    """A folder of PNG as (columns, rows, slices) by rank of the names; geometry from the DICOM beside `Ground`."""
    files = _png_files(folder)
    slices = []
    for file in files:
        try:
            with Image.open(file) as opened:
                slices.append(np.asarray(opened.convert("L")))
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"{file}: can't be read as PNG ({error}); export it again") from error
        if slices[-1].shape != slices[0].shape:
            raise InputError(
                f"{file}: is {slices[-1].shape}, but {files[0].name} is {slices[0].shape}; mend the folder"
            )
    values = np.stack(slices).transpose(2, 1, 0)
    if label is None and folder.parent.name in chaos.MR_FOLDERS:
        liver = (values >= chaos.MR_LIVER.start) & (values < chaos.MR_LIVER.stop)
    elif label is None and folder.name == "Ground":
        liver = values >= chaos.CT_LIVER.start
    else:
        liver = _liver(values, label, folder)
    return Mask(folder, liver, _affine_beside(folder, len(files), sequence))


def _images_beside(ground: Path, sequence: chaos.Sequence | None) -> Path:
    """Where the images of a `Ground` folder lie: those of `sequence`, if the masks are its; else the first there."""
    shared = {name: images for name, (home, images) in chaos.SEQUENCE_FOLDERS.items() if home == ground.parent.name}
    if sequence in shared:
        return ground.parent / shared[sequence]
    folders = [ground.parent / images for images in shared.values()]
    return next((folder for folder in folders if folder.is_dir()), ground.parent / "DICOM_anon")


def _affine_beside(folder: Path, count: int, sequence: chaos.Sequence | None) -> NDArray[np.float64] | None:
    """The affine of the images that a `Ground` folder belongs to, in order of their names, or None."""
    images = _images_beside(folder, sequence)
    if folder.name != "Ground" or not images.is_dir():
        return None
    files = sorted(item for item in images.iterdir() if item.is_file() and not item.name.startswith("."))
    if len(files) != count:
        raise InputError(
            f"{folder}: {counted(count, 'mask')} for {counted(len(files), 'image')} in {images}; complete the folders"
        )
    try:
        order, affine = dicom.grid_of(files)
    except InputError as error:
        raise InputError(
            f"{error.problem}; it is one of the images that say where the masks in {folder} lie: mend it, or name a "
            "mask with geometry of its own (NIfTI, DICOM SEG)"
        ) from error
    if order == list(range(count)):
        return affine
    if order == list(reversed(range(count))):
        # The names run from head to feet: the first one's slice is the last along the normal.
        return affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, count - 1], [0, 0, 0, 1.0]])
    raise InputError(
        f"{images}: the names don't follow the slices' positions; name a mask with geometry (NIfTI, DICOM SEG)"
    )


def pair(predicted: Mask, true: Mask, spacing: tuple[float, float, float] | None) -> MaskPair:
    """Both masks on one grid.

    A mask without geometry (PNG) takes the other's, if their sizes agree; `spacing` (slice, row, column in mm) serves
    where neither has one. A grid may lie obliquely in the patient, for distances are the same there; but its axes must
    be perpendicular to one another.

    Raises:
        InputError: when sizes or geometry don't agree, or the grid is sheared; names the files.
    """
    if predicted.affine is None and true.affine is None:
        if spacing is None:
            raise InputError(f"{true.path} and {predicted.path}: neither says how large a voxel is; give --spacing")
        if not all(math.isfinite(value) and value > 0 for value in spacing):
            raise InputError(f"--spacing is {list(spacing)}, expected three positive numbers in mm: slice, row, column")
        predicted = replace(predicted, affine=np.diag([spacing[2], spacing[1], spacing[0], 1.0]))
    arrays, placed = [], []
    for mask, other in ((predicted, true), (true, predicted)):
        turned, affine = _turn(mask if mask.affine is not None else replace(mask, affine=_borrow(other)))
        arrays.append(turned)
        placed.append(affine)
    for own in (0, 1, 0):  # of two sparse masks, each may show slices that the other left out
        if (predicted, true)[own].sparse:
            arrays[own], placed[own] = _spread(arrays[own], placed[own], len(arrays[1 - own]), placed[1 - own])
    if arrays[0].shape != arrays[1].shape:
        raise InputError(
            f"{predicted.path}: {arrays[0].shape} slices, rows and columns, but {true.path} has {arrays[1].shape}; "
            "put the prediction on the truth's grid"
        )
    apart = farthest_apart(arrays[0].shape[::-1], *placed)
    voxel = np.linalg.norm(placed[1][:3, :3], axis=0)
    if not apart <= 0.1 * voxel.min():
        raise InputError(
            f"{predicted.path}: lies up to {apart:.2f} mm from {true.path}; their geometry must agree: put the "
            "prediction on the truth's grid"
        )
    shear = grid_shear(placed[1])
    if shear > SHEAR_TOLERANCE_DEGREES:
        raise InputError(
            f"{true.path}: its slices are shifted against one another by {shear:.1f} degrees (as by a tilted gantry), "
            "so that distances can't be measured; resample images and masks to slices straight above one another"
        )
    return MaskPair(arrays[0], arrays[1], (float(voxel[2]), float(voxel[1]), float(voxel[0])))


def _turn(mask: Mask) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """The mask in display orientation, and its affine there."""
    assert mask.affine is not None
    try:
        (turned,), affine = to_display([mask.voxels], mask.affine)
    except ValueError as error:
        raise InputError(f"{mask.path}: {error}, so the orientation is unknown; repair the header") from error
    return turned, affine


def _borrow(other: Mask) -> NDArray[np.float64]:
    """The affine (of column, row, slice) of a folder of PNG that has none: by rank of the names against another such
    folder, as a radiologist sees it, from the feet to the head, against anything else."""
    assert other.affine is not None
    return other.affine if other.path.is_dir() else _turn(other)[1]


def _spread(
    array: NDArray[np.bool_], affine: NDArray[np.float64], count: int, grid: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """A sparse mask with the slices put back that it left out of a grid of `count` slices; on another, itself."""
    exact = (np.linalg.inv(grid) @ affine)[2, 2:] @ np.array([np.arange(len(array)), np.ones(len(array))])
    places = np.round(exact).astype(int)
    if np.abs(exact - places).max() > 0.1 or len(set(places)) < len(places):
        return array, affine
    first, last = min(int(places.min()), 0), max(int(places.max()) + 1, count)
    full = np.zeros((last - first, *array.shape[1:]), bool)
    full[places - first] = array
    moved = affine.copy()
    moved[:3, 2] = grid[:3, 2]
    moved[:3, 3] = affine[:3, 3] - (places[0] - first) * grid[:3, 2]
    return full, moved
