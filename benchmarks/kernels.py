"""`python -m benchmarks.kernels`: every operator of fastliver.kernels timed on a GPU at the networks' shapes.

Beside each operator stand the same mathematics in eager PyTorch, in torch.compile, in a library's routine where there
is one, and a copy that moves as many bytes. Everything runs in a CUDA graph with the L2 overwritten before each repeat;
forward, backward and both are timed apart. A provider is timed only if it agrees with the definition in float64.

GB/s are the fewest bytes that must move (`cases.bytes_moved`: each tensor once) over the time, so providers compare;
`traffic` counts what fastliver's kernels move on the road taken. For a norm of planes of P elements of b bytes without
padding that is 2 P b forward and 3 P b backward in one pass, 3 P b and 5 P b split over tiles, in channels_last or
over 16,384 elements. The loss of n elements moves n b (and its targets) in and 4 n out, its backward 4 n and n b.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._functorch import config as functorch

import fastliver.kernels
from benchmarks.cases import (
    DTYPES,
    LAYOUTS,
    Case,
    bytes_moved,
    call,
    gradients,
    make_inputs,
    output_gradients,
    variants,
)
from benchmarks.measure import Results, Stopwatch, captured, percentiles, rates, results_folder, surroundings
from fastliver.kernels import reference

MODES = ("forward", "backward", "full")
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}
"""Of norm(result - definition) / norm(definition), the definition in float64 on the same rounded inputs."""
BITS = {2: torch.int16, 4: torch.int32}


class Eager:
    """The operators in stock PyTorch, by the names of fastliver.kernels."""

    reflect_pad = staticmethod(reference.reflect_pad)
    instance_norm_act = staticmethod(reference.instance_norm_act)
    patch_adversarial_loss = staticmethod(reference.patch_adversarial_loss)
    patch_discriminator_loss = staticmethod(reference.patch_discriminator_loss)
    cycle_l1_loss = staticmethod(reference.cycle_l1_loss)
    pixel_cross_entropy = staticmethod(reference.pixel_cross_entropy)
    binary_cross_entropy_with_logits = staticmethod(reference.binary_cross_entropy_with_logits)

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


class Library(Eager):
    """Where another routine than the eager one does the work: cuDNN's batch norm, PyTorch's losses on logits."""

    @staticmethod
    def instance_norm_act(
        x: Tensor,
        activation: str = "relu",
        slope: float = 0.2,
        residual: Tensor | None = None,
        pad: int = 0,
        eps: float = 1e-5,
    ) -> Tensor:
        """Each plane as a channel of one image: batch norm's statistics are then instance norm's.

        cuDNN is chosen where there are fp32 weights, so it gets ones and zeros.
        """
        n, c, h, w = x.shape
        ones = torch.ones(n * c, device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
        planes = F.batch_norm(x.reshape(1, n * c, h, w), None, None, ones, torch.zeros_like(ones), True, eps=eps)
        y = planes.reshape(n, c, h, w)
        if activation != "none":
            y = F.leaky_relu(y, slope) if activation == "leaky_relu" else F.relu(y)
        return reference.reflect_pad(y if residual is None else y + residual, pad)

    @staticmethod
    def patch_adversarial_loss(logits: Tensor, target_is_real: bool, mode: str = "bce") -> Tensor:
        """One fused loss against a map of ones or zeros."""
        loss = F.binary_cross_entropy_with_logits if mode == "bce" else F.mse_loss
        return loss(logits, torch.full_like(logits, float(target_is_real)))

    @staticmethod
    def patch_discriminator_loss(real: Tensor, fake: Tensor, mode: str = "bce") -> Tensor:
        """Half the sum of both."""
        of_map = Library.patch_adversarial_loss
        return 0.5 * (of_map(real, True, mode) + of_map(fake, False, mode))


Provider = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]


def providers(case: Case, compiled: bool = True) -> dict[str, Provider]:
    """Ways to compute a case from its inputs, by name.

    Args:
        case: which.
        compiled: also torch.compile of the eager one. It forgets what was compiled before.
    """

    def way(functions: Any) -> Provider:
        return lambda inputs: call(case, functions, inputs)

    ways = {"fastliver": way(fastliver.kernels), "eager": way(Eager)}
    if compiled:
        torch.compiler.reset()
        ways["compile"] = torch.compile(way(Eager), fullgraph=True, dynamic=False)
    # As one image's channels the planes of several channels_last images would have to be copied.
    copied = case.layout == "channels_last" and case.shape[0] > 1
    if (case.operator.startswith("instance_norm") and not copied) or case.operator.startswith("patch"):
        ways["library"] = way(Library)
    return ways


def _results(provider: Provider, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    outputs = provider(inputs)
    return *outputs, *gradients(outputs, inputs, output_gradients(outputs))


def _exact(x: Tensor) -> Tensor:
    """In float64 and contiguous: torch 2.13's instance norm on a CPU gives a wrong gradient for a channels_last one."""
    return x.detach().double().contiguous()


def disagreement(case: Case, provider: Provider, device: torch.device) -> float:
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


def copy_step(size: int, device: torch.device) -> Callable[[], Any]:
    """A copy that reads and writes `size` bytes together."""
    source = torch.randint(-128, 128, (max(size // 2, 1),), dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def repeats_differ(case: Case, repeats: int, device: torch.device) -> int:
    """Of `repeats` runs forward and backward on the same inputs, the elements that differ in any bit from the first's.

    Results are overwritten with NaN after each comparison: what a run doesn't write counts too.
    """
    inputs = make_inputs(case, device)
    provider = providers(case, compiled=False)["fastliver"]
    bits = BITS[case.dtype.itemsize]

    def as_bits(x: Tensor) -> Tensor:
        return x.detach().view(BITS[4] if x.dtype == torch.float32 else bits)

    first = [as_bits(x).clone() for x in _results(provider, inputs)]
    count = torch.zeros((), dtype=torch.int64, device=device)

    def step() -> None:
        results = _results(provider, inputs)
        for result, expected in zip(results, first, strict=True):
            count.add_((as_bits(result) != expected).sum())
        for result in results:
            result.detach().fill_(float("nan"))

    again = captured(step, device)
    count.zero_()
    for _ in range(repeats):
        again()
    return int(count.item())


def time_case(case: Case, stopwatch: Stopwatch, results: Results, device: torch.device) -> list[str]:
    """Time every provider of a case in every mode; gives the complaints about providers that weren't timed."""
    columns = {"case": case.title, "shape": "x".join(map(str, case.shape)), "dtype": case.dtype_name}
    least = {mode: bytes_moved(case, mode) for mode in MODES}
    copies = {mode: stopwatch.microseconds(captured(copy_step(least[mode], device), device)) for mode in MODES}
    for mode in MODES:
        results.add("time", "us", copies[mode], provider="copy", mode=mode, **columns)
        results.add("throughput", "GB/s", rates(least[mode] / 1e3, copies[mode]), provider="copy", mode=mode, **columns)
    complaints = []
    inputs = make_inputs(case, device)
    for name, provider in providers(case).items():
        error = disagreement(case, provider, device)
        if error > TOLERANCES[case.dtype]:
            complaints.append(f"{case.title} {case.dtype_name}: {name} is {error:.2g} from the definition; not timed")
            continue
        for mode, step in steps(provider, inputs):
            times = stopwatch.microseconds(captured(step, device))
            where = {"provider": name, "mode": mode, **columns}
            results.add("time", "us", times, **where)
            results.add("throughput", "GB/s", rates(least[mode] / 1e3, times), **where)
            results.add("of_copy", "1", rates(copies[mode][1], times), **where)
            if name == "fastliver":
                moved = bytes_moved(case, mode, least=False)
                results.add("traffic", "GB/s", rates(moved / 1e3, times), **where)
            speed, share = least[mode] / 1e3 / times[1], copies[mode][1] / times[1]
            print(
                f"{case.title:26} {columns['shape']:14} {case.dtype_name} {mode:8} {name:9} {times[1]:9.1f} us "
                f"{speed:7.0f} GB/s {share:4.0%} of a copy",
                flush=True,
            )
    return complaints


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default="", help="part of the name of a case or an operator")
    parser.add_argument("--batch", type=lambda text: [int(n) for n in text.split(",")], default=[1, 32], metavar="1,32")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["bf16", "fp32"])
    parser.add_argument("--layout", nargs="+", choices=LAYOUTS, default=LAYOUTS)
    parser.add_argument("--repeats", type=int, default=100, help="of each timing")
    parser.add_argument(
        "--repeats-check", type=int, default=1000, metavar="N", help="runs whose bits have to be the same; 0 for none"
    )
    parser.add_argument("--out", type=Path, help="default benchmarks/results/<device>/kernels.csv, added to")
    return parser.parse_args(arguments)


def _check_repeats(cases: list[Case], options: argparse.Namespace, results: Results, device: torch.device) -> list[str]:
    complaints = []
    for case in cases if options.repeats_check else []:
        count = repeats_differ(case, options.repeats_check, device)
        columns = {"case": case.title, "shape": "x".join(map(str, case.shape)), "dtype": case.dtype_name}
        metric = f"differing_elements_in_{options.repeats_check}_runs"
        results.add(metric, "1", percentiles([count]), provider="fastliver", mode="full", **columns)
        if count:
            complaints.append(f"{case.title} {case.dtype_name}: {count} elements differed between runs")
    print(
        f"{len(cases)} cases repeated {options.repeats_check} times, {len(complaints)} with differing bits", flush=True
    )
    return complaints


def main(arguments: list[str]) -> int:
    """Time and check; 1 if a provider was wrong or bits differed, 2 without a GPU."""
    options = _options(arguments)
    if not torch.cuda.is_available():
        print("benchmarks.kernels: no GPU here; kernels can only be timed on one", file=sys.stderr)
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    shared = surroundings(device)
    path = options.out or results_folder(shared["device"]) / "kernels.csv"
    cases = [
        case
        for batch in options.batch
        for case in variants(options.layout, [DTYPES[name] for name in options.dtype], batch, options.only)
    ]
    complaints = []
    # Captures need a stream of their own. Backwards of compiled code are run several times over one forward.
    with (
        Results(path, "kernels", shared) as results,
        torch.cuda.stream(torch.cuda.Stream(device)),
        functorch.patch(donated_buffer=False),
    ):
        stopwatch = Stopwatch(device, options.repeats)
        least = torch.zeros(1, device=device)
        launch = stopwatch.microseconds(captured(lambda: least.fill_(1.0), device))
        results.add("time", "us", launch, case="launch", provider="fill", mode="forward", shape="1", dtype="fp32")
        for case in cases:
            complaints += time_case(case, stopwatch, results, device)
        complaints += _check_repeats(cases, options, results, device)
    print(f"written to {path}")
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
