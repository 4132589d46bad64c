"""`python -m benchmarks`: every suite in turn, each time in a process of its own, and then the ratios of all.

On a CPU every suite is run three times, for two processes differ more than two turns in one, and all take ten minutes
together. `--gpu` is for a GPU: the same suites and those of memory and scaling, once and nine minutes each at most, so
that each fits a short sitting; `--only` takes one.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.results import newest, read_rows, results_folder
from benchmarks.suite import MINUTES, table

GRACE = 30.0
"""Seconds over its minutes after which a suite is ended, if it does not end itself; what it has written stays."""


@dataclass(frozen=True)
class Entry:
    """A suite of the list.

    Attributes:
        minutes: on a CPU, of all rounds; 0 where it is for a GPU, or for an evening.
        needs: packages besides torch, triton and numpy.
        on_gpu: whether it has anything to measure there.
    """

    minutes: float
    needs: tuple[str, ...] = ()
    on_gpu: bool = True


ROUNDS = 3
"""Processes that measure each suite on a CPU."""

SUITES = {
    "kernels": Entry(0.75),
    "convolution": Entry(1, on_gpu=False),
    "train_step": Entry(3),
    "overlap": Entry(1),
    "inference": Entry(1.5, ("safetensors",)),
    "decode": Entry(2.75, ("pydicom", "nibabel")),
    "memory": Entry(0),
    "scaling": Entry(0),
}


def run_suite(name: str, minutes: float, folder: Path) -> int:
    """Run a suite; gives its exit status, 124 where it had to be ended."""
    missing = [package for package in SUITES[name].needs if not find_spec(package)]
    if missing:
        print(f"{name}: left out, {', '.join(missing)} isn't installed")
        return 0
    command = [sys.executable, "-m", f"benchmarks.{name}", "--minutes", f"{minutes:g}"]
    # A group of its own: what it has started ends with it.
    process = subprocess.Popen([*command, "--out", str(folder / f"{name}.csv")], start_new_session=True)
    try:
        return process.wait(60 * minutes + GRACE)
    except subprocess.TimeoutExpired:
        print(f"{name}: ended, it took over {minutes:g} minutes")
        return 124
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ratios(folder: Path, since: str) -> str:
    """Every ratio that was written since a date, as a table."""
    rows = [row for path in sorted(folder.glob("*.csv")) for row in read_rows(path) if row["date"] >= since]
    found = [
        (
            *(row["suite"], f"{row['case']} {row['shape']}", row["mode"], f"{row['provider']} {row['dtype']}"),
            *(row["metric"].removeprefix("speed vs "), f"{float(row['p50']):.2f}"),
        )
        for row in newest(rows)
        if row["unit"] == "x"
    ]
    return table(("suite", "case", "mode", "this", "beside", "times as fast"), found)


def main() -> int:
    """Run them; 1 if one failed, 2 if there is no GPU though one was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").split(": ")[1])
    parser.add_argument("--gpu", action="store_true", help="all suites, for a GPU")
    parser.add_argument("--only", choices=tuple(SUITES), metavar="SUITE", help=", ".join(SUITES))
    parser.add_argument(
        "--minutes", type=float, help=f"of each suite; default {MINUTES:g} on a GPU, ten in all on a CPU"
    )
    parser.add_argument("--rounds", type=int, help=f"processes for each suite; default 1 on a GPU, {ROUNDS} on a CPU")
    parser.add_argument("--results", type=Path, help="folder for the CSV; default benchmarks/results/<device>")
    options = parser.parse_args()
    if options.gpu and not torch.cuda.is_available():
        print("--gpu: torch sees no GPU; check the driver and that torch is a CUDA build, or leave --gpu out")
        return 2
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = options.results or results_folder(device)
    wanted = [name for name, suite in SUITES.items() if (suite.on_gpu if options.gpu else suite.minutes)]
    names = [options.only] if options.only else wanted
    rounds = options.rounds or (1 if options.gpu or not all(SUITES[name].minutes for name in names) else ROUNDS)
    since = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    failed = []
    for number in range(1, rounds + 1):
        for name in names:
            print(f"== {name}" + (f", {number} of {rounds}" if rounds > 1 else ""), flush=True)
            usual = MINUTES if options.gpu else SUITES[name].minutes or MINUTES
            if run_suite(name, (options.minutes or usual) / rounds, folder) and name not in failed:
                failed.append(name)
    print(f"\n== ratios\n{ratios(folder, since)}")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
