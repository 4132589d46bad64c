"""How a training is made to fit the memory of a GPU: what it keeps, where its slices lie, in which precision.

The whole process counts: tensors as `memory` counts them, and what no tensor holds, for which there are allowances.
None of the allowances has been measured on a GPU yet; `python -m benchmarks.memory` there shows them beside the truth.
"""

import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from fastliver.byte_sizes import GIB, MIB, format_bytes
from fastliver.errors import InputError
from fastliver.training.memory import TITLES, StepMemory, Workload, step_memory

CONTEXT = 512 * MIB
"""CUDA's context with torch's own kernels; on a GPU what is taken at the start is counted instead."""

LIBRARIES = 256 * MIB
"""What is loaded or taken later outside of PyTorch's allocator: code of cuDNN, cuBLAS and Triton, DALI, CuPy."""

WORKSPACE = 256 * MIB
"""What convolutions may work in, from the allocator; cuDNN takes a slower algorithm where it gets less."""

SPARE = 1 / 16
"""Share of the tensors' bytes that the allocator's gaps and rounding may cost on top."""

SMALL_CARD = 8 * GIB
"""Cards up to this size have a limit by default: there the desktop's share matters."""

KEPT_FREE = 256 * MIB
"""What the default limit leaves free on a small card."""

PLAIN_FIRST = ((False, True), (False, False), (True, True), (True, False))
"""(blocks computed again, slices on the device), from what costs no time to what costs most."""


@dataclass(frozen=True)
class DeviceMemory:
    """A GPU's memory before training.

    Attributes:
        total: bytes that it has.
        free: bytes that are free once this process has its context.
        context: bytes of that context.
    """

    total: int
    free: int
    context: int = CONTEXT

    @staticmethod
    def of(device: torch.device) -> "DeviceMemory":
        """A CUDA device's. What is taken of it counts as the context unless it must be another process's."""
        free, total = torch.cuda.mem_get_info(device)
        taken = total - free - torch.cuda.memory_reserved(device)
        return DeviceMemory(total, free, taken if taken <= 2 * CONTEXT else CONTEXT)

    @staticmethod
    def imagined(total: int) -> "DeviceMemory":
        """An empty GPU of this size."""
        return DeviceMemory(total, total - CONTEXT)

    def limit(self, asked: int | None) -> int:
        """Bytes that the process may take, context included: what was asked for, but no more than there is."""
        available = self.free + self.context
        if asked is not None:
            return min(asked, available)
        return available - KEPT_FREE if self.is_limited(asked) else available

    def is_limited(self, asked: int | None) -> bool:
        """Whether the process is held to less than there is."""
        return asked is not None or self.total <= SMALL_CARD


@dataclass(frozen=True)
class MemoryPlan:
    """How a training runs, and what it is estimated to take.

    Attributes:
        workload: what is trained.
        precision: "fp32", "tf32", "bf16" or "fp16".
        checkpoint_blocks: whether the networks' blocks are computed again in the backward.
        resident: whether the slices lie on the device, not in pinned host memory.
        step: the tensors of a step.
        context: bytes of CUDA's context.
        limit: bytes that it was made to fit, None for any number.
    """

    workload: Workload
    precision: str
    checkpoint_blocks: bool
    resident: bool
    step: StepMemory
    context: int
    limit: int | None = None

    @property
    def total(self) -> int:
        """Bytes that the whole process takes at its peak."""
        return round(self.step.total * (1 + SPARE)) + WORKSPACE + LIBRARIES + self.context

    @property
    def is_roomy(self) -> bool:
        """Whether twice as much would fit: streams side by side take memory of their own, which isn't estimated."""
        return self.limit is None or 2 * self.total <= self.limit

    @property
    def slices_budget(self) -> int | None:
        """The budget of `Slices.load`: bytes that slices may take on the device, None for any number."""
        return None if self.resident else 0

    @property
    def title(self) -> str:
        """What the training is called."""
        return TITLES[self.workload.name]

    @property
    def how(self) -> str:
        """The choices, in words."""
        slices = "slices on the GPU" if self.resident else "slices in host memory"
        blocks = ", blocks computed twice" if self.checkpoint_blocks else ""
        return f"{self.precision}, batch {self.workload.batch}, {slices}{blocks}"

    def __str__(self) -> str:
        return f"{self.title}: {format_bytes(self.total)} ({self.how})"


def estimate_plan(
    workload: Workload, precision: str, checkpoint_blocks: bool, resident: bool, context: int = CONTEXT
) -> MemoryPlan:
    """What a way to train takes."""
    step = step_memory(workload, precision, checkpoint_blocks, resident)
    return MemoryPlan(workload, precision, checkpoint_blocks, resident, step, context)


def plan_memory(workload: Workload, precisions: Sequence[str], limit: int, context: int = CONTEXT) -> MemoryPlan:
    """The first way to train that fits: plain; slices in host memory; blocks computed twice; the next precision.

    Args:
        workload: what is trained.
        precisions: those that may be used, the preferred one first.
        limit: bytes for the whole process (`DeviceMemory.limit`).
        context: bytes of it for CUDA's context.

    Raises:
        InputError: when none fits; it has the estimate, and options that were found to fit.
    """
    tried = []
    for precision in precisions:
        for checkpoint_blocks, resident in PLAIN_FIRST:
            plan = estimate_plan(workload, precision, checkpoint_blocks, resident, context)
            if plan.total <= limit:
                return replace(plan, limit=limit)
            tried.append(plan)
    least = min(tried, key=lambda plan: plan.total)
    remedies = _remedies(workload, precisions[-1], limit, context)
    raise InputError(
        f"{least.title} takes at least {format_bytes(least.total)} of GPU memory ({least.how}; estimated), and may use "
        f"{format_bytes(limit)}; choose {', or '.join(remedies)}"
    )


def _remedies(workload: Workload, precision: str, limit: int, context: int) -> list[str]:
    """Options that make it fit, each alone; the last allows what it takes."""

    def least(changed: Workload, precision: str = precision) -> int:
        return min(estimate_plan(changed, precision, True, resident, context).total for resident in (True, False))

    remedies = []
    batch = largest_batch(workload, precision, limit, context, checkpoint_blocks=True, resident=False)
    if batch:
        remedies.append(f"--{workload.section}-batch {batch}")
    if precision in ("fp32", "tf32") and least(workload, "bf16") <= limit:
        remedies.append("--precision auto (or bf16 or fp16)")
    size = workload.config.data.image_size
    for smaller in sorted({size * part // 4 // 16 * 16 for part in (1, 2, 3)} - {size}, reverse=True):
        if smaller >= 32 and least(workload.with_image_size(smaller)) <= limit:
            remedies.append(f"--image-size {smaller}")
            break
    enough = -(-least(workload) * 10 // GIB) / 10
    return [*remedies, f"--memory-limit {enough:g}GiB or more, on a GPU that has it"]


def largest_batch(
    workload: Workload,
    precision: str,
    limit: int,
    context: int = CONTEXT,
    checkpoint_blocks: bool = False,
    resident: bool = True,
) -> int:
    """The most images that a step can have within `limit` bytes for the whole process; 0 if not even one."""

    def total(batch: int) -> int:
        return estimate_plan(workload.with_batch(batch), precision, checkpoint_blocks, resident, context).total

    one = total(1)
    if one > limit:
        return 0
    # The peak is the largest of sums that grow evenly with the batch, so this guess is never too low.
    batch = 1 + (limit - one) // (total(2) - one)
    while total(batch) > limit:
        batch -= 1
    return batch


def cap_allocators(limit: int, memory: DeviceMemory, device: torch.device) -> None:
    """Make PyTorch's allocator, and CuPy's if it is in use, stop at what `limit` leaves beside everything else.

    Not run on a GPU yet.
    """
    room = limit - memory.context - LIBRARIES
    torch.cuda.set_per_process_memory_fraction(min(1.0, max(0, room) / memory.total), device)
    if "cupy" in sys.modules:
        # Of the current device, which is the one that is trained on.
        sys.modules["cupy"].get_default_memory_pool().set_limit(size=LIBRARIES // 2)


def release(device: torch.device) -> None:
    """Give back what a training that is over held; a trainer and its graph hold each other until they are collected."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
