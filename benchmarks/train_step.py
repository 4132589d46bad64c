"""`python -m benchmarks.train_step`: whole training steps beside the same recipe in stock PyTorch.

A step is everything from images on the device to changed weights: forwards, backwards and Adam of every network. The
peers are `benchmarks.stock`: eager in fp32 as the public code runs; with autocast; with autocast and channels_last; and
that with torch.compile on every network. Ours run as a training run would: as a CUDA graph on a GPU. All providers of a
case start from the same weights and images, must give the same first losses, and take turns, so that a machine that
slows down does so for all; they lie in memory together.
"""

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import Results, percentiles, rates, results_folder, surroundings
from benchmarks.stock import StockEssNet, StockUNet, copy_parameters
from fastliver.config import TrainConfig
from fastliver.data.batches import Slices
from fastliver.training.memory import Workload, make_network, make_trainer
from fastliver.training.memory_plan import release
from fastliver.training.precision import REDUCED, Precision
from fastliver.training.trainer import Execution

TFLOP = {"essnet": 1.562, "unet": 0.655 / 2}
"""Work of one training step on one image at 256x256 with the paper's widths."""
AGREEMENT = {"fp32": 1e-3, "tf32": 2e-2, "bf16": 5e-2, "fp16": 2e-2}
"""How far a provider's first losses may lie from those of stock fp32, relative to them."""
WARM_UP = 6
"""Steps before the timed ones: more than a graph's recording takes."""


@dataclass(frozen=True)
class Case:
    """A training at one size."""

    training: str
    size: int
    batch: int

    @property
    def shape(self) -> str:
        return f"{self.batch}x1x{self.size}x{self.size}"

    @property
    def tflop(self) -> float:
        """Work of a step."""
        return TFLOP[self.training] * self.batch * (self.size / 256) ** 2

    def workload(self) -> Workload:
        """The paper's networks at this size, on as many slices as a batch has, without augmentation."""
        config = TrainConfig()
        config = replace(
            config,
            data=replace(config.data, image_size=self.size),
            essnet=replace(config.essnet, batch=self.batch, augment="none"),
            unet=replace(config.unet, batch=self.batch, augment="none"),
        )
        return Workload(self.training, config, (self.batch,) * (2 if self.training == "essnet" else 1))


def cases(device: torch.device) -> list[Case]:
    """The paper's size at four batches on a GPU; one small size that a CPU steps through in half a second."""
    if device.type == "cuda":
        return [Case(training, 256, batch) for training in TFLOP for batch in (1, 2, 4, 8)]
    return [Case("essnet", 64, 1), Case("unet", 64, 2)]


@dataclass(frozen=True)
class Provider:
    """One way to take a step.

    Attributes:
        name: in the table.
        precision: what it computes in.
        ours: fastliver, or the stock recipe.
        channels_last: layout of the stock networks.
        compiled: stock networks through torch.compile.
    """

    name: str
    precision: str
    ours: bool = False
    channels_last: bool = False
    compiled: bool = False


def providers(device: torch.device) -> list[Provider]:
    """Stock first; the reduced precision is the one that `--precision auto` takes on a GPU, and bf16 on a CPU."""
    reduced = Precision.of("auto", device).name
    if reduced not in REDUCED:
        reduced = "bf16"
    kinds = [
        Provider("stock", "fp32"),
        Provider("stock autocast", reduced),
        Provider("stock autocast channels_last", reduced, channels_last=True),
        Provider("stock compiled", reduced, channels_last=True, compiled=True),
        Provider("fastliver", "fp32", ours=True),
        Provider("fastliver", reduced, ours=True),
    ]
    if device.type == "cpu":
        # What compiles best there is fp32 in its own layout.
        kinds[3] = Provider("stock compiled", "fp32", compiled=True)
    return kinds


def noise(case: Case, device: torch.device) -> list[Slices]:
    """Slices that stand in for real ones: time does not depend on what they show."""
    generator = torch.Generator().manual_seed(0)
    shape = (case.batch, 1, case.size, case.size)
    return [
        Slices(
            (torch.rand(shape, generator=generator) * 2 - 1).half().to(device),
            (torch.rand((case.batch, case.size, case.size), generator=generator) > 0.5).to(torch.uint8).to(device),
        )
        for _ in case.workload().slices
    ]


def set_dropout(network: nn.Module, share: float) -> None:
    """Dropout draws other numbers in each provider: the first step, whose losses are compared, goes without."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = share


Step = Callable[[], dict[str, Tensor]]


def make_step(case: Case, provider: Provider, device: torch.device) -> tuple[Step, nn.Module]:
    """A step of a provider, from the same start as every other's, and its network."""
    workload = case.workload()
    torch.manual_seed(0)
    network = make_network(workload).to(device)
    slices = noise(case, device)
    if provider.ours:
        trainer = make_trainer(workload, network, slices, Execution(Precision.of(provider.precision, device), "auto"))
        return lambda: trainer.step(0, 0).losses, network
    stock: Any = (StockEssNet() if case.training == "essnet" else StockUNet()).to(device)
    copy_parameters(network, stock)
    layout = torch.channels_last if provider.channels_last else torch.contiguous_format
    stock = stock.to(memory_format=layout)
    if provider.compiled:
        for child in stock.children() if case.training == "essnet" else [stock]:
            if any(True for _ in child.parameters()):
                child.compile(mode="max-autotune-no-cudagraphs" if device.type == "cuda" else None)
    images = [held.images.float().contiguous(memory_format=layout) for held in slices]
    labels = slices[0].labels
    given = (images[0], labels, images[1]) if case.training == "essnet" else (images[0], labels)

    def step() -> dict[str, Tensor]:
        reduced = REDUCED.get(provider.precision)
        with torch.autocast(device.type, reduced) if reduced else nullcontext():
            return stock.step(*given)

    return step, stock


def check(provider: Provider, losses: dict[str, float], expected: dict[str, float]) -> None:
    """Raise RuntimeError unless a provider's first losses are stock fp32's."""
    for name, value in expected.items():
        if not abs(losses[name] - value) <= AGREEMENT[provider.precision] * max(abs(value), 0.1):
            raise RuntimeError(f"{provider.name} {provider.precision}: {name} is {losses[name]}, stock has {value}")


def milliseconds(step: Callable[[], Any], device: torch.device) -> float:
    """Time of one step, waited for."""
    began = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1e3 * (time.perf_counter() - began)


def matrix_peak(precision: str, device: torch.device, size: int = 8192) -> float:
    """TFLOP/s of one large matrix product: what steps are measured against."""
    size = size if device.type == "cuda" else 1024
    x = torch.randn(size, size, device=device, dtype=REDUCED.get(precision, torch.float32))
    times = [milliseconds(partial(torch.mm, x, x), device) for _ in range(12)]
    return 2 * size**3 / min(times) / 1e9


@dataclass
class Measured:
    """A provider at work."""

    provider: Provider
    step: Step
    memory: float
    times: list[float]


def start(case: Case, device: torch.device, kinds: list[Provider]) -> list[Measured]:
    """Make and warm up every provider of a case that fits in memory, and hold its first losses against stock's."""
    running: list[Measured] = []
    expected: dict[str, float] = {}
    cuda = device.type == "cuda"
    for provider in kinds:
        if cuda:
            torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device) if cuda else 0
        try:
            step, network = make_step(case, provider, device)
            set_dropout(network, 0.0)
            losses = {name: float(value) for name, value in step().items()}
            set_dropout(network, 0.5)
            for _ in range(WARM_UP if cuda else 1):
                step()
        except torch.OutOfMemoryError:
            print(f"{case.training} {case.shape}: {provider.name} {provider.precision} does not fit in memory")
            continue
        expected = expected or losses
        check(provider, losses, expected)
        memory = (torch.cuda.max_memory_allocated(device) - before) / 2**30 if cuda else 0.0
        running.append(Measured(provider, step, memory, []))
    return running


def measure(case: Case, device: torch.device, repeats: int) -> list[Measured]:
    """Time the providers of a case in turns."""
    running = start(case, device, providers(device))
    for _ in range(repeats):
        for one in running:
            one.times.append(milliseconds(one.step, device))
    return running


def report(case: Case, found: list[Measured], peaks: dict[str, float], results: Results) -> None:
    """Print and write a case: ratios to stock first."""
    base = percentiles(found[0].times)[1]
    for one in found:
        times = percentiles(one.times)
        speed = rates(case.tflop * 1e3, times)
        share = speed[1] / peaks[one.provider.precision]
        columns = {
            "case": case.training,
            "provider": one.provider.name,
            "mode": "full",
            "shape": case.shape,
            "dtype": one.provider.precision,
        }
        results.add("time", "ms", times, **columns)
        results.add("ratio to stock", "x", rates(base, times), **columns)
        results.add("work", "TFLOP/s", speed, **columns)
        results.add("share of matrix peak", "1", (share, share, share), **columns)
        if one.memory:
            results.add("peak memory", "GiB", (one.memory,) * 3, **columns)
        name = f"{case.training:6} {case.shape:14} {one.provider.name:29} {one.provider.precision}"
        memory = f", {one.memory:.2f} GiB" if one.memory else ""
        print(
            f"{name}: {base / times[1]:5.2f}x stock, {times[1]:9.2f} ms, {speed[1]:7.2f} TFLOP/s, "
            f"{share:4.0%} of matrix peak{memory}",
            flush=True,
        )


def main(arguments: list[str]) -> int:
    """Print and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, help="timed steps of each provider; default 30, on a CPU 5")
    parser.add_argument("--only", choices=tuple(TFLOP), help="one training")
    parser.add_argument("--out", type=Path, help="default benchmarks/results/<device>/train_step.csv, added to")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    repeats = options.repeats or (30 if device.type == "cuda" else 5)
    shared = surroundings(device)
    path = options.out or results_folder(shared["device"]) / "train_step.csv"
    peaks = {provider.precision: matrix_peak(provider.precision, device) for provider in providers(device)}
    with Results(path, "train_step", shared) as results:
        for case in cases(device):
            if options.only in (None, case.training):
                report(case, measure(case, device, repeats), peaks, results)
                release(device)
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
