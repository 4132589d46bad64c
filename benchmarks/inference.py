"""`python -m benchmarks.inference`: images a second of a trained generator and U-Net, beside stock PyTorch and MONAI.

Networks have the paper's widths and the same random weights; slices lie in memory and results come back to it. Stock is
how the public code runs its networks, slice by slice or in batches; MONAI slides a window as large as the slice over
the stock network. All must give the same images.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.measure import Work
from benchmarks.stock import StockUNet, copy_parameters, stock_generator
from benchmarks.suite import Case, Contestant, Sitting, Suite
from fastliver.inference import liver_probability, load_essnet, load_unet
from fastliver.inference.synthesis import synthesize
from fastliver.models import EssNet, UNet

BATCH = 8
TOLERANCE = 5e-3
"""Of values in [-1, 1]: half precision, in which synthetic images are kept, ten times."""
TASKS = ("synthesize", "segment")


@lru_cache(maxsize=1)
def slices(count: int, size: int) -> NDArray[np.float16]:
    """Noise that stands in for images: time does not depend on what they show."""
    return np.random.default_rng(0).uniform(-1, 1, (count, size, size)).astype(np.float16)


ESSNET = {"channels": 64, "blocks": 9, "segmentor": False, "segmentor_tanh": False}
UNET = {"channels": 64, "head_relu": False}


def our_network(task: str, device: torch.device) -> nn.Module:
    """Loaded as a run's is."""
    torch.manual_seed(0)
    if task == "segment":
        return load_unet(UNET, UNet(**UNET).state_dict(), device)  # type: ignore[arg-type]
    return load_essnet(ESSNET, EssNet(**ESSNET).state_dict(), device).g1  # type: ignore[arg-type]


def stock_network(task: str, device: torch.device) -> nn.Module:
    """The same weights."""
    stock: nn.Module = stock_generator() if task == "synthesize" else StockUNet()
    copy_parameters(our_network(task, torch.device("cpu")), stock)
    return stock.to(device).eval()


def by_fastliver(task: str, images: NDArray[np.float16], device: torch.device) -> Work:
    """As a run's networks work."""
    network: Any = our_network(task, device)
    if task == "synthesize":
        return lambda: synthesize(network, images, batch=BATCH)
    return lambda: liver_probability(network, images, batch=BATCH)


def _loop(
    task: str, images: NDArray[np.float16], device: torch.device, batch: int, apply: Callable[[Tensor], Tensor]
) -> NDArray[Any]:
    found = []
    with torch.inference_mode():
        for part in torch.from_numpy(images.astype(np.float32)).unsqueeze(1).split(batch):
            output = apply(part.to(device))
            found.append((output if task == "synthesize" else torch.sigmoid(output)).squeeze(1).cpu())
    return torch.cat(found).numpy()


def by_stock(task: str, images: NDArray[np.float16], device: torch.device, batch: int = BATCH) -> Work:
    return partial(_loop, task, images, device, batch, stock_network(task, device))


def by_monai(task: str, images: NDArray[np.float16], device: torch.device) -> Work:
    from monai.inferers import SlidingWindowInferer

    network, inferer = stock_network(task, device), SlidingWindowInferer(images.shape[1:], sw_batch_size=BATCH)
    return partial(_loop, task, images, device, BATCH, lambda part: cast(Tensor, inferer(part, network)))


def contestants() -> dict[str, Callable[[str, NDArray[np.float16], torch.device], Work]]:
    """Everybody whom this machine has."""
    ways: dict[str, Any] = {
        "fastliver": by_fastliver,
        "stock slice by slice": partial(by_stock, batch=1),
        "stock in batches": by_stock,
    }
    return ways | ({"monai": by_monai} if find_spec("monai") else {})


def disagreement(works: Mapping[str, Work]) -> dict[str, str]:
    """Those whose images are not stock's, without TF32, of which cuDNN's choice of algorithms may make use or not."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        found = {title: np.asarray(work(), np.float32) for title, work in works.items()}
    expected = found["stock in batches"]
    worst = {title: float(np.abs(images - expected).max()) for title, images in found.items()}
    return {title: f"differs from stock by {value:.2g}" for title, value in worst.items() if not value <= TOLERANCE}


def cases(device: torch.device) -> Iterator[Case]:
    """The paper's size on a GPU, a quarter of it on a CPU."""
    count, size = (64, 256) if device.type == "cuda" else (8, 64)
    for task in TASKS:

        def make(way: Any, task: str = task) -> Work:
            return way(task, slices(count, size), device)

        yield Case(
            task,
            f"{count}x1x{size}x{size}",
            "fp32",
            tuple(Contestant(name, partial(make, way)) for name, way in contestants().items()),
            amount=count,
            unit="slices/s",
            check=disagreement,
        )


def run(sitting: Sitting) -> None:
    if not find_spec("monai"):
        sitting.say("monai isn't installed: left out")
    for case in cases(sitting.device):
        if sitting.takes(case.title):
            sitting.race(case)


SUITE = Suite("inference", __doc__, run, repeats=(3, 20))

if __name__ == "__main__":
    sys.exit(SUITE.main(sys.argv[1:]))
