"""The training loop: any trainer, from its last checkpoint to its last step."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from fastliver.config import EngineConfig
from fastliver.run_folder import RunFolder
from fastliver.training import checkpoint
from fastliver.training.guards import Guard
from fastliver.training.metrics_log import MetricsLog
from fastliver.training.progress import bar
from fastliver.training.trainer import Trainer

CHECK_EVERY_ON_GPU = 25
"""Steps between looks at the losses on a GPU, each of which waits for it; on a CPU every step is looked at."""


@dataclass(frozen=True)
class TrainingTime:
    """How long a training took, over all its sittings, without checkpoints and start."""

    steps: int
    steps_per_epoch: int
    seconds: float

    @property
    def seconds_per_epoch(self) -> float:
        return self.seconds * self.steps_per_epoch / max(self.steps, 1)


def train(
    trainer: Trainer, run: RunFolder, job: str, meta: dict[str, Any], engine: EngineConfig, console: Console
) -> TrainingTime:
    """Train from the job's last whole checkpoint, or the start, to the end; leaves `checkpoints/<job>/final`.

    Args:
        trainer: the network and its data.
        run: where checkpoints and metrics go.
        job: what the training is called.
        meta: settings that inference needs, written into every checkpoint.
        engine: how often to save and to log.
        console: where progress is shown.

    Raises:
        RunError: when the training diverges or collapses; the message names the step and the last good checkpoint.
    """
    folder = run.checkpoints(job)
    total, per_epoch = trainer.epochs * trainer.steps_per_epoch, trainer.steps_per_epoch
    guard = Guard(job, trainer.patience, per_epoch)
    start, seconds, last_good = _resume(trainer, guard, folder, console)
    device = next(trainer.network.parameters()).device
    check_every = CHECK_EVERY_ON_GPU if device.type == "cuda" else 1
    saved = time.monotonic()
    with MetricsLog(run, job, start) as log, bar(console, job, total) as progress:
        progress.update(start)
        began = time.monotonic()
        for number in range(start, total):
            epoch, step = divmod(number, per_epoch)
            result = trainer.step(epoch, step)
            guard.watch(number, result)
            if (number + 1) % check_every == 0 or (number + 1) % engine.log_every == 0:
                guard.check(last_good)
                now = time.monotonic()
                seconds, began = seconds + now - began, now
                losses = {name: float(value) for name, value in result.losses.items()}
                if (number + 1) % engine.log_every == 0:
                    log.write(number, epoch, seconds, losses)
                progress.update(
                    number + 1, f"epoch {epoch + 1}/{trainer.epochs}, loss {next(iter(losses.values())):.4f}"
                )
                if now - saved >= engine.checkpoint_minutes * 60 and number + 1 < total:
                    last_good = f"last good checkpoint: {_save(trainer, guard, folder, number + 1, seconds, meta)}"
                    began = saved = time.monotonic()
        guard.finish(total, last_good)
        seconds += time.monotonic() - began
        times = TrainingTime(total, per_epoch, seconds)
        checkpoint.save_final(folder, trainer.network.state_dict(), {**meta, "step": total, "seconds": seconds})
        progress.update(total)
    return times


def _save(trainer: Trainer, guard: Guard, folder: Path, step: int, seconds: float, meta: dict[str, Any]) -> str:
    state = {
        "optimizers": {name: optimizer.state_dict() for name, optimizer in trainer.optimizers.items()},
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "faults": guard.since,
        "extra": trainer.extra_state(),
    }
    return str(checkpoint.save(folder, step, trainer.network.state_dict(), state, {**meta, "seconds": seconds}))


def _resume(trainer: Trainer, guard: Guard, folder: Path, console: Console) -> tuple[int, float, str]:
    """Load the last whole checkpoint, if any; gives its step, its seconds and what messages say of it."""
    found, warnings = checkpoint.latest(folder)
    for warning in warnings:
        console.print(f"warning: {warning}; left out", style="yellow")
    if found is None:
        return 0, 0.0, "no checkpoint was written yet"
    state = found.state()
    trainer.network.load_state_dict(found.weights())
    for name, optimizer in trainer.optimizers.items():
        optimizer.load_state_dict(state["optimizers"][name])
    torch.set_rng_state(state["random"])
    if state["random_cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["random_cuda"])
    guard.since = dict(state["faults"])
    trainer.load_extra_state(state["extra"])
    console.print(f"going on from {found.path}")
    return found.meta["step"], found.meta["seconds"], f"last good checkpoint: {found.path}"
