"""`python -m benchmarks.kernels`: every operator of fastliver.kernels timed at the networks' shapes.

Beside each operator stand the same mathematics in eager PyTorch (on a CPU also contiguous, as stock networks are there)
and a copy that moves as many bytes; on a GPU also a library's routine where there is one, and torch.compile in bf16.
Forward, backward and both are timed apart, on a CPU, where fastliver runs its PyTorch definitions, by turns. On a GPU
a call of a few microseconds takes less than its launch, so a CUDA graph holds up to 20 calls, each on data of its own,
together more than the L2 holds, and a call's time is its share. A contestant is timed only if it agrees with the
definition in float64.

GB/s are the fewest bytes that must move (`operators.bytes_moved`: each tensor once) over the time, so contestants
compare; `traffic` counts what fastliver's kernels move on the road taken. For a norm of planes of P elements of b bytes
without padding that is 2 P b forward and 3 P b backward in one pass, 3 P b and 5 P b split over tiles, in channels_last
or over 16,384 elements. The loss of n elements moves n b (and its targets) in and 4 n out, its backward 4 n and n b.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._functorch import config as functorch

import fastliver.kernels
from benchmarks.measure import FLUSH_BYTES, Stopwatch, Work, by_turns, captured, copy_work, percentiles, rates
from benchmarks.operators import (
    DTYPES,
    LAYOUTS,
    NORMS,
    OperatorCase,
    bytes_moved,
    call,
    gradients,
    make_inputs,
    output_gradients,
    variants,
)
from benchmarks.suite import Case, Contestant, Sitting, Suite

MODES = ("forward", "backward", "full")
MOST_CALLS = 20
"""In one graph."""
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}
"""Of norm(result - definition) / norm(definition), the definition in float64 on the same rounded inputs."""
REDUCED = (torch.float16, torch.bfloat16)
BITS = {2: torch.int16, 4: torch.int32}


class Eager:
    """The operators in stock PyTorch, by the names of fastliver.kernels."""

    @staticmethod
    def reflect_pad(x: Tensor, pad: int) -> Tensor:
        """A copy with borders."""
        return F.pad(x, (pad, pad, pad, pad), mode="reflect") if pad else x

    @classmethod
    def instance_norm_act(
        cls,
        x: Tensor,
        activation: str = "relu",
        slope: float = 0.2,
        residual: Tensor | None = None,
        pad: int = 0,
        eps: float = 1e-5,
    ) -> Tensor:
        """One operator after another."""
        y = cls.normalise(x, eps)
        if activation != "none":
            y = F.leaky_relu(y, slope) if activation == "leaky_relu" else F.relu(y)
        return cls.reflect_pad(y if residual is None else y + residual, pad)

    @classmethod
    def instance_norm_act_shared(
        cls,
        x: Tensor,
        activation: str = "relu",
        slope: float = 0.2,
        residual: Tensor | None = None,
        pad: int = 1,
        eps: float = 1e-5,
    ) -> tuple[Tensor, Tensor]:
        """The padded result and the view of its interior."""
        y = cls.instance_norm_act(x, activation, slope, residual, pad, eps)
        return y, y[:, :, pad : y.shape[2] - pad, pad : y.shape[3] - pad]

    @staticmethod
    def normalise(x: Tensor, eps: float) -> Tensor:
        """Instance norm without parameters."""
        return F.instance_norm(x, eps=eps)

    @staticmethod
    def patch_adversarial_loss(logits: Tensor, target_is_real: bool, mode: str = "bce") -> Tensor:
        """One fused loss against a map of ones or zeros."""
        loss = F.binary_cross_entropy_with_logits if mode == "bce" else F.mse_loss
        logits = _full(logits)
        return loss(logits, torch.full_like(logits, float(target_is_real)))

    @classmethod
    def patch_discriminator_loss(cls, real: Tensor, fake: Tensor, mode: str = "bce") -> Tensor:
        """Half the sum of both."""
        return 0.5 * (cls.patch_adversarial_loss(real, True, mode) + cls.patch_adversarial_loss(fake, False, mode))

    @staticmethod
    def cycle_l1_loss(a: Tensor, b: Tensor) -> Tensor:
        """Mean absolute difference."""
        return F.l1_loss(_full(a), _full(b))

    @staticmethod
    def pixel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
        """Over classes."""
        return F.cross_entropy(_full(logits), labels.long())

    @staticmethod
    def binary_cross_entropy_with_logits(logits: Tensor, labels: Tensor) -> Tensor:
        """Against a map of zeros and ones."""
        logits = _full(logits)
        return F.binary_cross_entropy_with_logits(logits, labels.unsqueeze(1).to(logits.dtype))


def _full(x: Tensor) -> Tensor:
    """fp16 and bf16 as fp32, as autocast has them for losses."""
    return x.float() if x.dtype in REDUCED else x


class Library(Eager):
    """Another routine than the eager one for the norm: cuDNN's batch norm."""

    @staticmethod
    def normalise(x: Tensor, eps: float) -> Tensor:
        """Each plane as a channel of one image: batch norm's statistics are then instance norm's.

        cuDNN is chosen where there are fp32 weights, so it gets ones and zeros.
        """
        n, c, h, w = x.shape
        ones = torch.ones(n * c, device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
        planes = F.batch_norm(x.reshape(1, n * c, h, w), None, None, ones, torch.zeros_like(ones), True, eps=eps)
        return planes.reshape(n, c, h, w)


Provider = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]


def providers(case: OperatorCase, device: torch.device, compiled: bool = True) -> dict[str, Provider]:
    """Ways to compute a case from its inputs, by name.

    Args:
        case: which.
        device: where: on a CPU there is no further library, and compiling takes longer than it is worth.
        compiled: on a GPU also torch.compile of the eager one. It forgets what was compiled before.
    """

    def way(functions: Any) -> Provider:
        return lambda inputs: call(case, functions, inputs)

    ways = {"fastliver": way(fastliver.kernels), "eager": way(Eager)}
    if device.type != "cuda":
        return ways | ({"eager contiguous": way(Eager)} if case.layout == "channels_last" else {})
    if compiled:
        torch.compiler.reset()
        ways["compile"] = torch.compile(way(Eager), fullgraph=True, dynamic=False)
    # As one image's channels the planes of several channels_last images would have to be copied.
    copied = case.layout == "channels_last" and case.shape[0] > 1
    if case.operator in NORMS and not copied:
        ways["library"] = way(Library)
    return ways


def _results(provider: Provider, inputs: tuple[Tensor, ...], incoming: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    outputs = provider(inputs)
    # A gradient that passes through is the incoming one itself, and results are overwritten.
    return *outputs, *gradients(outputs, inputs, tuple(gradient.clone() for gradient in incoming))


def _exact(x: Tensor) -> Tensor:
    """In float64 and contiguous: torch 2.13's instance norm on a CPU gives a wrong gradient for a channels_last one."""
    return x.detach().double().contiguous()


def disagreement(case: OperatorCase, provider: Provider, device: torch.device) -> float:
    """The largest norm(result - definition) / norm(definition) over the outputs and gradients of a case."""
    inputs = make_inputs(case, device, seed=7)
    found = provider(inputs)
    incoming = output_gradients(found)
    exact = tuple(_exact(x).requires_grad_(x.requires_grad) if x.is_floating_point() else x for x in inputs)
    wanted = call(case, Eager, exact)
    results = (*found, *gradients(found, inputs, incoming))
    definitions = (*wanted, *gradients(wanted, exact, tuple(map(_exact, incoming))))
    worst = 0.0
    for result, definition in zip(results, definitions, strict=True):
        if result.shape != definition.shape:
            raise ValueError(f"{case.title}: shape {tuple(result.shape)}, expected {tuple(definition.shape)}")
        difference = ((result.double() - definition).norm() / definition.norm()).item()
        worst = max(worst, difference if difference == difference else float("inf"))
    return worst


def steps(provider: Provider, inputs: tuple[Tensor, ...]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is timed in each mode."""
    outputs = provider(inputs)
    incoming = output_gradients(outputs)
    yield "forward", lambda: provider(inputs)
    yield "backward", lambda: gradients(outputs, inputs, incoming)
    yield "full", lambda: gradients(provider(inputs), inputs, incoming)


def repeats_differ(case: OperatorCase, repeats: int, device: torch.device) -> int:
    """Of `repeats` runs forward and backward on the same inputs, the elements that differ in any bit from the first's.

    Results are overwritten with NaN after each comparison: what a run doesn't write counts too.
    """
    inputs = make_inputs(case, device)
    provider = providers(case, device, compiled=False)["fastliver"]
    bits = BITS[case.dtype.itemsize]

    def as_bits(x: Tensor) -> Tensor:
        return x.detach().view(BITS[4] if x.dtype == torch.float32 else bits)

    # Made here: a graph can't hold random numbers of a generator of its own.
    incoming = output_gradients(provider(inputs))
    first = [as_bits(x).clone() for x in _results(provider, inputs, incoming)]
    count = torch.zeros((), dtype=torch.int64, device=device)

    def step() -> None:
        results = _results(provider, inputs, incoming)
        for result, expected in zip(results, first, strict=True):
            count.add_((as_bits(result) != expected).sum())
        for result in results:
            result.detach().fill_(float("nan"))

    again = captured(lambda: step, device)
    count.zero_()
    for _ in range(repeats):
        again()
    return int(count.item())


def calls_together(operator: OperatorCase, device: torch.device) -> int:
    """How many calls are timed as one: on a GPU so many that they read more than the L2 holds, on a CPU one."""
    if device.type != "cuda":
        return 1
    return min(MOST_CALLS, max(1, FLUSH_BYTES // bytes_moved(operator, "forward")))


def case_of(operator: OperatorCase, mode: str, device: torch.device, ways: Mapping[str, Provider]) -> Case:
    """A mode of an operator as a suite's case, with these providers and the copy; see `calls_together`."""
    least, calls = bytes_moved(operator, mode), calls_together(operator, device)

    def together(make: Callable[[int], Work]) -> Work:
        works = [make(number) for number in range(calls)]
        return lambda: [work() for work in works]

    def make(name: str, way: Provider) -> Work:
        given = replace(operator, layout="contiguous") if name.endswith("contiguous") else operator
        return captured(lambda: together(lambda seed: dict(steps(way, make_inputs(given, device, seed)))[mode]), device)

    contestants = [Contestant(name, partial(make, name, way)) for name, way in ways.items()]
    copy = partial(captured, lambda: together(lambda _: copy_work(least, device)), device)
    contestants.append(Contestant("copy", copy))
    shape = "x".join(map(str, operator.shape))
    return Case(operator.title, shape, operator.dtype_name, tuple(contestants), least / 1e9, "GB/s", mode)


def cases(device: torch.device) -> Iterator[Case]:
    """What a training on this device calls, in every mode, without torch.compile: compiling takes the longest."""
    for operator in variants(**usual(device)):
        for mode in MODES:
            yield case_of(operator, mode, device, providers(operator, device, compiled=False))


def usual(device: torch.device) -> dict[str, Any]:
    """What a training on this device has: of layouts, dtypes and batches."""
    if device.type == "cuda":
        return {"layouts": LAYOUTS, "dtypes": (torch.bfloat16, torch.float32)}
    return {"layouts": ("channels_last",), "dtypes": (torch.float32,)}


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch", type=int, nargs="+", metavar="N", help="images of each call; default 1 and 32, on a CPU 1"
    )
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, help="default bf16 and fp32, on a CPU fp32")
    parser.add_argument("--layout", nargs="+", choices=LAYOUTS, help="default both, on a CPU channels_last")
    parser.add_argument(
        "--repeats-check", type=int, default=1000, metavar="N", help="runs whose bits have to be the same; 0 for none"
    )


def time_operator(operator: OperatorCase, sitting: Sitting) -> None:
    """Time everybody who agrees with the definition, in every mode."""
    device = sitting.device
    ways = providers(operator, device, compiled=operator.dtype in REDUCED)
    whole = case_of(operator, "full", device, ways)
    for contestant in whole.contestants[:-1]:
        error = disagreement(operator, ways[contestant.name], device)
        if not error <= TOLERANCES[operator.dtype]:
            sitting.disqualify(whole, contestant, f"is {error:.2g} from the definition")
            del ways[contestant.name]
    for mode in MODES:
        case = case_of(operator, mode, device, ways)
        works = {contestant.title: contestant.make() for contestant in case.contestants}
        cuda = device.type == "cuda"
        turns = (
            Stopwatch(device, sitting.repeats).by_turns
            if cuda
            else partial(by_turns, repeats=sitting.repeats, device=device)
        )
        calls = calls_together(operator, device)
        seconds = {title: [turn / calls for turn in taken] for title, taken in turns(works).items()}
        del works  # with their graphs, before the next ones are made
        sitting.record(case, seconds)
        if cuda and "fastliver" in seconds:
            moved = rates(bytes_moved(operator, mode, least=False) / 1e9, percentiles(seconds["fastliver"]))
            sitting.add(case, case.contestants[0], "traffic", "GB/s", moved)


def check_repeats(operator: OperatorCase, sitting: Sitting) -> None:
    """Note whether repeated runs give the same bits."""
    repeats = sitting.options.repeats_check
    count = repeats_differ(operator, repeats, sitting.device)
    case = case_of(operator, "full", sitting.device, providers(operator, sitting.device, compiled=False))
    sitting.add(case, case.contestants[0], f"differing_elements_in_{repeats}_runs", "1", percentiles([count]))
    if count:
        sitting.complain(f"{operator.title} {operator.dtype_name}: {count} elements differed between runs")


def run(sitting: Sitting) -> None:
    options, kinds = sitting.options, usual(sitting.device)
    if options.dtype:
        kinds["dtypes"] = [DTYPES[name] for name in options.dtype]
    kinds["layouts"] = options.layout or kinds["layouts"]
    cuda = sitting.device.type == "cuda"
    # What says most comes first: large batches in the dtype of trainings.
    batches = options.batch or ([32, 1] if cuda else [1])
    orders = [(dtype, batch) for dtype in kinds["dtypes"] for batch in batches]
    operators = [one for dtype, batch in orders for one in variants(kinds["layouts"], [dtype], batch)]
    # Backwards of compiled code are run several times over one forward.
    with functorch.patch(donated_buffer=False):
        for operator in operators:
            if sitting.takes(operator.title):
                with sitting.fitting(operator.title):
                    time_operator(operator, sitting)
                    if cuda and options.repeats_check:
                        check_repeats(operator, sitting)


SUITE = Suite("kernels", __doc__, run, repeats=(5, 100), add_options=_add_options)

if __name__ == "__main__":
    sys.exit(SUITE.main(sys.argv[1:]))
