"""The networks of the paper: ResNet generator and segmentor, patch discriminator, EssNet of the three, and U-Net."""

from fastliver.models.discriminator import PatchDiscriminator
from fastliver.models.essnet import EssNet
from fastliver.models.generator import ResNetGenerator
from fastliver.models.unet import UNet

__all__ = ["EssNet", "PatchDiscriminator", "ResNetGenerator", "UNet", "count_parameters"]


def count_parameters(*networks: "ResNetGenerator | PatchDiscriminator | UNet | EssNet") -> int:
    """Number of trainable parameters of the networks together."""
    return sum(parameter.numel() for network in networks for parameter in network.parameters())
