"""Study and Volume: what every source yields, whatever it read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from fastliver.errors import InputError

if TYPE_CHECKING:
    from fastliver.data.series import SeriesPlan

Modality = Literal["CT", "MR"]


@dataclass(frozen=True)
class Volume:
    """One series in display orientation: row 0 anterior, column 0 the patient's right, slices ascending to the head.

    Attributes:
        image: (D, H, W) float32; HU for CT, the scanner's own units for MR.
        label: (D, H, W) uint8, 1 where liver is, or None for a series without labels.
        affine: (4, 4) float64, maps (column, row, slice) to patient coordinates in mm (LPS, DICOM PS3.3 C.7.6.2).
        heights: (D,) float64, each slice's own position to the head in mm: where slices are missing it is the affine
            that is wrong.
        sources: the file each slice was read from.
        frames: of DICOM, which frame of that file each slice is, from 1 as DICOM counts; otherwise empty.
        ignored: numbers of the slices whose label says to learn nothing from them, or from a part of them.
        skipped: "file: reason" of every file of the series left out with `skip_bad`.
        notes: what a user should know of the series and can't see from the counts.
    """

    image: NDArray[np.float32]
    label: NDArray[np.uint8] | None
    affine: NDArray[np.float64]
    heights: NDArray[np.float64]
    sources: tuple[Path, ...]
    frames: tuple[int, ...] = ()
    ignored: tuple[int, ...] = ()
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between slices, rows and columns."""
        column, row, slice_ = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(slice_), float(row), float(column)


@dataclass(frozen=True)
class Study:
    """One patient's series, read when asked.

    Attributes:
        modality: "CT" or "MR".
        patient: identifies the patient within the source; splits keep a patient's series together.
        series: what the series is called, for messages.
        paths: every file that decides what `read` gives.
        labelled: whether `read` gives a label.
        options: what else decides what `read` gives, such as the label that is liver.
        read: reads the series; raises InputError that names the file and the field.
        plan: for DICOM, what `read` would do, from the headers alone; raises InputError alike.
        may_ignore: whether its volume may have slices to be ignored.
        liver: what of its label is liver, in words for messages.
        skipped: "file: reason" of what was left out while the series was looked for, be it of another series.
        notes: what else was seen then. Both are the user's to know whether or not the series can be read.
    """

    modality: Modality
    patient: str
    series: str
    paths: tuple[Path, ...]
    labelled: bool
    read: Callable[[], Volume]
    options: str = ""
    plan: "Callable[[], SeriesPlan] | None" = None
    may_ignore: bool = False
    liver: str = ""
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def check_labels(self) -> str:
        """The remedy where its label shows no liver."""
        return "check the labels" + (f", where liver is {self.liver}" if self.liver else "")


def unreadable(modality: Modality, patient: str, series: str, labelled: bool, message: str) -> Study:
    """A study of which it is known beforehand that it can't be read: `read` raises InputError with the message."""

    def read() -> NoReturn:
        raise InputError(message)

    return Study(modality, patient, series, (), labelled, read)
