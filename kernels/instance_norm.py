"""Instance norm, activation, residual add and reflection padding in one operator, forward and backward.

With x-hat = (x - mean) * rstd over a plane of P = H * W pixels and z = act(x-hat) + residual, the output is z padded
by reflection. Backward, g is the gradient of z: the sum over the padded copies of each pixel, plus what came along the
shortcut. Then d_residual = g, h = g * act'(x-hat), and

    dx = rstd * (h - mean(h) - x-hat * mean(h * x-hat)).

act' follows from the sign of x-hat, so x, mean and rstd are all that is saved. Statistics are fp32, taken as the mean
and the sum of squares about it in each tile and merged in a fixed order (Chan et al. 1979), so that a plane of mean
1000 and spread 0.1 keeps its variance. Nothing is accumulated by atomics: the same input gives the same bits.

Bytes that must move, with b the bytes of an element: one plane in registers (`plane_*`: contiguous, up to 16,384
pixels) 2 P b forward and 3 P b backward; split over tiles (`partial_*`, `merge_*`, `apply_*`) 3 P b and 5 P b,
since x (backward: x and dy) is read twice. A residual adds P b to either, padding the border's share.
"""

from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastliver.kernels import instance_norm_kernels as kernels
from fastliver.kernels import reference
from fastliver.kernels.dispatch import register, use_triton
from fastliver.kernels.geometry import ONE_PASS, Tiling, empty, is_channels_last, is_dense, reachable


def _fits_registers(x: Tensor) -> bool:
    """Whether one program holds a plane: for callers with contiguous tensors, since the networks use channels_last."""
    return not is_channels_last(x) and x.shape[2] * x.shape[3] <= ONE_PASS


def _forward(
    x: Tensor, residual: Tensor | None, activation: str, slope: float, pad: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the forward kernels: y (N, C, H + 2 pad, W + 2 pad) in the format of x, mean and rstd (N, C) fp32."""
    n, c, h, w = x.shape
    y = empty(x, (n, c, h + 2 * pad, w + 2 * pad))
    mean = torch.empty((n, c), dtype=torch.float32, device=x.device)
    rstd = torch.empty_like(mean)
    r = x if residual is None else residual
    common = {"C": c, "H": h, "W": w, "X_DENSE": is_dense(x)}
    write = {**common, "PAD": pad, "ACTIVATION": activation, "HAS_RESIDUAL": residual is not None}
    if _fits_registers(x):
        plane = Tiling.whole_plane(h * w)
        kernels.plane_forward[plane.grid(h * w, c, n)](
            x, x.stride(), y, y.stride(), r, r.stride(), mean, rstd, eps, slope, **write, **plane.options()
        )
        return y, mean, rstd
    tiles = Tiling.split(x, h * w)
    grid = tiles.grid(h * w, c, n)
    partial = torch.empty((n, grid[0], 2, c), dtype=torch.float32, device=x.device)
    kernels.partial_statistics[grid](x, x.stride(), partial, **common, **tiles.options())
    merge = Tiling.merge(c)
    kernels.merge_statistics[merge.grid(1, c, n)](
        partial, mean, rstd, eps, C=c, P=h * w, TILES=grid[0], TILE_P=tiles.block_p, **merge.options()
    )
    kernels.apply_forward[tiles.grid(y.shape[2] * y.shape[3], c, n)](
        x, x.stride(), y, y.stride(), r, r.stride(), mean, rstd, slope, **write, **tiles.options()
    )
    return y, mean, rstd


def _backward(
    dy: Tensor, shortcut: Tensor | None, x: Tensor, mean: Tensor, rstd: Tensor, activation: str, slope: float, pad: int,
    wants_residual: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Launch the backward kernels: dx in the format of x, and the residual's gradient alike (empty if not wanted)."""
    n, c, h, w = x.shape
    dx = empty(x, x.shape)
    dr = torch.empty_like(dx) if wants_residual else dx.new_empty(0)
    s = dy if shortcut is None else shortcut
    incoming = (dy, dy.stride(), s, s.stride(), x, x.stride(), mean, rstd)
    common = {
        "C": c, "H": h, "W": w, "PAD": pad, "ACTIVATION": activation, "HAS_SHORTCUT": shortcut is not None,
        "X_DENSE": is_dense(x), "DY_DENSE": is_dense(dy),
    }  # fmt: skip
    if _fits_registers(x):
        plane = Tiling.whole_plane(h * w)
        kernels.plane_backward[plane.grid(h * w, c, n)](
            *incoming, dx, dx.stride(), dr, slope, **common, WANTS_DR=wants_residual, **plane.options()
        )
        return dx, dr
    tiles = Tiling.split(x, h * w)
    grid = tiles.grid(h * w, c, n)
    partial = torch.empty((n, grid[0], 2, c), dtype=torch.float32, device=x.device)
    kernels.partial_backward[grid](
        *incoming, dr, dx.stride(), partial, slope, **common, WANTS_DR=wants_residual, **tiles.options()
    )
    sums = torch.empty((n, 2, c), dtype=torch.float32, device=x.device)
    merge = Tiling.merge(c)
    kernels.merge_backward[merge.grid(1, c, n)](partial, sums, C=c, TILES=grid[0], **merge.options())
    kernels.apply_backward[grid](*incoming, sums, dx, dx.stride(), slope, **common, **tiles.options())
    return dx, dr


def _fake_forward(
    x: Tensor, residual: Tensor | None, activation: str, slope: float, pad: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    n, c, h, w = x.shape
    statistics = x.new_empty((n, c), dtype=torch.float32)
    return empty(x, (n, c, h + 2 * pad, w + 2 * pad)), statistics, torch.empty_like(statistics)


def _fake_backward(
    dy: Tensor, shortcut: Tensor | None, x: Tensor, mean: Tensor, rstd: Tensor, activation: str, slope: float, pad: int,
    wants_residual: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    dx = empty(x, x.shape)
    return dx, torch.empty_like(dx) if wants_residual else dx.new_empty(0)


register(
    "instance_norm_act_forward(Tensor x, Tensor? residual, str activation, float slope, int pad, float eps)"
    " -> (Tensor, Tensor, Tensor)",
    _forward,
    _fake_forward,
)
register(
    "instance_norm_act_backward(Tensor dy, Tensor? shortcut, Tensor x, Tensor mean, Tensor rstd, str activation,"
    " float slope, int pad, bool wants_residual) -> (Tensor, Tensor)",
    _backward,
    _fake_backward,
)


class InstanceNormActFunction(torch.autograd.Function):
    """Gives the padded result and, when padded, the view of its interior: each brings its own gradient back, and the
    backward kernel adds the two."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor | None, activation: str, slope: float, pad: int, eps: float
    ) -> tuple[Tensor, Tensor]:
        y, mean, rstd = torch.ops.fastliver.instance_norm_act_forward(x, residual, activation, slope, pad, eps)
        ctx.save_for_backward(x, mean, rstd)
        ctx.options = (activation, slope, pad)
        ctx.set_materialize_grads(False)
        return y, y[:, :, pad : y.shape[2] - pad, pad : y.shape[3] - pad]

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor | None, shortcut: Tensor | None):
        activation, slope, pad = ctx.options
        if dy is None:
            # Only the interior was used, and it isn't padded.
            dy, shortcut, pad = shortcut, None, 0
        if dy is None:
            return (None,) * 6
        if shortcut is not None:
            shortcut = reachable(shortcut)
        # Without padding and shortcut the residual's gradient is dy itself.
        passes = pad == 0 and shortcut is None
        wants_residual = ctx.needs_input_grad[1]
        dx, dr = torch.ops.fastliver.instance_norm_act_backward(
            reachable(dy), shortcut, *ctx.saved_tensors, activation, slope, pad, wants_residual and not passes
        )
        return dx, (dy if passes else dr) if wants_residual else None, None, None, None, None


def instance_norm_act(
    x: Tensor,
    activation: str = "relu",
    slope: float = 0.2,
    residual: Tensor | None = None,
    pad: int = 0,
    eps: float = 1e-5,
) -> Tensor:
    """Instance norm without affine parameters, activation, residual add and reflection padding in one operator.

    Args:
        x: (N, C, H, W) fp32, fp16 or bf16, any strides; read without a copy.
        activation: "relu", "leaky_relu" with `slope`, or "none".
        slope: of the leaky ReLU.
        residual: (N, C, H, W), any strides, added after the activation, as in a ResNet block.
        pad: pixels of reflection padding around the result, less than H and W.
        eps: added to the variance (Ulyanov et al. 2016).

    Returns:
        (N, C, H + 2 pad, W + 2 pad) in the dtype and format (channels_last or contiguous) of `x`. A second derivative
        raises RuntimeError.

    Raises:
        ValueError: for an unknown activation, a shape that doesn't fit, or a plane of one element.
    """
    reference.check_instance_norm(x, activation, residual, pad)
    if not use_triton(x, residual, pad=pad):
        return reference.instance_norm_act(x, activation, slope, residual, pad, eps)
    return InstanceNormActFunction.apply(x, residual, activation, slope, pad, eps)[0]


def instance_norm_act_shared(
    x: Tensor,
    activation: str = "relu",
    slope: float = 0.2,
    residual: Tensor | None = None,
    pad: int = 1,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """`instance_norm_act` for a result that is read twice: padded by a convolution, and inside by a shortcut.

    Returns:
        The padded result and its interior (N, C, H, W), from the kernel a view. Their gradients are added in the
        backward kernel, where two uses of one tensor would cost a copy and an addition.
    """
    reference.check_instance_norm(x, activation, residual, pad)
    if not use_triton(x, residual, pad=pad):
        y = reference.instance_norm_act(x, activation, slope, residual, 0, eps)
        return reference.reflect_pad(y, pad), y
    return InstanceNormActFunction.apply(x, residual, activation, slope, pad, eps)


class InstanceNormAct(nn.Module):
    """`instance_norm_act` with fixed options; it has no parameters."""

    def __init__(self, activation: str = "relu", slope: float = 0.2, pad: int = 0, eps: float = 1e-5) -> None:
        super().__init__()
        self.activation, self.slope, self.pad, self.eps = activation, slope, pad, eps

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """See `instance_norm_act`."""
        return instance_norm_act(x, self.activation, self.slope, residual, self.pad, self.eps)

    def extra_repr(self) -> str:
        """What repr shows."""
        return f"{self.activation}, slope={self.slope}, pad={self.pad}, eps={self.eps}"
