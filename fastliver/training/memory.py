"""Peak memory of a training step, counted without a GPU: a real trainer takes two steps on fake tensors.

Fake tensors have shapes, dtypes and strides but no values, so a step of the paper's networks takes seconds on any
machine. They lie on the CPU while operators take the road that they take on a GPU (FASTLIVER_KERNELS=triton): what the
kernels save for the backward is what counts. What no tensor holds is not in it: see `memory_plan` for that.
"""

import os
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastliver.config import EssNetConfig, TrainConfig, UNetConfig
from fastliver.data.batches import BatchStream, Slices
from fastliver.models import EssNet, ResNetGenerator, UNet
from fastliver.training.essnet import EssNetTrainer
from fastliver.training.precision import Precision
from fastliver.training.trainer import Execution, Trainer
from fastliver.training.unet import UNetTrainer

ALLOCATION = 512
"""Bytes that PyTorch's CUDA allocator rounds every tensor's memory up to."""

TITLES = {"essnet": "EssNet", "cyclegan": "CycleGAN", "unet": "U-Net"}


@dataclass(frozen=True)
class Workload:
    """A training whose memory is asked for.

    Attributes:
        name: of TITLES; "cyclegan" is EssNet without its segmentor.
        config: the run's settings.
        slices: numbers of slices to draw from: of CT and MR for EssNet, of both together for the U-Net.
    """

    name: str
    config: TrainConfig
    slices: tuple[int, ...]

    @property
    def section(self) -> str:
        """Which of the settings' sections it is, with which its options begin."""
        return "unet" if self.name == "unet" else "essnet"

    @property
    def batch(self) -> int:
        return getattr(self.config, self.section).batch

    def with_batch(self, batch: int) -> "Workload":
        """The same with another batch."""
        section = replace(getattr(self.config, self.section), batch=batch)
        return replace(self, config=replace(self.config, **{self.section: section}))

    def with_image_size(self, size: int) -> "Workload":
        """The same with slices of another size."""
        return replace(self, config=replace(self.config, data=replace(self.config.data, image_size=size)))


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a step's tensors at the moment when they are most.

    Attributes:
        weights: of the networks.
        gradients: those that exist at that moment.
        optimizer: Adam's two moments and counters.
        slices: those that lie on the device.
        buffers: image pools, tables of order and augmentation, scalers: what lasts from step to step.
        activations: what the backward needs, and everything else that a step makes and drops.
    """

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    slices: int = 0
    buffers: int = 0
    activations: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, item.name) for item in fields(self))


class LiveBytes(TorchDispatchMode):
    """Counts the memory of the tensors that operators make while it is on, until they are gone, kind by kind.

    A storage counts once, whatever views of it there are, and as "activations" until it is given another kind.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live: Counter[str] = Counter()
        self.peak: dict[str, int] = {}
        self._held: dict[int, tuple[str, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        if self.live.total() > sum(self.peak.values()):
            self.peak = dict(self.live)
        return result

    def label(self, kind: str, tensors: Iterable[Tensor]) -> None:
        """Count these as another kind from now on, also where they were made before counting began."""
        for tensor in tensors:
            key = self._count(tensor)
            before, size = self._held[key]
            self._held[key] = kind, size
            self.live[before] -= size
            self.live[kind] += size

    def leave_out(self, tensors: Iterable[Tensor]) -> None:
        """Count these and their views for nothing: they stand for tensors that don't lie on the device."""
        for tensor in tensors:
            kind, size = self._held[self._count(tensor)]
            self.live[kind] -= size
            self._held[tensor.untyped_storage()._cdata] = kind, 0

    def label_rest(self, kind: str) -> None:
        """Count what still has no kind of its own as another kind from now on."""
        for key, (before, size) in self._held.items():
            if before == "activations":
                self._held[key] = kind, size
        self.live[kind] += self.live.pop("activations", 0)

    def _count(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._held:
            size = -(-storage.nbytes() // ALLOCATION) * ALLOCATION
            self._held[key] = "activations", size
            self.live["activations"] += size
            weakref.finalize(storage, self._forget, key)
        return key

    def _forget(self, key: int) -> None:
        kind, size = self._held.pop(key)
        self.live[kind] -= size


def set_checkpoint_blocks(network: nn.Module, on: bool) -> None:
    """Have the blocks of every generator or U-Net in `network` computed again in the backward, or kept."""
    for module in network.modules():
        if isinstance(module, ResNetGenerator | UNet):
            module.checkpoint_blocks = on


def measure_steps(make: Callable[[], Trainer], slices: Iterable[Slices] = ()) -> StepMemory:
    """Peak of the second step of a trainer, the first to have an optimizer state.

    Args:
        make: builds the trainer; under FakeTensorMode it holds no values.
        slices: what its streams draw from.
    """
    with LiveBytes() as live:
        for held in slices:
            tensors = (held.images, held.labels)
            if held.copied_to is None:
                live.label("slices", tensors)
            else:
                live.leave_out(tensors)
        trainer = make()
        weights = list(trainer.network.parameters())
        live.label("weights", weights)
        for weight in weights:
            weight.register_post_accumulate_grad_hook(
                lambda w: live.label("gradients", [w.grad]) if w.grad is not None else None
            )
        trainer.step(0, 0)
        states = tree_leaves([list(optimizer.state.values()) for optimizer in trainer.optimizers.values()])
        live.label("optimizer", (state for state in states if isinstance(state, Tensor)))
        live.label_rest("buffers")
        live.peak = {}
        trainer.step(*divmod(1, trainer.steps_per_epoch))
    return StepMemory(**live.peak)


@contextmanager
def _as_on_a_gpu() -> Iterator[None]:
    """Operators on fake tensors take the road that they take on a GPU."""
    before = os.environ.get("FASTLIVER_KERNELS")
    os.environ["FASTLIVER_KERNELS"] = before or "triton"
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        if before is None:
            del os.environ["FASTLIVER_KERNELS"]


def make_network(workload: Workload) -> EssNet | UNet:
    """A training's network with new weights."""
    config = workload.config
    if workload.section == "unet":
        return UNet(config.unet.channels, config.unet.head_relu)
    essnet = config.essnet
    return EssNet(essnet.channels, essnet.blocks, workload.name == "essnet", essnet.segmentor_tanh)


def make_slices(workload: Workload, device: torch.device, resident: bool) -> list[Slices]:
    """Slices of zeros, as many as a training draws from, on the device or in host memory."""
    size = workload.config.data.image_size
    home = device if resident else torch.device("cpu")
    return [
        Slices(
            torch.zeros((count, 1, size, size), dtype=torch.float16, device=home),
            torch.zeros((count, size, size), dtype=torch.uint8, device=home),
            None if resident else device,
        )
        for count in workload.slices
    ]


def make_trainer(
    workload: Workload, network: EssNet | UNet, slices: list[Slices], execution: Execution
) -> EssNetTrainer | UNetTrainer:
    """The trainer that a run would make."""
    config = workload.config
    if isinstance(network, UNet):
        (images,) = slices
        return UNetTrainer(network, config.unet, _stream(images, config.unet, 1), execution)
    ct, mr = (_stream(held, config.essnet, number) for number, held in enumerate(slices, 1))
    return EssNetTrainer(network, config.essnet, ct, mr, 0, execution)


def _stream(slices: Slices, config: EssNetConfig | UNetConfig, seed: int) -> BatchStream:
    return BatchStream(slices, config.batch, (0, seed), config.augment)


class _Prepared(Precision):
    """Leaves the network as it was prepared: fake weights can't be converted in place."""

    def prepare(self, network: nn.Module) -> None:
        pass


@lru_cache(maxsize=256)
def step_memory(
    workload: Workload, precision: str = "fp32", checkpoint_blocks: bool = False, resident: bool = True
) -> StepMemory:
    """What a step of a training holds on a GPU, counted on any machine in seconds.

    Args:
        workload: what is trained.
        precision: "fp32", "tf32", "bf16" or "fp16".
        checkpoint_blocks: compute the networks' blocks again in the backward.
        resident: whether the slices lie on the device.
    """
    device = torch.device("cpu")
    with torch.device("meta"):
        # Initialisation looks at values, which fake tensors don't have.
        network = make_network(workload)
    Precision(precision, torch.device("meta")).prepare(network)
    set_checkpoint_blocks(network, checkpoint_blocks)
    execution = Execution(_Prepared(precision, device))
    with _as_on_a_gpu():
        slices = make_slices(workload, device, resident)
        return measure_steps(lambda: make_trainer(workload, network.to_empty(device=device), slices, execution), slices)
