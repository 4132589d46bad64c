"""The numbers that a training computes with: formats, loss scaling, and how activations lie in memory.

Weights, Adam's moments, losses and the norms' statistics are fp32 in every precision; what it decides is what the
convolutions multiply. With "fp16" small gradients would vanish: losses are scaled up before the backward pass, and a
step whose gradients overflow is left out and the scale halved (Micikevicius et al. 2018), all on the device.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
from torch.amp.grad_scaler import GradScaler

from fastliver.errors import InputError

REDUCED = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""What autocast runs convolutions in; the other precisions leave it off."""

TENSOR_CORES = (7, 0)
"""Compute capability (Volta) from which fp16 is faster than fp32."""

BF16_AND_TF32 = (8, 0)
"""Compute capability (Ampere) from which a GPU multiplies bf16 and TF32."""


@dataclass(frozen=True)
class Precision:
    """What a training computes with.

    Attributes:
        name: "fp32", "tf32" (fp32 of which a GPU's tensor cores read 10 bits of mantissa), "bf16" or "fp16".
        device: where.
        memory_format: of weights, images and activations; `preserve_format` leaves them as they come.
    """

    name: str
    device: torch.device
    memory_format: torch.memory_format = torch.channels_last

    @staticmethod
    def of(name: str, device: torch.device) -> "Precision":
        """The precision that `--precision` means on a device.

        "auto" is bf16 on a GPU that has it, fp16 on an older one with tensor cores (such as an RTX 2060), and fp32 on
        the rest and on a CPU, where a number should not depend on the processor's model.

        Raises:
            InputError: for what the device can't do.
        """
        if device.type != "cuda":
            return Precision(choose(name, None, device.type.upper()), device)
        capability, title = torch.cuda.get_device_capability(device), torch.cuda.get_device_name(device)
        return Precision(choose(name, capability, title), device)

    @staticmethod
    def plain(network: nn.Module) -> "Precision":
        """A network's own: its weights' format and dtype, and nothing reduced."""
        return Precision("fp32", next(network.parameters()).device, torch.preserve_format)

    def prepare(self, network: nn.Module) -> None:
        """Bring a network's weights into the memory format; before its optimizer is made."""
        network.to(self.device)
        network.to(memory_format=self.memory_format)  # type: ignore[call-overload]  # torch's stub lacks it

    def autocast(self) -> AbstractContextManager[Any]:
        """Around a forward pass: convolutions in the reduced format. Losses are taken outside of it."""
        if self.name not in REDUCED:
            return nullcontext()
        return torch.autocast(self.device.type, REDUCED[self.name])

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around a whole step, backward passes included: cuDNN searches its fastest algorithms, and uses TF32 if asked.

        Deterministic algorithms, where torch is told to use them, are not searched: the choice would depend on time.
        """
        if self.device.type != "cuda":
            yield
            return
        deterministic = torch.are_deterministic_algorithms_enabled() or torch.backends.cudnn.deterministic
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=not deterministic, deterministic=deterministic, allow_tf32=self.name == "tf32"
        ):
            yield

    def scaler(self) -> GradScaler | None:
        """Loss scaling for one optimizer, for fp16 alone; bf16 reaches as far as fp32."""
        return GradScaler(self.device.type) if self.name == "fp16" else None


def choose(name: str, capability: tuple[int, int] | None, title: str) -> str:
    """The precision that `name` means on a GPU of this compute capability, or on a CPU, which has none.

    Args:
        name: "auto", "fp32", "tf32", "bf16" or "fp16".
        capability: (major, minor), None for a CPU.
        title: what messages call the device.

    Raises:
        InputError: for what the device can't do.
    """
    if name == "auto":
        if capability is None or capability < TENSOR_CORES:
            return "fp32"
        return "bf16" if capability >= BF16_AND_TF32 else "fp16"
    if name == "tf32" and (capability is None or capability < BF16_AND_TF32):
        raise InputError(f"--precision=tf32: {title} has no TF32 (it came with compute capability 8.0); use fp32")
    if name == "bf16" and capability is not None and capability < BF16_AND_TF32:
        raise InputError(f"--precision=bf16: {title} has no bf16 (it came with compute capability 8.0); use fp16")
    if name == "fp16" and capability is None:
        raise InputError(f"--precision=fp16: {title} does not train in fp16; use bf16 or fp32")
    return name
