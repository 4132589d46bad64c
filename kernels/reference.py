"""The PyTorch definitions of fastliver's fused operators: what every kernel must equal, and what a CPU runs."""

import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = ("relu", "leaky_relu", "none")
ADVERSARIAL_MODES = ("bce", "lsgan")


def reflect_pad(x: Tensor, pad: int) -> Tensor:
    """`x` (N, C, H, W) reflection-padded by `pad` pixels on all four sides; `pad` must be less than H and W."""
    return F.pad(x, (pad, pad, pad, pad), mode="reflect") if pad else x


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
        (N, C, H + 2 pad, W + 2 pad) in the dtype of `x`.

    Raises:
        ValueError: for an unknown activation, or a plane of one element, which has no variance.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r}: expected one of {', '.join(ACTIVATIONS)}")
    y = F.instance_norm(x, eps=eps)
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
    if mode == "bce":
        return F.softplus(-logits if target_is_real else logits).mean()
    if mode == "lsgan":
        return (logits - float(target_is_real)).square().mean()
    raise ValueError(f"mode={mode!r}: expected one of {', '.join(ADVERSARIAL_MODES)}")


def cycle_l1_loss(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of two tensors of one shape (the paper's Eq. 3-4)."""
    return F.l1_loss(a, b)


def pixel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over pixels (the paper's Eq. 5).

    Args:
        logits: (N, K, H, W).
        labels: (N, H, W), integers in 0..K-1.
    """
    return F.cross_entropy(logits, labels.long())


def binary_cross_entropy_with_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy of a sigmoid over pixels: the U-Net's loss.

    Args:
        logits: (N, 1, H, W).
        labels: (N, H, W), 0 or 1 in any dtype.
    """
    return F.binary_cross_entropy_with_logits(logits.squeeze(1), labels.to(logits.dtype))
