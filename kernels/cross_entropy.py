"""Cross-entropy over the classes of each pixel: the segmentor's loss (the paper's Eq. 5).

With logits l_k and label y the loss of a pixel is log(sum_k exp(l_k)) - l_y, its gradient softmax(l)_k - [k = y], both
divided by the number of pixels. One pass reads logits and labels, and writes the fp32 gradient and the sums of tiles,
which `add_in_order` adds; see pointwise_loss.py for why the gradient is fp32. A label outside 0..K-1 makes the loss
NaN, which training stops at: a kernel can't raise.

Bytes that must move for P pixels and K classes: K P b for the logits, P for uint8 labels, 4 K P for the gradient.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastliver.kernels import reference
from fastliver.kernels.dispatch import LAUNCH, register, tl, triton, use_triton
from fastliver.kernels.geometry import empty, gapless, is_dense, plane_offsets
from fastliver.kernels.pointwise_loss import total_of

TILE = 4096
"""Elements (pixels times classes, to a power of two) of a tile."""


@triton.jit
def _cross_entropy(
    l_ptr, l_s, y_ptr, y_s, grad_ptr, grad_s, sums_ptr, scale, K: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    DENSE: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One tile of one sample: BLOCK_P pixels with all their classes."""
    pixels = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)[:, None]
    classes = tl.arange(0, BLOCK_K)[None, :]
    n = tl.program_id(1).to(tl.int64)
    there = pixels < H * W
    mask = there & (classes < K)
    offsets = n * l_s[0] + plane_offsets(pixels, W, l_s, DENSE) + classes * l_s[1]
    logits = tl.load(l_ptr + offsets, mask=mask, other=float("-inf")).to(tl.float32)
    labels = tl.load(y_ptr + n * y_s[0] + (pixels // W) * y_s[1] + (pixels % W) * y_s[2], mask=there, other=0)
    labels = labels.to(tl.int64)  # not narrower: a label of 2^32 must not become 0
    logits = tl.where(there, logits, 0.0)
    highest = tl.max(logits, 1, keep_dims=True)
    powers = tl.exp(logits - highest)
    total = tl.sum(powers, 1, keep_dims=True)
    chosen = tl.sum(tl.where((classes == labels) & (classes < K), logits, 0.0), 1, keep_dims=True)
    loss = tl.log(total) + highest - chosen
    loss = tl.where((labels >= 0) & (labels < K), loss, float("nan"))
    grad = (powers / total - tl.where(classes == labels, 1.0, 0.0)) * scale
    grad_offsets = n * grad_s[0] + pixels * grad_s[3] + classes * grad_s[1]
    tl.store(grad_ptr + grad_offsets, grad, mask=mask)
    place = sums_ptr + n * tl.num_programs(0) + tl.program_id(0)
    tl.store(place, tl.sum(tl.sum(tl.where(there, loss, 0.0), 1), 0) * scale)


def _forward(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The mean loss (fp32 scalar) and its gradient (fp32, dense in the order of `logits`)."""
    n, k, h, w = logits.shape
    grad = empty(logits, logits.shape, torch.float32)
    block_k = triton.next_power_of_2(k)
    block_p = max(TILE // block_k, 16)
    tiles = triton.cdiv(h * w, block_p)
    sums = torch.empty(n * tiles, dtype=torch.float32, device=logits.device)
    _cross_entropy[(tiles, n)](
        logits, logits.stride(), labels, labels.stride(), grad, grad.stride(), sums, 1.0 / (n * h * w),
        K=k, H=h, W=w, DENSE=is_dense(logits), BLOCK_P=block_p, BLOCK_K=block_k, num_warps=8, **LAUNCH,
    )  # fmt: skip
    return total_of(sums), grad


def _fake_forward(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return logits.new_empty((), dtype=torch.float32), empty(logits, logits.shape, torch.float32)


register("pixel_cross_entropy(Tensor logits, Tensor labels) -> (Tensor, Tensor)", _forward, _fake_forward)


class PixelCrossEntropyFunction(torch.autograd.Function):
    """The loss and, backward, the gradient made with it."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        loss, grad = torch.ops.fastliver.pixel_cross_entropy(logits, labels)
        ctx.save_for_backward(grad)
        ctx.dtype = logits.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, factor: Tensor):
        (grad,) = ctx.saved_tensors
        return torch.ops.fastliver.scaled_gradient(grad, factor, ctx.dtype), None


def pixel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over pixels (the paper's Eq. 5).

    Args:
        logits: (N, K, H, W), fp32, fp16 or bf16, any strides.
        labels: (N, H, W), integers in 0..K-1, any integer dtype.

    Returns:
        A scalar, fp32 from the kernel; NaN there for a label out of range.

    Raises:
        ValueError: for shapes that don't fit.
    """
    reference.check_same_shape("logits without their classes", logits[:, 0], "labels", labels)
    if not use_triton(logits, target=labels):
        return reference.pixel_cross_entropy(logits, labels)
    return PixelCrossEntropyFunction.apply(gapless(logits), labels)
