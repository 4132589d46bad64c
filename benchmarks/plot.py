"""`python -m benchmarks.plot`: the newest results as bars, rooflines and curves, SVG in `docs/benchmarks/<device>/`.

Rooflines hold what was reached against what was measured as possible beside it: bytes a second against a copy of as
many bytes, operations a second against the machine's best matrix product or convolution.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.results import Row
from benchmarks.tables import REPOSITORY, devices, highlights
from fastliver.reporting.picture import BLACK, BLUE, GREEN, GREY, ORANGE, SKY, STYLE, VERMILLION, new_figure

SVG = {**STYLE, "svg.fonttype": "none", "svg.hashsalt": "fastliver"}
"""With text as text, and the same bytes for the same figure."""
COLOURS = {
    "fastliver": BLUE,
    "stock": VERMILLION,
    "eager": VERMILLION,
    "compile": ORANGE,
    "library": GREEN,
    "copy": GREY,
}
MEMORY_COLOURS = {
    ("plain", "estimated"): BLUE,
    ("plain", "measured"): BLACK,
    ("checkpointed", "estimated"): GREEN,
    ("checkpointed", "measured"): ORANGE,
}
DTYPE_STYLES = {"fp32": "-", "tf32": "-.", "bf16": "--", "fp16": ":"}
LIMIT_GIB = 6.0
Points = dict[str, list[tuple[float, float]]]


def value(row: Row) -> float:
    return float(row["p50"])


def of_suite(rows: Sequence[Row], suite: str, metric: str) -> list[Row]:
    return [row for row in rows if (row["suite"], row["metric"]) == (suite, metric)]


def draw(ax: Axes, points: Points, styles: Callable[[str], dict[str, Any]]) -> None:
    """Lines with marks, by name."""
    for name, pairs in points.items():
        ax.plot(
            *zip(*sorted(pairs), strict=True), marker="o", markersize=3.5, linewidth=1.3, label=name, **styles(name)
        )


def ratio_bars(rows: Sequence[Row]) -> Figure | None:
    """How many times as fast as each peer, for README's lines."""
    bars = [(f"{line.what}\nvs {name}", ratio) for line in highlights(rows) for name, ratio in line.ratios]
    if not bars:
        return None
    figure = new_figure(8.0, 0.6 + 0.36 * len(bars))
    ax = figure.subplots()
    names, ratios = zip(*reversed(bars), strict=True)
    ax.barh(range(len(bars)), ratios, color=[BLUE if ratio >= 1 else VERMILLION for ratio in ratios], height=0.7)
    ax.set_yticks(range(len(bars)), names, fontsize=6.5)
    ax.set_xscale("log")
    ax.axvline(1, color=BLACK, linewidth=0.8)
    ax.grid(axis="y", visible=False)
    ax.set_ylim(-0.7, len(bars) - 0.3)
    for place, ratio in enumerate(ratios):
        ax.annotate(f"{ratio:.2f}", (ratio, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7)
    ax.set(xlabel="times as fast (1 is equal)", title="fastliver beside others, in one process by turns")
    return figure


def kernel_roofline(rows: Sequence[Row]) -> Figure | None:
    """GB/s of every operator against the bytes it must move, under the copy's GB/s."""
    found = of_suite(rows, "kernels", "rate")
    times = {
        (r["case"], r["shape"], r["dtype"], r["mode"], r["provider"]): value(r)
        for r in of_suite(rows, "kernels", "time")
    }
    modes = [mode for mode in ("forward", "backward") if any(row["mode"] == mode for row in found)]
    if not modes:
        return None
    figure = new_figure(8.4, 4.0)
    for ax, mode in zip(figure.subplots(1, len(modes), squeeze=False, sharey=True)[0], modes, strict=True):
        points: Points = defaultdict(list)
        for row in found:
            key = (row["case"], row["shape"], row["dtype"], row["mode"], row["provider"])
            if row["mode"] == mode and key in times:
                # GB/s times ms is MB.
                points[row["provider"]].append((value(row) * times[key], value(row)))
        for name, pairs in points.items():
            line = {"linestyle": "-", "marker": ""} if name == "copy" else {"linestyle": "", "marker": "o"}
            ax.plot(*zip(*sorted(pairs), strict=True), markersize=3.5, color=COLOURS.get(name, SKY), label=name, **line)
        ax.set(xscale="log", yscale="log", xlabel="MB that must move", title=f"operators, {mode}")
        ax.legend()
    figure.axes[0].set_ylabel("GB/s")
    return figure


def step_roofline(rows: Sequence[Row]) -> Figure | None:
    """TFLOP/s of training steps, under the machine's peak in the same precision."""
    found = of_suite(rows, "train_step", "rate")
    shares = {
        (r["case"], r["shape"], r["provider"], r["dtype"]): value(r)
        for r in of_suite(rows, "train_step", "share of matrix peak")
    }
    cases = list(dict.fromkeys((row["case"], row["shape"]) for row in found))
    if not cases:
        return None
    figure = new_figure(8.4, 0.8 + 0.2 * len(found))
    ax = figure.subplots()
    names = []
    for place, row in enumerate(reversed(found)):
        speed = value(row)
        peak = speed / shares[row["case"], row["shape"], row["provider"], row["dtype"]]
        ax.barh(place, peak, color="#EDEDED", height=0.75)
        ax.barh(place, speed, color=COLOURS[row["provider"].split()[0]], height=0.75)
        ax.annotate(
            f"{speed / peak:.0%}", (speed, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=6.5
        )
        names.append(f"{row['case']} {row['shape']} {row['provider']} {row['dtype']}")
    ax.set_yticks(range(len(names)), names, fontsize=6.5)
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="TFLOP/s; grey is the peak measured in that precision", title="training steps")
    return figure


def _batch(row: Row) -> int:
    return int(row["shape"].split("x")[0])


def _side(row: Row) -> int:
    return int(row["shape"].split("x")[-1])


def scaling(rows: Sequence[Row]) -> Figure | None:
    """Step time against batch, image side and ranks."""
    found = of_suite(rows, "scaling", "time")
    if not found:
        return None
    trainings = list(dict.fromkeys(row["case"] for row in found if "ranks" not in row["case"]))
    figure = new_figure(9.6, 2.9 * len(trainings))
    for line, training in zip(figure.subplots(len(trainings), 3, squeeze=False), trainings, strict=True):
        mine = [row for row in found if row["case"] == training]
        side = min((_side(row) for row in mine if _batch(row) > 1), default=0)
        panels = {
            "batch": [(row, _batch(row)) for row in mine if _side(row) == side],
            "image side": [(row, _side(row)) for row in mine if _batch(row) == 1],
        }
        for ax, (what, chosen) in zip(line, panels.items(), strict=False):
            points: Points = defaultdict(list)
            for row, x in chosen:
                points[f"{row['provider']} {row['dtype']}"].append((x, value(row)))
            draw(
                ax,
                points,
                lambda name: {"color": COLOURS[name.split()[0]], "linestyle": DTYPE_STYLES[name.split()[-1]]},
            )
            ax.set(
                xlabel=what,
                title=f"{training}, {'batch 1' if what == 'image side' else f'side {side}'}",
                ylabel="ms a step",
            )
            ax.set_ylim(bottom=0)
            ax.legend()
        ranks = [row for row in of_suite(rows, "scaling", "rate") if row["case"] == f"{training} ranks"]
        ax = line[2]
        if ranks:
            pairs = sorted((int(row["provider"].split()[1]), value(row)) for row in ranks)
            ax.plot(*zip(*pairs, strict=True), marker="o", markersize=3.5, color=BLUE, label="measured")
            ax.plot(
                [p[0] for p in pairs], [p[0] * pairs[0][1] for p in pairs], color=GREY, linestyle=":", label="ideal"
            )
            ax.set(
                xlabel="ranks, batch 1 each",
                ylabel="images/s",
                title=f"{training}, ranks",
                xticks=[p[0] for p in pairs],
            )
            ax.set_ylim(bottom=0)
            ax.legend()
        else:
            ax.set_axis_off()
    return figure


def memory(rows: Sequence[Row]) -> Figure | None:
    """Memory of the process against batch, estimated and measured."""
    kinds = {"process_estimated": "estimated", "process": "measured"}
    found = [row for row in rows if row["suite"] == "memory" and row["metric"] in kinds]
    # fp16 is estimated to take what bf16 takes.
    found = [row for row in found if row["dtype"] != "fp16" or row["metric"] == "process"]
    if not found:
        return None
    trainings = list(dict.fromkeys(row["case"] for row in found))
    figure = new_figure(8.4, 3.6)
    for ax, training in zip(figure.subplots(1, len(trainings), squeeze=False, sharey=True)[0], trainings, strict=True):
        points: Points = defaultdict(list)
        for row in found:
            if row["case"] == training:
                name = f"{row['mode'].split(',')[0]} {kinds[row['metric']]} {row['dtype']}"
                points[name].append((_batch(row), value(row)))
        draw(
            ax,
            points,
            lambda name: {
                "color": MEMORY_COLOURS[name.split()[0], name.split()[1]],
                "linestyle": DTYPE_STYLES[name.split()[-1]],
            },
        )
        ax.axhline(LIMIT_GIB, color=VERMILLION, linewidth=0.8)
        ax.set(xlabel="batch", title=f"{training}, 256x256", ylim=(0, None))
        ax.legend(fontsize=6.5)
    figure.axes[0].set_ylabel("GiB of the whole process")
    return figure


FIGURES: dict[str, Callable[[Sequence[Row]], Figure | None]] = {
    "ratios": ratio_bars,
    "kernels": kernel_roofline,
    "train_step": step_roofline,
    "scaling": scaling,
    "memory": memory,
}


def svg(figure: Figure, path: Path) -> None:
    """Write a figure; trailing blanks, which matplotlib leaves, go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(SVG):
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    text = path.read_text(encoding="utf-8")
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    """Draw what there is."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=(__doc__ or "").split(": ")[1])
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "benchmarks", help="default docs/benchmarks")
    options = parser.parse_args(arguments)
    for device, rows in devices():
        for name, make in FIGURES.items():
            with matplotlib.rc_context(SVG):
                figure = make(rows)
            if figure is not None:
                svg(figure, options.out / device / f"{name}.svg")
                print(options.out / device / f"{name}.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
