"""Networks out of their checkpoints."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastliver.models import EssNet, UNet


def load_essnet(settings: Mapping[str, Any], weights: Mapping[str, Tensor], device: torch.device) -> EssNet:
    """EssNet for inference.

    Args:
        settings: its arguments, a checkpoint's "network".
        weights: its state dict.
        device: where it will work.
    """
    network = EssNet(**settings)
    network.load_state_dict(weights)
    return network.to(device).eval()


def load_unet(settings: Mapping[str, Any], weights: Mapping[str, Tensor], device: torch.device) -> UNet:
    """U-Net for inference; see `load_essnet`."""
    network = UNet(**settings)
    network.load_state_dict(weights)
    return network.to(device).eval()
