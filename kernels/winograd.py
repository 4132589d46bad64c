"""3x3 convolutions of stride 1 on a CPU with 1/2.25 or 1/4 of the multiplications: Winograd's F(2x2, 3x3), F(4x4, 3x3).

A 2x2 piece of the output reads a 4x4 tile d of the input, and with a 3x3 filter g

    y = At [(G g Gt) o (Bt d B)] A        (Lavin & Gray 2016)

takes 16 multiplications in place of 36, and 4x4 from a 6x6 tile 36 in place of 144, at some accuracy: for fp32 results
of 16x16 pixels or more. Over channels the element-wise product o is 16 or 36 matrix products. Backward, the
filter's gradient is Gt [sum over tiles of (A dy At) o (Bt d B)] G, and the input's is the convolution of dy with the
filter turned by 180 degrees: all three save as much. `docs/kernels.md` derives it and says what it costs in accuracy.

The loops are C++ (csrc/winograd_cpu.cpp). Bytes that must move: x, the weights and y once, as in a direct convolution,
and the backward likewise; transformed tiles (up to 4 MiB), weights and products are scratch for the caches.
"""

import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastliver.compiled import MISSING
from fastliver.kernels.reference import transforming

LAST = torch.channels_last
CHANNELS = 32
"""The loops take channels by this many."""

DTYPES = tuple(
    dtype
    for dtype in (torch.float32, torch.bfloat16)
    if not MISSING and torch.ops.fastliver.has_winograd(dtype == torch.bfloat16)
)
"""What the loops compute in on this machine; none without the extension."""


class Conv3x3Function(torch.autograd.Function):
    """The convolution and its gradients; those of weights and bias are fp32, as these are.

    Where the gradients are to have gradients themselves they are PyTorch's, which have them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return torch.ops.fastliver.winograd_conv(x, weight.contiguous(memory_format=LAST), bias, padding, False)

    @staticmethod
    def backward(ctx, dy: Tensor):
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():
            pads, ones = [ctx.padding] * 2, [1, 1]
            dx, dw, db = torch.ops.aten.convolution_backward(
                dy, x, weight.to(x.dtype), [len(weight)], ones, pads, ones, False, [0, 0], 1, ctx.needs_input_grad[:3]
            )
            return dx, *(None if grad is None else grad.to(weight.dtype) for grad in (dw, db)), None
        if dy.stride(1) != 1:
            dy = dy.contiguous(memory_format=LAST)
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            rows = weight.contiguous(memory_format=LAST)
            dx = torch.ops.fastliver.winograd_conv(dy, rows, None, 2 - ctx.padding, True)
        if ctx.needs_input_grad[1]:
            dw = torch.ops.fastliver.winograd_weight_gradient(x, dy, ctx.padding)
        if ctx.needs_input_grad[2]:
            db = dy.sum((0, 2, 3), dtype=torch.float32)
        return dx, dw, db, None


def _format(x: Tensor) -> torch.dtype:
    """What a convolution of x computes in."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def _recorded() -> bool:
    """Whether a compiler, a tracer or torch.func (grad, vmap, jvp) wants operators that it knows."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or transforming()


def _pays(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the Winograd loops take a convolution, and are faster than PyTorch's.

    Where they can run they were as fast or faster at nearly every size (see `docs/kernels.md`), so size has no say, and
    what an image gives does not depend on how many others are in its batch. Subclasses of tensors stand for something
    else (fake tensors, tracing).
    """
    return (
        _format(x) in DTYPES
        and type(x) is Tensor
        and x.is_cpu
        and x.dim() == 4
        and x.stride(1) == 1
        and x.numel() > 0
        and weight.dtype == torch.float32
        and weight.numel() > 0
        and weight.shape[0] % CHANNELS == 0
        and weight.shape[1] % CHANNELS == 0
        and (bias is None or (bias.dtype == torch.float32 and bias.is_contiguous()))
        and os.environ.get("FASTLIVER_KERNELS", "") == ""
    )


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None, padding: int = 0) -> Tensor:
    """`F.conv2d` of 3x3 filters at stride 1.

    Args:
        x: (N, C, H, W).
        weight: (K, C, 3, 3).
        bias: (K) or none.
        padding: rows and columns of zeros on each side, 0 to 2.

    Returns:
        (N, K, H + 2 padding - 2, W + 2 padding - 2) in the dtype that F.conv2d would give, autocast's included. From
        the Winograd loops (a CPU with AVX-512, for bf16 with its bf16 products; x in channels_last; fp32 weights; C and
        K multiples of 32) it is in channels_last, and the same bits every time.
    """
    if _recorded() or not _pays(x, weight, bias):
        return F.conv2d(x, weight, bias, padding=padding)
    return Conv3x3Function.apply(x.to(_format(x)), weight, bias, padding)
