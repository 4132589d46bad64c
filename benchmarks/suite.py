"""What the suites share: cases that contestants do by turns, tables, the time that a sitting has, the command line.

A suite is a list of cases. `python -m benchmarks.<suite>` races the contestants of each case and `test_<suite>.py`
hands the same ones to pytest-benchmark. Ratios come first: machines differ and are noisy, contestants of one process
are so together.
"""

import argparse
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch

from benchmarks.measure import Percentiles, Work, by_turns, percentiles, rates
from benchmarks.results import Results, results_folder, surroundings
from fastliver.training.memory_plan import release

OURS = "fastliver"
MINUTES = 9.0
"""Of a sitting: a lent GPU often is there for ten minutes a call."""


@dataclass(frozen=True)
class Contestant:
    """Who does a case.

    Attributes:
        name: the provider in the results; fastliver's own begin with "fastliver".
        make: prepares and gives the work, the same each time.
        dtype: what it computes in, where that isn't the case's.
    """

    name: str
    make: Callable[[], Work]
    dtype: str = ""

    @property
    def title(self) -> str:
        """Name and dtype."""
        return f"{self.name} {self.dtype}".strip()

    @property
    def is_ours(self) -> bool:
        return self.name.startswith(OURS)


Check = Callable[[Mapping[str, Work]], dict[str, str]]
"""From the works of a case by title, which of them do it wrong, and how."""


@dataclass(frozen=True, repr=False)
class Case:
    """One thing to do, and who does it.

    Attributes:
        name: says what.
        shape: of the data.
        dtype: of the data.
        contestants: ours and the peers.
        amount: of what the rate counts, of which the work does so much; 0 for no rate.
        unit: of the rate.
        mode: forward, backward or full.
        targets: how many times as fast as whom who should be: by the titles of one of ours and of a peer.
        check: finds those that do something else.
    """

    name: str
    shape: str
    dtype: str
    contestants: tuple[Contestant, ...]
    amount: float = 0.0
    unit: str = ""
    mode: str = "full"
    targets: Mapping[tuple[str, str], float] = field(default_factory=dict)
    check: Check = lambda works: {}

    @property
    def title(self) -> str:
        """Name, shape and mode."""
        return f"{self.name} {self.shape}" + ("" if self.mode == "full" else f" {self.mode}")

    def __repr__(self) -> str:
        """What pytest-benchmark groups by."""
        return self.title


class TimeIsUp(BaseException):
    """A sitting's minutes are over in the middle of a case: no Exception, which torch.compile would make its own."""


class Sitting:
    """One run of a suite: it races cases, writes their rows as they come, and keeps them for the tables at the end.

    Args:
        results: takes the rows.
        device: where everything computes.
        options: of the command line.
        repeats: how often each contestant does a case.
    """

    def __init__(self, results: Results, device: torch.device, options: argparse.Namespace, repeats: int) -> None:
        self.results, self.device, self.options, self.repeats = results, device, options, repeats
        self.ratios: list[tuple[str, ...]] = []
        self.figures: list[tuple[str, ...]] = []
        self.complaints: list[str] = []
        self.notes: list[str] = []
        self.taken = 0
        self.began = self.case_began = time.monotonic()
        self.longest = 0.0

    def takes(self, case: str) -> bool:
        """Whether a case is asked for and there is time for it; says what is left out for want of time.

        A case is taken to last as long as the longest before it.
        """
        if self.options.only not in case:
            return False
        now = time.monotonic()
        self.longest, self.case_began = max(self.longest, now - self.case_began), now
        if now + self.longest > self.began + 60 * self.options.minutes:
            self.say(f"{case}: left out, the {self.options.minutes:g} minutes are over (--minutes)")
            return False
        self.taken += 1
        return True

    @contextmanager
    def fitting(self, case: str) -> Iterator[None]:
        """Say so where the block wants more memory than there is, and give back what it held in any case."""
        try:
            yield
        except torch.OutOfMemoryError:
            self.say(f"{case}: left out, it does not fit in memory")
        finally:
            release(self.device)

    def say(self, text: str) -> None:
        print(text, flush=True)

    def complain(self, text: str) -> None:
        """Note what makes the exit status 1."""
        self.complaints.append(text)
        self.say(text)

    def disqualify(self, case: Case, contestant: Contestant, fault: str) -> None:
        """Note that a contestant does something else than it should and isn't timed: a peer's fault is no failure."""
        text = f"{case.title}: {contestant.title} {fault}; not timed"
        if contestant.is_ours:
            self.complain(text)
        else:
            self.notes.append(text)
            self.say(text)

    def race(self, case: Case) -> None:
        """Time the contestants of a case that do it right, by turns."""
        with self.fitting(case.title):
            works = {contestant.title: contestant.make() for contestant in case.contestants}
            faults = case.check(works)
            for contestant in case.contestants:
                if contestant.title in faults:
                    self.disqualify(case, contestant, faults[contestant.title])
                    del works[contestant.title]
            self.record(case, by_turns(works, self.repeats, self.device))
            del works

    def record(self, case: Case, seconds: Mapping[str, Sequence[float]], new: Collection[str] | None = None) -> None:
        """Write and show what was timed.

        Args:
            case: which.
            seconds: of each turn, by title.
            new: titles of those who weren't recorded before; None for all.
        """
        timed = [contestant for contestant in case.contestants if contestant.title in seconds]
        fresh = [contestant for contestant in timed if new is None or contestant.title in new]
        for ours in (contestant for contestant in timed if contestant.is_ours):
            for peer in (contestant for contestant in fresh if not contestant.is_ours):
                pairs = zip(seconds[peer.title], seconds[ours.title], strict=True)
                ratio = percentiles([theirs / own for theirs, own in pairs])
                self.add(case, ours, f"speed vs {peer.title}", "x", ratio)
                wanted = case.targets.get((ours.title, peer.title))
                self.ratios.append(
                    (
                        *(case.title, ours.title, peer.title, f"{ratio[1]:.2f}", f"{ratio[0]:.2f} to {ratio[2]:.2f}"),
                        "" if wanted is None else f"{wanted:g}",
                    )
                )
        for contestant in fresh:
            times = percentiles(seconds[contestant.title])
            self.add(case, contestant, "time", "ms", (1e3 * times[0], 1e3 * times[1], 1e3 * times[2]))
            rate = ""
            if case.amount:
                speeds = rates(case.amount, times)
                self.add(case, contestant, "rate", case.unit, speeds)
                rate = f"{speeds[1]:.4g} {case.unit}"
            self.figures.append((case.title, contestant.title, f"{1e3 * times[1]:.4g} ms", rate))
            self.say(" | ".join(self.figures[-1]))

    def add(self, case: Case, contestant: Contestant, metric: str, unit: str, values: Percentiles) -> None:
        """Write one figure of a contestant."""
        self.results.add(
            metric,
            unit,
            values,
            case=case.name,
            provider=contestant.name,
            mode=case.mode,
            shape=case.shape,
            dtype=contestant.dtype or case.dtype,
        )

    def show(self) -> None:
        """Print the tables: ratios first."""
        if self.ratios:
            self.say("")
            self.say(table(("case", "this", "beside", "times as fast", "20 to 80 %", "wanted"), self.ratios))
        if self.figures:
            self.say("")
            self.say(table(("case", "who", "median", "rate"), self.figures))
        for note in self.notes:
            self.say(f"note: {note}")
        for complaint in self.complaints:
            self.say(f"wrong: {complaint}")


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Columns of text, aligned."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = (head, tuple("-" * width for width in widths), *rows)
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines)


def _stop(number: int, frame: FrameType | None) -> None:
    raise TimeIsUp


@dataclass(frozen=True)
class Suite:
    """A suite as a command.

    Attributes:
        name: of its module and its CSV.
        about: the module's docstring.
        run: races its cases.
        repeats: on a CPU and on a GPU, unless `--repeats` says otherwise.
        add_options: its own options.
    """

    name: str
    about: str | None
    run: Callable[[Sitting], None]
    repeats: tuple[int, int]
    add_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None

    def main(self, arguments: Sequence[str]) -> int:
        """Race, print and write; 1 if one of ours was wrong."""
        about = (self.about or "").split("\n")[0].partition(": ")[2]
        parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{self.name}", description=about)
        parser.add_argument("--only", default="", metavar="CASE", help="part of a case's name")
        least = "of each timing; default {} on a CPU, {} on a GPU".format(*self.repeats)
        parser.add_argument("--repeats", type=int, help=least)
        parser.add_argument("--minutes", type=float, default=MINUTES, help="cases that would end later are left out")
        parser.add_argument("--out", type=Path, help=f"default benchmarks/results/<device>/{self.name}.csv, added to")
        self.add_options(parser)
        options = parser.parse_args(arguments)
        cuda = torch.cuda.is_available()
        device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
        path = options.out or results_folder(device) / f"{self.name}.csv"
        if path.is_dir():
            parser.error(f"--out={path}: is a folder, expected a CSV file")
        with Results(path, self.name, surroundings(device)) as results:
            sitting = Sitting(results, device, options, options.repeats or self.repeats[cuda])
            signal.signal(signal.SIGALRM, _stop)
            signal.setitimer(signal.ITIMER_REAL, 60 * options.minutes)
            try:
                self.run(sitting)
            except TimeIsUp:
                sitting.say(f"the {options.minutes:g} minutes are over in the middle of a case (--minutes)")
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                sitting.show()
        if not sitting.taken:
            sitting.complain(f"no case was taken (--only {options.only!r}, --minutes {options.minutes:g})")
        print(f"written to {path}")
        return int(bool(sitting.complaints))
