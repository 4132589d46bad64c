"""The CSV that every suite writes: one row a figure, in `benchmarks/results/<device>/<suite>.csv`."""

import csv
import platform
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType

import torch

from benchmarks.measure import PERCENTILES, Percentiles

COLUMNS = (
    "suite", "case", "provider", "mode", "metric", "unit", "p20", "p50", "p80", "shape", "dtype", "device", "driver",
    "torch", "triton", "commit", "date",
)  # fmt: skip
IDENTITY = ("suite", "case", "provider", "mode", "metric", "shape", "dtype")
"""The columns that say what a row is a figure of."""
MOST = 5
"""Repetitions that count, the newest."""
FOLDER = Path(__file__).resolve().parent / "results"

Row = dict[str, str]


def _printed_by(*command: str) -> str:
    """The first line that a command prints, or "unknown"."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return (done.stdout.splitlines() or ["unknown"])[0].strip()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    """What the CPU calls itself, and the threads that PyTorch uses of it."""
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = (line.partition(":") for line in information.read_text(encoding="utf-8").splitlines())
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    return f"{name}, {torch.get_num_threads()} threads"


def surroundings(device: torch.device) -> dict[str, str]:
    """The columns that all rows of a sitting share."""
    cuda = device.type == "cuda"
    folder = str(Path(__file__).resolve().parent)
    return {
        "device": torch.cuda.get_device_name(device) if cuda else _processor(),
        "driver": _printed_by("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if cuda else "none",
        "torch": torch.__version__,
        "triton": _version("triton"),
        "commit": _printed_by("git", "-C", folder, "describe", "--always", "--dirty"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def results_folder(device: torch.device) -> Path:
    """`benchmarks/results/<device>`: a GPU's name in small letters with hyphens, or cpu."""
    if device.type != "cuda":
        return FOLDER / "cpu"
    name = torch.cuda.get_device_name(device).lower()
    return FOLDER / "-".join("".join(c if c.isalnum() else " " for c in name).split())


class Results:
    """Rows of a suite, appended to a CSV one by one, so that a sitting that is cut off leaves what it had.

    Args:
        path: the file; made with its header, and its folder, if it isn't there.
        suite: name of the suite.
        shared: the columns of `surroundings`.

    Raises:
        ValueError: if the file exists with other columns.
    """

    def __init__(self, path: Path, suite: str, shared: dict[str, str]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size:
            read_rows(path)
        self.common = {"suite": suite, **shared}
        self.file = path.open("a", newline="", encoding="utf-8")
        self.writer = csv.DictWriter(self.file, COLUMNS, lineterminator="\n")
        if self.file.tell() == 0:
            self.writer.writeheader()

    def add(self, metric: str, unit: str, values: Percentiles, **columns: str) -> None:
        """Write a row: case, provider, mode, shape and dtype by name, and the three percentiles."""
        numbers = {f"p{p}": f"{value:.6g}" for p, value in zip(PERCENTILES, values, strict=True)}
        self.writer.writerow({**self.common, **columns, "metric": metric, "unit": unit, **numbers})
        self.file.flush()

    def __enter__(self) -> "Results":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()


def read_rows(path: Path) -> list[Row]:
    """The rows of a results file.

    Raises:
        ValueError: if it has other columns.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        found = tuple(reader.fieldnames or ())
        if found != COLUMNS:
            raise ValueError(f"{path}: its columns are {', '.join(found)}; expected {', '.join(COLUMNS)}")
        return list(reader)


def newest(rows: Iterable[Row]) -> list[Row]:
    """The rows of the same figure as one, in the order in which figures first came: the newest and its repetitions.

    A process's own percentiles hide how much two processes differ (where their memory lies, what else the machine
    does). So p50 is the median of the processes' medians, p20 the lowest and p80 the highest of their percentiles.
    """
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[column] for column in IDENTITY), []).append(row)
    return [_pooled(repetitions) for repetitions in found.values()]


def _circumstances(row: Row) -> tuple[str, ...]:
    """What rows of the same figure have in common if they are repetitions of one another."""
    # Rows themselves make the tree dirty that they are written into.
    return row["device"], row["torch"], row["triton"], row["commit"].removesuffix("-dirty")


def _pooled(rows: Sequence[Row]) -> Row:
    in_time = sorted(rows, key=lambda row: row["date"])  # stable: of one date the later row is the newer
    last = in_time[-1]
    alike = [row for row in in_time if _circumstances(row) == _circumstances(last)][-MOST:]
    pooled = {
        "p20": min(float(row["p20"]) for row in alike),
        "p50": statistics.median(float(row["p50"]) for row in alike),
        "p80": max(float(row["p80"]) for row in alike),
    }
    return {**last, **{name: f"{value:.6g}" for name, value in pooled.items()}}


def newest_results(folder: Path) -> list[Row]:
    """The newest rows of every suite of a device; none where the folder isn't there."""
    return newest(row for path in sorted(folder.glob("*.csv")) for row in read_rows(path))
