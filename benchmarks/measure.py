"""Timing: work by turns on any device, single kernels on a GPU between events, CUDA graphs, measured ceilings."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

Work = Callable[[], Any]
"""Does once what is timed."""
Percentiles = tuple[float, float, float]

PERCENTILES = (20, 50, 80)
FLUSH_BYTES = 256 * 2**20
"""More than the L2 of any GPU so far (126 MB on a B200)."""


def percentiles(samples: Sequence[float]) -> Percentiles:
    """The 20th, 50th and 80th percentile."""
    p20, p50, p80 = np.percentile(np.asarray(samples, dtype=np.float64), PERCENTILES)
    return float(p20), float(p50), float(p80)


def rates(amount: float, times: Percentiles) -> Percentiles:
    """Percentiles of amount / time from those of the times: the slowest fifth of the rates has the longest times."""
    p20, p50, p80 = times
    return amount / p80, amount / p50, amount / p20


def seconds_of(work: Work, device: torch.device) -> float:
    """Time of doing it once, the device's part waited for."""
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def by_turns(works: Mapping[str, Work], repeats: int, device: torch.device, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each work, `repeats` times: they take turns, so that a machine that slows down does so for all.

    Args:
        works: what is timed, by name.
        repeats: how often each.
        device: where it computes.
        warm_up: turns before those that count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(-warm_up, repeats):
        for name, work in works.items():
            taken = seconds_of(work, device)
            if repeat >= 0:
                seconds[name].append(taken)
    return seconds


@dataclass(frozen=True)
class Replay:
    """A recorded step; what it reads and writes stays in memory as long as this is held."""

    graph: "torch.cuda.CUDAGraph"
    step: Work

    def __call__(self) -> None:
        self.graph.replay()


def captured(make: Callable[[], Work], device: torch.device, warm_up: int = 3) -> Work:
    """The step that `make` gives: on a GPU as a CUDA graph, on a CPU as it is.

    All of it is made and recorded on one stream that isn't the default one, where nothing can be recorded: autograd
    runs a backward on the stream of its forward.
    """
    if device.type != "cuda":
        return make()
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        step = make()
        for _ in range(warm_up):
            step()
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            step()
    torch.cuda.synchronize(device)
    return Replay(graph, step)


class Stopwatch:
    """Times short works on a GPU between events, by turns, with the L2 overwritten before each.

    Args:
        device: a CUDA device.
        repeats: how often each is timed, after a tenth of it unmeasured.
    """

    def __init__(self, device: torch.device, repeats: int = 100) -> None:
        self.repeats = repeats
        self.flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)

    def by_turns(self, works: Mapping[str, Work]) -> dict[str, list[float]]:
        """Seconds of each work at each turn."""
        events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in works}
        for _ in range(self.repeats + self.repeats // 10 + 1):
            for name, work in works.items():
                start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                # Writing the flush also takes the GPU so long that the launch below is queued before it begins.
                self.flush.zero_()
                start.record()
                work()
                end.record()
                events[name].append((start, end))
        torch.cuda.synchronize(self.flush.device)
        return {
            name: [1e-3 * start.elapsed_time(end) for start, end in pairs[-self.repeats :]]
            for name, pairs in events.items()
        }


def matrix_peak(dtype: torch.dtype, device: torch.device) -> float:
    """TFLOP/s of a large matrix product or a large convolution, whichever is faster: the ceiling of arithmetic.

    On some CPUs the library of convolutions uses wider registers than that of matrices.
    """
    cuda = device.type == "cuda"
    size, side, channels = (8192, 128, 512) if cuda else (1024, 64, 256)
    x = torch.randn(size, size, device=device, dtype=dtype)
    image = torch.randn(8 if cuda else 1, channels, side, side, device=device, dtype=dtype)
    image = image.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    works = {
        2.0 * size**3: partial(torch.mm, x, x),
        2.0 * image.numel() * 9 * channels: partial(F.conv2d, image, weight, padding=1),
    }
    return max(work / min(seconds_of(do, device) for _ in range(12)) for work, do in works.items()) / 1e12


def copy_work(size: int, device: torch.device) -> Work:
    """A copy that reads and writes `size` bytes together: the ceiling of what is bound by memory."""
    source = torch.randint(-128, 128, (max(size // 2, 1),), dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)
