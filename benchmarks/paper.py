"""`python -m benchmarks.paper`: the paper's experiment from end to end, with its Tables 3 to 5 beside the paper's own.

It is a run of `fastliver.train` with the paper's preset, taken stage by stage: EssNet, synthetic MR, then the U-Net of
each arrangement. The run folder is its state: started again it goes on where it was, after a kill too. Tables are
written after each stage, and what was not run is marked so. `--minutes` sets a budget: when it is spent, the training
at work saves a checkpoint and leaves.

    python -m benchmarks.paper --ct Dataset102_CT --mr Dataset101_MR --arrangements 0,714

What stands after `--` goes to `fastliver.train`; the tables then say that it isn't the paper's setting.
"""

import argparse
import csv
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.results import results_folder, surroundings
from fastliver.config import PAPER_SYNTHETIC
from fastliver.files import write_file, write_json
from fastliver.reporting import paper
from fastliver.reporting.table import Table
from fastliver.reporting.tables import make_tables
from fastliver.run_folder import RunFolder
from fastliver.training.jobs import UNetJob
from fastliver.training.progress import clock

TABLES = {"segmentation": "table3", "cost": "table4", "ablation": "table5", "learning_curve": "learning_curve"}
"""Tables of the report, and the files that they become here."""
ORDER = "0,714,354,1034,1487,2050"
"""First what the paper's claim rests on."""
LEAVE = 300.0
"""Seconds that a training may take to save and leave."""
NOT_RUN = "not run"


@dataclass(frozen=True)
class Stage:
    """A part of the experiment.

    Attributes:
        title: what is said of it.
        options: of `fastliver.train`.
        results: names of what it leaves in the run folder's `results/`.
    """

    title: str
    options: tuple[str, ...]
    results: tuple[str, ...]

    def is_done(self, run: RunFolder) -> bool:
        return all(run.result(name).exists() for name in self.results)


def unet_stage(count: int, seeds: int, patients: int | None = None) -> Stage:
    """The U-Nets of one arrangement, with all labels or those of few patients."""
    title = f"U-Net with {count} synthetic images" if count else "U-Net on real images alone"
    options = ["--stage", "unet", "--arrangements", str(count), "--seeds", str(seeds)]
    if patients is not None:
        title += f", labels of {patients} patients"
        options += ["--labelled-patients", str(patients)]
    jobs = [UNetJob("essnet" if count else "real", count, seed, patients) for seed in range(seeds)]
    return Stage(title, tuple(options), tuple(job.name for job in jobs))


def stages(counts: Sequence[int], seeds: int, ablation: bool, patients: Sequence[int]) -> Iterator[Stage]:
    """What the experiment consists of, in order."""
    yield Stage("EssNet", ("--stage", "essnet"), ("train-essnet",))
    yield Stage("synthetic MR by EssNet", ("--stage", "synthesize"), ("synthesis-essnet",))
    for count in counts:
        yield unet_stage(count, seeds)
    if ablation:
        jobs = [UNetJob("cyclegan", paper.SHOWN_ARRANGEMENT, seed).name for seed in range(seeds)]
        yield Stage("CycleGAN", ("--ablation", "--stage", "essnet"), ("train-cyclegan",))
        yield Stage("synthetic MR by CycleGAN", ("--ablation", "--stage", "synthesize"), ("synthesis-cyclegan",))
        options = (
            "--ablation",
            "--stage",
            "unet",
            "--arrangements",
            str(paper.SHOWN_ARRANGEMENT),
            "--seeds",
            str(seeds),
        )
        yield Stage("U-Net with CycleGAN's images", options, tuple(jobs))
    for fewer in patients:
        for count in counts:
            yield unet_stage(count, seeds, fewer)


def carry_out(stage: Stage, run: RunFolder, new: Sequence[str], deadline: float) -> int:
    """Run a stage as a command of its own; gives its exit status, 124 where the time was over.

    Args:
        stage: which.
        run: its folder; made by the first stage.
        new: options of a new run.
        deadline: on the monotonic clock, when the training is asked to save and leave.
    """
    begun = run.config.exists()
    where = ("--resume", str(run.root)) if begun else ("--runs", str(run.root.parent), "--name", run.root.name, *new)
    process = subprocess.Popen([sys.executable, "-m", "fastliver.train", *where, *stage.options])
    try:
        return process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(LEAVE)
        except subprocess.TimeoutExpired:
            process.kill()
        return 124


def with_missing(table: Table) -> str:
    """A table as CSV; of Table 3, the paper's arrangements that were not run stand at the end, marked so."""
    text = table.csv()
    if table.name != "segmentation":
        return text
    head, *rows = csv.reader(text.splitlines())
    there = {row[head.index("arrangement")] for row in rows}
    lines = []
    for count in PAPER_SYNTHETIC:
        if str(count) not in there:
            theirs = paper.SEGMENTATION[count]
            known = {
                "training_images": NOT_RUN,
                "arrangement": count,
                "paper_dice": theirs.dice,
                "paper_iou": theirs.iou,
            }
            lines.append(",".join(str(known.get(column, "")) for column in head) + "\n")
    return text + "".join(lines)


def write_tables(run: RunFolder, folder: Path, about: dict[str, object]) -> None:
    """Tables 3 to 5, the learning curve, and what they were made with."""
    folder.mkdir(parents=True, exist_ok=True)
    for table in make_tables(run):
        if table.name in TABLES:
            write_file(folder / f"{TABLES[table.name]}.csv", with_missing(table))
    write_json(folder / "about.json", about)


def main(arguments: Sequence[str]) -> int:
    """Go through the stages; 124 where the budget ended first."""
    words = [*arguments, "--"]
    own, further = words[: words.index("--")], words[words.index("--") + 1 : -1]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper", description=(__doc__ or "").split(": ")[1].split("\n\n")[0]
    )
    parser.add_argument("--data", help="CHAOS tree")
    parser.add_argument("--ct", help="labelled CT")
    parser.add_argument("--mr", help="labelled MR")
    parser.add_argument("--arrangements", default=ORDER, help="in the order in which they are trained; default all")
    parser.add_argument("--ablation", action="store_true", help="also CycleGAN's images (Table 5)")
    parser.add_argument(
        "--labelled-patients",
        default="",
        metavar="1,2,4,8",
        help="also a learning curve, for which add: -- --split patient",
    )
    parser.add_argument("--seeds", type=int, default=1, help="of each U-Net")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="budget; default none")
    parser.add_argument("--run", type=Path, default=Path("runs/paper"), help="folder of the run; default runs/paper")
    parser.add_argument("--results", type=Path, help="folder of the tables; default benchmarks/results/<device>/paper")
    options = parser.parse_args(own)
    counts = [int(part) for part in options.arrangements.split(",")]
    patients = [int(part) for part in options.labelled_patients.split(",") if part]
    began = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = options.results or results_folder(device) / "paper"
    data = [word for name in ("data", "ct", "mr") if (value := getattr(options, name)) for word in (f"--{name}", value)]
    new = [*data, "--preset", "paper", "--yes", *further]
    run = RunFolder(options.run)
    about: dict[str, object] = {**surroundings(device), "options": further, "seeds": options.seeds}
    done: list[str] = []
    status = 0
    for stage in stages(counts, options.seeds, options.ablation, patients):
        if not stage.is_done(run):
            print(f"== {stage.title}", flush=True)
            status = carry_out(stage, run, new, began + 60 * options.minutes)
        if run.config.exists():
            write_tables(run, folder, {**about, "finished": done})
        if status:
            why = f"the {options.minutes:g} minutes are over" if status == 124 else f"it ended with status {status}"
            print(f"{stage.title}: {why}; the same command goes on from here")
            break
        done.append(stage.title)
    print(f"{clock(time.monotonic() - began)}; finished: {', '.join(done) or 'nothing'}; tables in {folder}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
