"""What every figure shares: colours, type, and the way to PNG."""

import io
import math
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fastliver.reporting.results import SOURCES, Estimate, Group

# Okabe and Ito's colours, which stay apart for colour-blind readers.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
)
GREY = "#6B6B6B"

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@dataclass(frozen=True)
class Picture:
    """One figure of the report; `name` is that of its PNG file, `alt` says what a reader without the image misses."""

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure


def new_figure(width: float, height: float) -> Figure:
    """A figure of `width` x `height` inches with its own canvas: no state outlives it."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as PNG; without the date and version in it, the same figure gives the same bytes."""
    file = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format="png", dpi=130, metadata={"Software": None})
    return file.getvalue()


def dots(ax: Axes, points: list[tuple[float, Estimate]], shift: float = 0, **style: Any) -> None:
    """Means joined by a line, with their intervals where there are any; `shift` keeps bars off each other."""
    xs = [x + shift for x, _ in points]
    halves = [value.half or math.nan for _, value in points]
    ax.errorbar(xs, [value.mean for _, value in points], yerr=halves, capsize=3, markersize=5, linewidth=1.3, **style)


def seed_dots(ax: Axes, x: float, group: Group) -> None:
    """The Dice of each seed as a dot above `x`, where there are several."""
    seeds = list(group.scores("dice").values())
    if len(seeds) > 1:
        ax.plot([x] * len(seeds), seeds, ".", color=BLACK, markersize=4, alpha=0.55, zorder=4)


def group_styles(groups: list[Group]) -> dict[tuple[str, int], dict[str, Any]]:
    """Line styles by training set: black for real only, a sequence of colours for EssNet, dashed red for CycleGAN."""
    sequence = matplotlib.colormaps["viridis"]
    arrangements = sorted({group.arrangement for group in groups if group.source != "real"})
    styles: dict[tuple[str, int], dict[str, Any]] = {}
    for group in groups:
        style: dict[str, Any] = {"color": BLACK, "label": group.label}
        if group.source == "essnet":
            style["color"] = sequence(
                0.2 + 0.65 * arrangements.index(group.arrangement) / max(1, len(arrangements) - 1)
            )
        elif group.source == "cyclegan":
            style = {"color": VERMILLION, "linestyle": "--", "label": f"{group.label}, {SOURCES[group.source]}"}
        styles[group.source, group.arrangement] = style
    return styles
