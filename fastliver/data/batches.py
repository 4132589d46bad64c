"""Training batches, a pure function of (seed, epoch, step): a resumed run sees what an uninterrupted one would."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastliver.data.resize import BACKGROUND
from fastliver.data.store import SliceStore

MAX_SHIFT = 1 / 16
"""Largest shift of `flip-shift`, as a share of the image's side."""


@dataclass(frozen=True)
class Slices:
    """Slices on a device: images (N, 1, H, W) float16 in [-1, 1] and labels (N, H, W) uint8."""

    images: Tensor
    labels: Tensor

    @staticmethod
    def load(store: SliceStore, numbers: NDArray[np.intp], device: torch.device) -> "Slices":
        """Copy these slices of a store to a device."""
        images = torch.from_numpy(np.asarray(store.images[numbers]))
        labels = torch.from_numpy(np.asarray(store.labels[numbers]))
        return Slices(images.unsqueeze(1).to(device), labels.to(device))

    def __len__(self) -> int:
        return len(self.images)

    def __add__(self, other: "Slices") -> "Slices":
        return Slices(torch.cat((self.images, other.images)), torch.cat((self.labels, other.labels)))


class BatchStream:
    """Every slice once an epoch, in a new order each time, images as float32.

    Args:
        slices: what to draw from.
        batch: slices in a batch.
        seed: with the epoch it decides order and augmentation; streams with different seeds are independent.
        augment: "none", or "flip-shift": mirrored half the time, shifted by up to 1/16 of the side.
        length: slices drawn in an epoch; fewer than there are leaves some out, more starts a new order.
    """

    def __init__(
        self, slices: Slices, batch: int, seed: tuple[int, ...], augment: str = "none", length: int | None = None
    ) -> None:
        self.slices, self.batch, self.seed, self.augment = slices, batch, seed, augment
        self.length = length if length is not None else len(slices)

    @property
    def steps(self) -> int:
        """Batches in an epoch; the last one is filled up from the next order."""
        return -(-self.length // self.batch)

    # Seeds end in 1 or 2: numpy takes [s, e] and [s, e, 0] for the same.
    def _order(self, epoch: int) -> NDArray[np.intp]:
        rng = np.random.default_rng([*self.seed, epoch, 1])
        rounds = -(-self.steps * self.batch // len(self.slices))
        return np.concatenate([rng.permutation(len(self.slices)) for _ in range(rounds)])

    def get(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Batch `step` of `epoch`: images (batch, 1, H, W) float32 in [-1, 1], labels (batch, H, W) uint8."""
        chosen = self._order(epoch)[step * self.batch : (step + 1) * self.batch]
        numbers = torch.from_numpy(chosen).to(self.slices.images.device)
        images, labels = self.slices.images[numbers].float(), self.slices.labels[numbers]
        if self.augment == "none":
            return images, labels
        rng = np.random.default_rng([*self.seed, epoch, step, 2])
        limit = int(images.shape[-1] * MAX_SHIFT)
        pairs = [
            flip_shift(image, label, bool(rng.integers(2)), *(int(v) for v in rng.integers(-limit, limit + 1, 2)))
            for image, label in zip(images, labels, strict=True)
        ]
        return torch.stack([image for image, _ in pairs]), torch.stack([label for _, label in pairs])


def flip_shift(image: Tensor, label: Tensor, flip: bool, down: int, right: int) -> tuple[Tensor, Tensor]:
    """Mirror left and right, then shift; what comes in at an edge is background. The label goes the same way."""
    if flip:
        image, label = image.flip(-1), label.flip(-1)
    return _shift(image, down, right, BACKGROUND), _shift(label, down, right, 0)


def _shift(x: Tensor, down: int, right: int, fill: float) -> Tensor:
    height, width = x.shape[-2:]
    shifted = torch.full_like(x, fill)
    shifted[..., max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = x[
        ..., max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)
    ]
    return shifted
