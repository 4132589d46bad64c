"""`python -m benchmarks.overlap`: the counts behind Dice and IoU beside NumPy, MONAI and torchmetrics.

Every case takes two uint8 masks that lie in memory and ends with Dice scores. What MONAI and torchmetrics want in their
own layout (a channel, one-hot maps) is prepared outside of the time. The read (a sum of 64-bit words) is the ceiling:
every byte of both masks must reach a core once; the copy moves twice as many bytes.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import Work
from benchmarks.suite import Case, Contestant, Sitting, Suite
from fastliver.metrics import dice, overlap_counts
from fastliver.metrics.extension import count, serves

SHAPES = ((58, 256, 256), (2050, 256, 256), (300, 512, 512))
"""The paper's test slices, CHAOS's training CT with liver, and a native CT volume."""
TOLERANCE = 1e-6
Pair = tuple[Tensor, Tensor]


@lru_cache(maxsize=1)
def masks(shape: tuple[int, ...], device: torch.device, seed: int = 0) -> Pair:
    """A disc in every slice, and the same disc moved: what livers look like to a counter. Contestants share them."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(shape[1]), torch.arange(shape[2]), indexing="ij")
    pair = []
    for _ in range(2):
        centre = shape[1] * (0.4 + 0.2 * torch.rand(shape[0], 2, generator=generator))
        rows = [((y - a) ** 2 + (x - b) ** 2 < (shape[1] / 4) ** 2).to(torch.uint8) for a, b in centre.tolist()]
        pair.append(torch.stack(rows).to(device))
    return pair[0], pair[1]


def by_fastliver(pair: Pair) -> Work:
    """Arrays as `evaluate` has them; on a GPU tensors, as validation has them."""
    a, b = pair if pair[0].is_cuda else (x.numpy() for x in pair)
    return lambda: dice(overlap_counts(a, b))


def by_numpy(pair: Pair) -> Work:
    """What one writes without a library, slice by slice: with `axis` NumPy would count five times as slowly."""
    a, b = (x.numpy() for x in pair)

    def count(x: Any) -> Any:
        return np.array([np.count_nonzero(part) for part in x])

    return lambda: 2 * count(a & b) / (count(a) + count(b))


def by_torch(pair: Pair) -> Work:
    """The same on a GPU."""
    a, b = (x.bool() for x in pair)

    def score() -> Any:
        sums = [x.sum((1, 2)) for x in (a & b, a, b)]
        return (2 * sums[0] / (sums[1] + sums[2])).cpu()

    return score


def by_monai(pair: Pair) -> Work:
    """The liver's channel alone: what costs MONAI least."""
    from monai.metrics import compute_dice

    a, b = (x[:, None] for x in pair)
    return lambda: compute_dice(a, b, include_background=True)[:, 0].cpu()


def by_torchmetrics(pair: Pair) -> Work:
    """One-hot maps of booleans, in parts: what it makes of them would for all samples fill the memory."""
    from torchmetrics.functional.segmentation import dice_score

    options: Any = {"num_classes": 2, "include_background": False, "input_format": "one-hot"}
    maps = (torch.stack((x == 0, x == 1), 1) for x in pair)
    parts = list(zip(*(x.split(64) for x in maps), strict=True))
    return lambda: torch.cat([dice_score(a, b, **options) for a, b in parts]).flatten().cpu()


def by_operator(pair: Pair) -> Work:
    """The extension's counts alone."""
    return lambda: count(*pair, 2)


def by_read(pair: Pair) -> Work:
    a, b = (x.view(torch.int64) for x in pair)
    return lambda: (a.sum(), b.sum())


def by_copy(pair: Pair) -> Work:
    copies = tuple(torch.empty_like(x) for x in pair)
    return lambda: [to.copy_(x) for to, x in zip(copies, pair, strict=True)]


SCORES = ("fastliver", "numpy", "torch", "monai", "torchmetrics")
"""Those whose work gives Dice scores."""


def contestants(device: torch.device) -> dict[str, Callable[[Pair], Work]]:
    """Everybody whom this machine has."""
    ways: dict[str, Callable[[Pair], Work]] = {}
    if serves(device):
        ways = {"fastliver": by_fastliver, "fastliver operator": by_operator}
    ways |= {"torch": by_torch} if device.type == "cuda" else {"numpy": by_numpy}
    peers = {"monai": by_monai, "torchmetrics": by_torchmetrics}
    ways |= {name: way for name, way in peers.items() if find_spec(name)}
    return ways | {"read": by_read, "copy": by_copy}


def disagreement(works: Mapping[str, Work]) -> dict[str, str]:
    """Those whose scores are not NumPy's (on a GPU PyTorch's)."""
    scores = {title: np.asarray(work(), np.float64) for title, work in works.items() if title in SCORES}
    expected = scores["numpy"] if "numpy" in scores else scores["torch"]
    worst = {title: float(np.abs(found - expected).max()) for title, found in scores.items()}
    return {
        title: f"is {value:.2g} from what was counted plainly"
        for title, value in worst.items()
        if not value <= TOLERANCE
    }


def cases(device: torch.device) -> Iterator[Case]:
    """One case a shape."""
    for shape in SHAPES:
        pair = partial(masks, shape, device)
        yield Case(
            "dice",
            "x".join(map(str, shape)),
            "uint8",
            tuple(
                Contestant(name, lambda way=way, pair=pair: way(pair()))  # type: ignore[misc]
                for name, way in contestants(device).items()
            ),
            amount=2 * float(np.prod(shape)) / 1e9,
            unit="GB/s",
            targets={
                ("fastliver", "torchmetrics"): 30,
                ("fastliver", "monai"): 10,
                ("fastliver operator", "read"): 0.5,
            },
            check=disagreement,
        )


def run(sitting: Sitting) -> None:
    for name in ("monai", "torchmetrics"):
        if not find_spec(name):
            sitting.say(f"{name} isn't installed: left out")
    if not serves(sitting.device):
        sitting.complain(f"the extension is not built for {sitting.device.type}: fastliver left out")
    for case in cases(sitting.device):
        if sitting.takes(case.title):
            sitting.race(case)


SUITE = Suite("overlap", __doc__, run, repeats=(3, 50))

if __name__ == "__main__":
    sys.exit(SUITE.main(sys.argv[1:]))
