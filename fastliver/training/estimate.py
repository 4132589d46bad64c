"""How long a run will take on this machine, from a few steps of each training, and how it will fit its memory."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from fastliver.byte_sizes import format_bytes
from fastliver.config import TrainConfig
from fastliver.data.batches import Slices
from fastliver.data.splits import synthetic_count
from fastliver.errors import InputError
from fastliver.training import checkpoint
from fastliver.training.graph import WARM_UP
from fastliver.training.host_memory import kept_memory
from fastliver.training.jobs import epoch_slices, synthesis_jobs, unet_jobs
from fastliver.training.memory import Workload
from fastliver.training.memory_plan import DeviceMemory, MemoryPlan, cap_allocators, plan_memory, release
from fastliver.training.precision import Precision
from fastliver.training.stages import Run
from fastliver.training.trainer import Trainer

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
    """Time steps for about two seconds, at least one; the first, which allocates, counts only if it is that long.

    On a GPU no step counts until kernels are compiled, algorithms searched and the graph is recorded.
    """

    def timed() -> float:
        began = time.monotonic()
        trainer.step(0, 0)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.monotonic() - began

    if device.type == "cuda":
        for _ in range(WARM_UP + 1):
            timed()
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
    with kept_memory(device), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        return Estimate(
            _essnet_seconds(run, size, device) if stage in ("essnet", "all") else 0.0,
            _unet_seconds(run, size, device) if stage in ("unet", "all") else 0.0,
        )


def _essnet_seconds(run: Run, size: int, device: torch.device) -> float:
    config = run.config.essnet
    batch = config.batch * run.ranks.count
    total = 0.0
    for job in synthesis_jobs(run.config):
        steps = -(-run.data.essnet_mr_count // batch) * (config.epochs + config.decay_epochs)
        left = _steps_left(run, job, steps)
        if left:
            noise = _noise(config.batch, size, device)
            total += left * seconds_per_step(run.builder.alone().essnet(job, noise, noise), device)
            release(device)
    return total


def _unet_seconds(run: Run, size: int, device: torch.device) -> float:
    config = run.config.unet
    batch = config.batch * run.ranks.count
    steps = 0
    for job in unet_jobs(run.config):
        steps += _steps_left(run, job.name, -(-epoch_slices(run.config, job, run.data) // batch) * config.epochs)
    if not steps:
        return 0.0
    seconds = steps * seconds_per_step(run.builder.alone().unet(0, _noise(config.batch, size, device)), device)
    release(device)
    return seconds


def workloads(run: Run, stage: str) -> list[Workload]:
    """The trainings of a stage, the U-Net's with the most slices that one of its arrangements has."""
    config, real = run.config, len(run.data.split.train)
    found = []
    if stage in ("essnet", "all"):
        slices = len(run.data.essnet_ct), run.data.essnet_mr_count
        found += [Workload(job, config, slices) for job in synthesis_jobs(config)]
    if stage in ("unet", "all"):
        available = len(run.data.ct.liver_slices())
        most = max(synthetic_count(job.arrangement, available) for job in unet_jobs(config))
        found.append(Workload("unet", config, (real + most,)))
    return found


def _precisions(name: str, device: torch.device) -> list[str]:
    """What `--precision` allows, the preferred one first; of a GPU that isn't there, what a recent one would do."""
    if device.type != "cuda":
        return ["bf16" if name == "auto" else name]
    chosen = Precision.of(name, device).name
    return [chosen, "fp16"] if name == "auto" and chosen == "fp32" else [chosen]


def plan_run(run: Run, stage: str) -> dict[str, MemoryPlan]:
    """How each training of a stage fits the GPU's memory, by the workload's name; nothing on a CPU.

    With a limit, allocations beyond it fail from now on. Not run on a GPU yet.

    Raises:
        InputError: for a training that can't fit, with what would.
    """
    engine, device = run.config.engine, run.device
    if device.type != "cuda":
        return {}
    memory = DeviceMemory.of(device)
    asked = engine.memory_bytes()
    limit, precisions = memory.limit(asked), _precisions(engine.precision, device)
    plans = {work.name: plan_memory(work, precisions, limit, memory.context) for work in workloads(run, stage)}
    if memory.is_limited(asked):
        cap_allocators(limit, memory, device)
    return plans


def memory_lines(run: Run, stage: str) -> list[str]:
    """What to tell about memory before a stage begins: the plans, or on a CPU what a GPU within the limit would do."""
    if run.plans:
        return [f"Estimated GPU memory for {plan}" for plan in run.plans.values()]
    limit = run.config.engine.memory_bytes()
    if limit is None:
        return []
    lines = [f"--memory-limit caps nothing on a CPU; a GPU of which {format_bytes(limit)} may be used:"]
    for work in workloads(run, stage):
        try:
            lines.append(f"  {plan_memory(work, _precisions(run.config.engine.precision, run.device), limit)}")
        except InputError as error:
            lines.append(f"  {error}")
    return lines
