"""Where the time goes: named ranges for Nsight and PyTorch's profiler, and the trace of a window of steps."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import torch
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile


@contextmanager
def span(name: str) -> Iterator[None]:
    """Name what the block does: an NVTX range where CUDA is at work, an entry of the trace while one is taken.

    Otherwise it does nothing, so it may stand in every step. In a CUDA graph that is replayed nothing of the host runs,
    and so no range either: profile with `--graph off` to see the names.
    """
    nvtx, traced = torch.cuda.is_initialized(), torch.autograd._profiler_enabled()
    if nvtx:
        torch.cuda.nvtx.range_push(name)
    try:
        if traced:
            with record_function(name):
                yield
        else:
            yield
    finally:
        if nvtx:
            torch.cuda.nvtx.range_pop()


class StepWindow:
    """Profiles some steps of a training.

    In the window PyTorch's profiler runs and cudaProfilerStart has been called, for `nsys --capture-range` and
    `ncu --profile-from-start off`; at its end a trace that chrome://tracing and Perfetto read is written.

    Args:
        steps: the window, in steps of the training; None for none.
        path: of the trace.
        device: where the training computes.
    """

    def __init__(self, steps: range | None, path: Path, device: torch.device) -> None:
        self.steps, self.path, self.cuda = steps, path, device.type == "cuda"
        self._profile: profile | None = None

    def at(self, step: int) -> None:
        """Tell that `step` is about to begin; starts and ends the window."""
        if self.steps is None:
            return
        inside = step in self.steps
        if inside and self._profile is None:
            self._start()
        elif not inside and self._profile is not None:
            self._stop()

    def _start(self) -> None:
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.cuda else [])]
        self._profile = profile(activities=activities, record_shapes=True)
        self._profile.start()
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.profiler.start()

    def _stop(self) -> None:
        assert self._profile is not None
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.profiler.stop()
        self._profile.stop()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # The profiler writes by name, and a trace cut off in the middle can't be opened.
        with tempfile.TemporaryDirectory(dir=self.path.parent, prefix=f".{self.path.name}.") as folder:
            written = Path(folder, self.path.name)
            self._profile.export_chrome_trace(str(written))
            os.replace(written, self.path)
        self._profile = None

    def __enter__(self) -> "StepWindow":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._profile is not None:
            self._stop()
