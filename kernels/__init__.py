"""The operators that fastliver's networks and losses are made of."""

from fastliver.kernels.reference import (
    binary_cross_entropy_with_logits,
    cycle_l1_loss,
    instance_norm_act,
    patch_adversarial_loss,
    pixel_cross_entropy,
    reflect_pad,
)

__all__ = [
    "binary_cross_entropy_with_logits",
    "cycle_l1_loss",
    "instance_norm_act",
    "patch_adversarial_loss",
    "pixel_cross_entropy",
    "reflect_pad",
]
