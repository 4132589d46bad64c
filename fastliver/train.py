"""`python -m fastliver.train`: from a folder of CT and MR to a results table.

Without data it writes a phantom data set and trains on that at a reduced size.
"""

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from fastliver import environment
from fastliver.cli import add_settings, parse, preset_values, read_settings, run_command
from fastliver.config import PRESETS, TrainConfig, flatten, unflatten
from fastliver.data.phantom import PhantomSpec, write_phantom
from fastliver.errors import InputError
from fastliver.files import write_file, write_json
from fastliver.reporting import build_report, print_tables
from fastliver.run_folder import RunFolder
from fastliver.training.estimate import estimate
from fastliver.training.prepare import describe, prepare, print_counts, sources
from fastliver.training.progress import bar, clock
from fastliver.training.stages import Run, check_stage, device_name, run_stages

LONG_ON_CPU = 24 * 3600.0

ADDITIVE = {"arrangements", "seeds", "ablation", "device", "checkpoint_minutes", "log_every"}
"""Settings that a resumed run may change: they add to it, or change nothing that is learned."""


def build_parser() -> ArgumentParser:
    """The command's options."""
    parser = ArgumentParser(
        prog="python -m fastliver.train",
        description="Train EssNet on unpaired CT and MR, synthesize labelled MR, train U-Nets, and write a report. "
        "Without data it makes a phantom and shows the whole way in a few minutes.",
        epilog="example: python -m fastliver.train --data CHAOS_Train_Sets/Train_Sets --preset quick",
    )
    parser.add_argument("--config", action="config", help="YAML file with settings; options override it")
    parser.add_argument("--preset", type=str, default="default", help=f"set of defaults: {', '.join(PRESETS)}")
    parser.add_argument(
        "--stage", choices=("all", "essnet", "synthesize", "unet"), default="all", help="which part to carry out"
    )
    parser.add_argument("--runs", type=str, default="runs", help="folder for runs and slice stores")
    parser.add_argument("--name", type=str | None, default=None, help="of the run; preset and time if not given")
    parser.add_argument("--resume", type=str | None, default=None, help="folder of a run to go on with")
    parser.add_argument("--yes", action="store_true", help="start even what takes over 24 hours on a CPU")
    add_settings(parser)
    return parser


def read_options(arguments: Sequence[str]) -> tuple[Namespace, TrainConfig]:
    """The command line as options and settings, those of the resumed run included.

    Raises:
        InputError: for values out of range, or settings that a resumed run can't change.
    """
    parser = build_parser()
    given = _without_defaults(parser, arguments)
    if given.get("resume") is None:
        has_data = any(given.get(name) is not None for name in ("data", "ct", "mr"))
        options = parse(parser, arguments, "default" if has_data else "demo")
        config = unflatten(options.as_dict())
        if config.preset != "demo" and all(
            value is None for value in (config.data.data, config.data.ct, config.data.mr)
        ):
            raise InputError(f"--preset={config.preset} needs data: --data <CHAOS Train_Sets>, or --ct and --mr")
        return options, config
    run = RunFolder.open(Path(given["resume"]))
    saved = read_settings(run.config)
    missing = flatten(TrainConfig()).keys() - saved.keys()
    if missing:
        raise InputError(
            f"{run.config}: {min(missing)} is missing; the file is cut, or another version's: start a new run"
        )
    if given.get("preset") is not None:
        preset_values(given["preset"])
    options = parser.parse_args([f"--config={run.config}", *arguments])
    config = unflatten(options.as_dict())
    before = flatten(unflatten(saved))
    for name, value in flatten(config).items():
        if value != before[name] and name not in ADDITIVE:
            raise InputError(
                f"--{name.replace('_', '-')}={value}: {run.root} was started with {before[name]}, which a resumed run "
                "keeps; leave the option out, or start a new run"
            )
    return options, config


def _without_defaults(parser: ArgumentParser, arguments: Sequence[str]) -> dict[str, Any]:
    """Only what the command line and its --config give."""
    # --print_config would print here, before preset and file have had their say.
    shown = [argument for argument in arguments if not argument.startswith("--print_config")]
    return parser.parse_args(shown, defaults=False).as_dict()


def choose_device(name: str) -> torch.device:
    """The device that `--device` means; raises InputError for a GPU that isn't there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device=cuda: torch sees no GPU; check the driver and that torch is a CUDA build, or use cpu"
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def run_folder(options: Namespace, preset: str) -> RunFolder:
    """The folder of this run; a new one must not exist yet."""
    if options.resume is not None:
        return RunFolder(Path(options.resume))
    name = options.name or f"{preset}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = RunFolder(Path(options.runs) / name)
    if folder.root.exists():
        raise InputError(f"{folder.root}: exists already; choose another --name, or go on with --resume {folder.root}")
    return folder


def make_phantom(folder: Path, console: Console) -> Path:
    """The demo's data set, written on first use."""
    spec = PhantomSpec()
    total = spec.ct_patients * spec.ct_slices + spec.mr_patients * spec.mr_slices
    try:
        with bar(console, "writing phantom", total) as progress:
            return write_phantom(folder, spec, lambda done, total: progress.update(done, "slices"))
    except FileExistsError as error:
        raise InputError(str(error)) from error


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    # Paths and names may hold brackets: nothing printed is markup.
    console = Console(markup=False, highlight=False)
    options, config = read_options(arguments)
    device = choose_device(config.engine.device)
    folder = run_folder(options, config.preset)
    runs = folder.root.parent

    data = config.data
    phantom = make_phantom(runs / "phantom", console) if data.data is data.ct is data.mr is None else None
    ct, mr = sources(config, phantom)
    prepared = prepare(config, ct, mr, runs / "stores", console)
    description = describe(prepared, ct, mr)
    print_counts(description, console)

    run = Run(config, folder, prepared, device, console)
    check_unchanged(run, description)
    expected = estimate(run, options.stage)
    console.print(
        f"Estimated time on {device_name(device)}: {clock(expected.total)} "
        f"(EssNet {clock(expected.essnet)}, U-Nets {clock(expected.unet)})"
    )
    if device.type == "cpu" and expected.total > LONG_ON_CPU and not options.yes:
        raise InputError(
            "over 24 hours on a CPU: add --yes to start all the same, or choose --preset quick, or use a GPU"
        )

    check_stage(run, options.stage)
    write_file(folder.config, yaml.safe_dump(flatten(config), sort_keys=False))
    write_json(folder.environment, environment.describe(device_name(device)))
    folder.write_result("data", description)
    run_stages(run, options.stage)
    report = build_report(folder)
    print_tables(folder, console)
    console.print(f"Report: {report}", soft_wrap=True)


def check_unchanged(run: Run, description: dict[str, Any]) -> None:
    """A resumed run must find the images that it began with."""
    before = run.folder.read_result("data")
    if before is not None and before["fingerprint"] != description["fingerprint"]:
        raise InputError(
            f"{run.folder.root}: the images have changed since this run began (files added, removed or rewritten); "
            "put them back, or start a new run"
        )


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:]), resumes=True))
