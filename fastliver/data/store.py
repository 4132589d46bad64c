"""SliceStore: a folder of ready slices, built once and memory-mapped afterwards.

Files: `images.npy` (N, size, size) float16 in [-1, 1]; `labels.npy` (N, size, size) uint8; `index.json`, one entry a
slice; `store.json`, what the store was built from and how. docs/slice-store.md describes every field.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastliver.data.intensity import IntensityRule
from fastliver.data.resize import Fit
from fastliver.data.study import Modality, Study, Volume
from fastliver.errors import InputError
from fastliver.files import read_json, write_json

if TYPE_CHECKING:
    # A store is opened without pydicom and the decoders, which the pipeline needs.
    from fastliver.data.pipeline import PreparedStudy

FORMAT = 3


@dataclass(frozen=True)
class SliceEntry:
    """One slice of a store.

    Attributes:
        patient: splits keep a patient's slices together.
        study: position of its study in `store.json`'s list of studies.
        slice: number within the study, ascending to the head.
        z: position along the patient's axis in mm.
        spacing: (slice, row, column) spacing of the source in mm.
        source: file that it was read from.
        liver: number of liver pixels in the stored label.
    """

    patient: str
    study: int
    slice: int
    z: float
    spacing: tuple[float, float, float]
    source: str
    liver: int


@dataclass(frozen=True)
class SliceStore:
    """An opened store; `images` and `labels` are memory maps that can't be written through.

    Attributes:
        path: its folder.
        meta: `store.json`; docs/slice-store.md describes every field.
        entries: one for each slice.
        images: (N, size, size) in [-1, 1].
        labels: (N, size, size), 1 where liver is.
    """

    path: Path
    meta: dict[str, Any]
    entries: tuple[SliceEntry, ...]
    images: NDArray[np.float16]
    labels: NDArray[np.uint8]

    @staticmethod
    def open(path: Path) -> "SliceStore":
        """Open a store.

        Raises:
            InputError: when the folder isn't a store, is of another format, or its files disagree.
        """
        if not (path / "store.json").exists():
            raise InputError(
                f"{path}: no slice store (store.json is missing); name another folder, or, if "
                "fastliver wrote it, delete it and run again"
            )
        try:
            meta = read_json(path / "store.json")
            if meta["format"] != FORMAT:
                raise InputError(
                    f"{path / 'store.json'}: format is {meta['format']}, expected {FORMAT}; delete the store"
                )
            entries = tuple(
                SliceEntry(**{**entry, "spacing": tuple(entry["spacing"])}) for entry in read_json(path / "index.json")
            )
            images = np.load(path / "images.npy", mmap_mode="r", allow_pickle=False)
            labels = np.load(path / "labels.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a whole slice store ({error}); delete it and run again") from error
        shape = (len(entries), meta["size"], meta["size"])
        if images.shape != shape or labels.shape != shape:
            raise InputError(
                f"{path}: images {images.shape} and labels {labels.shape}, expected {shape}; delete the store"
            )
        return SliceStore(path, meta, entries, images, labels)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def modality(self) -> Modality:
        """Of the images: "CT" or "MR"."""
        return self.meta["modality"]

    @property
    def labelled(self) -> bool:
        """Whether the labels mean anything; those of an unlabelled store are all zero."""
        return self.meta["labelled"]

    @property
    def patients(self) -> list[str]:
        """Each patient once, in order."""
        return list(dict.fromkeys(entry.patient for entry in self.entries))

    def liver_slices(self) -> NDArray[np.intp]:
        """(n,) numbers of the slices to learn from: those that show liver, or all where there are no labels."""
        keep = [not self.labelled or entry.liver > 0 for entry in self.entries]
        return np.flatnonzero(keep)


class _NpyWriter:
    """Appends arrays to a .npy file whose length becomes known at the end.

    Plain writes instead of a memory map: a full disk is then an OSError, not a signal that kills the process.
    """

    def __init__(self, path: Path, item_shape: tuple[int, ...], dtype: type) -> None:
        self.file: BinaryIO = open(path, "wb")
        self.item_shape, self.dtype, self.count = item_shape, np.dtype(dtype), 0
        self._header()

    def _header(self) -> None:
        shape = (self.count, *self.item_shape)
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        # numpy leaves room in the header for the first axis to grow in place.
        np.lib.format.write_array_header_1_0(self.file, header)

    def append(self, array: NDArray) -> None:
        with self._abandoned_on_error():
            self.file.write(np.ascontiguousarray(array, self.dtype).data)
        self.count += len(array)

    def close(self) -> None:
        with self._abandoned_on_error():
            self.file.seek(0)
            self._header()
            self.file.close()

    @contextmanager
    def _abandoned_on_error(self) -> Iterator[None]:
        """Close the file where it can't be written: Python would try again when it is forgotten, and print that."""
        try:
            yield
        except OSError:
            with suppress(OSError):
                self.file.close()
            raise


class StoreWriter:
    """Writes a new store, study by study; `SliceStore.open` reads it once `finish` was called."""

    def __init__(self, folder: Path, modality: Modality, size: int, rule: IntensityRule, labelled: bool) -> None:
        self.folder = folder
        self.meta: dict[str, Any] = {
            "format": FORMAT,
            "modality": modality,
            "size": size,
            "intensity": asdict(rule),
            "labelled": labelled,
            "studies": [],
        }
        self.entries: list[dict[str, Any]] = []
        self.images = _NpyWriter(folder / "images.npy", (size, size), np.float16)
        self.labels = _NpyWriter(folder / "labels.npy", (size, size), np.uint8)

    def add(
        self,
        images: NDArray,
        labels: NDArray[np.uint8],
        study: dict[str, Any],
        entries: Sequence[dict[str, Any]],
    ) -> None:
        """Add one study's slices: images (n, size, size) in [-1, 1], labels alike, and an entry for each."""
        self.images.append(images)
        self.labels.append(labels)
        number = len(self.meta["studies"])
        liver = np.count_nonzero(labels, axis=(1, 2))
        self.meta["studies"].append(study)
        self.entries += [
            {**entry, "study": number, "liver": int(count)} for entry, count in zip(entries, liver, strict=True)
        ]

    def finish(self, **meta: Any) -> None:
        """Write the index and `store.json` with further fields; the store is whole only after this."""
        self.images.close()
        self.labels.close()
        write_json(self.folder / "index.json", self.entries)
        write_json(self.folder / "store.json", {**self.meta, **meta})


def study_records(
    study: Study,
    series: "Volume | PreparedStudy",
    shape: tuple[int, ...],
    fit: Fit,
    numbers: Iterable[int],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What a store says of a study, and of each of its slices that goes into it; see `StoreWriter.add`.

    Args:
        study: which.
        series: its geometry and sources.
        shape: (D, H, W) of the series.
        fit: how its slices lie in the squares.
        numbers: the slices that are kept, ascending.
    """
    about = {
        "patient": study.patient,
        "series": study.series,
        "shape": list(shape),
        "source_affine": series.affine.tolist(),
        "affine": fit.affine(series.affine).tolist(),
        "scaled": list(fit.scaled),
        "offset": list(fit.offset),
    }
    slices = [
        {
            "patient": study.patient,
            "slice": int(number),
            "z": round(float(series.heights[number]), 4),
            "spacing": [round(value, 6) for value in series.spacing],
            "source": str(series.sources[number]),
        }
        for number in numbers
    ]
    return about, slices
