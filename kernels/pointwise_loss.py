"""Losses that are the mean of a function of each element: adversarial (cross-entropy, least squares), L1, U-Net BCE.

With n elements, prediction p and target t the loss is sum(f(p, t)) / n and its gradient f'(p, t) / n:

    bce    f = max(p, 0) - p t + log(1 + exp(-|p|))    f' = sigmoid(p) - t
    lsgan  f = (p - t)^2                               f' = 2 (p - t)
    l1     f = |p - t|                                 f' = sign(p - t), 0 where they are equal

One pass over the data writes the gradient and the sums of tiles; the last program's work, adding those sums in order,
is a second launch that reads a few hundred bytes (none when there is one tile). The gradient stays fp32 and meets the
incoming gradient before it is rounded: 1 / 65,536 is subnormal in fp16. Nothing is read back by the host and nothing
is added atomically, so a CUDA graph can replay it and the bits repeat.

Bytes that must move for n elements of b bytes: b n (twice with a target tensor) in, 4 n out.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastliver.kernels import reference
from fastliver.kernels.dispatch import LAUNCH, register, tl, triton, use_triton
from fastliver.kernels.geometry import gapless

BLOCK = 2048
"""Elements of a tile; a discriminator's 30x30 map is one."""


@triton.jit
def _loss_and_slope(p, t, KIND: tl.constexpr):
    if KIND == "bce":
        # Targets of 0 and 1 are told apart, since an infinite logit times 0 would be NaN.
        linear = tl.maximum(p, 0.0) - tl.where((t == 0.0) | (t == 1.0), 0.0, p * t)
        linear = tl.where(t == 1.0, tl.maximum(-p, 0.0), linear)
        small = tl.exp(-tl.abs(p))
        # log(1 + small) to full precision (Kahan): what the sum lost is made good by the quotient.
        one_more = 1.0 + small
        lost_all = one_more == 1.0
        loss = linear + tl.where(lost_all, small, tl.log(one_more) * (small / tl.where(lost_all, 1.0, one_more - 1.0)))
        sigmoid = tl.where(p >= 0, 1.0 / (1.0 + small), small / (1.0 + small))
        return tl.where(p != p, p, loss), sigmoid - t
    elif KIND == "lsgan":
        return (p - t) * (p - t), 2.0 * (p - t)
    else:
        sign = tl.where(p > t, 1.0, tl.where(p < t, -1.0, 0.0))
        return tl.abs(p - t), tl.where(p != p, p, sign)


@triton.jit
def _pointwise(
    p_ptr, t_ptr, constant, grad_ptr, sums_ptr, size, scale, KIND: tl.constexpr, HAS_TARGET: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One tile: its scaled gradient and the sum of its losses."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < size
    p = tl.load(p_ptr + i, mask=mask, other=0.0).to(tl.float32)
    t = constant
    if HAS_TARGET:
        t = tl.load(t_ptr + i, mask=mask, other=0).to(tl.float32)
    loss, slope = _loss_and_slope(p, t, KIND)
    tl.store(grad_ptr + i, slope * scale, mask=mask)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(tl.where(mask, loss, 0.0), 0) * scale)


@triton.jit
def _pair(
    real_ptr, fake_ptr, grad_real_ptr, grad_fake_ptr, loss_ptr, scale, SIZE: tl.constexpr, KIND: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Both maps of a discriminator's step by one program: half the mean loss of real as 1 and of fake as 0.

    SIZE, their elements, is a constant: it is the same in every step.
    """
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, SIZE, BLOCK):
        i = first + tl.arange(0, BLOCK)
        mask = i < SIZE
        real = tl.load(real_ptr + i, mask=mask, other=0.0).to(tl.float32)
        fake = tl.load(fake_ptr + i, mask=mask, other=0.0).to(tl.float32)
        real_loss, real_slope = _loss_and_slope(real, 1.0, KIND)
        fake_loss, fake_slope = _loss_and_slope(fake, 0.0, KIND)
        tl.store(grad_real_ptr + i, real_slope * scale, mask=mask)
        tl.store(grad_fake_ptr + i, fake_slope * scale, mask=mask)
        total += tl.where(mask, real_loss + fake_loss, 0.0)
    tl.store(loss_ptr, tl.sum(total, 0) * scale)


@triton.jit
def add_in_order(sums_ptr, total_ptr, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """The sum of COUNT fp32 numbers, the same bits every time."""
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, COUNT, BLOCK):
        i = first + tl.arange(0, BLOCK)
        total += tl.load(sums_ptr + i, mask=i < COUNT, other=0.0)
    tl.store(total_ptr, tl.sum(total, 0))


@triton.jit
def _scale(grad_ptr, factor_ptr, out_ptr, size, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    grad = tl.load(grad_ptr + i, mask=i < size, other=0.0) * tl.load(factor_ptr).to(tl.float32)
    tl.store(out_ptr + i, grad.to(out_ptr.dtype.element_ty), mask=i < size)


def total_of(sums: Tensor) -> Tensor:
    """The sum of the tiles' sums, a scalar; one launch, or none for one tile."""
    if sums.numel() == 1:
        return sums.reshape(())
    total = sums.new_empty(())
    add_in_order[(1,)](sums, total, COUNT=sums.numel(), BLOCK=1024, num_warps=4, **LAUNCH)
    return total


def _forward(prediction: Tensor, target: Tensor | None, constant: float, kind: str) -> tuple[Tensor, Tensor]:
    """The mean loss (fp32 scalar) and its gradient (fp32, the strides of `prediction`)."""
    size = prediction.numel()
    grad = torch.empty_like(prediction, dtype=torch.float32)
    programs = triton.cdiv(size, BLOCK)
    sums = torch.empty(programs, dtype=torch.float32, device=prediction.device)
    _pointwise[(programs,)](
        prediction, prediction if target is None else target, constant, grad, sums, size, 1.0 / size,
        KIND=kind, HAS_TARGET=target is not None, BLOCK=BLOCK, num_warps=8, **LAUNCH,
    )  # fmt: skip
    return total_of(sums), grad


def _pair_forward(real: Tensor, fake: Tensor, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    _, grad_real, grad_fake = _fake_pair(real, fake, kind)
    loss = torch.empty((), dtype=torch.float32, device=real.device)
    _pair[(1,)](
        real, fake, grad_real, grad_fake, loss, 0.5 / real.numel(), SIZE=real.numel(), KIND=kind, BLOCK=1024,
        num_warps=8, **LAUNCH,
    )  # fmt: skip
    return loss, grad_real, grad_fake


def _scaled(grad: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """`grad` (fp32) times the scalar `factor`, then rounded to `dtype`."""
    out = torch.empty_like(grad, dtype=dtype)
    _scale[(triton.cdiv(grad.numel(), BLOCK),)](grad, factor, out, grad.numel(), BLOCK=BLOCK, num_warps=8, **LAUNCH)
    return out


def _fake_loss(prediction: Tensor, target: Tensor | None, constant: float, kind: str) -> tuple[Tensor, Tensor]:
    return prediction.new_empty((), dtype=torch.float32), torch.empty_like(prediction, dtype=torch.float32)


def _fake_pair(real: Tensor, fake: Tensor, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    grad_real, grad_fake = (torch.empty_like(logits, dtype=torch.float32) for logits in (real, fake))
    return real.new_empty((), dtype=torch.float32), grad_real, grad_fake


def _fake_scaled(grad: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(grad, dtype=dtype)


register(
    "pointwise_loss(Tensor prediction, Tensor? target, float constant, str kind) -> (Tensor, Tensor)",
    _forward,
    _fake_loss,
)
register("pair_loss(Tensor real, Tensor fake, str kind) -> (Tensor, Tensor, Tensor)", _pair_forward, _fake_pair)
register("scaled_gradient(Tensor grad, Tensor factor, ScalarType dtype) -> Tensor", _scaled, _fake_scaled)


class PointwiseLossFunction(torch.autograd.Function):
    """Mean loss of a prediction against a tensor or a constant; the target of "l1" alone has a gradient."""

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, target: Tensor | None, constant: float, kind: str) -> Tensor:
        loss, grad = torch.ops.fastliver.pointwise_loss(prediction, target, constant, kind)
        ctx.save_for_backward(grad)
        ctx.dtype, ctx.kind = prediction.dtype, kind
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, factor: Tensor):
        (grad,) = ctx.saved_tensors
        grad = torch.ops.fastliver.scaled_gradient(grad, factor, ctx.dtype)
        wants_target = ctx.needs_input_grad[1] and ctx.kind == "l1"
        return grad, -grad if wants_target else None, None, None


class PairLossFunction(torch.autograd.Function):
    """The discriminator's loss on a real and a generated map."""

    @staticmethod
    def forward(ctx: Any, real: Tensor, fake: Tensor, kind: str) -> Tensor:
        loss, *grads = torch.ops.fastliver.pair_loss(real, fake, kind)
        ctx.save_for_backward(*grads)
        ctx.dtype = real.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, factor: Tensor):
        real, fake = (torch.ops.fastliver.scaled_gradient(grad, factor, ctx.dtype) for grad in ctx.saved_tensors)
        return real, fake, None


def _in_order_of(like: Tensor, x: Tensor) -> Tensor:
    """`x` itself if its elements lie in the order of `like`, else a copy."""
    # The stride along a side of one element says nothing: images of one channel are in every format.
    moves = [n for n, size in enumerate(x.shape) if size > 1]
    same = all(x.stride(n) == like.stride(n) for n in moves)
    return x if same else torch.empty_like(like, dtype=x.dtype).copy_(x)


def patch_adversarial_loss(logits: Tensor, target_is_real: bool, mode: str = "bce") -> Tensor:
    """Mean over a PatchGAN's map of the loss that it should say "real" (1) or "fake" (0), in one launch.

    Args:
        logits: the discriminator's output before any sigmoid, (N, 1, h, w), fp32, fp16 or bf16.
        target_is_real: what the loss pulls the map towards. A generator uses True: the non-saturating form.
        mode: "bce", cross-entropy (the paper's Eq. 1-2), or "lsgan", least squares (Mao et al. 2017).

    Returns:
        A scalar, fp32 from the kernel.

    Raises:
        ValueError: for an unknown mode.
    """
    reference.check_adversarial(mode)
    if not use_triton(logits):
        return reference.patch_adversarial_loss(logits, target_is_real, mode)
    return PointwiseLossFunction.apply(gapless(logits), None, float(target_is_real), mode)


def patch_discriminator_loss(real: Tensor, fake: Tensor, mode: str = "bce") -> Tensor:
    """Half the sum of `patch_adversarial_loss(real, True)` and `(fake, False)`, in one launch: a discriminator's loss.

    Args:
        real: logits on real images, (N, 1, h, w).
        fake: logits on generated images, of the same shape and dtype.
        mode: see `patch_adversarial_loss`.

    Raises:
        ValueError: for an unknown mode, or maps of two shapes.
    """
    reference.check_adversarial(mode)
    reference.check_same_shape("real", real, "fake", fake)
    if not use_triton(real, fake):
        return reference.patch_discriminator_loss(real, fake, mode)
    return PairLossFunction.apply(gapless(real), gapless(fake), mode)


def cycle_l1_loss(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of two tensors of one shape (the paper's Eq. 3-4); equal elements have no gradient.

    Raises:
        ValueError: for tensors of two shapes.
    """
    reference.check_same_shape("a", a, "b", b)
    # In 16 bits a generator gives another dtype than that of the image which its output is held against.
    if not (use_triton(a, b) if b.requires_grad else use_triton(a, target=b)):
        return reference.cycle_l1_loss(a, b)
    a = gapless(a)
    return PointwiseLossFunction.apply(a, _in_order_of(a, b), 0.0, "l1")


def binary_cross_entropy_with_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy of a sigmoid over pixels: the U-Net's loss.

    Args:
        logits: (N, 1, H, W), fp32, fp16 or bf16.
        labels: (N, H, W), 0 or 1 in any dtype, without a gradient.

    Raises:
        ValueError: for shapes that don't fit, and for labels that require a gradient.
    """
    reference.check_one_channel(logits)
    reference.check_same_shape("logits without their channel", logits[:, 0], "labels", labels)
    if labels.requires_grad:
        raise ValueError("labels require a gradient, but this loss has none for them: detach them")
    if not use_triton(logits, target=labels):
        return reference.binary_cross_entropy_with_logits(logits, labels)
    # With one channel the elements of logits and labels lie in the same order.
    return PointwiseLossFunction.apply(gapless(logits), labels.contiguous(), 0.0, "bce")
