"""Slices through NVIDIA DALI: one graph for a CPU and a GPU.

The bytes of a file become samples, are clipped while they are still integers, resized, mapped to [-1, 1], padded and
rounded to half precision; labels take the same geometry and filter. On a CPU this is the tested twin of
`slices.py`, which is faster there (see pipeline.py). The road over a GPU is this graph with another `device_id`; it has
not run on one yet.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import groupby, islice
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastliver.data.intensity import IntensityRule, StoredWindow, ValueCounts
from fastliver.data.pixels import ImageFile, PixelFormat, codestreams, decode, raw_pixels
from fastliver.data.resize import BACKGROUND, MORE_THAN_HALF, Fit
from fastliver.data.series import SeriesPlan
from fastliver.data.slices import (
    Squares,
    counted,
    failures,
    fit_of,
    raw_frame,
    stored_label,
    stored_values,
    tasks,
    window,
)
from fastliver.errors import InputError

BATCH = 32
PREFETCH = 2
"""Batches that are under way at once."""


@dataclass(frozen=True)
class Encoding:
    """How the bytes of a sample become integers (DICOM PS3.5 section 8.1.1).

    Attributes:
        dtype: of the stored values.
        bits_stored: meaningful bits.
        shift: bits below them.
        big_endian: byte order.
        codestream: whether the bytes are one that `fn.decoders.image` knows, instead of samples.
    """

    dtype: str
    bits_stored: int
    shift: int = 0
    big_endian: bool = False
    codestream: bool = False

    @staticmethod
    def of(pixel_format: PixelFormat) -> "Encoding":
        """That of raw pixels."""
        below = pixel_format.high_bit + 1 - pixel_format.bits_stored
        return Encoding(pixel_format.dtype.name, pixel_format.bits_stored, below, pixel_format.big_endian)

    @staticmethod
    def decoded(pixel_format: PixelFormat) -> "Encoding":
        """That of integers which lie in this machine's memory."""
        return Encoding(pixel_format.dtype.name, 8 * pixel_format.dtype.itemsize)


@dataclass(frozen=True)
class Sample:
    """One slice on its way into the graph.

    Attributes:
        data: uint8, its bytes as the file has them.
        encoding: what they mean.
        shape: (rows, columns) as stored.
        window: clips stored values and maps them to [-1, 1].
        transposed: whether display orientation swaps rows and columns, before any flip.
        flipped: whether it reverses (rows, columns).
        fit: how the slice in display orientation lies in the square.
        label: (rows, columns) uint8 as stored, or None.
    """

    data: NDArray[np.uint8]
    encoding: Encoding
    shape: tuple[int, int]
    window: StoredWindow
    transposed: bool
    flipped: tuple[bool, bool]
    fit: Fit
    label: NDArray[np.uint8] | None = None

    @property
    def graph(self) -> tuple[Encoding, bool, bool, bool]:
        """What a graph is built for: encoding, transposition, whole bounds, labels."""
        return self.encoding, self.transposed, self.window.whole, self.label is not None


RESIZABLE = ("uint8", "int16", "uint16")
"""Integers that DALI resizes as they are."""


class DaliError(Exception):
    """DALI itself failed, on no account of one image."""


class _Batches:
    """What a graph reads from: hands on batches while there are any."""

    def __init__(self) -> None:
        self.waiting: Iterator[list[Sample]] = iter(())

    def __call__(self) -> tuple[Any, ...]:
        batch = next(self.waiting)
        encoding, _, whole, labelled = batch[0].graph
        bound = encoding.dtype if whole else np.float32
        columns: list[Any] = [
            [sample.data for sample in batch],
            np.array([sample.window.low for sample in batch], bound),
            np.array([sample.window.high for sample in batch], bound),
            np.array([sample.window.scale for sample in batch], np.float32),
            np.array([sample.window.shift for sample in batch], np.float32),
            np.array([sample.flipped for sample in batch], np.int32),
            np.array([sample.fit.scaled for sample in batch], np.float32),
            -np.array([sample.fit.offset for sample in batch], np.int32),
        ]
        if not encoding.codestream:
            columns.append(np.array([(*sample.shape, 1) for sample in batch], np.int32))
        if labelled:
            columns.append([sample.label[..., None] for sample in batch if sample.label is not None])
        return tuple(columns)


def _failure(error: Exception) -> DaliError:
    # DALI tells where in the graph it was before it tells what went wrong.
    reason = " ".join(str(error).rpartition("Encountered:")[2].split())
    return DaliError(f"DALI failed ({reason[:200]}); read without it: --reader threads")


def _in_batches(samples: Iterator[Sample], size: int) -> Iterator[list[Sample]]:
    while batch := list(islice(samples, size)):
        yield batch


class DaliGraphs:
    """Graphs for one size of square, built as samples ask for them.

    Args:
        size: side of the square in pixels.
        device_id: number of the GPU, or None for the CPU.
        threads: of DALI's own.
        batch: slices at a time.

    Raises:
        InputError: when DALI isn't installed.
    """

    def __init__(self, size: int, device_id: int | None, threads: int = 2, batch: int = BATCH) -> None:
        self.dali = import_dali()
        self.size, self.device_id, self.threads, self.batch = size, device_id, threads, batch
        self.graphs: dict[tuple[Encoding, bool, bool, bool], tuple[_Batches, Any]] = {}
        self.tried: dict[tuple[str, str, int], bool] = {}
        self.lock = Lock()

    def run(self, samples: Iterator[Sample]) -> Iterator[tuple[NDArray[np.float16], NDArray[np.uint8] | None]]:
        """Every slice in order as (size, size) float16 in [-1, 1], and its label alike or None.

        Raises:
            DaliError: when a graph can't be built or run.
        """
        for key, alike in groupby(samples, lambda sample: sample.graph):
            try:
                if key not in self.graphs:
                    self.graphs[key] = self._build(*key)
                batches, graph = self.graphs[key]
            except Exception as error:  # DALI raises errors of Python's own kinds
                raise _failure(error) from error
            batches.waiting = _in_batches(alike, self.batch)
            while True:
                try:
                    outputs = graph.run()
                except StopIteration:
                    graph.reset()
                    break
                except Exception as error:
                    raise _failure(error) from error
                arrays = [self._on_host(output) for output in outputs]
                labels = list(arrays[1][..., 0]) if len(arrays) > 1 else [None] * len(arrays[0])
                yield from zip(arrays[0][..., 0], labels, strict=True)

    def _build(self, encoding: Encoding, transposed: bool, whole: bool, labelled: bool) -> tuple[_Batches, Any]:
        fn, types = self.dali.fn, self.dali.types
        on_gpu = self.device_id is not None
        batches = _Batches()

        def placed(x: Any, flips: Any) -> Any:
            x = fn.transpose(x, perm=[1, 0, 2], transpose_layout=False) if transposed else x
            return fn.flip(x, vertical=flips[0], horizontal=flips[1])

        def resized(x: Any, size: Any) -> Any:
            return fn.resize(x, size=size, interp_type=types.INTERP_LINEAR, antialias=True, dtype=types.FLOAT)

        def squared(x: Any, start: Any, fill: float, dtype: Any) -> Any:
            return fn.slice(
                x, start=start, shape=[self.size] * 2, axes=[0, 1], out_of_bounds_policy="pad", fill_values=fill,
                dtype=dtype,
            )  # fmt: skip

        @self.dali.pipeline_def(
            batch_size=self.batch, num_threads=self.threads, device_id=self.device_id, prefetch_queue_depth=PREFETCH
        )
        def graph() -> Any:
            data, low, high, scale, shift, flips, scaled, start, *others = fn.external_source(
                source=batches, num_outputs=9 + labelled - encoding.codestream, no_copy=not on_gpu
            )
            pixels = (
                self._decoded(data, encoding.dtype) if encoding.codestream else self._raw(data, others[0], encoding)
            )
            pixels = pixels if whole else fn.cast(pixels, dtype=types.FLOAT)
            pixels = self.dali.math.clamp(pixels, low, high)
            pixels = pixels if encoding.dtype in RESIZABLE else fn.cast(pixels, dtype=types.FLOAT)
            pixels = placed(pixels, flips)
            image = resized(pixels, scaled)
            image = self.dali.math.clamp(image * scale + shift, -1.0, 1.0)
            image = squared(image, start, BACKGROUND, types.FLOAT16)
            if not labelled:
                return image
            label = fn.reinterpret(others[-1].gpu() if on_gpu else others[-1], layout="HWC")
            label = fn.cast(resized(placed(label, flips), scaled) > MORE_THAN_HALF, dtype=types.UINT8)
            return image, squared(label, start, 0, types.UINT8)

        built = graph()
        built.build()
        return batches, built

    def _raw(self, data: Any, shape: Any, encoding: Encoding) -> Any:
        """Stored values (rows, columns, 1) from raw bytes."""
        fn, types = self.dali.fn, self.dali.types
        dtype = getattr(types, encoding.dtype.upper())
        data = data.gpu() if self.device_id is not None else data
        bits = 8 * np.dtype(encoding.dtype).itemsize
        swapped = encoding.big_endian and bits > 8
        if not swapped and encoding.bits_stored == bits:
            return fn.reinterpret(data, shape=shape, dtype=dtype, layout="HWC")
        unsigned_type = getattr(types, f"UINT{bits}")
        value = fn.cast(fn.reinterpret(data, shape=shape, dtype=unsigned_type, layout="HWC"), dtype=types.INT64)
        if swapped:
            places = range(0, bits, 8)
            value = sum(((value // 2**place) & 255) * 2 ** (bits - 8 - place) for place in places)
        if encoding.bits_stored == bits:
            return fn.reinterpret(fn.cast(value, dtype=unsigned_type), dtype=dtype)
        value = (value // 2**encoding.shift) & (2**encoding.bits_stored - 1)
        if np.dtype(encoding.dtype).kind == "i":
            sign = 2 ** (encoding.bits_stored - 1)
            value = (value ^ sign) - sign
        return fn.cast(value, dtype=dtype)

    def decodes(self, file: ImageFile) -> bool:
        """Whether the GPU decodes files like this one bit for bit as pydicom does; each kind of file is tried once.

        A CPU's DALI knows too few of them: signed JPEG 2000, JPEG lossless and HTJ2K aren't among them.
        """
        if self.device_id is None or file.road != "codestream":
            return False
        kind = file.transfer_syntax, file.format.dtype.name, file.format.bits_stored
        with self.lock:
            if kind not in self.tried:
                try:
                    found = self._decode(codestreams(file)[0], file.format.dtype.name)
                    self.tried[kind] = np.array_equal(found, decode(file)[0])
                except InputError:
                    raise
                except Exception:  # DALI's, of a codestream that it doesn't know
                    self.tried[kind] = False
            return self.tried[kind]

    def _decoded(self, codestream: Any, dtype: str) -> Any:
        types = self.dali.types
        return self.dali.fn.decoders.image(
            codestream,
            device="cpu" if self.device_id is None else "mixed",
            output_type=types.ANY_DATA,
            dtype=getattr(types, dtype.upper()),
        )

    def _decode(self, codestream: bytes, dtype: str) -> NDArray[Any]:
        """One codestream's (rows, columns) integers, by a graph for this alone."""

        @self.dali.pipeline_def(batch_size=1, num_threads=1, device_id=self.device_id, prefetch_queue_depth=1)
        def graph() -> Any:
            data = self.dali.fn.external_source(name="data", dtype=self.dali.types.UINT8, ndim=1)
            return self._decoded(data, dtype)

        built = graph()
        built.build()
        built.feed_input("data", [np.frombuffer(codestream, np.uint8)])
        (output,) = built.run()
        return self._on_host(output)[0, ..., 0]

    def _on_host(self, output: Any) -> NDArray[Any]:
        """A copy of a batch."""
        return np.array((output if self.device_id is None else output.as_cpu()).as_array())


class DaliSlices:
    """A series on its way through DALI; threads of a pool fetch the bytes ahead.

    Args:
        plan: what to read.
        rule: how grey values become [-1, 1].
        graphs: what the bytes go through.
        pool: threads that fetch; they start at once.
    """

    def __init__(self, plan: SeriesPlan, rule: IntensityRule, graphs: DaliGraphs, pool: Executor) -> None:
        self.plan, self.rule, self.graphs = plan, rule, graphs
        self.fit = fit_of(plan, graphs.size)
        self.counted: dict[int, ValueCounts] = {}
        self.fetched: dict[int, Callable[[StoredWindow], Sample]] = {}
        self.started = {tuple(places): pool.submit(self._fetch, places) for places in tasks(plan)}

    def failed(self) -> dict[Path, InputError]:
        """What couldn't be read, and why; waits until that is known."""
        return failures(self.plan, self.started)

    def result(self) -> Squares:
        """Images (D, size, size) in [-1, 1] and labels of a series of which nothing failed, in the plan's order.

        Raises:
            DaliError: when DALI fails.
        """
        places = range(len(self.plan.slices))
        limits = self.rule.limits([self.counted[place] for place in places] if self.rule.needs_volume else [])
        samples = (self.fetched.pop(place)(window(self.plan.slices[place], limits)) for place in places)
        shape = (len(places), self.graphs.size, self.graphs.size)
        images, labels = np.empty(shape, np.float16), np.zeros(shape, np.uint8)
        for place, (image, label) in enumerate(self.graphs.run(samples)):
            images[place] = image
            if label is not None:
                labels[place] = label
        return images, labels

    def _fetch(self, places: list[int]) -> None:
        items = [self.plan.slices[place] for place in places]
        file = items[0].image
        if file.road == "raw":
            contents = [np.frombuffer(raw_frame(file, item.number), np.uint8) for item in items]
            encoding = Encoding.of(file.format)
        elif not self.rule.needs_volume and self.graphs.decodes(file):
            compressed = codestreams(file)
            contents = [np.frombuffer(compressed[item.number], np.uint8) for item in items]
            encoding = Encoding(file.format.dtype.name, file.format.bits_stored, codestream=True)
        else:
            contents = [np.ascontiguousarray(pixels).view(np.uint8).ravel() for pixels in stored_values(items)]
            encoding = Encoding.decoded(file.format)
        for place, item, content in zip(places, items, contents, strict=True):
            if self.rule.needs_volume:
                pixels = (
                    raw_pixels(content.tobytes(), file.format) if file.road == "raw"
                    else content.view(file.format.dtype)
                )  # fmt: skip
                self.counted[place] = counted(pixels, item)
            self.fetched[place] = partial(
                Sample, content, encoding, self.plan.shape, transposed=self.plan.transpose,
                flipped=(self.plan.flip_rows, self.plan.flip_columns), fit=self.fit,
                label=stored_label(self.plan, item),
            )  # fmt: skip


def dali_is_there() -> bool:
    """Whether DALI is installed."""
    return find_spec("nvidia") is not None and find_spec("nvidia.dali") is not None


def import_dali() -> Any:
    """The `nvidia.dali` package, its parts that are used here loaded.

    Raises:
        InputError: when it isn't installed.
    """
    try:
        import nvidia.dali.fn
        import nvidia.dali.math
        import nvidia.dali.types
    except ImportError as error:
        raise InputError(
            f"DALI can't be imported ({error}); install it with pip install nvidia-dali-cuda130, or read without it "
            "with --reader threads"
        ) from error
    return nvidia.dali
