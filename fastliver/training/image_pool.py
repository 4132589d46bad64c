"""The pool of earlier generated images that a discriminator also sees (Shrivastava et al. 2017)."""

import numpy as np
import torch
from torch import Tensor


class ImagePool:
    """Keeps up to `size` generated images; once full, each new one is swapped for a kept one half the time.

    Its choices are a pure function of (seed, step), so only the images themselves are state.
    """

    def __init__(self, size: int, seed: tuple[int, ...]) -> None:
        self.size, self.seed = size, seed
        self.images: list[Tensor] = []

    def query(self, images: Tensor, step: int) -> Tensor:
        """Images (N, 1, H, W) for the discriminator, each the new one or one from the pool."""
        if self.size == 0:
            return images
        rng = np.random.default_rng([*self.seed, step])
        chosen = []
        for image in images:
            if len(self.images) < self.size:
                self.images.append(image.clone())
            elif rng.random() < 0.5:
                place = int(rng.integers(self.size))
                image, self.images[place] = self.images[place], image.clone()
            chosen.append(image)
        return torch.stack(chosen)
