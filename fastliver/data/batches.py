"""Training batches, a pure function of (seed, epoch, step): a resumed run sees what an uninterrupted one would."""

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastliver.data.augment import RECIPES, Augmenter
from fastliver.data.store import SliceStore


def upload(array: NDArray, buffer: Tensor) -> None:
    """Copy an array into a buffer of its shape; to a GPU without waiting for the copy."""
    host = torch.from_numpy(array)
    # The allocator keeps pinned memory from new use until the copy is done.
    buffer.copy_(host.pin_memory() if buffer.is_cuda else host, non_blocking=True)


@dataclass(frozen=True)
class Slices:
    """Slices to draw batches from, on the device or, where they are too large for it, in host memory.

    Attributes:
        images: (N, 1, H, W) float16 in [-1, 1].
        labels: (N, H, W) uint8.
        copied_to: for slices in host memory the device that batches are copied to; None if they lie there already.
        budget: bytes that they may take on the device, None for any number.
    """

    images: Tensor
    labels: Tensor
    copied_to: torch.device | None = None
    budget: int | None = None

    @staticmethod
    def load(store: SliceStore, numbers: NDArray[np.intp], device: torch.device, budget: int | None = None) -> "Slices":
        """Slices of a store: on the device if they fit `budget` bytes, else in host memory, pinned for a GPU."""
        images = torch.from_numpy(np.asarray(store.images[numbers]))
        labels = torch.from_numpy(np.asarray(store.labels[numbers]))
        return Slices._place(images.unsqueeze(1), labels, device, budget)

    @staticmethod
    def _place(images: Tensor, labels: Tensor, device: torch.device, budget: int | None) -> "Slices":
        if budget is None or images.nbytes + labels.nbytes <= budget:
            return Slices(images.to(device), labels.to(device), None, budget)
        if device.type == "cuda":
            images, labels = images.pin_memory(), labels.pin_memory()
        return Slices(images, labels, device, budget)

    @property
    def device(self) -> torch.device:
        """Where batches of them come to lie."""
        return self.images.device if self.copied_to is None else self.copied_to

    def __len__(self) -> int:
        return len(self.images)

    def __add__(self, other: "Slices") -> "Slices":
        """These and then those, on the device if together they fit the budget of these."""
        images = torch.cat((self.images.cpu(), other.images.cpu()))
        return Slices._place(images, torch.cat((self.labels.cpu(), other.labels.cpu())), self.device, self.budget)


class BatchStream:
    """Every slice once an epoch, in a new order each time, images as float32.

    Order and augmentation of an epoch are drawn on the host and uploaded as tables; what a batch needs is then on the
    device, where a counter says which step it is. `batch` can be part of a CUDA graph.

    Args:
        slices: what to draw from.
        batch: slices in a batch (of one rank).
        seed: with the epoch it decides order and augmentation; streams with different seeds are independent.
        augment: "none" or one of augment.RECIPES.
        length: slices drawn in an epoch; fewer than there are leaves some out, more starts a new order.
        rank: which part of each batch this process takes, from 0.
        ranks: processes that share the work; together they draw what one would with `batch * ranks`.
    """

    def __init__(
        self,
        slices: Slices,
        batch: int,
        seed: tuple[int, ...],
        augment: str = "none",
        length: int | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.slices, self.batch_size, self.seed, self.rank, self.ranks = slices, batch, seed, rank, ranks
        self.length = length if length is not None else len(slices)
        device = slices.device
        self.augmenter = None if augment == "none" else Augmenter(RECIPES[augment], self.shape, device)
        rows = self.steps * batch
        self._numbers = torch.zeros(rows, dtype=torch.int64, device=device)
        columns = self.augmenter.columns if self.augmenter else 0
        self._table = torch.zeros((rows, columns), device=device)
        self._in_batch = torch.arange(batch, device=device)
        self._counter = torch.zeros(1, dtype=torch.int64, device=device)
        self._copies = None if slices.copied_to is None else DoubleBuffer(slices, batch)
        self._order = np.empty((0, batch), np.int64)
        self._epoch: int | None = None
        self._next: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of an image."""
        rows, columns = self.slices.images.shape[-2:]
        return rows, columns

    @property
    def steps(self) -> int:
        """Batches in an epoch; the last one is filled up from the next order."""
        return -(-self.length // (self.batch_size * self.ranks))

    def stage(self, epoch: int, step: int) -> None:
        """Make ready, without waiting for the device, for `batch` to give batch `step` of `epoch`.

        Each call is followed by one of `batch`, or by one replay of a graph that has it.
        """
        if epoch != self._epoch:
            self._draw(epoch)
        if (epoch, step) != self._next:
            self._counter.fill_(step)
        self._next = epoch, step + 1
        if self._copies is not None:
            self._copies.stage(epoch, step, self._order)

    def batch(self) -> tuple[Tensor, Tensor]:
        """The staged batch: images (batch, 1, H, W) float32 in [-1, 1], labels (batch, H, W) uint8.

        Device operations alone: nothing here waits for the device or copies from the host.
        """
        rows = self._counter * self.batch_size + self._in_batch
        if self._copies is not None:
            images, labels = self._copies.slot(self._counter)
        else:
            numbers = self._numbers.index_select(0, rows)
            images, labels = (t.index_select(0, numbers) for t in (self.slices.images, self.slices.labels))
        images = images.float()
        if self.augmenter is not None:
            images, labels = self.augmenter(images, labels, self._table.index_select(0, rows))
        self._counter.add_(1)
        return images, labels

    def get(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Batch `step` of `epoch`, staged and drawn; what it gives is that of `batch`."""
        self.stage(epoch, step)
        return self.batch()

    def _draw(self, epoch: int) -> None:
        """Upload an epoch's order and augmentation."""
        # Seeds end in 1 or 2: numpy takes [s, e] and [s, e, 0] for the same.
        drawn = self.steps * self.ranks * self.batch_size
        rng = np.random.default_rng([*self.seed, epoch, 1])
        rounds = -(-drawn // len(self.slices))
        order = np.concatenate([rng.permutation(len(self.slices)) for _ in range(rounds)])[:drawn]
        self._order = self._part(order)
        upload(self._order.reshape(-1), self._numbers)
        if self.augmenter is not None:
            table = self.augmenter.draw(np.random.default_rng([*self.seed, epoch, 2]), drawn)
            upload(self._part(table).reshape(self._table.shape), self._table)
        self._epoch = epoch

    def _part(self, drawn: NDArray) -> NDArray:
        """(steps * ranks * batch, ...) of all ranks -> (steps, batch, ...) of this one."""
        return np.ascontiguousarray(
            drawn.reshape(self.steps, self.ranks, self.batch_size, *drawn.shape[1:])[:, self.rank]
        )


class DoubleBuffer:
    """The slices of this step and of the next, copied from host memory while the device computes."""

    def __init__(self, slices: Slices, batch: int) -> None:
        self.slices, self.device = slices, slices.device
        self.images, self.labels = (
            torch.zeros((2, batch, *t.shape[1:]), dtype=t.dtype, device=self.device)
            for t in (slices.images, slices.labels)
        )
        self.holds: list[tuple[int, int] | None] = [None, None]
        self.stream: torch.cuda.Stream | None = None
        if self.device.type == "cuda":
            self.stream = torch.cuda.Stream(self.device)
            self.copied = [torch.cuda.Event(), torch.cuda.Event()]
            for buffer in (self.images, self.labels):
                buffer.record_stream(self.stream)

    def stage(self, epoch: int, step: int, order: NDArray[np.int64]) -> None:
        """Have the slices of `order[step]` in their slot, and those of the step after it on their way."""
        if self.stream is not None:
            # The step that read the other slot was launched before.
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
        self._fill((epoch, step), order)
        if self.stream is not None:
            torch.cuda.current_stream(self.device).wait_event(self.copied[step % 2])
        if step + 1 < len(order):
            self._fill((epoch, step + 1), order)

    def slot(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels of a step whose number (1,) is on the device."""
        number = step.remainder(2)
        return self.images.index_select(0, number)[0], self.labels.index_select(0, number)[0]

    def _fill(self, position: tuple[int, int], order: NDArray[np.int64]) -> None:
        slot = position[1] % 2
        if self.holds[slot] == position:
            return
        with torch.cuda.stream(self.stream) if self.stream is not None else nullcontext():
            for place, number in enumerate(order[position[1]].tolist()):
                self.images[slot, place].copy_(self.slices.images[number], non_blocking=True)
                self.labels[slot, place].copy_(self.slices.labels[number], non_blocking=True)
            if self.stream is not None:
                self.copied[slot].record(self.stream)
        self.holds[slot] = position
