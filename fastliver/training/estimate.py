"""How long a run will take on this machine, from a few steps of each training."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from fastliver.config import TrainConfig
from fastliver.data.batches import BatchStream, Slices
from fastliver.data.splits import synthetic_count
from fastliver.models import EssNet, UNet
from fastliver.training import checkpoint
from fastliver.training.essnet import EssNetTrainer
from fastliver.training.jobs import synthesis_jobs, unet_jobs
from fastliver.training.stages import Run
from fastliver.training.trainer import Trainer
from fastliver.training.unet import UNetTrainer

TIMED_SECONDS = 2.0


@dataclass(frozen=True)
class Estimate:
    """Seconds that the trainings still take."""

    essnet: float
    unet: float

    @property
    def total(self) -> float:
        return self.essnet + self.unet


def _noise(count: int, size: int, device: torch.device) -> Slices:
    """Slices that stand in for real ones: time does not depend on what they show."""
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.uniform(-1, 1, (count, 1, size, size)).astype(np.float16))
    labels = torch.from_numpy((rng.random((count, size, size)) > 0.5).astype(np.uint8))
    return Slices(images.to(device), labels.to(device))


def seconds_per_step(trainer: Trainer, device: torch.device) -> float:
    """Time steps for about two seconds, at least one; the first, which allocates, counts only if it is that long."""

    def timed() -> float:
        began = time.monotonic()
        trainer.step(0, 0)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.monotonic() - began

    first = timed()
    if first >= TIMED_SECONDS:
        return first
    times: list[float] = []
    while sum(times) < TIMED_SECONDS and len(times) < 20:
        times.append(timed())
    return float(np.median(times))


def _steps_left(run: Run, job: str, total: int) -> int:
    folder = run.folder.checkpoints(job)
    if (folder / "final").exists():
        return 0
    found, _ = checkpoint.latest(folder)
    return total - (found.meta["step"] if found else 0)


def estimate(run: Run, stage: str) -> Estimate:
    """Time both trainings on noise and count the steps that the stage has left.

    Torch's random state is left as it was, so that estimating changes no result.
    """
    config: TrainConfig = run.config
    size, device = config.data.image_size, run.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        return Estimate(
            _essnet_seconds(run, size, device) if stage in ("essnet", "all") else 0.0,
            _unet_seconds(run, size, device) if stage in ("unet", "all") else 0.0,
        )


def _essnet_seconds(run: Run, size: int, device: torch.device) -> float:
    config = run.config.essnet
    total = 0.0
    for job in synthesis_jobs(run.config):
        steps = -(-len(run.data.split.train) // config.batch) * (config.epochs + config.decay_epochs)
        left = _steps_left(run, job, steps)
        if left:
            noise = BatchStream(_noise(config.batch, size, device), config.batch, (0,))
            network = EssNet(**run.essnet_settings(job)).to(device)
            total += left * seconds_per_step(EssNetTrainer(network, config, noise, noise, 0), device)
    return total


def _unet_seconds(run: Run, size: int, device: torch.device) -> float:
    config = run.config.unet
    available = len(run.data.ct.liver_slices())
    steps = 0
    for job in unet_jobs(run.config):
        images = len(run.data.split.train) + synthetic_count(job.arrangement, available)
        steps += _steps_left(run, job.name, -(-images // config.batch) * config.epochs)
    if not steps:
        return 0.0
    noise = BatchStream(_noise(config.batch, size, device), config.batch, (0,))
    network = UNet(**run.unet_settings()).to(device)
    return steps * seconds_per_step(UNetTrainer(network, config, noise), device)
