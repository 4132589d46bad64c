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
    "stock autocast bf16": "stock with autocast",
    "stock compiled fp32": "compiled stock fp32",
    "stock compiled bf16": "compiled stock bf16",
    "stock": "PyTorch",
    "stock channels_last": "PyTorch, channels_last",
    "stock slice by slice": "stock, slice by slice",
    "stock in batches": "stock, in batches",
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
        dtype: of fastliver's figures.
        metric: the figure that stands beside the ratios.
        shape: of the case; the first one in the results where none is named.
        mode: forward, backward or full.
    """

    text: str
    suite: str
    case: str
    dtype: str
    metric: str = "rate"
    shape: str = ""
    mode: str = "full"

    def rows(self, rows: Sequence[Row]) -> dict[str, Row]:
        """Its figures by metric."""
        wanted = (self.suite, self.case, self.dtype, "fastliver", self.mode)
        mine = [
            row for row in rows if tuple(row[name] for name in ("suite", "case", "dtype", "provider", "mode")) == wanted
        ]
        shape = self.shape or (mine[0]["shape"] if mine else "")
        return {row["metric"]: row for row in mine if row["shape"] == shape}


HIGHLIGHTS = (
    Highlight("EssNet training step {shape}, fp32", "train_step", "essnet", "fp32", "time"),
    Highlight("EssNet training step {shape}, bf16", "train_step", "essnet", "bf16", "time"),
    Highlight("U-Net training step {shape}, fp32", "train_step", "unet", "fp32", "time"),
    Highlight("U-Net training step {shape}, bf16", "train_step", "unet", "bf16", "time"),
    Highlight("3x3 convolution of a residual block {shape}, fp32", "convolution", "block 256", "fp32", mode="forward"),
    Highlight("the same, gradients", "convolution", "block 256", "fp32", mode="backward"),
    Highlight("synthetic MR of {shape}", "inference", "synthesize", "fp32"),
    Highlight("segmentation of {shape}", "inference", "segment", "fp32"),
    Highlight("CT files 512x512, window and resize to {shape}", "decode", "files", "fp16"),
    Highlight("the same as JPEG 2000", "decode", "jpeg2000", "fp16"),
    Highlight("Dice of masks {shape}", "overlap", "dice", "uint8", "time", "2050x256x256"),
)


def number(text: str) -> str:
    """Three digits of a figure, with commas."""
    value = float(text)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def highlights(rows: Sequence[Row]) -> Iterator[tuple[str, str, str]]:
    """What, here, and the ratios, of one device."""
    for highlight in HIGHLIGHTS:
        mine = highlight.rows(rows)
        if highlight.metric in mine:
            main = mine[highlight.metric]
            ratios = {name: mine.get(f"speed vs {title}") for title, name in PEERS.items()}
            shown = [f"{float(row['p50']):.2f}x {name}" for name, row in ratios.items() if row]
            text = highlight.text.format(shape=main["shape"])
            yield text, f"{number(main['p50'])} {main['unit']}", ", ".join(shown)


def devices() -> list[tuple[str, list[Row]]]:
    """The folders of results with their newest rows, GPUs first."""
    folders = sorted(
        (path for path in FOLDER.iterdir() if path.is_dir()), key=lambda path: (path.name == "cpu", path.name)
    )
    return [(path.name, newest_results(path)) for path in folders]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def where(rows: Sequence[Row]) -> str:
    """What the newest row was measured with."""
    row = max(rows, key=lambda row: row["date"])
    return f"{row['device']}, torch {row['torch']}, {row['date'][:10]}"


def readme_table() -> str:
    """The highlights of every device."""
    parts = []
    for _, rows in devices():
        lines = list(highlights(rows))
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
CURVE = ("labelled_patients", "source", "synthetic", "seeds", "dice", "dice_low", "dice_high", "dice_difference")
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
        setting = " ".join(about["options"]) or "the paper's setting"
        parts.append(f"### {folder.name} on {about['device']}\n\nWith {setting}; {about['date'][:10]}.\n")
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
