"""Overlap counts beside their peers, and beside a read and a copy of the same bytes.

    python -m pytest benchmarks/test_overlap.py --benchmark-group-by=param:shape --benchmark-columns=min,median

Every case takes two uint8 masks that lie in memory and ends with a Dice score (the copy: with two copies, the read:
with a sum of 64-bit words). A peer that isn't installed is skipped. What torchmetrics and MONAI want in their own
layout (int64 classes, a channel) is prepared outside of the time.

The read is the ceiling: every byte of both masks must reach a core once. On a core of a Xeon server (2026) the operator
takes 0.38, 18 and 10 ms for the three shapes, 21 to 14 GB/s, and the sum takes 0.37, 18 and 10 ms; what is left to gain
on a CPU is memory's, not the loop's. torchmetrics, which writes several int64 maps, takes 250 to 400 times as long.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastliver.metrics import dice, overlap_counts
from fastliver.metrics.extension import count

SHAPES = {"58x256x256": (58, 256, 256), "2050x256x256": (2050, 256, 256), "300x512x512": (300, 512, 512)}


def masks(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """A disc in every slice, and the same disc moved: what livers look like to a counter."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(shape[1]), torch.arange(shape[2]), indexing="ij")
    pair = []
    for _ in range(2):
        centre = shape[1] * (0.4 + 0.2 * torch.rand(shape[0], 2, generator=generator))
        rows = [((y - a) ** 2 + (x - b) ** 2 < (shape[1] / 4) ** 2).to(torch.uint8) for a, b in centre.tolist()]
        pair.append(torch.stack(rows))
    return pair[0], pair[1]


@pytest.fixture(scope="module", params=SHAPES.values(), ids=list(SHAPES))
def shape(request: pytest.FixtureRequest) -> tuple[int, ...]:
    return request.param


@pytest.fixture(scope="module")
def pair(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    return masks(shape)


def run(benchmark: Any, function: Callable[[], object], pair: tuple[Tensor, ...], rounds: int = 5) -> None:
    """Times it, and notes what memory it read for every second."""
    benchmark.pedantic(function, rounds=rounds, warmup_rounds=1)
    moved = sum(x.numel() * x.element_size() for x in pair)
    if benchmark.stats:
        benchmark.extra_info["mask_GB_per_s"] = round(moved / benchmark.stats.stats.min / 1e9, 2)


def test_copy(benchmark: Any, pair: tuple[Tensor, Tensor]) -> None:
    a, b = (torch.empty_like(x) for x in pair)
    run(benchmark, lambda: (a.copy_(pair[0]), b.copy_(pair[1])), pair, rounds=20)


def test_read(benchmark: Any, pair: tuple[Tensor, Tensor]) -> None:
    a, b = (x.view(torch.int64) for x in pair)
    run(benchmark, lambda: (a.sum(), b.sum()), pair, rounds=20)


def test_operator(benchmark: Any, pair: tuple[Tensor, Tensor]) -> None:
    run(benchmark, lambda: count(*pair, 2), pair, rounds=20)


def test_fastliver(benchmark: Any, pair: tuple[Tensor, Tensor]) -> None:
    a, b = (x.numpy() for x in pair)
    run(benchmark, lambda: dice(overlap_counts(a, b)), pair, rounds=20)


def test_numpy(benchmark: Any, pair: tuple[Tensor, Tensor]) -> None:
    a, b = (x.numpy() for x in pair)

    def score() -> object:
        both = np.count_nonzero(a & b, axis=(1, 2))
        return 2 * both / np.maximum(np.count_nonzero(a, axis=(1, 2)) + np.count_nonzero(b, axis=(1, 2)), 1)

    run(benchmark, score, pair, rounds=5)


def test_monai(benchmark: Any, pair: tuple[Tensor, Tensor]) -> None:
    monai = pytest.importorskip("monai.metrics")
    a, b = (x[:, None] for x in pair)  # the liver's channel alone: what costs MONAI least
    run(benchmark, lambda: monai.compute_dice(a, b, include_background=True), pair, rounds=3)


def test_torchmetrics(benchmark: Any, pair: tuple[Tensor, Tensor]) -> None:
    functional = pytest.importorskip("torchmetrics.functional.segmentation")
    # In parts: it writes one-hot maps of int64, which for all samples would fill the memory.
    parts = list(zip(*(x.long().split(64) for x in pair), strict=True))

    def score() -> list[Tensor]:
        options: dict[str, Any] = {"num_classes": 2, "include_background": False, "input_format": "index"}
        return [functional.dice_score(a, b, **options) for a, b in parts]

    run(benchmark, score, pair, rounds=3)
