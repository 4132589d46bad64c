"""What the commands for many patients share: their options, going from case to case, and which were bad."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from rich.console import Console

from fastliver.cli import DISK_FULL
from fastliver.data.cases import Case
from fastliver.data.study import Volume
from fastliver.errors import InputError, RunError, SomeFailed
from fastliver.files import read_json, remove, write_json
from fastliver.training.progress import bar, clock
from fastliver.words import counted

RECORD = "fastliver.json"
"""In a folder of results: what they were made with, so that a later run doesn't mix in others."""

FILE_ENDINGS = {".bmp", ".csv", ".dcm", ".gif", ".gz", ".hdr", ".img", ".jpeg", ".jpg", ".json", ".mha", ".mhd", ".nii",
                ".npy", ".npz", ".nrrd", ".pdf", ".png", ".tif", ".tiff", ".txt", ".zip"}  # fmt: skip
"""What nobody ends a folder's name with on purpose."""


def go_on_with_patients() -> str:
    """How to go on with a command for many patients that was interrupted."""
    return "run the same command again: it goes on after the last finished patient (with --force, from the first)"


def add_options(parser: ArgumentParser) -> None:
    """The options of a command that works through patients."""
    parser.add_argument(
        "--device", type=str, default="auto", help="auto takes a GPU if there is one; cpu, cuda, cuda:1"
    )
    parser.add_argument("--batch", type=int, default=8, help="slices computed at once; fewer need less memory")
    parser.add_argument("--force", action="store_true", help="make again and replace what is there")
    parser.add_argument(
        "--shard",
        type=str | None,
        default=None,
        help="i/n: only every n-th patient, from the i-th; ranks share by themselves: torchrun --nproc-per-node 4 -m "
        "-- fastliver.segment ... (the two dashes keep torchrun from reading the options)",
    )
    parser.add_argument("--skip-bad", action="store_true", help="leave out files that can't be read")


@dataclass(frozen=True)
class Shard:
    """Which of the patients are this process's.

    Attributes:
        index: from 0.
        count: of processes that share the work.
    """

    index: int = 0
    count: int = 1

    @staticmethod
    def parse(text: str | None) -> "Shard":
        """From `--shard i/n`, or torchrun's environment, or everything; raises InputError for what isn't a shard."""
        if text is None:
            return Shard(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
        first, slash, second = text.partition("/")
        if not (slash and first.isdigit() and second.isdigit() and 1 <= int(first) <= int(second)):
            raise InputError(f"--shard={text}: expected i/n with i from 1 to n, such as 1/4")
        return Shard(int(first) - 1, int(second))

    def part(self, cases: Sequence[Case]) -> list[Case]:
        """This process's cases."""
        return list(cases[self.index :: self.count])


def device_name(name: str) -> str:
    """`--device auto` for a rank of torchrun is the GPU of its number on this machine."""
    local = os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if name == "auto" and local is not None and torch.cuda.is_available() else name


def check_batch(batch: int) -> None:
    """Raise InputError for a batch without slices."""
    if batch < 1:
        raise InputError(f"--batch={batch}: must be at least 1")


def check_folder_name(out: Path, results: str) -> None:
    """Raise InputError for a folder to be made that is called like a file.

    Args:
        out: `--out` or the like, as it is taken for a folder.
        results: what to name instead.
    """
    if not out.is_dir() and out.suffix.lower() in FILE_ENDINGS:
        raise InputError(f"--out={out}: is called like a {out.suffix} file, but would be a folder; name {results}")


def check_results(source: Path, out: Path, cases: Sequence[Case], result: Callable[[Case], Path]) -> None:
    """Raise InputError where results would take the place of what they are made from."""
    if source.is_dir() and out.resolve() == source.resolve():
        raise InputError(f"--out={out}: is the folder that is read; choose another")
    for case in cases:
        where = result(case).resolve()
        for path in case.study.paths:
            if path.resolve().is_relative_to(where):
                raise InputError(f"{path}: would be replaced by its own result; choose another --out")


def claim(folder: Path, made_with: dict[str, Any], results: Sequence[tuple[Case, Sequence[Path]]], force: bool) -> None:
    """Note what the results in a folder are made with and from, so that what is there already can be told from others'.

    Args:
        folder: of results.
        made_with: what decides how they look.
        results: what this command writes of each patient, whichever process does.
        force: others' results give way; they are removed at once, for what isn't reached must not pass for these.

    Raises:
        InputError: when it holds others', and `force` is off.
    """
    path = folder / RECORD
    before = _read_record(path)
    known = before.get("made_from", {})
    made_from = {paths[-1].name: str(_source(case)) for case, paths in results if case.study.paths}
    differing = next((name for name, value in made_with.items() if before and before.get(name) != value), None)
    if differing is not None and not force:
        raise InputError(
            f"{folder}: holds results made with {differing} {before.get(differing)}, not {made_with[differing]}; "
            "choose another --out, or make them again with --force"
        )
    for _, paths in results:
        name, there = paths[-1].name, next((path for path in paths if path.exists()), None)
        if there is None:
            continue
        if not before and not force:
            raise InputError(
                f"{there}: is there already, and no {RECORD} beside it says what made it; choose another --out, or "
                "replace it with --force"
            )
        of_another = name in made_from and known.get(name, made_from[name]) != made_from[name]
        if of_another and not force:
            raise InputError(
                f"{there}: was made from {known[name]}, not from {made_from[name]}; choose another --out, or "
                "replace it with --force"
            )
        if before and (of_another or differing is not None):
            for result in paths:
                remove(result)
    record = {**made_with, "made_from": {**known, **made_from}}
    if record != before:
        write_json(path, record)


def _read_record(path: Path) -> dict[str, Any]:
    """The note that `claim` made; empty where there is none."""
    if not path.exists():
        return {}
    try:
        record = dict(read_json(path))
        dict(record.get("made_from", {}))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: no valid JSON object ({error}); delete it, or choose another --out") from error
    return record


def _source(case: Case) -> Path:
    """A NIfTI file, or the folder of a series."""
    first = case.study.paths[0].resolve()
    return first if case.format == "nifti" else first.parent


def all_of(*works: Callable[[], None]) -> None:
    """Do one work after the other, whatever patients the one before could not do; that is raised at the end."""
    failed: list[InputError] = []
    for work in works:
        try:
            work()
        except InputError as error:
            failed.append(error)
    if len(failed) == 1:
        raise failed[0]
    if failed:
        raise SomeFailed("\n".join(map(str, failed)))


@dataclass(frozen=True)
class Work:
    """One patient's turn.

    Attributes:
        case: whose.
        volume: the series, read.
        on_slice: to be called with the number of slices done.
    """

    case: Case
    volume: Volume
    on_slice: Callable[[int], None]


def work_through(
    cases: Sequence[Case],
    finished: Callable[[Case], bool],
    work: Callable[[Work], str],
    console: Console,
    passes: int = 1,
    on_failed: Callable[[Case, InputError], None] = lambda case, error: None,
) -> None:
    """Work on one patient after the other; a bad one is listed at the end. The next is read meanwhile.

    Args:
        cases: this process's.
        finished: whether a case was done before.
        work: does one; returns what to print, such as where the result lies.
        console: for progress.
        passes: how often `work` counts each slice.
        on_failed: called at once with a bad patient and what is wrong.

    Raises:
        SomeFailed: at the end, with what was wrong with each bad patient.
        InputError: what is wrong with the only patient.
        RunError: when the GPU's memory is too small.
    """
    todo = [case for case in cases if not finished(case)]
    if len(todo) < len(cases):
        console.print(f"finished before: {len(cases) - len(todo)} of {len(cases)} (--force makes them again)")
    failed: dict[str, InputError] = {}

    def leave_out(case: Case, error: InputError) -> None:
        failed[case.name] = error
        on_failed(case, error)
        if len(cases) > 1:
            tell(case.name, f"left out: {error}")

    def tell(name: str, *notes: str) -> None:
        for note in notes:
            console.print(f"{name}: {note}", soft_wrap=True)

    slices, began = 0, time.monotonic()
    for case, read in _reading_ahead(todo):
        try:
            tell(case.name, *case.study.skipped, *case.study.notes)
            volume = read()
            tell(case.name, *volume.skipped, *volume.notes)
            if volume.label is not None and not volume.label.any():
                tell(case.name, f"its label shows no liver at all; {case.study.check_labels}")
            with bar(console, case.name, len(volume.image) * passes) as progress:
                started = time.monotonic()

                def on_slice(done: int, started: float = started, progress: Any = progress) -> None:
                    progress.update(done, f"slices, {done / max(time.monotonic() - started, 1e-9):.1f} slices/s")

                told = work(Work(case, volume, on_slice))
            slices += len(volume.image)
            tell(case.name, told)
        except InputError as error:
            leave_out(case, error)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
            leave_out(case, InputError(f"{error.filename or 'a file'}: {error.strerror or error}"))
        except torch.OutOfMemoryError as error:
            raise RunError(f"{case.name}: the GPU's memory is too small; lower --batch, or use --device cpu") from error
    seconds = max(time.monotonic() - began, 1e-9)
    done = len(todo) - len(failed)
    if done:
        console.print(
            f"{done} done: {counted(slices, 'slice')} in {clock(seconds)}, {slices / seconds:.1f} slices/s with "
            "reading and writing"
        )
    if len(failed) == len(cases) == 1:
        raise next(iter(failed.values()))
    if failed:
        lines = "".join(f"\n  {name}: {error}" for name, error in failed.items())
        raise SomeFailed(f"{len(failed)} of {len(cases)} could not be done:{lines}")


def _reading_ahead(cases: Sequence[Case]) -> Iterator[tuple[Case, Callable[[], Volume]]]:
    """Each case with what gives its volume, which a thread begins to read while the one before is worked on."""
    with ThreadPoolExecutor(1) as pool:
        ahead = [pool.submit(case.study.read) for case in cases[:1]]
        for number, case in enumerate(cases):
            current = ahead.pop()
            if number + 1 < len(cases):
                ahead.append(pool.submit(cases[number + 1].study.read))
            yield case, current.result
