"""The training loop: any trainer, from its last checkpoint to its last step, on one rank or several."""

import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from fastliver.config import EngineConfig
from fastliver.errors import InputError
from fastliver.run_folder import RunFolder
from fastliver.training import checkpoint
from fastliver.training.checkpoint import Checkpoint
from fastliver.training.distributed import Ranks
from fastliver.training.guards import Guard
from fastliver.training.host_memory import kept_memory
from fastliver.training.metrics_log import MetricsLog, Pace, peak_memory
from fastliver.training.profiling import StepWindow, span
from fastliver.training.progress import bar
from fastliver.training.signals import Signals
from fastliver.training.trainer import StepResult, Trainer

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
    trainer: Trainer,
    run: RunFolder,
    job: str,
    meta: dict[str, Any],
    engine: EngineConfig,
    console: Console,
    batch: int = 1,
    ranks: Ranks | None = None,
    signals: Signals | None = None,
) -> TrainingTime:
    """Train from the job's last whole checkpoint, or the start, to the end; leaves `checkpoints/<job>/final`.

    Args:
        trainer: the network and its data.
        run: where checkpoints and metrics go.
        job: what the training is called.
        meta: settings that inference needs, written into every checkpoint.
        engine: how often to save and to log.
        console: where progress is shown.
        batch: images that a rank's step takes, for the speed.
        ranks: that train together; None is this process alone.
        signals: SIGINT, SIGTERM and SIGHUP, at which a checkpoint is saved.

    Raises:
        RunError: when the training diverges or collapses; the message names the step and the last good checkpoint.
        InputError: when the checkpoint was written by another number of ranks.
        Interrupted: at a signal, after a checkpoint was saved.
    """
    ranks, signals = ranks or Ranks(), signals or Signals()
    folder, device = run.checkpoints(job), next(trainer.network.parameters()).device
    total, per_epoch = trainer.epochs * trainer.steps_per_epoch, trainer.steps_per_epoch
    meta = {**meta, "ranks": ranks.count}
    guard = Guard(job, trainer.patience, per_epoch)
    start, seconds, last_good = _resume(trainer, guard, folder, ranks, console)
    check_every = CHECK_EVERY_ON_GPU if device.type == "cuda" else 1
    window = engine.profile_steps() if ranks.is_main else None
    noted: list[tuple[int, StepResult]] = []
    with (
        signals.held(),
        kept_memory(device),
        MetricsLog(run, job, start) if ranks.is_main else nullcontext() as log,
        bar(console, job, total) as progress,
        StepWindow(window, run.profile(job), device) as profile,
    ):
        progress.update(start)
        watch, saved = _Watch(start, seconds), time.monotonic()
        for number in range(start, total):
            profile.at(number)
            epoch, step = divmod(number, per_epoch)
            with span(f"{job} step"):
                noted.append((number, trainer.step(epoch, step)))
            done = number + 1
            log_now = done % engine.log_every == 0
            save_now = engine.checkpoint_steps is not None and done % engine.checkpoint_steps == 0
            # Several ranks can agree to stop only where all of them look.
            asked = ranks.alone and signals.caught is not None
            if not (log_now or save_now or asked or done % check_every == 0 or done == total):
                continue
            losses = _look(noted, guard, last_good, ranks)
            seconds = watch.read()
            if log_now:
                step_seconds = watch.lap(done)
                pace = Pace(seconds, step_seconds, batch * ranks.count / step_seconds, peak_memory(device))
                progress.pace = str(pace)
                if log is not None:
                    log.write(number, epoch, pace, losses)
            stop = ranks.any(signals.caught is not None)
            if not stop:  # who reads it may be gone
                progress.update(done, f"epoch {epoch + 1}/{trainer.epochs}, loss {next(iter(losses.values())):.4f}")
            save_now = ranks.broadcast(save_now or time.monotonic() - saved >= engine.checkpoint_minutes * 60)
            if (stop or save_now) and done < total:
                if log is not None:
                    log.sync()
                path = _save(trainer, guard, folder, done, {**meta, "seconds": seconds}, ranks)
                if stop:
                    raise signals.interrupted(f"saved {path}; --resume {run.root} goes on from there")
                last_good, saved = f"last good checkpoint: {path}", time.monotonic()
                watch.restart()
        ranks.only(lambda: guard.finish(total, last_good))
        seconds = watch.read()
        weights, meta = trainer.network.state_dict(), {**meta, "step": total, "seconds": seconds}
        ranks.only(lambda: checkpoint.save_final(folder, weights, meta))
        if ranks.any(signals.caught is not None):
            raise signals.interrupted()
    if window is not None and not run.profile(job).exists():
        console.print(
            f"{job}: nothing to profile, --profile={engine.profile} lies outside {start}:{total}", style="yellow"
        )
    return TrainingTime(total, per_epoch, seconds)


class _Watch:
    """Measures training time, without checkpoints and what lies between two sittings.

    Args:
        step: steps done before.
        seconds: that they took.
    """

    def __init__(self, step: int, seconds: float) -> None:
        self.seconds = seconds
        self._lap = step, seconds
        self.restart()

    def restart(self) -> None:
        """Leave out the time since the last reading."""
        self._began = time.monotonic()

    def read(self) -> float:
        """Seconds of training so far."""
        now = time.monotonic()
        self.seconds, self._began = self.seconds + now - self._began, now
        return self.seconds

    def lap(self, step: int) -> float:
        """Seconds per step up to the last reading, since the lap before."""
        (before, seconds), self._lap = self._lap, (step, self.seconds)
        return (self.seconds - seconds) / (step - before)


def _look(noted: list[tuple[int, StepResult]], guard: Guard, last_good: str, ranks: Ranks) -> dict[str, float]:
    """Let the guard see the steps since the last look, and forget them; gives the last one's losses.

    Of several ranks a loss is the mean, which is that of the whole batch, and a fault is one that all have.
    """
    # In one piece, so that it is one wait for the device and one message to the other ranks.
    values = ranks.mean(torch.stack([result.values() for _, result in noted])).cpu()
    for (number, result), row in zip(noted, values, strict=True):
        shared = result.with_values(row)
        faults = {name: (value == 1).float() for name, value in shared.faults.items()}
        if ranks.is_main:  # who alone checks, and forgets
            guard.watch(number, StepResult(shared.losses, faults))
    noted.clear()
    ranks.only(lambda: guard.check(last_good))
    return {name: float(value) for name, value in shared.losses.items()}


def _save(trainer: Trainer, guard: Guard, folder: Path, step: int, meta: dict[str, Any], ranks: Ranks) -> Path:
    """Write a checkpoint of all ranks; gives its path."""
    device = next(trainer.network.parameters()).device
    own = {
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "extra": trainer.extra_state(),
    }
    rank_states = ranks.gather(checkpoint.pack(own))

    def write() -> Path:
        optimizers = {name: optimizer.state_dict() for name, optimizer in trainer.optimizers.items()}
        state = {"optimizers": optimizers, "faults": guard.since}
        return checkpoint.save(folder, step, trainer.network.state_dict(), state, meta, rank_states)

    return ranks.broadcast(ranks.only(write))


def _resume(trainer: Trainer, guard: Guard, folder: Path, ranks: Ranks, console: Console) -> tuple[int, float, str]:
    """Load the last whole checkpoint, if any; gives its step, its seconds and what messages say of it."""

    def find() -> Path | None:
        found, warnings = checkpoint.latest(folder)
        for warning in warnings:
            console.print(f"warning: {warning}; left out", style="yellow")
        if warnings and found is None:
            raise InputError(f"{folder}: no checkpoint is whole; delete the folder to train this network anew")
        if found is not None and found.meta["ranks"] != ranks.count:
            raise InputError(
                f"{found.path}: written by {found.meta['ranks']} processes, and this run has {ranks.count}; start "
                f"{found.meta['ranks']}, or delete {folder} to train this network anew"
            )
        return found.path if found is not None else None

    path = ranks.broadcast(ranks.only(find))
    if path is None:
        return 0, 0.0, "no checkpoint was written yet"
    found = Checkpoint.open(path)
    state, own = found.state(), found.rank_state(ranks.rank)
    trainer.network.load_state_dict(found.weights())
    for name, optimizer in trainer.optimizers.items():
        optimizer.load_state_dict(state["optimizers"][name])
    guard.since = dict(state["faults"])
    trainer.load_extra_state(own["extra"])
    torch.set_rng_state(own["random"])
    device = next(trainer.network.parameters()).device
    if own["random_cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(own["random_cuda"], device)
    console.print(f"going on from {path}")
    return found.meta["step"], found.meta["seconds"], f"last good checkpoint: {path}"
