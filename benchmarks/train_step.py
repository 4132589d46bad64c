"""`python -m benchmarks.train_step`: whole training steps beside the same recipe in stock PyTorch.

A step is everything from images on the device to changed weights: forwards, backwards and Adam of every network. The
peers are `benchmarks.stock`: eager in fp32, on a GPU also with the TF32 that PyTorch's convolutions take by default;
with autocast; with autocast and channels_last; on a GPU that as a CUDA graph too (but for the image pools, which choose
in Python); and that with torch.compile on every network, on a CPU in fp32 and its own layout. Ours run as a training
run would: as a CUDA graph on a GPU, without which they don't count. All providers of a case start from the same weights
and images, must give the same first losses, and take turns; they lie in memory together. Compiling takes longest and
fails most, so it comes last: a sitting that ends there has the rest.

On a CPU all providers have the allocator that a training run sets, with which stock steps are no slower.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch._dynamo
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.measure import Work, by_turns, matrix_peak, percentiles, rates
from benchmarks.stock import StockEssNet, StockUNet, copy_parameters
from benchmarks.suite import Case, Contestant, Sitting, Suite
from fastliver.config import TrainConfig
from fastliver.data.batches import Slices
from fastliver.training.graph import CudaRecorder, StepGraph
from fastliver.training.host_memory import kept_memory
from fastliver.training.memory import Workload, make_network, make_trainer
from fastliver.training.precision import REDUCED, Precision
from fastliver.training.trainer import Execution, StepResult

TFLOP = {"essnet": 1.562, "unet": 0.655 / 2}
"""Work of one training step on one image at 256x256 with the paper's widths."""
AGREEMENT = {"fp32": 1e-3, "tf32": 2e-2, "bf16": 5e-2, "fp16": 2e-2}
"""How far a provider's first losses may lie from those of stock fp32, relative to them."""
AGREEMENT_LATER = {"fp32": 5e-2, "tf32": 0.1, "bf16": 0.2, "fp16": 0.2}
"""The same after an update: Adam's first steps move every weight by the learning rate, whatever its gradient's size, so
that roundings turn some the other way. Without the update a loss is off by a quarter after three steps."""
CHECKED = 3
"""Steps whose losses are compared."""
WARM_UP = 6
"""Steps before the timed ones: more than a graph's recording takes."""
TARGETS: dict[str, dict[tuple[str, str], float]] = {
    "cpu": {("fastliver fp32", "stock fp32"): 1.4, ("fastliver bf16", "stock fp32"): 1.8},
    "cuda": {("fastliver bf16", "stock fp32"): 6, ("fastliver bf16", "stock compiled bf16"): 1.25},
}
RECIPE = {"essnet": 1, "unet": 2}
"""The batch at which those are wanted."""
COMPILED = "stock compiled"


@dataclass(frozen=True)
class Size:
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


def sizes(device: torch.device) -> list[Size]:
    """The paper's size at four batches on a GPU, its own first; one that a CPU steps through in half a second."""
    if device.type == "cuda":
        usual = [Size(training, 256, batch) for training, batch in RECIPE.items()]
        others = [Size(training, 256, batch) for batch in (1, 2, 4, 8) for training in TFLOP]
        return [*usual, *(size for size in others if size not in usual)]
    return [Size("essnet", 64, 1), Size("unet", 64, 2)]


@dataclass(frozen=True)
class Provider:
    """One way to take a step.

    Attributes:
        name: in the table.
        precision: what it computes in.
        ours: fastliver, or the stock recipe.
        channels_last: layout of the stock networks.
        compiled: stock networks through torch.compile.
        graph: the stock step recorded as a CUDA graph.
    """

    name: str
    precision: str
    ours: bool = False
    channels_last: bool = False
    compiled: bool = False
    graph: bool = False


def providers(device: torch.device) -> list[Provider]:
    """Stock first, compiled last; the reduced precision is that of `--precision auto` on a GPU, and bf16 on a CPU."""
    reduced = Precision.of("auto", device).name
    if reduced not in REDUCED:
        reduced = "bf16"
    tf32 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    cuda = device.type == "cuda"
    return [
        Provider("stock", "fp32"),
        *([Provider("stock", "tf32")] if tf32 else []),
        Provider("stock autocast", reduced),
        Provider("stock autocast channels_last", reduced, channels_last=True),
        *([Provider("stock graph", reduced, channels_last=True, graph=True)] if cuda else []),
        Provider("fastliver", "fp32", ours=True),
        Provider("fastliver", reduced, ours=True),
        Provider(COMPILED, reduced if cuda else "fp32", channels_last=cuda, compiled=True),
    ]


def noise(case: Size, device: torch.device) -> list[Slices]:
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


Losses = dict[str, Tensor]


@dataclass
class Step:
    """A provider's training step, and the network that it trains."""

    take: Callable[[], Losses]
    network: nn.Module

    def __call__(self) -> Losses:
        return self.take()


def make_step(size: Size, provider: Provider, device: torch.device) -> Step:
    """A step of a provider, from the same start as every other's."""
    workload = size.workload()
    torch.manual_seed(0)
    network = make_network(workload).to(device)
    slices = noise(size, device)
    if provider.ours:
        graph = "on" if device.type == "cuda" else "auto"
        trainer = make_trainer(workload, network, slices, Execution(Precision.of(provider.precision, device), graph))
        return Step(lambda: trainer.step(0, 0).losses, network)
    stock: Any = (StockEssNet if size.training == "essnet" else StockUNet)(capturable=provider.graph).to(device)
    copy_parameters(network, stock)
    layout = torch.channels_last if provider.channels_last else torch.contiguous_format
    stock = stock.to(memory_format=layout)
    # Trying every kernel takes minutes a size: at those that targets speak of.
    tuned = device.type == "cuda" and size.batch == RECIPE[size.training]
    if provider.compiled:
        for child in stock.children() if size.training == "essnet" else [stock]:
            if any(True for _ in child.parameters()):
                child.compile(dynamic=False, mode="max-autotune-no-cudagraphs" if tuned else None)
    images = [held.images.float().contiguous(memory_format=layout) for held in slices]
    labels = slices[0].labels
    given = (images[0], labels, images[1]) if size.training == "essnet" else (images[0], labels)

    # cuDNN looks for its fastest algorithms for all, as the public recipe has it do, and TF32 is taken by name alone.
    precision = Precision.of(provider.precision, device)

    def take() -> Losses:
        reduced = REDUCED.get(provider.precision)
        with precision.step(), torch.autocast(device.type, reduced) if reduced else nullcontext():
            return stock.step(*given)

    if provider.graph:
        adams = [one for one in vars(stock).values() if isinstance(one, Optimizer)]
        recorded = StepGraph(
            lambda: StepResult(take(), {}), adams, CudaRecorder(device), warm_up=CHECKED + 1, required=True
        )
        return Step(lambda: recorded().losses, stock)
    return Step(take, stock)


def first_losses(step: Any) -> dict[str, float]:
    """The losses of CHECKED steps, without dropout, which draws other numbers in each provider.

    From the second on they show what the step before did to the weights.
    """
    set_dropout(step.network, 0.0)
    losses = {f"{name} of step {n}": float(value) for n in range(1, CHECKED + 1) for name, value in step().items()}
    set_dropout(step.network, 0.5)
    return losses


def disagreement(losses: Mapping[str, float], expected: Mapping[str, float], precision: str) -> str:
    """How first losses differ from stock fp32's by more than the precision explains; nothing if they don't."""
    for name, value in expected.items():
        allowed = (AGREEMENT if name.endswith("step 1") else AGREEMENT_LATER)[precision]
        if not abs(losses[name] - value) <= allowed * max(abs(value), 0.1):
            return f"has {losses[name]:.6g} as {name} where stock has {value:.6g}"
    return ""


def case_of(size: Size, device: torch.device, kinds: Sequence[Provider]) -> Case:
    """A size as a suite's case."""
    contestants = tuple(Contestant(one.name, partial(make_step, size, one, device), one.precision) for one in kinds)
    return Case(
        size.training,
        size.shape,
        "fp32",
        contestants,
        size.tflop,
        "TFLOP/s",
        targets=TARGETS[device.type] if size.batch == RECIPE[size.training] else {},
    )


def cases(device: torch.device) -> Iterator[Case]:
    """Every size with every provider."""
    return (case_of(size, device, providers(device)) for size in sizes(device))


class Field:
    """The contestants of a case who can be timed: they fit in memory together and have stock's first losses."""

    def __init__(self, case: Case, sitting: Sitting) -> None:
        self.case, self.sitting = case, sitting
        self.works: dict[str, Work] = {}
        self.expected: dict[str, float] | None = None
        torch.compiler.reset()  # a case's shapes are not those of the one before

    def admit(self, contestant: Contestant) -> None:
        """Prepare, check and warm up one of them, and note the memory; a peer that fails is left out."""
        case, sitting, device = self.case, self.sitting, self.sitting.device
        with sitting.fitting(f"{case.title}: {contestant.title}"):
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
            try:
                step: Any = contestant.make()
                losses = first_losses(step)
                for _ in range(WARM_UP if device.type == "cuda" else 0):
                    step()
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                sitting.disqualify(case, contestant, f"failed ({reason})")
                return
            if contestant is case.contestants[0]:
                self.expected = losses
            fault = "" if self.expected is None else disagreement(losses, self.expected, contestant.dtype)
            if self.expected is None:
                sitting.say(f"{case.title}: {contestant.title} is not checked, stock did not fit")
            if fault:
                sitting.disqualify(case, contestant, fault)
            else:
                self.works[contestant.title] = step
            if device.type == "cuda":
                # All that was needed on the way, what cuDNN tried included.
                peak = (torch.cuda.max_memory_allocated(device) - before) / 2**30
                sitting.add(case, contestant, "peak memory", "GiB", (peak, peak, peak))

    def time(self, titles: Iterable[str]) -> dict[str, list[float]]:
        """Seconds of those of these who are ready, by turns."""
        works = {title: self.works[title] for title in titles if title in self.works}
        return by_turns(works, self.sitting.repeats, self.sitting.device)


def race(case: Case, sitting: Sitting) -> dict[str, list[float]]:
    """Time the steps of a case, the compiled ones afterwards beside ours; gives the seconds."""
    seconds: dict[str, list[float]] = {}
    with sitting.fitting(case.title):
        field = Field(case, sitting)
        early = [one for one in case.contestants if one.name != COMPILED]
        for contestant in early:
            field.admit(contestant)
        seconds = field.time(one.title for one in early)
        sitting.record(case, seconds)
        for contestant in (one for one in case.contestants if one.name == COMPILED):
            field.admit(contestant)
            if contestant.title in field.works:
                again = field.time(one.title for one in case.contestants if one.is_ours or one is contestant)
                sitting.record(case, again, {contestant.title})
                seconds[contestant.title] = again[contestant.title]
        del field
    return seconds


@contextmanager
def compiling() -> Iterator[None]:
    """What is called compiled is: no silent way back to eager when networks of many kinds have been compiled."""
    with torch._dynamo.config.patch(recompile_limit=64, fail_on_recompile_limit_hit=True):
        yield


def run(sitting: Sitting) -> None:
    device = sitting.device
    peaks = {}
    for name in dict.fromkeys(one.precision for one in providers(device)):
        with Precision.of(name, device).step():
            peaks[name] = matrix_peak(REDUCED.get(name, torch.float32), device)
    sitting.say(", ".join(f"matrix product in {name}: {peak:.3g} TFLOP/s" for name, peak in peaks.items()))
    for case in cases(device):
        if not sitting.takes(case.title):
            continue
        with compiling(), kept_memory(device):
            seconds = race(case, sitting)
        for contestant in case.contestants:
            if contestant.title in seconds:
                speed = rates(case.amount / peaks[contestant.dtype], percentiles(seconds[contestant.title]))
                sitting.add(case, contestant, "share of matrix peak", "1", speed)


SUITE = Suite("train_step", __doc__, run, repeats=(5, 30))

if __name__ == "__main__":
    sys.exit(SUITE.main(sys.argv[1:]))
