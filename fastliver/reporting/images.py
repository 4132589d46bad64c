"""Figures made of images: synthesis, segmentation, ablation (the paper's Figures 7, 9, 11 and 12)."""

import zlib
from collections.abc import Sequence
from typing import Any
from zipfile import BadZipFile

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from fastliver.errors import InputError
from fastliver.reporting.picture import SKY, VERMILLION, YELLOW, Picture, new_figure
from fastliver.reporting.results import SOURCES, Group, find, load_groups, shown
from fastliver.run_folder import RunFolder

Array = NDArray[Any]

ROWS = 5
AGREEMENT, MISSED, EXTRA = SKY, YELLOW, VERMILLION
THRESHOLD = 0.5
"""A pixel is liver above this probability, as in the scores."""


def _load(run: RunFolder, name: str) -> dict[str, Array] | None:
    path = run.arrays(name)
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except (ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: damaged ({error}); delete it, and the report leaves its pictures out") from error


def _spread_rows(count: int) -> list[int]:
    """Up to ROWS places evenly over `count`: which images are shown doesn't depend on how they came out."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, ROWS))}) if count else []


def _grid(
    rows: int, titles: Sequence[str], size: float = 1.75, left: float = 0.0, bottom: float = 0.0
) -> tuple[Figure, list[list[Axes]]]:
    """Axes for square images of `size` inches, with room for labels on the left and a legend at the bottom."""
    figure = new_figure(size * len(titles) + left, size * rows + 0.25 + bottom)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
    axes = figure.subplots(rows, len(titles), squeeze=False)
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=9, pad=4)
    return figure, [list(row) for row in axes]


def _show(ax: Axes, image: Array, contour: Array | None = None) -> None:
    """One slice in grey as a radiologist sees it, with the outline of a mask where one is given."""
    ax.imshow(image.astype(np.float32), cmap="gray", vmin=-1, vmax=1)
    if contour is not None and contour.any():
        ax.contour(contour > 0, levels=[0.5], colors=[YELLOW], linewidths=0.9)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    ax.spines[:].set_visible(False)


def synthesis_picture(run: RunFolder) -> Picture | None:
    """Labelled CT, and the MR made from it."""
    for job in ("essnet", "cyclegan"):
        samples = _load(run, f"samples-{job}")
        if samples is not None and len(samples["ct"]):
            break
    else:
        return None
    rows = _spread_rows(len(samples["ct"]))
    figure, grid = _grid(len(rows), ["CT", "Synthetic MR", "Synthetic MR − CT", "CT, label", "Synthetic MR, label"])
    for axes, row in zip(grid, rows, strict=True):
        ct, synthetic, label = (samples[key][row] for key in ("ct", "synthetic", "label"))
        _show(axes[0], ct)
        _show(axes[1], synthetic)
        _show(axes[2], synthetic)
        axes[2].imshow(synthetic.astype(np.float32) - ct.astype(np.float32), cmap="RdBu_r", vmin=-2, vmax=2)
        _show(axes[3], ct, label)
        _show(axes[4], synthetic, label)
    caption = (
        f"CT slices, the MR that {SOURCES[job]} made from each, their difference (red brighter in MR, blue darker; "
        "edges in it are organs that moved or were invented), and the CT's liver label on both. The U-Net learns from "
        "the synthetic MR with that label, so the outline must fit the liver in the last column too. Slices are evenly "
        "spaced over the samples, not picked by how they came out."
    )
    alt = (
        f"{len(rows)} rows: a CT slice, the synthetic MR made from it, their difference, and both again with the CT's "
        "liver label outlined."
    )
    return Picture("synthesis", "Synthetic MR from labelled CT", caption, alt, figure)


def ablation_picture(run: RunFolder) -> Picture | None:
    """The same CT through CycleGAN and through EssNet."""
    cyclegan, essnet = _load(run, "samples-cyclegan"), _load(run, "samples-essnet")
    if cyclegan is None or essnet is None or cyclegan["ct"].shape[1:] != essnet["ct"].shape[1:]:
        return None
    # The two sample files are compared image by image: a run that was repeated for one of them may show other slices.
    count = min(len(cyclegan["ct"]), len(essnet["ct"]))
    same = [row for row in range(count) if np.array_equal(cyclegan["ct"][row], essnet["ct"][row])]
    if not same:
        return None
    rows = [same[place] for place in _spread_rows(len(same))]
    figure, grid = _grid(len(rows), ["CT", "CycleGAN", "EssNet"], size=2.0)
    for axes, row in zip(grid, rows, strict=True):
        for ax, image in zip(axes, (essnet["ct"], cyclegan["synthetic"], essnet["synthetic"]), strict=True):
            _show(ax, image[row], essnet["label"][row])
    caption = (
        "The same CT slices turned into MR without the segmentor (CycleGAN) and with it (EssNet), each with the CT's "
        "liver label. Where outline and liver part, the label is wrong for the image that the U-Net learns from."
    )
    alt = f"{len(rows)} rows: a CT slice, CycleGAN's synthetic MR and EssNet's, with the CT's liver label outlined."
    return Picture("ablation", "Synthesis without and with the segmentor", caption, alt, figure)


def _overlay(truth: Array, predicted: Array) -> Array:
    """Agreement, missed and extra pixels as one RGBA image."""
    colours = np.zeros((*truth.shape, 4), dtype=np.float32)
    colours[truth & predicted] = to_rgba(AGREEMENT, 0.35)
    colours[truth & ~predicted] = to_rgba(MISSED, 0.9)
    colours[~truth & predicted] = to_rgba(EXTRA, 0.9)
    return colours


def _window(masks: Sequence[Array]) -> tuple[int, int, int]:
    """Top, left and side of a square around all masks, with a margin; the whole image where they are empty."""
    union = np.logical_or.reduce(masks)
    height, width = union.shape
    if not union.any():
        return 0, 0, max(height, width)
    ys, xs = np.nonzero(union)
    largest = min(height, width)
    side = min(largest, max(largest // 3, int(1.25 * max(np.ptp(ys), np.ptp(xs)) + 1)))
    top = int(np.clip((ys.min() + ys.max() - side) // 2, 0, height - side))
    left = int(np.clip((xs.min() + xs.max() - side) // 2, 0, width - side))
    return top, left, side


def _dice(truth: Array, predicted: Array) -> str:
    total = int(truth.sum()) + int(predicted.sum())
    return f"Dice {2 * int((truth & predicted).sum()) / total:.3f}" if total else "no liver"


def _write(ax: Axes, text: str) -> None:
    """A few words in the lower left corner of an image."""
    box = {"facecolor": "black", "alpha": 0.6, "edgecolor": "none", "pad": 1.5}
    ax.text(0.03, 0.03, text, transform=ax.transAxes, color="white", fontsize=7.5, bbox=box)


def _overlay_legend(figure: Figure) -> None:
    shades = {"agreement": AGREEMENT, "missed liver": MISSED, "extra": EXTRA}
    handles = [Patch(facecolor=colour, edgecolor="#6B6B6B", label=name) for name, colour in shades.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)


def _first_seed(run: RunFolder, groups: Sequence[Group]) -> tuple[int, dict[str, dict[str, Array]]] | None:
    """The lowest seed for which most of `groups` kept their images, and those images by source."""
    best: tuple[int, dict[str, dict[str, Array]]] | None = None
    for seed in sorted({result["seed"] for group in groups for result in group.runs}):
        found = {
            group.source: arrays
            for group in groups
            for result in group.runs
            if result["seed"] == seed and (arrays := _load(run, result["job"])) is not None and len(arrays["image"])
        }
        if found and (best is None or len(found) > len(best[1])):
            best = seed, found
    return best


def segmentation_picture(run: RunFolder) -> Picture | None:
    """Test slices with each U-Net's agreement and errors."""
    groups = load_groups(run)
    combined = shown(groups)
    compared = [find(groups, "real"), combined]
    if combined is not None and combined.source == "essnet":
        compared.insert(1, find(groups, "cyclegan", combined.arrangement))
    kept = [group for group in compared if group]
    found = _first_seed(run, kept)
    if found is None:
        return None
    seed, arrays = found
    kept = [group for group in kept if group.source in arrays]
    first = arrays[kept[0].source]
    rows = _spread_rows(len(first["image"]))
    names = [group.label if group.source == "real" else f"{group.label}\n{SOURCES[group.source]}" for group in kept]
    figure, grid = _grid(len(rows), ["Test MR", "Truth", *names], left=0.35, bottom=0.35)
    for axes, row in zip(grid, rows, strict=True):
        image, truth = first["image"][row], first["label"][row] > 0
        predictions = [arrays[group.source]["probability"][row] > THRESHOLD for group in kept]
        top, left, side = _window([truth, *predictions])
        for ax in axes:
            _show(ax, image)
        for ax, mask in zip(axes[1:], [truth, *predictions], strict=True):
            ax.imshow(_overlay(truth, mask), interpolation="nearest")
            ax.set_xlim(left - 0.5, left + side - 0.5)
            ax.set_ylim(top + side - 0.5, top - 0.5)
        for ax, mask in zip(axes[2:], predictions, strict=True):
            _write(ax, _dice(truth, mask))
        frame = Rectangle(
            (left - 0.5, top - 0.5), side, side, fill=False, edgecolor="white", linewidth=0.8, linestyle="--"
        )
        axes[0].add_patch(frame)
        axes[0].set_ylabel(f"{first['patient'][row]}\nz {float(first['z'][row]):.0f} mm", fontsize=8, parse_math=False)
    _overlay_legend(figure)
    caption = (
        f"Test slices with their true liver and what each U-Net made of them (seed {seed}): blue where they agree, "
        "yellow liver that was missed, red extra. The dashed frame is the part that the other columns enlarge. Slices "
        "are evenly spaced over those kept, not picked by score."
    )
    alt = f"{len(rows)} test slices with the true liver mask and the agreement and errors of: {', '.join(names)}."
    return Picture("segmentation", "Segmentation of test slices", caption, alt.replace("\n", " "), figure)


def extremes_picture(run: RunFolder) -> Picture | None:
    """The test slices on which the U-Net did worst and best."""
    groups = load_groups(run)
    for group in (shown(groups), find(groups, "real")):
        for result in group.runs if group else ():
            arrays = _load(run, f"{result['job']}-extremes")
            if arrays is not None and len(arrays["image"]):
                return _extremes(arrays, group.label if group else "", int(result["seed"]))
    return None


def _extremes(arrays: dict[str, Array], label: str, seed: int) -> Picture:
    count = len(arrays["image"])
    worst = (count + 1) // 2
    figure, grid = _grid(2, [f"#{place + 1}" for place in range(worst)], size=1.9, left=0.35, bottom=0.35)
    for ax in (ax for axes in grid for ax in axes):
        ax.set_axis_off()
    for place in range(count):
        row, column = divmod(place, worst)
        ax = grid[row][column]
        ax.set_axis_on()
        truth, predicted = arrays["label"][place] > 0, arrays["probability"][place] > THRESHOLD
        _show(ax, arrays["image"][place])
        ax.imshow(_overlay(truth, predicted), interpolation="nearest")
        _write(ax, f"{arrays['patient'][place]}, z {float(arrays['z'][place]):.0f}\n{_dice(truth, predicted)}")
    for axes, name in zip(grid, ("worst", "best"), strict=True):
        axes[0].set_ylabel(name)
    _overlay_legend(figure)
    caption = (
        f"Test slices with liver on which {label} (seed {seed}) scored the lowest and the highest Dice: blue "
        "agreement, yellow liver that was missed, red extra. The worst are mostly the liver's ends, where little of it "
        "shows."
    )
    alt = f"{worst} worst and {count - worst} best test slices of {label} with agreement and errors."
    return Picture("extremes", "Worst and best test slices", caption, alt, figure)
