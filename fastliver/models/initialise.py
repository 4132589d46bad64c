"""The ways the paper's networks start."""

import torch.nn as nn


def init_normal(module: nn.Module) -> None:
    """N(0, 0.02) weights and zero biases, for one convolution (Zhu et al. 2017)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def init_he_normal(module: nn.Module) -> None:
    """Keras's he_normal: normal of variance 2 / fan_in cut at two standard deviations, and zero biases."""
    if isinstance(module, nn.Conv2d):
        fan_in = module.in_channels * module.kernel_size[0] * module.kernel_size[1]
        # A normal cut at two standard deviations has 0.8796 of its spread: Keras widens it to keep the variance.
        std = (2.0 / fan_in) ** 0.5 / 0.87962566103423978
        nn.init.trunc_normal_(module.weight, 0.0, std, -2 * std, 2 * std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def init_glorot_uniform(layer: nn.Conv2d) -> None:
    """Keras's default, which its U-Net leaves to the output layer: uniform of variance 2 / (fan_in + fan_out)."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
