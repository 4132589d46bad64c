"""The U-Net of the Keras original that the paper used (Ronneberger et al. 2015 with same padding)."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fastliver.models.conv import Conv3x3
from fastliver.models.initialise import init_glorot_uniform, init_he_normal


class DoubleConv(nn.Module):
    """Two 3x3 same convolutions, each with ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = Conv3x3(in_channels, out_channels, padding=1)
        self.conv2 = Conv3x3(out_channels, out_channels, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))))


class UpBlock(nn.Module):
    """Nearest upsampling, 2x2 convolution with ReLU, concatenation with the skip connection, two 3x3 convolutions."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.up = nn.Conv2d(in_channels, in_channels // 2, 2)
        self.convs = DoubleConv(in_channels, in_channels // 2)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        # An even kernel's "same" padding puts the extra pixel at the right and the bottom, as Keras does.
        x = F.relu(self.up(F.pad(x, (0, 1, 0, 1))))
        return self.convs(torch.cat((skip, x), dim=1))


class UNet(nn.Module):
    """64-128-256-512-1024, dropout 0.5 at the two deepest levels: 31,031,685 parameters.

    Args:
        channels: width of the first level.
        head_relu: keep the Keras original's ReLU on the 2-channel layer before the output. Once both its channels
            are negative everywhere it passes no gradient and the output stays grey; off by default.

    Attributes:
        checkpoint_blocks: keep only the inputs of each level's convolutions for the backward, which computes the rest
            again: less memory and more work for the same numbers. It belongs to no checkpoint's settings.
    """

    def __init__(self, channels: int = 64, head_relu: bool = False) -> None:
        super().__init__()
        widths = [channels * 2**level for level in range(5)]
        self.down = nn.ModuleList(
            DoubleConv(before, after) for before, after in zip([1, *widths[:-1]], widths, strict=True)
        )
        self.up = nn.ModuleList(UpBlock(width) for width in reversed(widths[1:]))
        self.head = nn.Conv2d(channels, 2, 3, padding=1)
        self.out = nn.Conv2d(2, 1, 1)
        self.dropout = nn.Dropout(0.5)
        self.head_relu = head_relu
        self.checkpoint_blocks = False
        self.apply(init_he_normal)
        init_glorot_uniform(self.out)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 1, H, W) in [-1, 1], H and W multiples of 16 -> liver logits (N, 1, H, W)."""
        skips: list[Tensor] = []
        x = image
        for level, block in enumerate(self.down):
            x = self._block(block, F.max_pool2d(x, 2) if level else x)
            if level >= 3:
                x = self.dropout(x)
            skips.append(x)
        skips.pop()
        for block in self.up:
            x = self._block(block, x, skips.pop())
        x = self.head(x)
        return self.out(F.relu(x) if self.head_relu else x)

    def _block(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        if not (self.checkpoint_blocks and torch.is_grad_enabled()):
            return block(*inputs)
        # Dropout lies outside of the blocks: nothing in them is random.
        return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
