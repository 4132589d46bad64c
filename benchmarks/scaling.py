"""`python -m benchmarks.scaling`: how a step's time grows with the batch, with the image's side and with the ranks.

Batch and side vary one at a time, beside the stock recipe in eager fp32. Ranks take batch 1 each, started by torchrun
as a run is: over the GPUs that are there, or over a CPU's cores, which they share. On a GPU one rank replays a CUDA
graph, which several can't yet. Memory against batch is in
`benchmarks.memory`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

import torch

from benchmarks.suite import Case, Contestant, Sitting, Suite
from benchmarks.train_step import TFLOP, Provider, Size, case_of, providers, race
from fastliver.training.host_memory import kept_memory


def kinds(device: torch.device) -> list[Provider]:
    """Stock fp32, and ours in both precisions."""
    return [one for one in providers(device) if one.ours or one.name == "stock"]


def sizes(device: torch.device) -> list[Size]:
    """Batches at one side, then sides at batch 1."""
    cuda = device.type == "cuda"
    batches, sides, side = ((1, 2, 4, 8), (128, 192, 384, 512), 256) if cuda else ((1, 2, 4), (96, 128), 64)
    found = [Size(training, side, batch) for batch in batches for training in TFLOP]
    return found + [Size(training, other, 1) for other in sides for training in TFLOP]


def cases(device: torch.device) -> Iterator[Case]:
    """Every size."""
    return (case_of(size, device, kinds(device)) for size in sizes(device))


def rank_counts(device: torch.device) -> Sequence[int]:
    """1, 2, 4, 8 as far as there are GPUs; on a CPU 1 and 2, if it has two cores."""
    most = torch.cuda.device_count() if device.type == "cuda" else min(2, os.cpu_count() or 1)
    return [count for count in (1, 2, 4, 8) if count <= most]


def time_ranks(training: str, size: int, ranks: int, repeats: int) -> list[float]:
    """Seconds of steps that so many ranks take together.

    Raises:
        RuntimeError: with what torchrun said, if it failed.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [*torchrun, "-m", "benchmarks.rank_step", training, str(size), str(repeats)]
    # torchrun gives each process one thread unless it is told otherwise.
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def race_ranks(training: str, size: int, ranks: int, sitting: Sitting) -> None:
    """Time and note the steps of so many ranks."""
    one = Size(training, size, 1)
    name = "fastliver 1 rank" if ranks == 1 else f"fastliver {ranks} ranks"
    case = Case(
        f"{training} ranks",
        one.shape,
        "fp32" if sitting.device.type == "cpu" else "auto",
        (Contestant(name, lambda: lambda: None),),
        ranks,
        "images/s",
    )
    try:
        sitting.record(case, {name: time_ranks(training, size, ranks, sitting.repeats)})
    except RuntimeError as error:
        sitting.complain(str(error))


def run(sitting: Sitting) -> None:
    device = sitting.device
    for case in cases(device):
        if sitting.takes(case.title):
            with kept_memory(device):
                race(case, sitting)
    for training in TFLOP:
        for count in rank_counts(device):
            size = 256 if device.type == "cuda" else 64
            if sitting.takes(f"{training} ranks {count}"):
                race_ranks(training, size, count, sitting)


SUITE = Suite("scaling", __doc__, run, repeats=(3, 20))

if __name__ == "__main__":
    sys.exit(SUITE.main(sys.argv[1:]))
