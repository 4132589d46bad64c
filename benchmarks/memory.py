"""`python -m benchmarks.memory`: peaks of each training by precision and batch, estimated and, on a GPU, measured.

A GPU's measurement is the process's: what the driver says is taken (`process`), of it what PyTorch's allocator took
(`reserved`) and gave to tensors (`allocated`). Each case runs in a process of its own, so that none inherits another's
memory.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import torch

from benchmarks.measure import percentiles
from benchmarks.suite import Sitting, Suite, table
from fastliver.byte_sizes import GIB, format_bytes, parse_bytes
from fastliver.config import TrainConfig
from fastliver.training.memory import Workload, make_network, make_slices, make_trainer, set_checkpoint_blocks
from fastliver.training.memory_plan import estimate_plan, largest_batch
from fastliver.training.precision import Precision
from fastliver.training.trainer import Execution

PRECISIONS = ("fp32", "bf16", "fp16")
CHAOS = {"essnet": (2050, 350), "unet": (2400,)}
"""Slices of the paper's data set that each training draws from: CT and MR, MR and synthetic MR."""

BATCHES = (1, 2, 4, 8)
STEPS = 6
"""Steps of a measurement: those before a graph is recorded, the recording, and replays."""


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    training: str
    precision: str
    batch: int
    checkpoint_blocks: bool
    resident: bool

    @property
    def workload(self) -> Workload:
        return Workload(self.training, TrainConfig(), CHAOS[self.training]).with_batch(self.batch)

    @property
    def mode(self) -> str:
        blocks = "checkpointed" if self.checkpoint_blocks else "plain"
        return f"{blocks}, slices on the {'device' if self.resident else 'host'}"


def cases(limit: int) -> Iterator[Case]:
    """Each training and precision, plain and saving memory: BATCHES and the largest batch, as far as `limit` allows."""
    for training, slices in CHAOS.items():
        workload = Workload(training, TrainConfig(), slices)
        for precision in PRECISIONS:
            for checkpoint_blocks, resident in ((False, True), (True, False)):
                saving = {"checkpoint_blocks": checkpoint_blocks, "resident": resident}
                most = largest_batch(workload, precision, limit, **saving)
                for batch in sorted({*BATCHES, most} - {0}):
                    if batch > most:
                        break
                    yield Case(training, precision, batch, checkpoint_blocks, resident)


def measure(case: Case, device: torch.device, limit: int, others: int) -> dict[str, int]:
    """Bytes that a few steps of a case really take, the process's included. Not run on a GPU yet.

    Args:
        case: which.
        device: the GPU, which nobody may begin or leave meanwhile.
        limit: bytes that the process is meant to stay within.
        others: bytes that other processes hold there.
    """
    with torch.device(device):
        network = make_network(case.workload)
    set_checkpoint_blocks(network, case.checkpoint_blocks)
    # Streams side by side only where a run with this limit would have them: each takes memory of its own.
    plan = replace(estimate_plan(case.workload, case.precision, case.checkpoint_blocks, case.resident), limit=limit)
    execution = Execution(Precision.of(case.precision, device), graph="on", parallel=plan.is_roomy)
    slices = make_slices(case.workload, device, case.resident)
    if not case.resident:
        slices = [replace(held, images=held.images.pin_memory(), labels=held.labels.pin_memory()) for held in slices]
    trainer = make_trainer(case.workload, network, slices, execution)
    for step in range(STEPS):
        trainer.step(0, step)
    torch.cuda.synchronize(device)
    free, total = torch.cuda.mem_get_info(device)
    return {
        "process": total - free - others,
        "reserved": torch.cuda.max_memory_reserved(device),
        "allocated": torch.cuda.max_memory_allocated(device),
    }


def _measure_alone(case: Case, device: torch.device, limit: int) -> dict[str, int]:
    """`measure` in a process of its own; says why and gives nothing if that fails, such as for want of memory."""
    free, total = torch.cuda.mem_get_info(device)  # this process's context is in it
    command = [
        sys.executable,
        "-m",
        "benchmarks.memory",
        "--measure",
        json.dumps(asdict(case)),
        str(limit),
        str(total - free),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"not measured: {(done.stderr.strip().splitlines() or ['no message'])[-1]}", flush=True)
        return {}
    return json.loads(done.stdout.splitlines()[-1])


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", default="6GiB", help="what the largest batch has to fit")


def run(sitting: Sitting) -> None:
    rows = []
    limit = parse_bytes(sitting.options.limit, "--limit")
    for case in cases(limit):
        title = f"{case.training} {case.precision} batch {case.batch} {case.mode}"
        if not sitting.takes(title):
            continue
        plan = estimate_plan(case.workload, case.precision, case.checkpoint_blocks, case.resident)
        found = {"process_estimated": plan.total, "tensors_estimated": plan.step.total}
        if sitting.device.type == "cuda":
            found |= _measure_alone(case, sitting.device, limit)
        size = case.workload.config.data.image_size
        columns = {"case": case.training, "shape": f"{case.batch}x1x{size}x{size}", "dtype": case.precision}
        for metric, value in found.items():
            sitting.results.add(
                metric, "GiB", percentiles([value / GIB]), provider="fastliver", mode=case.mode, **columns
            )
        sizes = {metric.replace("_", " "): format_bytes(value) for metric, value in found.items()}
        sitting.say(f"{title}: {', '.join(f'{metric} {size}' for metric, size in sizes.items())}")
        rows.append((title, *sizes.values()))
    if rows:
        longest = max(rows, key=len)
        head = ("case", "process, estimated", "tensors, estimated", "process", "reserved", "allocated")
        sitting.say(table(head[: len(longest)], [(*row, *[""] * (len(longest) - len(row))) for row in rows]))


SUITE = Suite("memory", __doc__, run, repeats=(1, 1), add_options=_add_options)

if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:  # one case, for the process that measures it
        gpu = torch.device("cuda", torch.cuda.current_device())
        print(json.dumps(measure(Case(**json.loads(sys.argv[2])), gpu, *map(int, sys.argv[3:]))))
    else:
        sys.exit(SUITE.main(sys.argv[1:]))
