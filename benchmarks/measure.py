"""Timing on a GPU, CUDA graphs, and the CSV that every suite writes."""

import csv
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

COLUMNS = (
    "suite", "case", "provider", "mode", "metric", "unit", "p20", "p50", "p80", "shape", "dtype", "device", "driver",
    "torch", "triton", "commit", "date",
)  # fmt: skip
PERCENTILES = (20, 50, 80)
FLUSH_BYTES = 256 * 2**20
"""More than the L2 of any GPU so far (126 MB on a B200)."""


def percentiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """The 20th, 50th and 80th percentile."""
    p20, p50, p80 = np.percentile(np.asarray(samples, dtype=np.float64), PERCENTILES)
    return float(p20), float(p50), float(p80)


def rates(amount: float, times: tuple[float, float, float]) -> tuple[float, float, float]:
    """Percentiles of amount / time from those of the times: the slowest fifth of the rates has the longest times."""
    p20, p50, p80 = times
    return amount / p80, amount / p50, amount / p20


def captured(step: Callable[[], Any], device: torch.device, warmups: int = 3) -> Callable[[], Any]:
    """Something that repeats `step`: the replay of a CUDA graph on a GPU, `step` itself on a CPU.

    What `step` made before (outputs that a backward goes through) has to come from the current stream, on which the
    graph is captured: autograd runs a backward on the stream of its forward.
    """
    if device.type != "cuda":
        return step
    for _ in range(warmups):
        step()
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream(device)):
        step()
    return graph.replay


class Stopwatch:
    """Times work on a GPU between events, with the L2 overwritten before each repeat.

    Args:
        device: a CUDA device.
        repeats: how often the work is timed, after a tenth of it unmeasured.
    """

    def __init__(self, device: torch.device, repeats: int = 100) -> None:
        self.repeats = repeats
        self.flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)

    def microseconds(self, work: Callable[[], Any]) -> tuple[float, float, float]:
        """Percentiles over the repeats."""
        events = []
        for _ in range(self.repeats + self.repeats // 10 + 1):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            # Writing the flush also takes the GPU so long that the launch below is queued before it begins.
            self.flush.zero_()
            start.record()
            work()
            end.record()
            events.append((start, end))
        torch.cuda.synchronize(self.flush.device)
        return percentiles([1e3 * start.elapsed_time(end) for start, end in events[-self.repeats :]])


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


def surroundings(device: torch.device) -> dict[str, str]:
    """The columns that all rows of a sitting share."""
    cuda = device.type == "cuda"
    folder = str(Path(__file__).resolve().parent)
    return {
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "driver": _printed_by("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if cuda else "none",
        "torch": torch.__version__,
        "triton": _version("triton"),
        "commit": _printed_by("git", "-C", folder, "describe", "--always", "--dirty"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def results_folder(device_name: str) -> Path:
    """`benchmarks/results/<device>`, the name in small letters with hyphens."""
    slug = "-".join("".join(c if c.isalnum() else " " for c in device_name.lower()).split())
    return Path(__file__).resolve().parent / "results" / slug


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
            with path.open(newline="", encoding="utf-8") as file:
                found = next(csv.reader(file))
            if tuple(found) != COLUMNS:
                raise ValueError(f"{path}: its columns are {', '.join(found)}; expected {', '.join(COLUMNS)}")
        self.common = {"suite": suite, **shared}
        self.file = path.open("a", newline="", encoding="utf-8")
        self.writer = csv.DictWriter(self.file, COLUMNS)
        if self.file.tell() == 0:
            self.writer.writeheader()

    def add(self, metric: str, unit: str, values: tuple[float, float, float], **columns: str) -> None:
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
