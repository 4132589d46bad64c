"""`python -m benchmarks.paper`: the paper's experiment from end to end, with its Tables 3 to 5 beside the paper's own.

It is a run of `fastliver.train` with the paper's preset, taken stage by stage: EssNet, synthetic MR, then the U-Net of
each arrangement. The run folder is its state: started again it goes on where it was, after a kill too. Tables are
written after each stage, and what was not run is marked so. `--minutes` sets a budget: when it is spent, the training
at work saves a checkpoint and leaves.

    python -m benchmarks.paper --ct Dataset102_CT --mr Dataset101_MR --arrangements 0,714

What stands after `--` goes to `fastliver.train` when the run begins; the tables say what differs from the paper's
setting.
"""

import argparse
import csv
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.results import results_folder, surroundings
from fastliver.cli import read_settings
from fastliver.config import PRESETS, DataConfig, EngineConfig, TrainConfig, flatten
from fastliver.files import write_file, write_json
from fastliver.reporting import paper
from fastliver.reporting.results import patient_count
from fastliver.reporting.tables import make_tables
from fastliver.run_folder import RunFolder
from fastliver.train import ADDITIVE
from fastliver.training.jobs import UNetJob
from fastliver.training.progress import clock

TABLES = {"segmentation": "table3", "cost": "table4", "ablation": "table5", "learning_curve": "learning_curve"}
"""Tables of the report, and the files that they become here."""
ORDER = "0,714,354,1034,1487,2050"
"""First what the paper's claim rests on."""
LEAVE = 300.0
"""Seconds that a training may take to save and leave."""
NOT_RUN = "not run"
SCORES = ("training_images", "source", "arrangement", "dice", "iou", "paper_dice", "paper_iou")
"""Columns of a table of which nothing was run yet."""


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
        title += f", labels of {patient_count(patients)}"
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


def with_missing(name: str, text: str) -> str:
    """A table's CSV; of Tables 3 and 5 the paper's rows that were not run stand at the end, marked so.

    Args:
        name: of the table in the report.
        text: its CSV, nothing where there is none yet.
    """
    wanted = {"segmentation": ("essnet", paper.SEGMENTATION), "ablation": ("cyclegan", paper.CYCLEGAN)}
    if name not in wanted:
        return text
    head, *rows = csv.reader(text.splitlines() or [",".join(SCORES)])
    source, scores = wanted[name]
    keys = [dict(zip(head, row, strict=True)) for row in rows]
    lines = []
    for count, theirs in scores.items():
        who = source if count else "real"
        if not any(key["source"] == who and key.get("arrangement", str(count)) == str(count) for key in keys):
            known = {"training_images": NOT_RUN, "source": who, "arrangement": count}
            known |= {"paper_dice": theirs.dice, "paper_iou": theirs.iou}
            lines.append(",".join(str(known.get(column, "")) for column in head) + "\n")
    return (text or ",".join(head) + "\n") + "".join(lines)


def write_tables(run: RunFolder, folder: Path, about: dict[str, object]) -> None:
    """Tables 3 to 5, the learning curve, and what they were made with."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {table.name: table.csv() for table in make_tables(run)}
    for name, file in TABLES.items():
        text = with_missing(name, made.get(name, ""))
        if text:
            write_file(folder / f"{file}.csv", text)
    write_json(folder / "about.json", about)


def differences(run: RunFolder) -> list[str]:
    """The run's settings that are not those of the paper's preset, as options; data and engine left out."""
    usual = flatten(TrainConfig()) | PRESETS["paper"]
    beside = {"preset", *asdict(DataConfig()), *asdict(EngineConfig()), *ADDITIVE} - {"image_size"}
    saved = read_settings(run.config)
    return [
        f"--{name.replace('_', '-')} {value}"
        for name, value in saved.items()
        if name not in beside and value != usual.get(name)
    ]


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
    about: dict[str, object] = {**surroundings(device), "seeds": options.seeds}
    parts = list(stages(counts, options.seeds, options.ablation, patients))
    done: list[str] = []
    status = 0
    for stage in parts:
        if not stage.is_done(run):
            print(f"== {stage.title}", flush=True)
            status = carry_out(stage, run, new, began + 60 * options.minutes)
        done += [] if status else [stage.title]
        if run.config.exists():
            left = [part.title for part in parts if part.title not in done]
            write_tables(run, folder, {**about, "options": differences(run), "finished": done, NOT_RUN: left})
        if status:
            why = f"the {options.minutes:g} minutes are over" if status == 124 else f"it ended with status {status}"
            print(f"{stage.title}: {why}; the same command goes on from here")
            break
    print(f"{clock(time.monotonic() - began)}; finished: {', '.join(done) or 'nothing'}; tables in {folder}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
