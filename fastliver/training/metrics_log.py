"""Losses to `metrics.jsonl` and TensorBoard."""

import json
from types import TracebackType

from fastliver.files import write_file
from fastliver.run_folder import RunFolder


class MetricsLog:
    """One training's losses, appended while it runs.

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

    def write(self, step: int, epoch: int, seconds: float, losses: dict[str, float]) -> None:
        """Add the losses of one step; `seconds` is the training time so far."""
        line = {"job": self.job, "step": step, "epoch": epoch, "seconds": round(seconds, 3), **losses}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        for name, value in losses.items():
            self.tensorboard.add_scalar(name, value, step)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        self.tensorboard.close()
