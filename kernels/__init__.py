"""The operators that fastliver's networks and losses are made of.

On a GPU they run Triton kernels, on a CPU the PyTorch definitions in `reference`; FASTLIVER_KERNELS=torch or triton
decides otherwise. Each file holds an operator's kernels, their derivation, the autograd function and what is public.
"""

from fastliver.kernels.cross_entropy import pixel_cross_entropy
from fastliver.kernels.instance_norm import InstanceNormAct, instance_norm_act, instance_norm_act_shared
from fastliver.kernels.pointwise_loss import (
    binary_cross_entropy_with_logits,
    cycle_l1_loss,
    patch_adversarial_loss,
    patch_discriminator_loss,
)
from fastliver.kernels.reflect_pad import reflect_pad
from fastliver.kernels.winograd import conv3x3

__all__ = [
    "InstanceNormAct",
    "binary_cross_entropy_with_logits",
    "conv3x3",
    "cycle_l1_loss",
    "instance_norm_act",
    "instance_norm_act_shared",
    "patch_adversarial_loss",
    "patch_discriminator_loss",
    "pixel_cross_entropy",
    "reflect_pad",
]
