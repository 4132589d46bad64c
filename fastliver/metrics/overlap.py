"""Dice and IoU from counts of pixels.

Two empty masks agree perfectly and score 1; one empty mask against one that isn't scores 0. The same holds for every
class of a label map.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastliver.metrics.extension import LABELS, count, count_from_logits


@dataclass(frozen=True)
class OverlapCounts:
    """Pixels in both masks, in the predicted and in the true one.

    Each (N,), one entry a sample, for masks; (N, classes) where classes were counted. Scores have the same shape.

    Attributes:
        intersection: pixels in both masks.
        predicted: pixels in the predicted mask.
        true: pixels in the true mask.
    """

    intersection: NDArray[np.int64]
    predicted: NDArray[np.int64]
    true: NDArray[np.int64]

    @classmethod
    def from_array(cls, counts: NDArray[np.int64]) -> "OverlapCounts":
        """From (..., 3): intersection, predicted and true along the last axis, as the operators give them."""
        return cls(counts[..., 0], counts[..., 1], counts[..., 2])

    def pooled(self) -> "OverlapCounts":
        """The counts of all samples together, as one sample."""
        return OverlapCounts(
            *(part.sum(axis=0, keepdims=True) for part in (self.intersection, self.predicted, self.true))
        )

    def select(self, samples: NDArray) -> "OverlapCounts":
        """The counts of some samples, by number or by a boolean mask."""
        return OverlapCounts(self.intersection[samples], self.predicted[samples], self.true[samples])


def overlap_counts(
    predicted: NDArray | Tensor, true: NDArray | Tensor, num_classes: int | None = None
) -> OverlapCounts:
    """Count two label maps (N, ...), NumPy arrays or tensors, in one pass over both and without copying them.

    For tensors on a GPU this waits for the counts; `OverlapMeter` doesn't.

    Args:
        predicted: label map or mask.
        true: the same shape.
        num_classes: None for masks of any type, where non-zero is liver; else class ids 0 to num_classes - 1 are
            counted each for itself.

    Raises:
        ValueError: when shapes or devices differ, for empty maps, and for class ids out of range.
    """
    if tuple(predicted.shape) != tuple(true.shape):
        raise ValueError(f"predicted has shape {tuple(predicted.shape)}, true {tuple(true.shape)}: they must be equal")
    a, b = _labels(predicted, num_classes), _labels(true, num_classes)
    return _read(_with_rest(count(a, b, 2 if num_classes is None else num_classes), a), num_classes is None)


def overlap_counts_from_logits(
    logits: NDArray | Tensor, target: NDArray | Tensor, threshold: float = 0.0
) -> OverlapCounts:
    """Count a network's output (N, C, ...) against label maps (N, ...) without writing a mask.

    Args:
        logits: float32, float16 or bfloat16. One channel is liver where it exceeds the threshold, and gives counts of
            liver (N,); of several the greatest is the class (the first of equals), and gives counts (N, C).
        target: bool, uint8, int32 or int64 class ids.
        threshold: on the logit; 0 is a probability of one half.

    Raises:
        ValueError: as `overlap_counts`.
    """
    a, b = _tensor(logits), _labels(target, logits.shape[1])
    return _read(_with_rest(count_from_logits(a, b, threshold), b), logits.shape[1] == 1)


def dice(counts: OverlapCounts) -> NDArray[np.float64]:
    """2 |A and B| / (|A| + |B|), 0 to 1, of each sample (and class), in the counts' shape; 1 where both are empty."""
    total = counts.predicted + counts.true
    return np.where(total == 0, 1.0, 2.0 * counts.intersection / np.maximum(total, 1))


def iou(counts: OverlapCounts) -> NDArray[np.float64]:
    """|A and B| / |A or B|, 0 to 1, of each sample (and class), in the counts' shape; 1 where both are empty."""
    union = counts.predicted + counts.true - counts.intersection
    return np.where(union == 0, 1.0, counts.intersection / np.maximum(union, 1))


class OverlapMeter:
    """Counts of a validation epoch, kept on the device: nothing waits for a GPU until they are read.

    Where torch.distributed is initialised, reading merges all processes: every one must read, and gets the same.

    Args:
        num_classes: as in `overlap_counts`.
    """

    def __init__(self, num_classes: int | None = None) -> None:
        self.num_classes = num_classes
        self._counts: list[Tensor] = []

    def update(self, predicted: Tensor, true: Tensor) -> None:
        """Add the samples of two label maps (N, ...).

        Raises:
            ValueError: for arguments that can't be counted; class ids out of range on a GPU only when read.
        """
        classes = 2 if self.num_classes is None else self.num_classes
        self._add(count(_labels(predicted, self.num_classes), _labels(true, self.num_classes), classes), true)

    def update_from_logits(self, logits: Tensor, target: Tensor, threshold: float = 0.0) -> None:
        """Add the samples of a network's output (N, C, ...), as `overlap_counts_from_logits` takes it.

        Raises:
            ValueError: as `update`, and for another number of channels than the classes.
        """
        channels = logits.shape[1]
        if channels != (1 if self.num_classes is None else self.num_classes):
            raise ValueError(
                f"logits has {channels} channels: expected "
                + ("1 (num_classes is None)" if self.num_classes is None else f"{self.num_classes} (num_classes)")
            )
        self._add(count_from_logits(logits.detach(), _labels(target, channels), threshold), target)

    def reset(self) -> None:
        """Forget everything."""
        self._counts.clear()

    def per_sample(self) -> OverlapCounts:
        """The counts of every sample, of all processes in order of rank.

        Raises:
            ValueError: when a class id was out of range, or nothing was counted.
        """
        rows = self._rows()
        if _distributed():
            rows = _gather(rows)
        return self._unpack(rows)

    def pooled(self) -> OverlapCounts:
        """The counts of all samples of all processes together, as one sample.

        Raises:
            ValueError: as `per_sample`.
        """
        rows = self._rows().sum(0, keepdim=True)
        if _distributed():
            torch.distributed.all_reduce(rows)
        return self._unpack(rows)

    def _add(self, counts: Tensor, true: Tensor) -> None:
        self._counts.append(_with_rest(counts, true))

    def _rows(self) -> Tensor:
        if self._counts:
            return torch.cat([counts.to(self._counts[0].device) for counts in self._counts])
        device = "cuda" if _distributed() and torch.distributed.get_backend() == "nccl" else "cpu"
        return torch.zeros((0, (self.num_classes or 2) + 1, 3), dtype=torch.int64, device=device)

    def _unpack(self, rows: Tensor) -> OverlapCounts:
        if not rows.any():
            raise ValueError("the meter has counted nothing yet")
        return _read(rows, self.num_classes is None)


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _gather(rows: Tensor) -> Tensor:
    """The rows of all processes, which may have different numbers of them."""
    world = torch.distributed.get_world_size()
    sizes = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world)]
    torch.distributed.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
    lengths = [int(size) for size in sizes]
    padded = rows.new_zeros((max(lengths), *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(world)]
    torch.distributed.all_gather(parts, padded)
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])


def _with_rest(counts: Tensor, labels: Tensor) -> Tensor:
    """Counts (N, classes, 3) with a slot after the last class: the pixels of each map that are in no class.

    Every other pixel is in exactly one, so that is what the classes leave of a sample's pixels. No wait for a GPU.
    """
    rest = labels.numel() // len(labels) - counts.sum(1, keepdim=True)
    return torch.cat((counts, rest), 1)


def _read(rows: Tensor, mask: bool) -> OverlapCounts:
    """The counts of all classes, or of liver alone; raises ValueError for pixels in the slot after the last class."""
    values = rows.cpu().numpy()
    counts, rest = values[:, :-1], values[:, -1]
    for column, name in ((1, "predicted"), (2, "true")):
        if rest[:, column].any():
            sample = int(np.flatnonzero(rest[:, column])[0])
            raise ValueError(
                f"{name} holds class ids out of range at {rest[sample, column]} pixels of sample {sample}: expected 0 "
                f"to {counts.shape[1] - 1}"
            )
    return OverlapCounts.from_array(counts[:, 1] if mask else counts)


def _tensor(array: Any) -> Tensor:
    """An array's own memory as a tensor, where torch knows its type."""
    if isinstance(array, Tensor):
        return array
    array = np.asarray(array)
    if any(stride < 0 for stride in array.strides) or not array.dtype.isnative:
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")  # nothing here writes
        return torch.from_numpy(array)


def _labels(array: NDArray | Tensor, num_classes: int | None) -> Tensor:
    """Something that the operators take: as it lies where they know the type."""
    if not isinstance(array, Tensor):
        array = np.asarray(array)
        if num_classes is None and (array.dtype.kind not in "bui" or array.dtype.itemsize > 1):
            array = array != 0
        elif array.dtype.kind in "ui" and array.dtype not in (np.uint8, np.int8, np.int32, np.int64):
            array = array.astype(np.int64)
    tensor = _tensor(array)
    if num_classes is None:  # the operators take every byte of a bool that isn't 0 for 1: no conversion
        one_byte = tensor.dtype in (torch.bool, torch.uint8, torch.int8)
        return tensor.view(torch.bool) if one_byte else tensor != 0
    if tensor.dtype in LABELS or tensor.is_floating_point() or tensor.is_complex():
        return tensor
    return tensor.to(torch.int64)
