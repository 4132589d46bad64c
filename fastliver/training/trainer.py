"""What the training loop needs of a network's trainer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn as nn
from torch import Tensor
from torch.optim import Optimizer

from fastliver.training.precision import Precision

CONSTANT_RANGE = 1e-3
"""An image whose values lie within this (of the 2 that [-1, 1] spans) shows nothing."""


def is_constant(images: Tensor) -> Tensor:
    """1.0 if some image of (N, C, H, W) has no contrast, else 0.0."""
    flat = images.detach().flatten(1)
    return (flat.amax(1) - flat.amin(1) < CONSTANT_RANGE).any().float()


@dataclass(frozen=True)
class StepResult:
    """What one step gives, as detached scalars on the device.

    Attributes:
        losses: by name, in the order in which they are shown; the first is what the progress bar shows.
        faults: by what it says about the network, how true that is in this step (0 or 1).
    """

    losses: dict[str, Tensor]
    faults: dict[str, Tensor]

    def values(self) -> Tensor:
        """All of it as one fp32 tensor: losses, then faults."""
        return torch.stack([value.float() for value in (*self.losses.values(), *self.faults.values())])

    def with_values(self, values: Tensor) -> "StepResult":
        """A result of the same names with the values of such a tensor."""
        each = iter(values.unbind())
        return StepResult({name: next(each) for name in self.losses}, {name: next(each) for name in self.faults})


@dataclass(frozen=True)
class Execution:
    """How a trainer carries out its steps; what is learned differs by rounding alone.

    Attributes:
        precision: formats, loss scaling and memory layout.
        graph: "auto", "on" or "off": whole steps as CUDA graphs; see `graph.wants_graph`.
        wrap: makes of each phase (a module whose forward gives one loss of one optimizer) what is called in its place,
            such as DistributedDataParallel. It sees only the weights that the phase changes.
        distributed: whether `wrap` joins this process to others.
        parallel: whether a step's independent parts may run beside each other, which takes more memory.
        tell: takes messages to the user.
    """

    precision: Precision
    graph: str = "off"
    wrap: Callable[[nn.Module], nn.Module] = lambda phase: phase
    distributed: bool = False
    parallel: bool = True
    tell: Callable[[str], None] = print


class Trainer(Protocol):
    """A network in training."""

    optimizers: dict[str, Optimizer]
    epochs: int
    steps_per_epoch: int
    patience: dict[str, int]
    """Steps in a row after which a fault of that name stops the run."""

    @property
    def network(self) -> nn.Module:
        """What is trained and saved."""
        ...

    def step(self, epoch: int, step: int) -> StepResult:
        """Train on batch `step` of `epoch`."""
        ...

    def extra_state(self) -> dict[str, Any]:
        """What must be saved besides network, optimizers and torch's random state."""
        ...

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """The opposite of `extra_state`."""
        ...
