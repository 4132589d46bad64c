"""The 70x70 PatchGAN discriminator of Isola et al. 2017."""

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from fastliver.kernels import instance_norm_act
from fastliver.models.initialise import init_normal


class PatchDiscriminator(nn.Module):
    """4x4 convolutions 64-128-256-512-1 of strides 2, 2, 2, 1, 1: 2,762,689 parameters.

    Args:
        channels: width of the first layer.
    """

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 4, stride=2, padding=1)
        self.conv2 = nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1)
        self.conv3 = nn.Conv2d(2 * channels, 4 * channels, 4, stride=2, padding=1)
        self.conv4 = nn.Conv2d(4 * channels, 8 * channels, 4, padding=1)
        self.head = nn.Conv2d(8 * channels, 1, 4, padding=1)
        self.apply(init_normal)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 1, H, W) in [-1, 1] -> logits (N, 1, H/8 - 2, W/8 - 2), each for a 70x70 patch; 256 gives 30."""
        x = F.leaky_relu(self.conv1(image), 0.2)
        x = instance_norm_act(self.conv2(x), "leaky_relu", slope=0.2)
        x = instance_norm_act(self.conv3(x), "leaky_relu", slope=0.2)
        x = instance_norm_act(self.conv4(x), "leaky_relu", slope=0.2)
        return self.head(x)
