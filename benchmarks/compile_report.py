"""`python -m benchmarks.compile_report`: every kernel compiled ahead of time, with what its machine code takes.

No GPU is needed. The operators run forward and backward on CPU tensors of the networks' shapes while launches are
recorded instead of made; each recorded launch is compiled for each architecture as Triton would compile it there, by
Triton's own rules of specialization. Registers, stack and shared memory are read from the machine code by the
cuobjdump that comes with Triton, the widths of global loads from the PTX.

Two promises are held, and the exit status is 1 if one is broken: nothing spills, that is, no kernel uses the stack
(but for up to SPARE bytes with older Tritons on contiguous tensors); and kernels that read channels_last tensors of 64
channels or more in two-byte types read them 16 bytes at a time.
"""

import argparse
import contextlib
import csv
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import fastliver.kernels
from benchmarks.operators import (
    CASES,
    DTYPES,
    LAYOUTS,
    OperatorCase,
    call,
    gradients,
    make_inputs,
    output_gradients,
    variants,
)

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
REPRESENTATIVE = ("input-pad", "block-first", "block-second", "up2", "patch4", "generator-gan", "discriminator-gan",
                  "cycle", "segmentation", "unet-loss")  # fmt: skip
"""Cases that reach every kernel on every road."""
MERGES = ("merge_statistics", "merge_backward", "add_in_order")
"""Kernels that read a few partial results, of which nothing is promised but the stack."""
SPARE = 32
"""Bytes of stack that a kernel may take on contiguous tensors with Triton before 3.9. The networks' norms read
channels_last ones on a GPU."""
WIDE = 16
"""Bytes of the widest load that all architectures have."""
WIDE_SHARE = 0.9
"""Of the bytes a thread loads, those that have to come in wide loads; per-channel numbers are the rest."""

_LOAD = re.compile(r"\bld\.global(?:\.[A-Za-z_:0-9]+)*?(?:\.v([248]))?\.[bsuf](8|16|32|64|128)\b")
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


def triton_version() -> tuple[int, ...]:
    """Major and minor number of the Triton that compiles."""
    return tuple(map(int, version("triton").split(".")[:2]))


@dataclass(frozen=True)
class Launch:
    """A kernel with the arguments it was launched with."""

    kernel: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Compiled:
    """A row of the report; `loads` counts the load instructions of a thread by their width in bytes."""

    kernel: str
    case: OperatorCase
    architecture: int
    registers: int
    stack: int
    shared: int
    loads: dict[int, int]

    @property
    def widest(self) -> int:
        """Bytes of the widest global load."""
        return max(self.loads, default=0)

    @property
    def wide_share(self) -> float:
        """Share of the loaded bytes that come in loads of 16 bytes or more."""
        total = sum(width * count for width, count in self.loads.items())
        return sum(width * count for width, count in self.loads.items() if width >= WIDE) / max(total, 1)

    def broken(self) -> str:
        """Which promise the kernel breaks, or nothing."""
        if self.stack > (SPARE if self.case.layout == "contiguous" and triton_version() < (3, 9) else 0):
            return f"{self.stack} bytes of stack"
        wide = self.case.layout == "channels_last" and self.case.shape[1] >= 64 and self.case.dtype.itemsize == 2
        if wide and self.kernel not in MERGES and self.wide_share < WIDE_SHARE:
            return f"{self.wide_share:.0%} of the loaded bytes in loads of {WIDE} bytes"
        return ""

    def record(self) -> dict[str, str | int]:
        """A row of the CSV."""
        return {
            "kernel": self.kernel,
            "case": self.case.name,
            "layout": self.case.layout,
            "shape": "x".join(map(str, self.case.shape)),
            "dtype": self.case.dtype_name,
            "arch": f"sm_{self.architecture}",
            "registers": self.registers,
            "stack_bytes": self.stack,
            "shared_bytes": self.shared,
            "widest_load_bytes": self.widest,
            "loads": " ".join(f"{count}x{width}" for width, count in sorted(self.loads.items(), reverse=True)),
            "broken": self.broken(),
        }


@contextlib.contextmanager
def _recording(launches: list[Launch]) -> Iterator[None]:
    """Operators take Triton's road on any device, and launches are added to the list instead of made."""
    from triton.runtime.jit import JITFunction

    def record(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        launches.append(Launch(kernel, args, kwargs))

    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.object(JITFunction, "run", record))
        for module in ("instance_norm", "reflect_pad", "pointwise_loss", "cross_entropy"):
            patches.enter_context(mock.patch(f"fastliver.kernels.{module}.use_triton", return_value=True))
        yield


def launches_of(case: OperatorCase) -> list[Launch]:
    """What a case launches, forward then backward."""
    launches: list[Launch] = []
    inputs = make_inputs(case)
    with _recording(launches):
        outputs = call(case, fastliver.kernels, inputs)
        gradients(outputs, inputs, output_gradients(outputs))
    return launches


def compile_launch(launch: Launch, architecture: int) -> Any:
    """The kernel as a GPU of this architecture would get it: Triton's CompiledKernel, not loaded.

    Signature, constants and divisibility come from the functions that a launch itself uses.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, make_backend
    from triton.compiler import compile as triton_compile
    from triton.runtime.jit import create_function_from_signature

    target = GPUTarget("cuda", architecture, 32)
    backend = make_backend(target)
    kernel = launch.kernel
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, options = bind(*launch.args, **launch.kwargs)
    options, signature, constants, attributes = kernel._pack_args(
        backend, dict(launch.kwargs), bound, specialization, options
    )
    source = ASTSource(kernel, signature, constants, attributes)
    return triton_compile(source, target=target, options=options.__dict__)


def _tool(name: str) -> str:
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the installed triton package doesn't bring {name}")
    return str(path)


def resources(cubin: bytes) -> tuple[int, int, int]:
    """Registers of a thread, its bytes of stack and local memory, and the program's bytes of static shared memory."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [_tool("cuobjdump"), "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = _USAGE.search(text)
    if found is None:
        raise ValueError(f"cuobjdump: no line with REG, STACK, SHARED and LOCAL in its output:\n{text}")
    registers, stack, shared, local = map(int, found.groups())
    return registers, stack + local, shared


def loads_by_width(ptx: str) -> dict[int, int]:
    """Number of global load instructions by their bytes."""
    return dict(Counter(int(vector or 1) * int(bits) // 8 for vector, bits in _LOAD.findall(ptx)))


def report(cases: Iterable[OperatorCase], architectures: Iterable[int]) -> Iterator[Compiled]:
    """Compile what the cases launch; a launch that repeats one before it (two losses of one kind) is left out."""
    architectures = tuple(architectures)
    for case in cases:
        seen = set()
        for launch in launches_of(case):
            for architecture in architectures:
                compiled = compile_launch(launch, architecture)
                if (compiled.hash, architecture) in seen:
                    continue
                seen.add((compiled.hash, architecture))
                registers, stack, shared = resources(compiled.asm["cubin"])
                shared = max(shared, compiled.metadata.shared)
                loads = loads_by_width(compiled.asm["ptx"])
                yield Compiled(launch.kernel.__name__, case, architecture, registers, stack, shared, loads)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compile_report", description="Registers, stack and load widths of every kernel."
    )
    names = [case.name for case in CASES]
    parser.add_argument("--cases", nargs="+", choices=names, default=REPRESENTATIVE, metavar="CASE", help=str(names))
    parser.add_argument("--layout", nargs="+", choices=LAYOUTS, default=LAYOUTS)
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["fp16"])
    parser.add_argument("--arch", type=int, nargs="+", default=[75, 90, 120], help="compute capabilities, such as 90")
    parser.add_argument("--all", action="store_true", help="all cases, layouts, dtypes and architectures")
    parser.add_argument("--csv", type=Path, help="also write the rows to this file")
    options = parser.parse_args(arguments)
    if options.all:
        options.cases, options.layout, options.dtype, options.arch = names, LAYOUTS, tuple(DTYPES), ARCHITECTURES
    return options


def main(arguments: list[str]) -> int:
    """Print the table; 1 if a promise is broken, 2 if kernels can't be compiled here."""
    from rich.console import Console
    from rich.table import Table

    options = _options(arguments)
    if os.environ.get("TRITON_INTERPRET"):
        print("TRITON_INTERPRET is set: the kernels were made for the interpreter. Unset it.", file=sys.stderr)
        return 2
    # Triton 3.9 warns where this isn't said, since 3.10 has another default.
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    console = Console(width=None if sys.stdout.isatty() else 180)
    wanted = variants(options.layout, [DTYPES[name] for name in options.dtype])
    rows = []
    with console.status("compiling") as status:
        for row in report((case for case in wanted if case.name in options.cases), options.arch):
            rows.append(row.record())
            status.update(f"{len(rows)} compiled: {row.kernel}, {row.case.title}, sm_{row.architecture}")
    table = Table(*(name.replace("_", " ") for name in rows[0]))
    for record in rows:
        table.add_row(*map(str, record.values()), style="red" if record["broken"] else None)
    console.print(table)
    if options.csv:
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    broken = [record for record in rows if record["broken"]]
    for record in broken:
        print("{kernel}, {case} {layout} {dtype}, {arch}: {broken}".format(**record), file=sys.stderr)
    print(f"{len(rows)} kernels compiled, {len(broken)} break a promise")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
