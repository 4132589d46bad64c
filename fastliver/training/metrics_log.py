"""Losses, speed and memory to `metrics.jsonl` and TensorBoard."""

import json
import os
import sys
from dataclasses import asdict, dataclass
from types import TracebackType

import torch

from fastliver.files import write_file
from fastliver.run_folder import RunFolder


@dataclass(frozen=True)
class Pace:
    """How a training gets on.

    Attributes:
        seconds: of training so far, over all sittings.
        step_seconds: a step's time, on average since the line before.
        images_per_second: labelled or MR images that went through a step (EssNet: and as many CT), over all ranks.
        memory_gib: the most that was in use so far, see `peak_memory`.
    """

    seconds: float
    step_seconds: float
    images_per_second: float
    memory_gib: float

    def __str__(self) -> str:
        return f"{self.images_per_second:.3g} images/s, {self.step_seconds:.3g} s/step, {self.memory_gib:.2f} GiB"


def peak_memory(device: torch.device) -> float:
    """The most memory that tensors took so far in GiB: by CUDA's allocator, or the process's resident set on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20


class MetricsLog:
    """One training's losses and pace, appended while it runs.

    Lines of this job from `start` on are dropped first: a resumed training writes them again.

    Args:
        run: the run folder.
        job: what the training is called.
        start: step that the training (re)starts at.
    """

    def __init__(self, run: RunFolder, job: str, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        kept = [line for line in run.read_metrics() if line["job"] != job or line["step"] < start]
        write_file(run.metrics, "".join(json.dumps(line) + "\n" for line in kept))
        self.job = job
        self.file = open(run.metrics, "a", encoding="utf-8")
        self.tensorboard = SummaryWriter(run.tensorboard / job, purge_step=start)

    def write(self, step: int, epoch: int, pace: Pace, losses: dict[str, float]) -> None:
        """Add the losses of one step."""
        measured = {name: float(f"{value:.6g}") for name, value in asdict(pace).items()}
        line = {"job": self.job, "step": step, "epoch": epoch, **measured, **losses}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        for name, value in losses.items():
            self.tensorboard.add_scalar(name, value, step)
        for name, value in measured.items():
            self.tensorboard.add_scalar(f"pace/{name}", value, step)

    def sync(self) -> None:
        """Let no power cut take lines from before a checkpoint, which a resumed training doesn't write again."""
        os.fsync(self.file.fileno())

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        self.tensorboard.close()
