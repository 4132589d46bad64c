"""Stopping a run whose losses are no numbers or whose network has collapsed."""

import math

from torch import Tensor

from fastliver.errors import RunError
from fastliver.training.trainer import StepResult

REMEDY = "try another --seed, a lower learning rate or, of EssNet, --essnet-adversarial lsgan"


class Guard:
    """Watches one training.

    Args:
        job: what the training is called, for messages.
        patience: steps in a row after which each fault stops the run.
        steps_per_epoch: at the end, a fault that held for a whole epoch is reported too.
    """

    def __init__(self, job: str, patience: dict[str, int], steps_per_epoch: int) -> None:
        self.job, self.patience, self.steps_per_epoch = job, patience, steps_per_epoch
        self.since: dict[str, int] = {}
        self.pending: list[tuple[int, StepResult]] = []

    def watch(self, step: int, result: StepResult) -> None:
        """Take note of a step; costs no synchronisation with the device."""
        self.pending.append((step, result))

    def check(self, last_good: str) -> None:
        """Read what was noted since the last check.

        Args:
            last_good: what the message says of the last checkpoint.

        Raises:
            RunError: for a loss that is not finite, or a fault that lasted too long.
        """
        noted, self.pending = self.pending, []
        for step, result in noted:
            for name, value in result.losses.items():
                if not math.isfinite(float(value)):
                    raise RunError(f"{self.job}: loss {name} is {float(value)} at step {step}; {last_good}; {REMEDY}")
            for fault, value in result.faults.items():
                self._count(fault, value, step, last_good)

    def _count(self, fault: str, value: Tensor, step: int, last_good: str) -> None:
        if not value:
            self.since.pop(fault, None)
            return
        start = self.since.setdefault(fault, step)
        if step - start + 1 >= self.patience[fault]:
            raise RunError(f"{self.job}: {fault}, from step {start} to step {step}; {last_good}; {REMEDY}")

    def finish(self, steps: int, last_good: str) -> None:
        """After the last step: a fault that held for all of the last epoch is a collapse, however short the run."""
        self.check(last_good)
        for fault, start in self.since.items():
            if steps - start >= self.steps_per_epoch:
                raise RunError(
                    f"{self.job}: {fault}, from step {start} to the end; {last_good}; {REMEDY}, or more epochs"
                )
