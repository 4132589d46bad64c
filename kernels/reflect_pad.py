"""Reflection padding that keeps the format of its input, and a backward that is a gather.

Forward each padded pixel reads the one it mirrors; backward each pixel sums its up to nine copies, in fp32 and a fixed
order, where PyTorch's CUDA backward adds them atomically. Bytes that must move: the input once, the output once.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastliver.kernels import reference
from fastliver.kernels.dispatch import register, tl, triton, use_triton
from fastliver.kernels.geometry import Tiling, empty, is_dense, load_folded, padded_source, reachable, tile


@triton.jit
def _pad_forward(
    x_ptr, x_s, y_ptr, y_s, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, PAD: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    pixels, channels, n = tile(BLOCK_P, BLOCK_C)
    mask = (pixels < (H + 2 * PAD) * (W + 2 * PAD)) & (channels < C)
    row, column = padded_source(pixels, H, W, PAD)
    x = tl.load(x_ptr + n * x_s[0] + row * x_s[2] + column * x_s[3] + channels * x_s[1], mask=mask, other=0.0)
    tl.store(y_ptr + n * y_s[0] + pixels * y_s[3] + channels * y_s[1], x, mask=mask)


@triton.jit
def _pad_backward(
    dy_ptr, dy_s, dx_ptr, dx_s, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, PAD: tl.constexpr,
    DENSE: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    pixels, channels, n = tile(BLOCK_P, BLOCK_C)
    mask = (pixels < H * W) & (channels < C)
    dx = load_folded(dy_ptr + n * dy_s[0], dy_s, pixels, channels, mask, H, W, PAD, DENSE)
    offsets = n * dx_s[0] + pixels * dx_s[3] + channels * dx_s[1]
    tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask=mask)


def _forward(x: Tensor, pad: int) -> Tensor:
    n, c, h, w = x.shape
    y = empty(x, (n, c, h + 2 * pad, w + 2 * pad))
    tiles = Tiling.split(x, y.shape[2] * y.shape[3])
    _pad_forward[tiles.grid(y.shape[2] * y.shape[3], c, n)](
        x, x.stride(), y, y.stride(), C=c, H=h, W=w, PAD=pad, **tiles.options()
    )
    return y


def _backward(dy: Tensor, pad: int) -> Tensor:
    n, c, height, width = dy.shape
    h, w = height - 2 * pad, width - 2 * pad
    dx = empty(dy, (n, c, h, w))
    tiles = Tiling.split(dy, h * w)
    _pad_backward[tiles.grid(h * w, c, n)](
        dy, dy.stride(), dx, dx.stride(), C=c, H=h, W=w, PAD=pad, DENSE=is_dense(dy), **tiles.options()
    )
    return dx


def _fake_forward(x: Tensor, pad: int) -> Tensor:
    n, c, h, w = x.shape
    return empty(x, (n, c, h + 2 * pad, w + 2 * pad))


def _fake_backward(dy: Tensor, pad: int) -> Tensor:
    n, c, h, w = dy.shape
    return empty(dy, (n, c, h - 2 * pad, w - 2 * pad))


register("reflect_pad_forward(Tensor x, int pad) -> Tensor", _forward, _fake_forward)
register("reflect_pad_backward(Tensor dy, int pad) -> Tensor", _backward, _fake_backward)


class ReflectPadFunction(torch.autograd.Function):
    """Padding and its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pad: int) -> Tensor:
        """See `reflect_pad`; `x` is (N, C, H, W)."""
        ctx.pad = pad
        return torch.ops.fastliver.reflect_pad_forward(x, pad)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        """The gradient (N, C, H, W) of `x` from that of the padded tensor."""
        return torch.ops.fastliver.reflect_pad_backward(reachable(dy), ctx.pad), None


def reflect_pad(x: Tensor, pad: int) -> Tensor:
    """`x` (N, C, H, W), any strides, reflection-padded by `pad` pixels on all four sides, in its own format.

    Raises:
        ValueError: for a pad that isn't less than H and W.
    """
    reference.check_pad(x, pad)
    if pad == 0:
        return x
    return ReflectPadFunction.apply(x, pad) if use_triton(x, pad=pad) else reference.reflect_pad(x, pad)
