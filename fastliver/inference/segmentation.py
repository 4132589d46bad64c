"""Liver probability of MR slices."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

BATCH = 8
THRESHOLD = 0.5
"""A pixel is liver above this probability."""


@torch.inference_mode()
def liver_probability(
    network: nn.Module,
    images: NDArray[np.floating],
    on_slice: Callable[[int], None] = lambda done: None,
    batch: int = BATCH,
    flips: bool = False,
) -> NDArray[np.float32]:
    """Probability of liver in each pixel.

    Args:
        network: a U-Net, or EssNet's segmentor S, on its device and in evaluation mode.
        images: (N, H, W) in [-1, 1], H and W multiples of 16 (S: of 4).
        on_slice: called with the number of slices done.
        batch: slices that are computed at once.
        flips: average with what the network makes of the mirrored slice (left and right, as training mirrors).

    Returns:
        (N, H, W) float32 in [0, 1].
    """
    device = next(network.parameters()).device
    probability = np.empty(images.shape, np.float32)
    for start in range(0, len(images), batch):
        x = torch.from_numpy(np.asarray(images[start : start + batch], np.float32)).unsqueeze(1).to(device)
        found = torch.sigmoid(liver_logits(network(x)))
        if flips:
            found = (found + torch.sigmoid(liver_logits(network(x.flip(-1)))).flip(-1)) / 2
        probability[start : start + batch] = found.cpu().numpy()
        on_slice(start + len(x))
    return probability


def liver_logits(output: Tensor) -> Tensor:
    """(N, H, W) liver logits of a network's output: the U-Net's one channel, or S's background and liver.

    A softmax over two classes is the sigmoid of their difference.
    """
    return output[:, 0] if output.shape[1] == 1 else output[:, 1] - output[:, 0]
