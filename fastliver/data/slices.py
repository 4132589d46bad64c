"""Slices of a series on a CPU: several threads read, decode, clip and resize, each a slice of its own.

Threads, not processes: reading and the few large NumPy calls that a slice takes let go of Python's lock, and threads
start at once and hand a slice over without copying it. On two busy cores one thread made 870 slices a second of
512x512, three made 1,060, and two processes 400, after seconds to start. What decompresses runs in processes of its own
anyway (decoding.py).
"""

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastliver.data.intensity import IntensityRule, StoredWindow, ValueCounts, count_values
from fastliver.data.pixels import ImageFile, decode, grey, raw_pixels
from fastliver.data.resize import BACKGROUND, Fit
from fastliver.data.series import PlannedSlice, SeriesPlan, read_mask
from fastliver.errors import InputError

Squares = tuple[NDArray[np.float16], NDArray[np.uint8]]
"""(D, size, size) images in [-1, 1] and their labels, all zero where a series has none."""


class SeriesSlices:
    """A series under way on the threads of a pool, which begin at once.

    Args:
        plan: what to read.
        rule: how grey values become [-1, 1].
        size: side of the squares in pixels.
        pool: threads that do the work.
    """

    def __init__(self, plan: SeriesPlan, rule: IntensityRule, size: int, pool: Executor) -> None:
        self.plan, self.rule, self.pool = plan, rule, pool
        self.fit = fit_of(plan, size)
        count = len(plan.slices)
        self.images = np.full((count, size, size), BACKGROUND, np.float32)
        self.labels = np.zeros((count, size, size), np.uint8)
        self.waiting: dict[int, NDArray[Any]] = {}
        self.counted: dict[int, ValueCounts] = {}
        self.started = {tuple(places): pool.submit(self._read, places) for places in tasks(plan)}

    def failed(self) -> dict[Path, InputError]:
        """What couldn't be read, and why; waits until that is known."""
        return failures(self.plan, self.started)

    def result(self) -> Squares:
        """Images (D, size, size) in [-1, 1] and labels of a series of which nothing failed, in the plan's order."""
        if self.rule.needs_volume:
            limits = self.rule.limits([self.counted[place] for place in range(len(self.images))])
            for filled in [self.pool.submit(self._fill, place, limits) for place in range(len(self.images))]:
                filled.result()
        return to_half(self.images), self.labels

    def _read(self, places: list[int]) -> None:
        items = [self.plan.slices[place] for place in places]
        for place, item, pixels in zip(places, items, stored_values(items), strict=True):
            label = stored_label(self.plan, item)
            if label is not None:
                self.labels[place] = self.fit.label(self.plan.turn(label)[None])[0]
            self.waiting[place] = pixels
            if self.rule.needs_volume:
                self.counted[place] = counted(pixels, item)
            else:
                self._fill(place, (self.rule.low, self.rule.high))

    def _fill(self, place: int, limits: tuple[float, float]) -> None:
        stored = window(self.plan.slices[place], limits)
        image = self.plan.turn(self.waiting.pop(place)).astype(np.float32)
        np.clip(image, stored.low, stored.high, out=image)
        small = self.fit.resize(image)
        small *= stored.scale
        small += stored.shift
        np.clip(small, -1.0, 1.0, out=self.fit.inside(self.images[place]))


def to_half(images: NDArray[np.float32]) -> NDArray[np.float16]:
    """Rounded as NumPy does it, but by PyTorch, which takes a thirtieth of the time."""
    import torch

    return torch.from_numpy(images).half().numpy()


def fit_of(plan: SeriesPlan, size: int) -> Fit:
    """How the slices of a series lie in squares."""
    rows, columns = plan.shape[::-1] if plan.transpose else plan.shape
    return Fit.of((rows, columns), plan.spacing[1:], size)


def tasks(plan: SeriesPlan) -> list[list[int]]:
    """Places of the slices that are read together: raw ones each alone, those of another file as it is decoded."""
    return [
        part
        for image, places in plan.files()
        for part in ([[place] for place in places] if image.road == "raw" else [places])
    ]


def failures(plan: SeriesPlan, started: dict[tuple[int, ...], Future[None]]) -> dict[Path, InputError]:
    """What couldn't be read of a series whose `tasks` were started; the first failure unless it may be left out."""
    found: dict[Path, InputError] = {}
    for places, future in started.items():
        try:
            future.result()
        except InputError as error:
            found[plan.slices[places[0]].image.path] = error
            if not plan.skip_bad:
                for other in started.values():
                    other.cancel()
                break
    return found


def raw_frame(image: ImageFile, number: int) -> bytes:
    """The bytes of one frame of a file on the raw road.

    Raises:
        InputError: when they can't be read.
    """
    size = image.format.frame_bytes
    try:
        with open(image.path, "rb", buffering=0) as file:
            file.seek(image.offset + number * size)
            content = file.read(size)
    except OSError as error:
        raise InputError(f"{image.path}: PixelData can't be read ({error}); copy the file again") from error
    if len(content) != size:
        raise InputError(f"{image.path}: PixelData ends {size - len(content)} bytes too early; copy the file again")
    return content


def stored_values(items: Sequence[PlannedSlice]) -> list[NDArray[Any]]:
    """(rows, columns) integers of the slices of one of the `tasks`, as their file has them."""
    image = items[0].image
    if image.road == "raw":
        return [raw_pixels(raw_frame(image, item.number), image.format)[0] for item in items]
    decoded = decode(image)
    return [decoded[item.number] for item in items]


def stored_label(plan: SeriesPlan, item: PlannedSlice) -> NDArray[np.uint8] | None:
    """(rows, columns) label of a slice as its mask has it; None where there is none."""
    return None if item.mask is None else read_mask(item.mask, plan.shape, item.image.path, plan.liver)


def counted(pixels: NDArray[Any], item: PlannedSlice) -> ValueCounts:
    """The grey values of a slice, each once, and how often each occurs."""
    values, counts = count_values(pixels)
    return grey(values.astype(pixels.dtype), item.image.format, item.frame), counts


def window(item: PlannedSlice, limits: tuple[float, float]) -> StoredWindow:
    """The window of a slice's stored values whose `limits` are grey values."""
    slope, intercept, written = item.frame.slope, item.frame.intercept, item.image.format
    if written.inverted:
        slope, intercept = -slope, intercept + slope * sum(written.value_range)
    info = np.iinfo(written.dtype)
    return StoredWindow.of(limits, slope, intercept, (int(info.min), int(info.max)))
