"""`python -m benchmarks.convolution`: 3x3 convolutions on a CPU, fastliver's Winograd loops beside PyTorch's.

Shapes are those of the residual blocks at 64, 128 and 256 pixels and of the U-Net's levels at 64. The rate counts the
operations of a direct convolution, so with a quarter of the multiplications it can pass the machine's peak. On a GPU
convolutions are cuDNN's, and this suite has no cases.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Work
from benchmarks.suite import Case, Contestant, Sitting, Suite
from fastliver.kernels import conv3x3

MODES = ("forward", "backward")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOLERANCES = {"fp32": 1e-4, "bf16": 3e-2}
"""Of norm(result - direct) / norm(direct): what the formats' roundings add up to."""


@dataclass(frozen=True)
class Layer:
    """A convolution of the networks: its name, inputs (N, C, H, W), output channels and padding."""

    name: str
    shape: tuple[int, int, int, int]
    outputs: int
    padding: int

    @property
    def tflop(self) -> float:
        """Operations of the direct convolution, forward."""
        n, c, h, w = self.shape
        grow = 2 * self.padding - 2
        return 2 * n * (h + grow) * (w + grow) * 9 * c * self.outputs / 1e12


LAYERS = (
    *(Layer(f"block {4 * side}", (1, 256, side + 2, side + 2), 256, 0) for side in (16, 32, 64)),
    *(Layer(f"unet {64 >> level}", (2, 64 << level, 64 >> level, 64 >> level), 64 << level, 1) for level in range(5)),
)

Convolution = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def direct(x: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
    """PyTorch's, with weights in the format of x as autocast has them."""
    return F.conv2d(x, weight.to(x.dtype), bias.to(x.dtype), padding=padding)


WAYS: dict[str, tuple[Convolution, torch.memory_format]] = {
    "fastliver": (conv3x3, torch.channels_last),
    "stock": (direct, torch.contiguous_format),
    "stock channels_last": (direct, torch.channels_last),
}


def make(layer: Layer, mode: str, dtype: str, name: str) -> Work:
    """A layer done once; its result is the output, or the gradients of input, weight and bias."""
    convolve, layout = WAYS[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(layer.shape, generator=generator).to(DTYPES[dtype], memory_format=layout).requires_grad_()
    weight = torch.randn((layer.outputs, layer.shape[1], 3, 3), generator=generator) * 0.02
    weight = weight.to(memory_format=layout).requires_grad_()
    bias = torch.zeros(layer.outputs, requires_grad=True)
    y = convolve(x, weight, bias, layer.padding)
    incoming = torch.randn(y.shape, generator=generator).to(y.dtype, memory_format=layout)

    def forward() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (convolve(x, weight, bias, layer.padding),)

    def backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(y, (x, weight, bias), incoming, retain_graph=True)

    return forward if mode == "forward" else backward


def disagreement(dtype: str, works: Mapping[str, Work]) -> dict[str, str]:
    """Those whose results are not stock's."""
    results: dict[str, Any] = {title: [part.double() for part in work()] for title, work in works.items()}
    faults = {}
    for title, found in results.items():
        pairs = zip(found, results["stock"], strict=True)
        worst = max(float((part - wanted).norm() / wanted.norm()) for part, wanted in pairs)
        if not worst <= TOLERANCES[dtype]:
            faults[title] = f"is {worst:.2g} from stock"
    return faults


def cases(device: torch.device) -> Iterator[Case]:
    """Every layer forward and backward, in both formats; none on a GPU."""
    for layer in LAYERS if device.type == "cpu" else ():
        for dtype in DTYPES:
            for mode in MODES:
                yield Case(
                    layer.name,
                    "x".join(map(str, layer.shape)),
                    dtype,
                    tuple(Contestant(name, partial(make, layer, mode, dtype, name)) for name in WAYS),
                    layer.tflop * (2 if mode == "backward" else 1),
                    "TFLOP/s",
                    mode,
                    check=partial(disagreement, dtype),
                )


def run(sitting: Sitting) -> None:
    if sitting.device.type != "cpu":
        sitting.say("on a GPU convolutions are cuDNN's: nothing to compare")
    for case in cases(sitting.device):
        if sitting.takes(case.title):
            sitting.race(case)


SUITE = Suite("convolution", __doc__, run, repeats=(15, 1))

if __name__ == "__main__":
    sys.exit(SUITE.main(sys.argv[1:]))
