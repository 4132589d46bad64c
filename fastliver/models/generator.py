"""The ResNet generator of Johnson et al. 2016 and Zhu et al. 2017; with two outputs it is EssNet's segmentor."""

import torch
import torch.nn as nn
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fastliver.kernels import instance_norm_act, instance_norm_act_shared, reflect_pad
from fastliver.models.conv import Conv3x3
from fastliver.models.initialise import init_normal


class ResidualBlock(nn.Module):
    """conv3 - norm - ReLU - conv3 - norm, added to the input; both convolutions read reflection-padded activations.

    A block takes its input padded, for the convolution, together with the view of its inside, for the shortcut, and
    gives its output alike: a chain of blocks pads inside the norms and copies nothing.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Conv3x3(channels, channels)
        self.conv2 = Conv3x3(channels, channels)

    def forward(self, padded: Tensor, inside: Tensor, pad: int) -> tuple[Tensor, Tensor]:
        """Padded and inside, (N, C, H + 2, W + 2) and (N, C, H, W); the output is padded by `pad`."""
        hidden = instance_norm_act(self.conv1(padded), "relu", pad=1)
        return instance_norm_act_shared(self.conv2(hidden), "none", residual=inside, pad=pad)


class ResNetGenerator(nn.Module):
    """c7s1-64, d128, d256, residual blocks of 256, u128, u64, c7s1: 11,365,633 parameters with one output.

    Args:
        out_channels: 1 for a generator, the number of classes for a segmentor.
        channels: width of the first layer.
        blocks: number of residual blocks, at least 1.
        tanh: end in tanh (a generator), or give plain logits (a segmentor).

    Attributes:
        checkpoint_blocks: keep only the residual blocks' inputs for the backward, which computes the rest again: less
            memory and more work for the same numbers. Set between steps; it belongs to no checkpoint's settings.
    """

    def __init__(self, out_channels: int = 1, channels: int = 64, blocks: int = 9, tanh: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 7)
        self.down1 = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
        self.down2 = nn.Conv2d(2 * channels, 4 * channels, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(4 * channels) for _ in range(blocks))
        self.up1 = nn.ConvTranspose2d(4 * channels, 2 * channels, 3, stride=2, padding=1, output_padding=1)
        self.up2 = nn.ConvTranspose2d(2 * channels, channels, 3, stride=2, padding=1, output_padding=1)
        self.head = nn.Conv2d(channels, out_channels, 7)
        self.tanh = tanh
        self.checkpoint_blocks = False
        self.apply(init_normal)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 1, H, W) in [-1, 1], H and W multiples of 4 -> (N, out_channels, H, W), [-1, 1] with tanh."""
        x = instance_norm_act(self.stem(reflect_pad(image, 3)), "relu")
        x = instance_norm_act(self.down1(x), "relu")
        padded, inside = instance_norm_act_shared(self.down2(x), "relu", pad=1)
        for number, block in enumerate(self.blocks, 1):
            # What follows the last block pads with zeros, in its convolution.
            padded, inside = self._block(block, padded, inside, 1 if number < len(self.blocks) else 0)
        x = instance_norm_act(self.up1(inside), "relu")
        x = instance_norm_act(self.up2(x), "relu", pad=3)
        x = self.head(x)
        return torch.tanh(x) if self.tanh else x

    def _block(self, block: nn.Module, padded: Tensor, inside: Tensor, pad: int) -> tuple[Tensor, Tensor]:
        if not (self.checkpoint_blocks and torch.is_grad_enabled()):
            return block(padded, inside, pad)
        # Nothing in a block is random, and reading the random state would wait for the device.
        return checkpoint(block, padded, inside, pad, use_reentrant=False, preserve_rng_state=False)
