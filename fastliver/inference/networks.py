"""Networks out of their checkpoints."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from fastliver.errors import InputError
from fastliver.models import EssNet, UNet
from fastliver.words import counted

N = TypeVar("N", EssNet, UNet)


def load_essnet(settings: Mapping[str, Any], weights: Mapping[str, Tensor], device: torch.device) -> EssNet:
    """EssNet for inference.

    Args:
        settings: its arguments, a checkpoint's "network".
        weights: its state dict.
        device: where it will work.
    """
    network = EssNet(**settings)
    network.load_state_dict(weights)
    return _ready(network, device)


def load_unet(settings: Mapping[str, Any], weights: Mapping[str, Tensor], device: torch.device) -> UNet:
    """U-Net for inference; see `load_essnet`."""
    network = UNet(**settings)
    network.load_state_dict(weights)
    return _ready(network, device)


def _ready(network: N, device: torch.device) -> N:
    """In the format that the convolutions and kernels are fastest in, as in a training."""
    return network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]  # see Precision


def choose_device(name: str) -> torch.device:
    """The device that `--device` means: "auto" is a GPU if there is one.

    Raises:
        InputError: for a GPU that isn't there, or a name that means nothing.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InputError(f"--device={name}: expected auto, cpu, cuda or cuda:<number>")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"--device={name}: torch sees {counted(torch.cuda.device_count(), 'GPU')}; check the driver and that torch "
            "is a CUDA build, or use cpu"
        )
    return device
