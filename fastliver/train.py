"""`python -m fastliver.train`: from a folder of CT and MR to a results table.

Without data it writes a phantom data set and trains on that at a reduced size.
"""

import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from rich.console import Console

from fastliver import environment
from fastliver.cli import add_settings, option_value, parse, read_settings, run_command
from fastliver.config import PRESETS, TrainConfig, flatten, unflatten
from fastliver.data.phantom import PhantomSpec, write_phantom
from fastliver.errors import InputError, run_again
from fastliver.files import LOCK, sole_owner, write_file, write_json
from fastliver.parser import CommandParser
from fastliver.reporting import build_report, print_tables
from fastliver.run_folder import RunFolder
from fastliver.training.distributed import Launch, Ranks, join
from fastliver.training.estimate import estimate, memory_lines, plan_run
from fastliver.training.prepare import describe, prepare, print_counts, sources
from fastliver.training.progress import bar, clock
from fastliver.training.signals import Signals
from fastliver.training.stages import Run, check_stage, device_name, run_stages

LONG_ON_CPU = 24 * 3600.0

VISIBLE_SECONDS = 60.0
"""After which every machine sees what one of them wrote to a shared file system."""

FOLDERS = ("data", "ct", "mr", "more_mr")
"""Settings that say where the images lie."""

ADDITIVE = {
    *("arrangements", "labelled_patients", "seeds", "ablation"),
    *FOLDERS,  # `check_unchanged` compares the images themselves
    *(
        "device",
        "reader",
        "graph",
        "deterministic",
        "memory_limit",
        "checkpoint_minutes",
        "checkpoint_steps",
        "log_every",
        "profile",
    ),
}
"""Settings that a resumed run may change: they add to it, or change nothing that is learned."""


def build_parser() -> CommandParser:
    """The command's options."""
    parser = CommandParser(
        prog="python -m fastliver.train",
        description="Train EssNet on unpaired CT and MR, synthesize labelled MR, train U-Nets, and write a report. "
        "Without data it makes a phantom and shows the whole way in a few minutes.",
        epilog="example: python -m fastliver.train --data CHAOS_Train_Sets/Train_Sets --preset quick",
    )
    parser.add_argument("--config", action="config", help="YAML file with settings; options override it")
    parser.add_argument(
        "--preset", choices=tuple(PRESETS), default="default", help="set of defaults; without data: demo"
    )
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
        has_data = any(given.get(name) is not None for name in FOLDERS)
        options = parse(parser, arguments, "default" if has_data else "demo")
        config = anywhere(unflatten(options.as_dict()))
        if config.data.is_phantom:
            what = f"--preset={config.preset}" if config.preset != "demo" else f"--more-mr={config.data.more_mr}"
            if config.preset != "demo" or config.data.more_mr is not None:
                raise InputError(f"{what} needs data: --data <CHAOS Train_Sets>, or --ct and --mr")
        return options, config
    run = RunFolder.open(Path(given["resume"]))
    saved = read_settings(run.config)
    missing = flatten(TrainConfig()).keys() - saved.keys()
    if missing:
        raise InputError(
            f"{run.config}: {min(missing)} is missing; the file is cut, or another version's: start a new run"
        )
    options = parser.parse_args([f"--config={run.config}", *arguments])
    config = unflatten(options.as_dict())
    if given.get("data") is not None:  # in place of the folders that the run began with
        config = replace(config, data=replace(config.data, ct=given.get("ct"), mr=given.get("mr")))
    config = anywhere(config)
    before = flatten(unflatten(saved))
    for name, value in flatten(config).items():
        if value != before[name] and name not in ADDITIVE:
            raise InputError(
                f"--{name.replace('_', '-')}={value}: {run.root} was started with {before[name]}, which a resumed run "
                "keeps; leave the option out, or start a new run"
            )
    return options, config


def anywhere(config: TrainConfig) -> TrainConfig:
    """The settings with absolute paths to the data, so that the run can be resumed from any folder."""
    given = {name: getattr(config.data, name) for name in FOLDERS}
    absolute = {name: os.path.abspath(os.path.expanduser(path)) for name, path in given.items() if path is not None}
    return replace(config, data=replace(config.data, **absolute))


def _without_defaults(parser: CommandParser, arguments: Sequence[str]) -> dict[str, Any]:
    """Only what the command line and its --config give."""
    if (config := option_value(arguments, "config")) is not None:
        read_settings(config)  # says better than the parser what is wrong with a file
    # --print_config would print here, before preset and file have had their say.
    shown = [argument for argument in arguments if not argument.startswith("--print_config")]
    return parser.parse_args(shown, defaults=False).as_dict()


def choose_device(name: str, ranks: Ranks) -> torch.device:
    """The device that `--device` means for this rank; raises InputError for a GPU that isn't there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device=cuda: torch sees no GPU; check the driver and that torch is a CUDA build, or use cpu"
        )
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if ranks.alone:
        # With its number, which some of PyTorch's functions ask for.
        return torch.device("cuda", torch.cuda.current_device())
    if ranks.local >= torch.cuda.device_count():
        raise InputError(
            f"--nproc-per-node: rank {ranks.rank} is number {ranks.local + 1} on its machine, where torch sees "
            f"{torch.cuda.device_count()} GPUs; start no more processes than GPUs, or add --device cpu"
        )
    device = torch.device("cuda", ranks.local)
    torch.cuda.set_device(device)
    return device


def make_deterministic() -> None:
    """Let CUDA compute the same bits each time; must come before it starts."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def find_run(
    arguments: Sequence[str], launch: Launch | None, now: datetime
) -> tuple[Namespace, TrainConfig, RunFolder]:
    """Options, settings and folder of the run; a new run's folder must not exist yet.

    When torchrun starts the processes anew after a failure, the same command line means to go on with the run that it
    began.

    Args:
        arguments: the command line.
        launch: how torchrun started this process, if it did.
        now: names a run that has no name.
    """
    options, config = read_options(arguments)
    if options.resume is not None:
        for name, usual in (("name", None), ("runs", "runs")):
            value = getattr(options, name)
            if value != usual:
                raise InputError(f"--{name}={value}: --resume={options.resume} names the run already; leave one out")
        return options, config, RunFolder(Path(options.resume))
    name = options.name or f"{config.preset}-{now:%Y%m%d-%H%M%S}"
    if launch is not None and launch.may_restart and launch.job is None:
        raise InputError(
            "--rdzv-id is missing: after a failure torchrun's --max-restarts could not tell this run from others; add "
            "one of your own, such as --rdzv-id 7"
        )
    if launch is not None and launch.may_restart and options.name is None:
        name = f"{config.preset}-{launch.job}"
    folder = RunFolder(Path(options.runs) / name)
    if launch is not None and _began(folder, launch):
        options, config = read_options([*arguments, f"--resume={folder.root}"])
    elif folder.config.exists():
        raise InputError(f"{folder.root}: exists already; choose another --name, or go on with --resume {folder.root}")
    elif _holds_others(folder):
        raise InputError(f"{folder.root}: exists already, and is no run to go on with; choose another --name")
    return options, config, folder


def _holds_others(folder: RunFolder) -> bool:
    """Whether more lies in a folder without settings than a run leaves that was killed while it began."""
    if not folder.root.exists():
        return False
    if not folder.root.is_dir():
        return True
    begun = (folder.environment.name, LOCK)
    return any(path.name not in begun and path.name[0] != "." for path in folder.root.iterdir())


def _began(folder: RunFolder, launch: Launch) -> bool:
    """Whether the run in the folder is one that this torchrun began, before it started the processes anew."""
    if launch.job is None or not folder.config.exists():
        return False
    return folder.read_environment().get("torchrun") == launch.job


def make_phantom(folder: Path, console: Console) -> Path:
    """The demo's data set, written on first use."""
    spec = PhantomSpec()
    total = spec.ct_patients * spec.ct_slices + spec.mr_patients * spec.mr_slices
    try:
        with bar(console, "writing phantom", total) as progress:
            return write_phantom(folder, spec, lambda done, total: progress.update(done, "slices"))
    except FileExistsError as error:
        raise InputError(str(error)) from error


@dataclass
class GoOn:
    """Says how to go on with a training that was interrupted.

    Attributes:
        folder: of the run, once it is known.
    """

    folder: RunFolder | None = None

    def __call__(self) -> str:
        """A run that was begun goes on; before that there is nothing to go on with."""
        if self.folder is None or not self.folder.config.exists():
            return run_again()
        return f"--resume {self.folder.root} goes on from the last checkpoint"


def main(arguments: Sequence[str], go_on: GoOn) -> None:
    """Run the command."""
    launch = Launch.find()
    with Signals(forwarded=launch is not None) as signals, join(go_on) as ranks, ExitStack() as held:
        # Paths and names may hold brackets: nothing printed is markup.
        console = Console(markup=False, emoji=False, highlight=False, quiet=not ranks.is_main)
        now = ranks.broadcast(datetime.now())
        options, config, folder = ranks.first(lambda: find_run(arguments, launch, now))
        ranks.only(lambda: held.enter_context(sole_owner(folder.root)))
        go_on.folder = folder
        if config.engine.deterministic:
            make_deterministic()
        ranks = ranks.on(choose_device(config.engine.device, ranks))
        run, description = ranks.first(lambda: gather(config, options.stage, folder, ranks, signals, console))
        # All compute alike, in what suits the first one's GPU.
        run = replace(run, plans=ranks.broadcast(run.plans))
        ranks.only(lambda: begin(run, options, description, launch))
        check_shared(run)
        run_stages(run, options.stage)
        ranks.only(lambda: conclude(run))


def gather(
    config: TrainConfig, stage: str, folder: RunFolder, ranks: Ranks, signals: Signals, console: Console
) -> tuple[Run, dict[str, Any]]:
    """Read the data, or make them; gives the run, fitted to the GPU's memory, and the description of what was found."""
    phantom = make_phantom(folder.stores.with_name("phantom"), console) if config.data.is_phantom else None
    found = sources(config, phantom)
    prepared = prepare(config, found, folder.stores, console)
    run = Run(config, folder, prepared, console, ranks, signals)
    return replace(run, plans=plan_run(run, stage)), describe(prepared, found)


def begin(run: Run, options: Namespace, description: dict[str, Any], launch: Launch | None) -> None:
    """Show what lies ahead, refuse what can't end well, and write down what the run is."""
    device, folder, console = run.device, run.folder, run.console
    print_counts(description, console)
    check_unchanged(run, description)
    for line in memory_lines(run, options.stage):
        console.print(line, soft_wrap=True)
    expected = estimate(run, options.stage)
    processes = "" if run.ranks.alone else f"{run.ranks.count} processes on "
    console.print(
        f"Estimated time on {processes}{device_name(device)}: {clock(expected.total)} "
        f"(EssNet {clock(expected.essnet)}, U-Nets {clock(expected.unet)})"
    )
    if device.type == "cpu" and expected.total > LONG_ON_CPU and not options.yes:
        raise InputError(
            "over 24 hours on a CPU: add --yes to start all the same, or choose --preset quick, or use a GPU"
        )
    check_stage(run, options.stage)
    about = environment.describe(device_name(device))
    if launch is not None:
        about |= {"ranks": run.ranks.count, "torchrun": launch.job}
    # Before the settings: a folder with settings is one to go on with, if this launch began it.
    write_json(folder.environment, about)
    write_file(folder.config, yaml.safe_dump(flatten(run.config), sort_keys=False))
    folder.write_result("data", description)


def conclude(run: Run) -> None:
    """Write and show the report."""
    report = build_report(run.folder)
    print_tables(run.folder, run.console)
    run.console.print(f"Report: {report}", soft_wrap=True)


def check_unchanged(run: Run, description: dict[str, Any]) -> None:
    """A resumed run must find the images that it began with."""
    before = run.folder.read_result("data")
    if before is not None and before["fingerprint"] != description["fingerprint"]:
        raise InputError(
            f"{run.folder.root}: the images have changed since this run began (files added, removed or rewritten, or "
            "other folders named); put them back, or start a new run"
        )


def check_shared(run: Run) -> None:
    """All ranks must have found the same images, and must see the run folder, which the first one writes.

    Raises:
        InputError: on the first rank, when another one doesn't.
    """
    last = time.monotonic() + VISIBLE_SECONDS
    while not run.folder.config.exists() and time.monotonic() < last:
        time.sleep(1)
    found = run.ranks.gather((run.data.fingerprint(), run.folder.config.exists()))

    def check() -> None:
        for rank, (fingerprint, visible) in enumerate(found):
            if fingerprint != found[0][0]:
                raise InputError(
                    f"rank {rank} found other images than rank 0: --data, --ct, --mr and --more-mr must hold the same "
                    "files on every machine"
                )
            if not visible:
                raise InputError(
                    f"rank {rank} doesn't see {run.folder.root}, which rank 0 writes: --runs must lie on a file system "
                    "that all machines share"
                )

    run.ranks.only(check)


if __name__ == "__main__":
    go_on = GoOn()
    sys.exit(run_command(lambda: main(sys.argv[1:], go_on), go_on))
