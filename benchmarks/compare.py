"""`python -m benchmarks.compare BASE`: the suites on two revisions in turn, figure by figure, with the spread.

BASE is checked out beside this working tree and measured with this tree's suites, so that both are held to one ruler.
Compared are the ratios to peers, which a busy machine changes least, and the rates of what has no peer. A figure that
fell by over 10 % beyond the spread of the rounds is flagged, as is one that is gone; the exit status is then 1.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.__main__ import SUITES
from benchmarks.results import IDENTITY, Row, read_rows
from benchmarks.suite import table

REPOSITORY = Path(__file__).resolve().parents[1]
DROP = 0.10
Figures = dict[tuple[str, ...], list[float]]


@dataclass(frozen=True)
class Change:
    """One figure on both revisions; more is better.

    Attributes:
        key: the columns of IDENTITY.
        base: the medians of the rounds on BASE.
        here: those of this tree.
    """

    key: tuple[str, ...]
    base: tuple[float, ...]
    here: tuple[float, ...]

    @property
    def ratio(self) -> float:
        return median(self.here) / median(self.base)

    @property
    def is_drop(self) -> bool:
        """Whether it fell by over 10 %, and the rounds of the two don't overlap."""
        return self.ratio < 1 - DROP and max(self.here) < min(self.base)


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """A working tree of a revision, with this one's benchmarks and an extension of its own.

    Raises:
        SystemExit: for a revision that git doesn't know.
    """
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary) / "base"
        add = ["git", "-C", str(REPOSITORY), "worktree", "add", "--detach", str(tree), revision]
        done = subprocess.run(add, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"BASE={revision}: git can't check it out ({done.stderr.strip()})")
        try:
            shutil.rmtree(tree / "benchmarks", ignore_errors=True)
            shutil.copytree(REPOSITORY / "benchmarks", tree / "benchmarks", ignore=shutil.ignore_patterns("results"))
            build_extension(tree)
            yield tree
        finally:
            subprocess.run(["git", "-C", str(REPOSITORY), "worktree", "remove", "--force", str(tree)], check=False)


def build_extension(tree: Path) -> None:
    """Compile the revision's own C++ where it differs from this tree's; else take this tree's library."""
    same = (
        subprocess.run(["diff", "-rq", str(REPOSITORY / "csrc"), str(tree / "csrc")], capture_output=True).returncode
        == 0
    )
    if same:
        for library in (REPOSITORY / "fastliver").glob("_C*.so"):
            shutil.copy(library, tree / "fastliver")
        return
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"], cwd=tree, capture_output=True, text=True
    )
    if not any((tree / "fastliver").glob("_C*.so")):
        print(f"the extension of BASE can't be built, PyTorch's operators count there:\n{done.stderr[-1000:]}")


def run_suite(tree: Path, suite: str, out: Path, minutes: float) -> list[Row]:
    """The rows of a suite run in a tree; none where it failed, which is said."""
    command = [sys.executable, "-m", f"benchmarks.{suite}", "--minutes", f"{minutes:g}", "--out", str(out)]
    done = subprocess.run(command, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, capture_output=True, text=True)
    if done.returncode not in (0, 1) or not out.exists():
        print(f"{suite} can't be run in {tree.name}:\n{done.stderr[-1000:]}")
        return []
    return read_rows(out)


def figures(rows: Sequence[Row]) -> dict[tuple[str, ...], float]:
    """What is compared: fastliver's ratios to peers, and its rates where it has none."""
    ours = [row for row in rows if row["provider"].startswith("fastliver")]
    with_peer = {(row["suite"], row["case"]) for row in ours if row["unit"] == "x"}
    return {
        tuple(row[column] for column in IDENTITY): float(row["p50"])
        for row in ours
        if row["unit"] == "x" or (row["metric"] == "rate" and (row["suite"], row["case"]) not in with_peer)
    }


def changes(base: Figures, here: Figures) -> list[Change]:
    """Figures that both have, the largest drop first."""
    found = [Change(key, tuple(base[key]), tuple(here[key])) for key in base if key in here]
    return sorted(found, key=lambda change: change.ratio)


def report(found: Sequence[Change]) -> str:
    """Every figure: ratio, spread of both, flag."""

    def span(values: Sequence[float]) -> str:
        return f"{median(values):.3g} ({min(values):.3g} to {max(values):.3g})"

    rows = []
    for change in found:
        named = dict(zip(IDENTITY, change.key, strict=True))
        case = " ".join(named[name] for name in ("suite", "case", "shape", "mode", "provider", "dtype"))
        flag = "DROPPED" if change.is_drop else ""
        rows.append((case, named["metric"], span(change.base), span(change.here), f"{change.ratio:.2f}", flag))
    return table(("case", "figure", "base", "here", "here / base", ""), rows)


def main(arguments: Sequence[str]) -> int:
    """Measure and compare; 1 if a figure dropped."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=(__doc__ or "").split(": ")[1])
    parser.add_argument("base", help="a revision: commit, tag or branch")
    usual = [name for name in SUITES if SUITES[name].minutes]
    parser.add_argument(
        "--only", nargs="+", choices=tuple(SUITES), default=usual, metavar="SUITE", help=", ".join(SUITES)
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each suite on each revision; default 3")
    parser.add_argument("--minutes", type=float, default=2.0, help="of a suite in a round; default 2")
    options = parser.parse_args(arguments)
    # Also when it is told to stop, the checked-out tree goes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    measured: dict[str, Figures] = {"base": defaultdict(list), "here": defaultdict(list)}
    with checked_out(options.base) as tree, tempfile.TemporaryDirectory() as temporary:
        for number in range(options.rounds):
            for suite in options.only:
                order = (("base", tree), ("here", REPOSITORY))
                for name, root in order[:: -1 if number % 2 else 1]:
                    print(f"round {number + 1} of {options.rounds}: {suite} in {name}", flush=True)
                    out = Path(temporary) / f"{name}-{suite}-{number}.csv"
                    for key, value in figures(run_suite(root, suite, out, options.minutes)).items():
                        measured[name][key].append(value)
    found = changes(measured["base"], measured["here"])
    gone = [" ".join(key) for key in measured["base"] if key not in measured["here"]]
    print(report(found))
    for name in gone:
        print(f"gone: {name}")
    dropped = sum(change.is_drop for change in found)
    print(f"{len(found)} figures compared, {dropped} dropped by over {DROP:.0%} beyond the spread, {len(gone)} gone")
    return int(dropped > 0 or bool(gone) or not found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
