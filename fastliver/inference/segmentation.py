"""Liver probability of MR slices."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from fastliver.models import UNet

BATCH = 8


@torch.inference_mode()
def liver_probability(
    unet: UNet, images: NDArray[np.float16], on_slice: Callable[[int], None] = lambda done: None
) -> NDArray[np.float32]:
    """Probability of liver in each pixel.

    Args:
        unet: on its device, in evaluation mode.
        images: (N, H, W) in [-1, 1], H and W multiples of 16.
        on_slice: called with the number of slices done.

    Returns:
        (N, H, W) float32 in [0, 1].
    """
    device = next(unet.parameters()).device
    probability = np.empty(images.shape, np.float32)
    for start in range(0, len(images), BATCH):
        batch = torch.from_numpy(np.asarray(images[start : start + BATCH], np.float32)).unsqueeze(1).to(device)
        probability[start : start + BATCH] = torch.sigmoid(unet(batch)).squeeze(1).cpu().numpy()
        on_slice(start + len(batch))
    return probability
