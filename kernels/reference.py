"""The PyTorch definitions of fastliver's fused operators: what every kernel must equal, and what a CPU runs."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = ("relu", "leaky_relu", "none")
ADVERSARIAL_MODES = ("bce", "lsgan")


def check_one_channel(logits: Tensor) -> None:
    """Raise ValueError for logits of more than one class."""
    if logits.dim() != 4 or logits.shape[1] != 1:
        raise ValueError(f"logits: shape {tuple(logits.shape)}, expected (N, 1, H, W)")


def transforming() -> bool:
    """Whether torch.func (grad, vmap, jvp) transforms what runs now: it takes PyTorch's own operators alone."""
    return torch._C._functorch.peek_interpreter_stack() is not None


class _OwnFormat(torch.autograd.Function):
    """The identity, with a gradient in the format of the input: for a batch of one, PyTorch's norms on a CPU take a
    gradient of another format for one of the input's (torch 2.13)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.form = torch.contiguous_format if x.is_contiguous() else torch.channels_last
        # Not x.view_as(x): for a batch of one in channels_last its strides make later operators take it for contiguous.
        return x.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.contiguous(memory_format=ctx.form)


def _instance_norm(x: Tensor, eps: float) -> Tensor:
    """Instance norm that keeps the format: F.instance_norm makes all contiguous.

    For one sample instance norm is batch norm, which PyTorch has in channels_last.
    """
    if transforming():  # by definition, since _OwnFormat can't be transformed
        variance, mean = torch.var_mean(_full(x), (2, 3), correction=0, keepdim=True)
        return ((x - mean) * (variance + eps).rsqrt()).to(x.dtype)
    if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return _OwnFormat.apply(F.instance_norm(x, eps=eps))
    if len(x) == 1:  # as it is: the gradient of a split is a copy
        return _OwnFormat.apply(F.batch_norm(x, None, None, training=True, eps=eps))
    samples = [F.batch_norm(sample, None, None, training=True, eps=eps) for sample in x.split(1)]
    return _OwnFormat.apply(torch.cat(samples))


def _full(x: Tensor) -> Tensor:
    """fp16 and bf16 as fp32, which losses are taken in."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def check_pad(x: Tensor, pad: int) -> None:
    """Raise ValueError for a reflection that the plane is too small for."""
    height, width = x.shape[-2:]
    if not 0 <= pad < min(height, width):
        raise ValueError(f"pad={pad}: must be at least 0 and less than the {height}x{width} plane's sides")


def check_same_shape(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    """Raise ValueError for two tensors that should have one shape."""
    if x.shape != other.shape:
        raise ValueError(f"{name}: shape {tuple(x.shape)}, but {other_name} has {tuple(other.shape)}")


def check_adversarial(mode: str) -> None:
    """Raise ValueError for an unknown adversarial loss."""
    if mode not in ADVERSARIAL_MODES:
        raise ValueError(f"mode={mode!r}: expected one of {', '.join(ADVERSARIAL_MODES)}")


def reflect_pad(x: Tensor, pad: int) -> Tensor:
    """`x` (N, C, H, W) reflection-padded by `pad` pixels on all four sides; `pad` must be less than H and W."""
    if pad == 0:
        return x
    sides = (pad, pad, pad, pad)
    if x.is_cpu and torch.is_autocast_enabled("cpu"):
        # Autocast would pad in fp32: a cast there, a cast back, and convolutions' formats lost.
        with torch.autocast("cpu", enabled=False):
            return F.pad(x, sides, mode="reflect")
    return F.pad(x, sides, mode="reflect")


def check_instance_norm(x: Tensor, activation: str, residual: Tensor | None, pad: int) -> None:
    """Raise ValueError for arguments of `instance_norm_act` that have no meaning."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r}: expected one of {', '.join(ACTIVATIONS)}")
    if x.dim() != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}: expected (N, C, H, W)")
    height, width = x.shape[2:]
    if height * width <= 1:
        raise ValueError(f"x has shape {tuple(x.shape)}: a plane of one element has no variance")
    check_pad(x, pad)
    if residual is not None:
        check_same_shape("residual", residual, "x", x)


def instance_norm_act(
    x: Tensor,
    activation: str = "relu",
    slope: float = 0.2,
    residual: Tensor | None = None,
    pad: int = 0,
    eps: float = 1e-5,
) -> Tensor:
    """Instance norm without affine parameters, activation, residual add and reflection padding.

    Args:
        x: (N, C, H, W), floating point.
        activation: "relu", "leaky_relu" with `slope`, or "none".
        residual: (N, C, H, W), added after the activation, as in a ResNet block (where the activation is "none").
        pad: pixels of reflection padding around the result.
        eps: added to the variance (Ulyanov et al. 2016).

    Returns:
        (N, C, H + 2 pad, W + 2 pad) in the dtype of `x`, or of its sum with a residual of another dtype.

    Raises:
        ValueError: see `check_instance_norm`.
    """
    check_instance_norm(x, activation, residual, pad)
    y = _instance_norm(x, eps)
    if activation == "relu":
        y = F.relu(y)
    elif activation == "leaky_relu":
        y = F.leaky_relu(y, slope)
    if residual is not None:
        y = y + residual
    return reflect_pad(y, pad)


def patch_adversarial_loss(logits: Tensor, target_is_real: bool, mode: str = "bce") -> Tensor:
    """Mean over a PatchGAN's map of the loss that it should say "real" (1) or "fake" (0).

    Args:
        logits: the discriminator's output before any sigmoid, (N, 1, h, w).
        target_is_real: what the loss pulls the map towards. A generator uses True: the non-saturating form.
        mode: "bce", cross-entropy (the paper's Eq. 1-2), or "lsgan", least squares (Mao et al. 2017).

    Raises:
        ValueError: for an unknown mode.
    """
    check_adversarial(mode)
    logits = _full(logits)
    if mode == "bce":
        return F.softplus(-logits if target_is_real else logits).mean()
    return (logits - float(target_is_real)).square().mean()


def patch_discriminator_loss(real: Tensor, fake: Tensor, mode: str = "bce") -> Tensor:
    """Half the sum of the losses of a real map as real and a generated one as fake: a discriminator's loss.

    Args:
        real: the discriminator's logits for a real image, (N, 1, h, w).
        fake: those for a generated one, alike.
        mode: as in `patch_adversarial_loss`.

    Raises:
        ValueError: for an unknown mode.
    """
    return 0.5 * (patch_adversarial_loss(real, True, mode) + patch_adversarial_loss(fake, False, mode))


def cycle_l1_loss(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of two tensors of one shape (the paper's Eq. 3-4)."""
    return F.l1_loss(_full(a), _full(b))


def pixel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over pixels (the paper's Eq. 5).

    Args:
        logits: (N, K, H, W).
        labels: (N, H, W), integers in 0..K-1.
    """
    return F.cross_entropy(_full(logits), labels.long())


def binary_cross_entropy_with_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy of a sigmoid over pixels: the U-Net's loss.

    Args:
        logits: (N, 1, H, W).
        labels: (N, H, W), 0 or 1 in any dtype.
    """
    logits = _full(logits)
    return F.binary_cross_entropy_with_logits(logits.squeeze(1), labels.to(logits.dtype))
