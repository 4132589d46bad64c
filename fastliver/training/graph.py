"""A whole training step as one CUDA graph: the host launches one thing instead of thousands of small kernels.

A graph repeats what was recorded, at the same addresses: the step must take everything that changes (which batch, which
images of the pool, learning rates, random numbers) from tensors on the device, and must not wait for it. The first
steps run as they are, which allocates optimizer states, lets cuDNN search its algorithms and compiles kernels; then one
step is recorded and from there on replayed. Nothing is run twice, so a training with a graph takes the same steps as
one without. Not yet run on a GPU: recording and replay are tested on stand-ins.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from fastliver.errors import InputError
from fastliver.training.trainer import Execution, StepResult

T = TypeVar("T")

WARM_UP = 3
"""Steps before the recording."""

WIDE_GPU = 64
"""Multiprocessors from which one 64x64x256 convolution (64 tiles of 128x128) leaves some without work."""


class Branches:
    """Parts of a step that don't depend on each other, on CUDA streams of their own.

    A network's part always has the same name and so the same stream: its weights' reduced copies and its saved
    activations are made, used and freed in one stream's order. What a part reads from another must outlive the step's
    last use of it, which holds for everything that the step's own variables name.

    Args:
        device: where.
        parallel: False runs one part after the other on the current stream, with the same numbers.
    """

    def __init__(self, device: torch.device, parallel: bool) -> None:
        self.device, self.parallel = device, parallel
        self.streams: dict[str, torch.cuda.Stream] = {}

    @staticmethod
    def pays(device: torch.device) -> bool:
        """Whether parallel streams should be faster: where one convolution doesn't fill the GPU (not measured yet)."""
        return device.type == "cuda" and torch.cuda.get_device_properties(device).multi_processor_count > WIDE_GPU

    def run(self, **parts: Callable[[], T]) -> list[T]:
        """What the parts give, in order; the current stream goes on when all are done."""
        if not self.parallel:
            return [part() for part in parts.values()]
        current = torch.cuda.current_stream(self.device)
        results: list[T] = []
        for name, part in parts.items():
            if name not in self.streams:
                self.streams[name] = torch.cuda.Stream(self.device)
            stream = self.streams[name]
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                results.append(part())
        for name in parts:
            current.wait_stream(self.streams[name])
        return results


class CudaRecorder:
    """Runs and records a step on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream, self.graph = device, torch.cuda.Stream(device), torch.cuda.CUDAGraph()

    def warm_up(self, work: Callable[[], T]) -> T:
        """Run `work` on the stream that it will be recorded on."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            result = work()
        current.wait_stream(self.stream)
        return result

    def record(self, work: Callable[[], T]) -> T:
        """Record `work` without running it; what it gives is filled by each `replay`.

        Raises:
            RuntimeError: when it can't be recorded; it can be run as it is then.
        """
        current, pool = torch.cuda.current_stream(self.device), torch.cuda.graph_pool_handle()
        number = current.device.index
        generator = torch.cuda.default_generators[number]
        random = generator.clone_state()
        # Where CUDA breaks a recording off, PyTorch leaves stream, allocator and random numbers in the midst of it.
        with torch.cuda.stream(current):
            try:
                with torch.cuda.graph(self.graph, pool=pool, stream=self.stream):
                    return work()
            except RuntimeError:
                generator.graphsafe_set_state(random)
                with suppress(RuntimeError):  # when it ended as it should, and only `work` failed
                    torch._C._cuda_endAllocateToPool(number, pool)
                    torch._C._cuda_releasePool(number, pool)
                raise

    def replay(self) -> None:
        """Run what was recorded."""
        self.graph.replay()


class StepGraph:
    """Runs a step: as it is, or after a warm-up as a CUDA graph.

    Args:
        step: trains on what is staged; device operations alone.
        optimizers: whose gradients the recording makes anew, in the graph's own memory.
        recorder: None runs every step as it is.
        warm_up: steps before the recording.
        required: whether a failed recording ends the run; otherwise the steps go on as they are.
        tell: takes the message about it.
    """

    def __init__(
        self,
        step: Callable[[], StepResult],
        optimizers: Iterable[Optimizer],
        recorder: Any = None,
        warm_up: int = WARM_UP,
        required: bool = False,
        tell: Callable[[str], None] = print,
    ) -> None:
        self.step, self.optimizers, self.recorder = step, list(optimizers), recorder
        self.warm_up, self.required, self.tell = warm_up, required, tell
        self.recorded: tuple[StepResult, Tensor] | None = None

    def __call__(self) -> StepResult:
        """Run one step."""
        if self.recorder is None:
            return self.step()
        if self.recorded is None and self.warm_up > 0:
            self.warm_up -= 1
            return self.recorder.warm_up(self.step)
        if self.recorded is None and not self._record():
            return self.step()
        assert self.recorded is not None
        self.recorder.replay()
        result, values = self.recorded
        # The next replay writes over these.
        return result.with_values(values.clone())

    def _record(self) -> bool:
        self._drop_gradients()
        try:
            self.recorded = self.recorder.record(self._step_and_values)
        except RuntimeError as error:
            if self.required:
                raise
            # Ending what CUDA broke off raises another error, which says nothing of the operation that broke it.
            first: BaseException = error
            while first.__context__ is not None:
                first = first.__context__
            reason = (str(first).splitlines() or [type(first).__name__])[0]
            self.tell(f"no CUDA graph: recording the step failed ({reason}); going on without, which is slower")
            self.recorder = None
            self._drop_gradients()
        return self.recorder is not None

    def _step_and_values(self) -> tuple[StepResult, Tensor]:
        result = self.step()
        return result, result.values()

    def _drop_gradients(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)


def step_graph(step: Callable[[], StepResult], optimizers: Iterable[Optimizer], execution: Execution) -> StepGraph:
    """What runs a trainer's steps as its execution asks.

    Raises:
        InputError: for a graph that there can't be.
    """
    device = execution.precision.device
    recorder = CudaRecorder(device) if wants_graph(execution) else None
    return StepGraph(step, optimizers, recorder, WARM_UP, execution.graph == "on", execution.tell)


def branches(execution: Execution) -> Branches:
    """What runs a step's independent parts as its execution asks: beside each other in a graph on a wide GPU.

    Without a graph the host can't launch them fast enough, averaging gradients over ranks expects one stream, and where
    memory is tight each stream's own pool of it is too much.
    """
    device = execution.precision.device
    parallel = device.type == "cuda" and execution.graph != "off" and execution.parallel and not execution.distributed
    return Branches(device, parallel and Branches.pays(device))


def wants_graph(execution: Execution) -> bool:
    """Whether steps are to be recorded; tells why not where that isn't obvious.

    Raises:
        InputError: for "on" where there is no GPU, or with several ranks.
    """
    device = execution.precision.device
    if execution.graph == "off":
        return False
    if device.type != "cuda":
        if execution.graph == "on":
            raise InputError(f"--graph=on: CUDA graphs need a GPU, and this run computes on {device.type}; use auto")
        return False
    if execution.distributed:
        # DistributedDataParallel keeps nodes of the stream that it was made on; a recording on another can't hold them.
        if execution.graph == "on":
            raise InputError("--graph=on: a graph can't average gradients over ranks yet; use auto or off")
        execution.tell("no CUDA graph: it can't average gradients over ranks yet")
        return False
    return True
