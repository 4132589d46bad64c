"""From studies to squares: modality LUT, window or percentiles, antialiased resize, half precision in [-1, 1].

Three roads lead there, and end within the rounding of half precision of each other:

- "threads" (slices.py) reads DICOM on a CPU;
- "dali" (dali.py) reads DICOM with DALI, on a GPU where there is one. On a CPU it takes longer than threads;
- what is no DICOM is read as a volume (`Study.read`); that is the definition of what the others do.
"""

import os
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fastliver.data.dali import DaliError, DaliGraphs, DaliSlices, dali_is_there
from fastliver.data.intensity import IntensityRule
from fastliver.data.resize import Fit
from fastliver.data.series import SeriesPlan
from fastliver.data.slices import SeriesSlices, to_half
from fastliver.data.study import Study
from fastliver.errors import InputError

Road = Literal["auto", "threads", "dali"]
"""Which road DICOM takes; "auto": DALI where there are a GPU and DALI, else threads, and threads where DALI fails."""

MOST_THREADS = 16
"""More have nothing to do: they read and decode up to here faster than a GPU takes it."""


@dataclass(frozen=True)
class PreparedStudy:
    """A study as a store keeps it.

    Attributes:
        study: which.
        numbers: of the series' slices, those that are kept.
        images: (len(numbers), size, size) float16 in [-1, 1].
        labels: (len(numbers), size, size) uint8, all zero where the study has none.
        shape: (D, H, W) of the series.
        fit: how its slices lie in the squares.
        affine: of (column, row, slice) of the series to LPS mm.
        spacing: between slices, rows and columns in mm.
        heights: (D,) position of each slice to the head in mm.
        sources: the file each slice was read from.
        skipped: "file: reason" of every file left out.
        notes: what a user should know of the series.
    """

    study: Study
    numbers: Sequence[int]
    images: NDArray[np.float16]
    labels: NDArray[np.uint8]
    shape: tuple[int, int, int]
    fit: Fit
    affine: NDArray[np.float64]
    spacing: tuple[float, float, float]
    heights: NDArray[np.float64]
    sources: tuple[Path, ...]
    skipped: tuple[str, ...]
    notes: tuple[str, ...]


class Pipeline:
    """Prepares studies in order, the next one being read while one is handed over.

    Args:
        rule: how grey values become [-1, 1].
        size: side of the squares in pixels.
        road: how DICOM is read.
        threads: that read; by default as many as there are cores.
        device_id: number of the GPU for "dali"; by default the first, or the CPU where there is none.

    Raises:
        InputError: when DALI is asked for and isn't there.
    """

    def __init__(
        self,
        rule: IntensityRule,
        size: int,
        road: Road = "auto",
        threads: int | None = None,
        device_id: int | None = None,
    ) -> None:
        self.rule, self.size = rule, size
        on_gpu = _gpu_is_there()
        self.may_fall_back = road == "auto"
        self.road = road if road != "auto" else "dali" if on_gpu and dali_is_there() else "threads"
        self.threads = threads or min(_cores(), MOST_THREADS)
        self.graphs: DaliGraphs | None = None
        if self.road == "dali":
            self.graphs = DaliGraphs(size, 0 if device_id is None and on_gpu else device_id, self.threads)

    def prepare(
        self, studies: Sequence[Study], shard: tuple[int, int] = (0, 1)
    ) -> Generator[PreparedStudy | InputError]:
        """Each study prepared, in order; or why it can't be read, which doesn't end the others.

        Args:
            studies: what to read.
            shard: (k, n) gives studies k, k + n, k + 2 n, ... A study is never divided: the percentiles of an MR
                volume and the order of its slices belong to all of them.

        Raises:
            InputError: when DALI itself fails and was asked for by name.
        """
        left = list(studies[shard[0] :: shard[1]])
        try:
            for outcome in self._prepare(tuple(left)):
                yield outcome
                left.pop(0)
        except DaliError as error:
            if not self.may_fall_back:
                raise InputError(str(error)) from error
            warnings.warn(f"{error}. Threads read the rest of this run's DICOM", RuntimeWarning, stacklevel=2)
            self.graphs, self.road = None, "threads"
            yield from self._prepare(left)

    def _prepare(self, studies: Sequence[Study]) -> Generator[PreparedStudy | InputError]:
        with ThreadPoolExecutor(self.threads, "slices") as pool:
            under_way: deque[Callable[[], PreparedStudy] | InputError] = deque()
            try:
                for study in studies:
                    under_way.append(self._begin(study, pool))
                    if len(under_way) > 1:
                        yield _outcome(under_way.popleft())
                while under_way:
                    yield _outcome(under_way.popleft())
            finally:
                pool.shutdown(cancel_futures=True)

    def _begin(self, study: Study, pool: ThreadPoolExecutor) -> Callable[[], PreparedStudy] | InputError:
        """Start to read a study; what is given back waits for the rest."""
        if study.plan is None:
            return partial(self._from_volume, study)
        try:
            plan = study.plan()
        except InputError as error:
            return error
        return partial(self._from_plan, study, plan, self._start(plan, pool), pool)

    def _start(self, plan: SeriesPlan, pool: ThreadPoolExecutor) -> "SeriesSlices | DaliSlices":
        if self.graphs is not None:
            return DaliSlices(plan, self.rule, self.graphs, pool)
        return SeriesSlices(plan, self.rule, self.size, pool)

    def _from_plan(
        self, study: Study, plan: SeriesPlan, slices: "SeriesSlices | DaliSlices", pool: ThreadPoolExecutor
    ) -> PreparedStudy:
        while failed := slices.failed():
            plan = plan.without(failed)
            slices = self._start(plan, pool)
        images, labels = slices.result()
        return PreparedStudy(
            study=study,
            numbers=range(len(images)),
            images=images,
            labels=labels,
            shape=(len(images), *slices.fit.shape),
            fit=slices.fit,
            affine=plan.affine,
            spacing=plan.spacing,
            heights=plan.heights,
            sources=tuple(item.image.path for item in plan.slices),
            skipped=plan.skipped,
            notes=plan.notes,
        )

    def _from_volume(self, study: Study) -> PreparedStudy:
        volume = study.read()
        depth, rows, columns = volume.image.shape
        fit = Fit.of((rows, columns), volume.spacing[1:], self.size)
        kept = [number for number in range(depth) if number not in volume.ignored]
        if not kept:
            raise InputError(f"{study.series}: all its slices are, or are in part, to be ignored; leave it out")
        images = to_half(fit.image(self.rule.apply(volume.image)[kept]))
        return PreparedStudy(
            study=study,
            numbers=kept,
            images=images,
            labels=np.zeros(images.shape, np.uint8) if volume.label is None else fit.label(volume.label[kept]),
            shape=(depth, rows, columns),
            fit=fit,
            affine=volume.affine,
            spacing=volume.spacing,
            heights=volume.heights,
            sources=volume.sources,
            skipped=volume.skipped,
            notes=volume.notes,
        )


def _outcome(begun: Callable[[], PreparedStudy] | InputError) -> PreparedStudy | InputError:
    if isinstance(begun, InputError):
        return begun
    try:
        return begun()
    except InputError as error:
        return error


def _gpu_is_there() -> bool:
    import torch

    return torch.cuda.is_available()


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
