"""The operators of fastliver.kernels as the networks call them: shapes, options, inputs and the bytes they must move.

The list is that of 256x256 images at the paper's width, EssNet at batch 1 and the U-Net at batch 2; tests hold it
against what the networks really call. Timing and ahead-of-time compilation go through the same list.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fastliver.kernels.geometry import ONE_PASS

LAYOUTS = ("channels_last", "contiguous")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
NORMS = ("instance_norm_act", "instance_norm_act_shared")
GRADIENT_BYTES = 4
"""The losses keep their gradient in fp32 until the incoming gradient has met it."""
LOSS_SCALE = 1024.0


@dataclass(frozen=True)
class OperatorCase:
    """One operator at one shape, `calls` times in a pass of its network (a loss: in a training step).

    Args:
        name: says where in the network it stands.
        network: generator, discriminator, essnet or unet (the last two: losses).
        operator: name in fastliver.kernels.
        shape: (N, C, H, W) of the first argument.
        calls: how often.
        activation: of norms.
        pad: of norms and reflect_pad.
        residual: whether a norm adds one; it is then the interior of a tensor padded by 1, as in the blocks.
        mode: of adversarial losses.
        layout: contiguous or channels_last.
        dtype: of the floating-point arguments.
    """

    name: str
    network: str
    operator: str
    shape: tuple[int, int, int, int]
    calls: int = 1
    activation: str = "none"
    pad: int = 0
    residual: bool = False
    mode: str = "bce"
    layout: str = "contiguous"
    dtype: torch.dtype = torch.float32

    @property
    def shared(self) -> bool:
        """Whether the result is read twice, padded and inside."""
        return self.operator == "instance_norm_act_shared"

    @property
    def one_pass(self) -> bool:
        """Whether a norm's plane stays in registers between statistics and result (see instance_norm.py)."""
        return self.layout == "contiguous" and self.shape[2] * self.shape[3] <= ONE_PASS

    @property
    def dtype_name(self) -> str:
        """Short name of the dtype."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    @property
    def title(self) -> str:
        """Name and layout."""
        return f"{self.name} {self.layout}"


def _norm(name: str, network: str, planes: tuple[int, int, int], calls: int = 1, **options: Any) -> OperatorCase:
    shared = options.pop("shared", False)
    return OperatorCase(name, network, NORMS[shared], (1, *planes), calls, **options)


CASES = (
    OperatorCase("input-pad", "generator", "reflect_pad", (1, 1, 256, 256), pad=3),
    _norm("stem", "generator", (64, 256, 256), activation="relu"),
    _norm("down1-up1", "generator", (128, 128, 128), 2, activation="relu"),
    _norm("down2", "generator", (256, 64, 64), activation="relu", pad=1, shared=True),
    _norm("block-first", "generator", (256, 64, 64), 9, activation="relu", pad=1),
    _norm("block-second", "generator", (256, 64, 64), 8, residual=True, pad=1, shared=True),
    _norm("block-last", "generator", (256, 64, 64), residual=True, shared=True),
    _norm("up2", "generator", (64, 256, 256), activation="relu", pad=3),
    _norm("patch2", "discriminator", (128, 64, 64), activation="leaky_relu"),
    _norm("patch3", "discriminator", (256, 32, 32), activation="leaky_relu"),
    _norm("patch4", "discriminator", (512, 31, 31), activation="leaky_relu"),
    OperatorCase("generator-gan", "essnet", "patch_adversarial_loss", (1, 1, 30, 30), 2),
    OperatorCase("generator-gan-lsgan", "essnet", "patch_adversarial_loss", (1, 1, 30, 30), 2, mode="lsgan"),
    OperatorCase("discriminator-gan", "essnet", "patch_discriminator_loss", (1, 1, 30, 30), 2),
    OperatorCase("discriminator-gan-lsgan", "essnet", "patch_discriminator_loss", (1, 1, 30, 30), 2, mode="lsgan"),
    OperatorCase("cycle", "essnet", "cycle_l1_loss", (1, 1, 256, 256), 2),
    OperatorCase("segmentation", "essnet", "pixel_cross_entropy", (1, 2, 256, 256)),
    OperatorCase("unet-loss", "unet", "binary_cross_entropy_with_logits", (2, 1, 256, 256)),
)
"""Contiguous and fp32 here; `variants` gives the rest."""


def variants(
    layouts: Iterable[str] = LAYOUTS,
    dtypes: Iterable[torch.dtype] = tuple(DTYPES.values()),
    batch: int = 1,
    only: str = "",
) -> Iterator[OperatorCase]:
    """Every case in these layouts and dtypes, its batch times `batch`; tensors of one channel have a single layout.

    Args:
        layouts: of LAYOUTS.
        dtypes: of DTYPES.
        batch: factor of the first dimension.
        only: part of the name or the operator of the cases that are wanted.
    """
    layouts, dtypes = tuple(layouts), tuple(dtypes)
    for case in CASES:
        if only not in case.name and only not in case.operator:
            continue
        n, c, h, w = case.shape
        for layout in layouts if case.shape[1] > 1 else ("contiguous",):
            for dtype in dtypes:
                yield replace(case, shape=(n * batch, c, h, w), layout=layout, dtype=dtype)


def _random(case: OperatorCase, generator: torch.Generator, grow: int = 0) -> Tensor:
    n, c, h, w = case.shape
    x = torch.randn((n, c, h + 2 * grow, w + 2 * grow), generator=generator, device=generator.device)
    memory_format = torch.channels_last if case.layout == "channels_last" else torch.contiguous_format
    return x.to(dtype=case.dtype, memory_format=memory_format)


def make_inputs(case: OperatorCase, device: str | torch.device = "cpu", seed: int = 0) -> tuple[Tensor, ...]:
    """Arguments of a case, random; those that a training step differentiates require a gradient.

    The second one is a norm's residual, a discriminator's map of a generated image, the cycle's image or labels.
    """
    generator = torch.Generator(device).manual_seed(seed)
    first = _random(case, generator).requires_grad_()
    n, c, h, w = case.shape
    if case.residual:
        return first, _random(case, generator, grow=1)[:, :, 1:-1, 1:-1].requires_grad_()
    if case.operator == "patch_discriminator_loss":
        return first, _random(case, generator).requires_grad_()
    if case.operator == "cycle_l1_loss":
        return first, _random(case, generator)
    if case.operator in ("pixel_cross_entropy", "binary_cross_entropy_with_logits"):
        labels = torch.randint(0, max(c, 2), (n, h, w), generator=generator, device=device, dtype=torch.uint8)
        return first, labels
    return (first,)


def call(case: OperatorCase, functions: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The outputs that the network reads, from the operator of this name among the attributes of `functions`."""
    operator = getattr(functions, case.operator)
    if case.operator in NORMS:
        x, residual = inputs if case.residual else (inputs[0], None)
        result = operator(x, case.activation, slope=0.2, residual=residual, pad=case.pad)
        if not case.shared:
            return (result,)
        return result if case.pad else result[1:]
    if case.operator == "reflect_pad":
        return (operator(inputs[0], case.pad),)
    if case.operator == "patch_adversarial_loss":
        return (operator(inputs[0], True, case.mode),)
    if case.operator == "patch_discriminator_loss":
        return (operator(*inputs, case.mode),)
    return (operator(*inputs),)


def output_gradients(outputs: tuple[Tensor, ...], seed: int = 1) -> tuple[Tensor, ...]:
    """Incoming gradients: random and dense in the format of each output; a loss's is what fp16 training scales it by,
    for a mean's gradient is too small for fp16 otherwise."""
    generator = torch.Generator(outputs[0].device).manual_seed(seed)
    return tuple(
        torch.empty_like(output).normal_(generator=generator) if output.dim() else torch.full_like(output, LOSS_SCALE)
        for output in outputs
    )


def gradients(
    outputs: tuple[Tensor, ...], inputs: tuple[Tensor, ...], incoming: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Gradients of the inputs that want one; `outputs` may be used again."""
    return torch.autograd.grad(outputs, [x for x in inputs if x.requires_grad], incoming, retain_graph=True)


def bytes_moved(case: OperatorCase, mode: str, least: bool = True) -> int:
    """Bytes to and from device memory of a case (means, rstds and the sums of tiles are too few to count).

    Args:
        case: which.
        mode: forward, backward or full.
        least: each tensor once, which no kernel goes below. Otherwise what the kernels of the road taken move: a norm
            that is split over tiles reads x twice forward, and x and all incoming gradients twice backward.
    """
    if mode == "full":
        return bytes_moved(case, "forward", least) + bytes_moved(case, "backward", least)
    n, c, h, w = case.shape
    inside = n * c * h * w
    padded = n * c * (h + 2 * case.pad) * (w + 2 * case.pad)
    b = case.dtype.itemsize
    if case.operator in NORMS:
        twice = not least and not case.one_pass
        shortcut = case.shared and case.pad > 0
        if mode == "forward":
            return b * (inside * (1 + twice + case.residual) + padded)
        incoming = inside + padded + inside * shortcut
        # Without padding the residual's gradient is the incoming one.
        return b * (incoming * (1 + twice) + inside * (1 + (case.residual and case.pad > 0)))
    if case.operator == "reflect_pad":
        return b * (inside + padded)
    maps = 2 if case.operator == "patch_discriminator_loss" else 1
    gradient = GRADIENT_BYTES * inside * maps
    if mode == "backward":
        return gradient + b * inside * maps
    targets = {"cycle_l1_loss": b * inside, "pixel_cross_entropy": n * h * w}
    targets["binary_cross_entropy_with_logits"] = n * h * w
    return b * inside * maps + targets.get(case.operator, 0) + gradient
