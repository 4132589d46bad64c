"""The pool of earlier generated images that a discriminator also sees (Shrivastava et al. 2017)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastliver.data.batches import upload

BLOCK = 256
"""Steps whose choices are uploaded together."""


class ImagePool:
    """Keeps up to `size` generated images; once full, each new one is swapped for a kept one half the time.

    Its choices are a pure function of (seed, step), made on the host and uploaded ahead, so only the images are state.
    Each `stage` is followed by one `query`, and the first images are those of step 0.

    Args:
        size: images kept; 0 gives back what comes.
        batch: images in a query.
        shape: (rows, columns) of an image.
        seed: with the step it decides what is shown and kept; pools of different seeds are independent.
        device: where the images lie.
        dtype: of the images kept and given.
    """

    def __init__(
        self,
        size: int,
        batch: int,
        shape: tuple[int, int],
        seed: tuple[int, ...],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.size, self.batch, self.seed = size, batch, seed
        self.images = torch.zeros((size, 1, *shape), dtype=dtype, device=device)
        self._choices = torch.zeros((BLOCK, 2, 2, batch), dtype=torch.int64, device=device)
        self._counter = torch.zeros(1, dtype=torch.int64, device=device)
        self._block: int | None = None
        self._next: int | None = None

    def stage(self, step: int) -> None:
        """Upload what the query of `step` needs, unless it is there."""
        if self.size == 0:
            return
        block, row = divmod(step, BLOCK)
        if block != self._block:
            upload(np.stack([self._choose(block * BLOCK + row) for row in range(BLOCK)]), self._choices)
            self._block, self._next = block, None
        if step != self._next:
            self._counter.fill_(row)
        self._next = step + 1

    def query(self, images: Tensor) -> Tensor:
        """Images (batch, 1, H, W) for the discriminator, each the new one or one from the pool.

        Device operations alone: it can be part of a CUDA graph.
        """
        if self.size == 0:
            return images
        images = images.detach().to(self.images.dtype)
        shown, kept = self._choices.index_select(0, self._counter)[0]
        given = self._pick(shown, images)
        self.images.index_copy_(0, kept[0], self._pick(kept, images))
        self._counter.add_(1)
        return given

    def _pick(self, choice: Tensor, images: Tensor) -> Tensor:
        """The images that a row of `_choose` names."""
        place, number = choice
        pooled, new = self.images.index_select(0, place), images.index_select(0, number.clamp_min(0))
        return torch.where((number < 0).view(-1, 1, 1, 1), pooled, new)

    def _choose(self, step: int) -> NDArray[np.int64]:
        """(2, 2, batch): for each image shown, then for each write to the pool, its place and the number in the batch.

        A number below 0 is the image that the pool has at that place. Where fewer images are kept than a batch has,
        a write is repeated, or one that changes nothing takes its place.
        """
        rng = np.random.default_rng([*self.seed, step])
        written: dict[int, int] = {}
        shown = []
        for number in range(self.batch):
            place, image = 0, number
            if step * self.batch + number < self.size:
                written[step * self.batch + number] = number
            elif rng.random() < 0.5:
                place = int(rng.integers(self.size))
                image = written.get(place, -1)
                written[place] = number
            shown.append((place, image))
        kept = list(written.items()) or [(0, -1)]
        kept += kept[:1] * (self.batch - len(kept))
        return np.array([shown, kept]).transpose(0, 2, 1)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold: the images, which `query` changes."""
        return {"images": self.images}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The opposite of `state`; the images keep their place in memory."""
        self.images.copy_(state["images"])
