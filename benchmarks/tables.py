"""The tables that the pages show, made of the newest results."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import FOLDER, Row, newest_results

REPOSITORY = Path(__file__).resolve().parents[1]
PEERS = {
    "stock fp32": "stock fp32",
    "stock tf32": "stock tf32",
    "stock autocast bf16": "stock bf16",
    "stock autocast fp16": "stock fp16",
    "stock autocast channels_last bf16": "stock bf16 in channels_last",
    "stock autocast channels_last fp16": "stock fp16 in channels_last",
    "stock graph bf16": "stock bf16 as a CUDA graph",
    "stock graph fp16": "stock fp16 as a CUDA graph",
    "stock compiled fp32": "compiled stock fp32",
    "stock compiled bf16": "compiled stock bf16",
    "stock compiled fp16": "compiled stock fp16",
    "stock": "PyTorch",
    "stock channels_last": "PyTorch in channels_last",
    "stock slice by slice": "stock slice by slice",
    "stock in batches": "stock in batches",
    "numpy": "NumPy",
    "torch": "PyTorch",
    "pydicom": "pydicom + PyTorch",
    "monai": "MONAI",
    "torchmetrics": "torchmetrics",
}
"""Whom README's table names, by the titles in the results."""


@dataclass(frozen=True)
class Highlight:
    """A line of README's table.

    Attributes:
        text: what is done; {shape} is the case's.
        suite: of the figures.
        case: of the figures.
        dtypes: of fastliver's figures; the first one in the results.
        metric: the figure that stands beside the ratios.
        shape: of the case; the first one in the results where none is named.
        mode: forward, backward or full.
    """

    text: str
    suite: str
    case: str
    dtypes: tuple[str, ...]
    metric: str = "rate"
    shape: str = ""
    mode: str = "full"

    def rows(self, rows: Sequence[Row]) -> dict[str, Row]:
        """Its figures by metric."""
        wanted = (self.suite, self.case, "fastliver", self.mode)
        mine = [row for row in rows if tuple(row[name] for name in ("suite", "case", "provider", "mode")) == wanted]
        mine = [row for row in mine if row["dtype"] in self.dtypes and row["shape"] in (self.shape or row["shape"],)]
        first = [(row["shape"], row["dtype"]) for row in mine][:1]
        return {row["metric"]: row for row in mine if [(row["shape"], row["dtype"])] == first}


HIGHLIGHTS = (
    Highlight("EssNet training step {shape}, {dtype}", "train_step", "essnet", ("fp32",), "time"),
    Highlight("EssNet training step {shape}, {dtype}", "train_step", "essnet", ("bf16", "fp16"), "time"),
    Highlight("U-Net training step {shape}, {dtype}", "train_step", "unet", ("fp32",), "time"),
    Highlight("U-Net training step {shape}, {dtype}", "train_step", "unet", ("bf16", "fp16"), "time"),
    Highlight(
        "3x3 convolution of a residual block {shape}, fp32, in operations of a direct one",
        *("convolution", "block 256", ("fp32",)),
        mode="forward",
    ),
    Highlight("its gradients", "convolution", "block 256", ("fp32",), mode="backward"),
    Highlight("synthetic MR of {shape}", "inference", "synthesize", ("fp32",)),
    Highlight("segmentation of {shape}", "inference", "segment", ("fp32",)),
    Highlight("CT files 512x512, window and resize to {shape}", "decode", "files", ("fp16",)),
    Highlight("the same as JPEG 2000", "decode", "jpeg2000", ("fp16",)),
    Highlight("Dice of masks {shape}", "overlap", "dice", ("uint8",), "time", "2050x256x256"),
)


def number(text: str) -> str:
    """Three digits of a figure, with commas."""
    value = float(text)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


@dataclass(frozen=True)
class Line:
    """A line of README's table: what is done, the figure, and how many times as fast that is as whom."""

    what: str
    figure: str
    ratios: tuple[tuple[str, float], ...]


def highlights(rows: Sequence[Row]) -> Iterator[Line]:
    """The lines of one device."""
    for highlight in HIGHLIGHTS:
        mine = highlight.rows(rows)
        if highlight.metric in mine:
            main = mine[highlight.metric]
            found = [(name, mine.get(f"speed vs {title}")) for title, name in PEERS.items()]
            ratios = tuple((name, float(row["p50"])) for name, row in found if row)
            what = highlight.text.format(shape=main["shape"], dtype=main["dtype"])
            yield Line(what, f"{number(main['p50'])} {main['unit']}", ratios)


def devices() -> list[tuple[str, list[Row]]]:
    """The folders of results with their newest rows, GPUs first."""
    folders = sorted(
        (path for path in FOLDER.iterdir() if path.is_dir()), key=lambda path: (path.name == "cpu", path.name)
    )
    return [(path.name, of_newest_device(newest_results(path))) for path in folders]


def of_newest_device(rows: Sequence[Row]) -> list[Row]:
    """The rows of the machine that the newest one was measured on: a folder may hold several CPUs'."""
    newest = max(rows, key=lambda row: row["date"], default=None)
    return [row for row in rows if newest is not None and row["device"] == newest["device"]]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def where(rows: Sequence[Row]) -> str:
    """What rows of one device were measured with, and when."""
    versions = " and ".join(sorted({row["torch"] for row in rows}))
    days = sorted({row["date"][:10] for row in rows})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return f"{rows[0]['device']}, torch {versions}, {when}"


def readme_table() -> str:
    """The highlights of every device."""
    parts = []
    for _, rows in devices():
        lines = [
            (line.what, line.figure, ", ".join(f"{number(str(ratio))}x {name}" for name, ratio in line.ratios))
            for line in highlights(rows)
        ]
        if lines:
            parts.append(f"{where(rows)}:\n\n" + markdown(("what", "here", "times as fast as"), lines))
    return "\n".join(parts)


def ratio_tables() -> str:
    """Every ratio of every device, with its spread."""
    parts = []
    for name, rows in devices():
        found = [
            (
                *(row["suite"], f"{row['case']} {row['shape']}", row["mode"], f"{row['provider']} {row['dtype']}"),
                row["metric"].removeprefix("speed vs "),
                f"{float(row['p50']):.2f} ({float(row['p20']):.2f} to {float(row['p80']):.2f})",
            )
            for row in rows
            if row["unit"] == "x"
        ]
        if found:
            head = ("suite", "case", "mode", "this", "beside", "times as fast (20 to 80 %)")
            parts.append(f"### {name}\n\n{where(rows)}.\n\n{markdown(head, found)}")
    return "\n".join(parts)


def kernel_table() -> str:
    """GB/s of fastliver's operators, and the share of a copy's, by device."""
    parts = []
    for name, rows in devices():
        kernels = [row for row in rows if row["suite"] == "kernels"]
        found: dict[tuple[str, ...], dict[tuple[str, str], float]] = {}
        for row in kernels:
            if row["provider"] == "fastliver" and row["metric"] in ("rate", "speed vs copy"):
                key = (row["case"], row["shape"], row["dtype"])
                found.setdefault(key, {})[row["mode"], row["metric"]] = float(row["p50"])
        lines = [
            (
                *key,
                *(
                    f"{figures[mode, 'rate']:,.3g} ({figures[mode, 'speed vs copy']:.0%})"
                    for mode in ("forward", "backward")
                ),
            )
            for key, figures in found.items()
            if all(
                (mode, metric) in figures for mode in ("forward", "backward") for metric in ("rate", "speed vs copy")
            )
        ]
        if lines:
            what = "PyTorch definitions" if name == "cpu" else "Triton kernels"
            head = ("call", "shape", "dtype", "forward, GB/s (of a copy's)", "backward, GB/s (of a copy's)")
            parts.append(f"{what}, {where(kernels)}:\n\n{markdown(head, lines)}")
    return "\n".join(parts)


def plots() -> str:
    """The pictures of every device."""
    lines = [
        f"![{path.stem.replace('_', ' ')} on {path.parent.name}](benchmarks/{path.parent.name}/{path.name})\n"
        for path in sorted((REPOSITORY / "docs" / "benchmarks").glob("*/*.svg"))
    ]
    return "\n".join(lines)


SCORES = (
    "training_images",
    "arrangement",
    "real",
    "synthetic",
    "dice",
    "dice_difference",
    "iou",
    "paper_dice",
    "paper_iou",
)
CURVE = (
    *("labelled_patients", "source", "synthetic", "seeds", "dice", "dice_low", "dice_high"),
    *("dice_difference", "dice_difference_low", "dice_difference_high"),
)
COST = ("network", "device", "parameters", "epochs", "seconds_per_epoch", "hours", "memory_gib", "images_per_second")
PAPER = {"table3": SCORES, "table4": COST, "table5": SCORES, "learning_curve": CURVE}
"""Columns of the experiment's tables that the page shows."""


def shown(text: str) -> str:
    """A cell of a CSV for a reader."""
    try:
        value = float(text)
    except ValueError:
        return text
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4f}" if abs(value) < 10 else f"{value:,.1f}"


def paper_tables() -> str:
    """What `benchmarks.paper` wrote on each device."""
    parts = []
    for folder in sorted(FOLDER.glob("*/paper*")):
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        setting = (
            f"Other than in the paper: `{' '.join(about['options'])}`" if about["options"] else "The paper's setting"
        )
        left = f" Not run: {'; '.join(about['not run'])}." if about["not run"] else ""
        parts.append(f"### {folder.name} on {about['device']}\n\n{setting}; {about['date'][:10]}.{left}\n")
        for name, columns in PAPER.items():
            path = folder / f"{name}.csv"
            if path.exists():
                with path.open(newline="", encoding="utf-8") as file:
                    rows = list(csv.DictReader(file))
                there = [column for column in columns if column in rows[0]]
                parts.append(
                    markdown(
                        [column.replace("_", " ") for column in there],
                        [[shown(row[column]) for column in there] for row in rows],
                    )
                )
    return "\n".join(parts)
