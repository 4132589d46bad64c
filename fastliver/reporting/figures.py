"""Figures made of curves, and the list of all figures of a report."""

import itertools
import math
from collections import defaultdict
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fastliver.reporting import paper
from fastliver.reporting.images import (
    ablation_picture,
    extremes_picture,
    segmentation_picture,
    synthesis_picture,
)
from fastliver.reporting.learning_curve import learning_curve_picture
from fastliver.reporting.picture import (
    BLACK,
    BLUE,
    GREY,
    STYLE,
    VERMILLION,
    Picture,
    dots,
    group_styles,
    new_figure,
    seed_dots,
)
from fastliver.reporting.results import Estimate, Group, difference, find, is_number, load_groups, shown
from fastliver.run_folder import PACE, RunFolder

NETWORK_STYLES: dict[str, dict[str, Any]] = {
    "essnet": {"color": BLUE, "label": "EssNet"},
    "cyclegan": {"color": VERMILLION, "label": "CycleGAN", "linestyle": "--"},
}
COLUMNS = 3
POINTS_DRAWN = 300
"""A longer curve is averaged over as many points as make it about this long."""

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


def roc_picture(run: RunFolder) -> Picture | None:
    """The ROC curve of each training set."""
    groups = [group for group in load_groups(run) if len(group.runs[0].get("roc", {}).get("fpr", [])) > 1]
    if not groups:
        return None
    figure = new_figure(6.2, 5.8)
    ax = figure.subplots()
    # The curves hug the corner: only an enlargement of it tells them apart.
    corner = ax.inset_axes((0.40, 0.46, 0.57, 0.42), zorder=5)
    lowest = 1.0
    styles = group_styles(groups)
    for group in groups:
        roc, auc = group.runs[0]["roc"], group.mean("auc")
        style = styles[group.source, group.arrangement]
        name = style["label"] + ("" if auc is None else f", AUC {auc:.4f}")
        ax.plot(roc["fpr"], roc["tpr"], linewidth=1.4, **{**style, "label": name})
        corner.plot(roc["fpr"], roc["tpr"], linewidth=1.4, **style)
        lowest = min(lowest, float(np.interp(0.01, roc["fpr"], roc["tpr"])))
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="False positive rate", ylabel="True positive rate")
    corner.set(xlim=(0, 0.05), ylim=(min(0.98, math.floor(20 * lowest) / 20), 1.001))
    corner.tick_params(labelsize=7)
    corner.set_title("enlarged", fontsize=8, color=GREY)
    ax.indicate_inset_zoom(corner, edgecolor=GREY, alpha=0.6)
    ax.legend(loc="lower right", frameon=True, framealpha=1, edgecolor="white")
    caption = (
        "Pixels of the test slices as liver or not at every threshold (the paper's Figure 10). Curves are those of "
        "each training set's first seed; AUC is the mean over its seeds."
    )
    # Labels hold commas.
    alt = "ROC curves, with the upper left corner enlarged, of: " + "; ".join(
        style["label"] for style in styles.values()
    )
    return Picture("roc", "ROC curves", caption, alt + ".", figure)


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Averages over neighbouring points, so that a long noisy curve can be read."""
    size = math.ceil(len(values) / POINTS_DRAWN)
    starts = np.arange(0, len(values), size)
    return np.add.reduceat(values, starts) / np.diff(np.append(starts, len(values)))


def _curves(run: RunFolder) -> dict[str, dict[str, Curve]]:
    """Loss curves by job and name; a step logged again after a resume counts once, as last written."""
    raw: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for line in run.read_metrics():
        for key, value in line.items():
            if key not in ("step", "epoch", *PACE) and is_number(value):
                raw[line["job"]][key][line["step"]] = value
    curves: dict[str, dict[str, Curve]] = defaultdict(dict)
    for job, losses in raw.items():
        for key, by_step in losses.items():
            steps, values = (np.array(part, dtype=np.float64) for part in zip(*sorted(by_step.items()), strict=True))
            curves[job][key] = _smooth(steps), _smooth(values)
    return curves


def _panel(ax: Axes, title: str) -> None:
    ax.set_title(title)
    ax.set_xlabel("Step")
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def _unet_losses(ax: Axes, curves: dict[str, Curve], groups: list[Group], finished: set[str]) -> None:
    """The U-Nets on all labels and those in training in one panel: seeds share a colour and one line of the legend."""
    _panel(ax, "U-Net")
    ax.set_yscale("log")
    styles = group_styles(groups)
    drawn = {result["job"]: styles[group.source, group.arrangement] for group in groups for result in group.runs}
    # A U-Net still in training has losses and no result yet.
    training: dict[str, dict[str, Any]] = {
        job: {"color": GREY, "linestyle": ":", "label": job} for job in sorted(curves.keys() - finished)
    }
    for job, style in (drawn | training).items():
        if job in curves:
            ax.plot(*curves[job], linewidth=1.0, **style)
    lines, labels = ax.get_legend_handles_labels()
    once = dict(zip(labels, lines, strict=True))
    ax.legend(once.values(), once.keys(), loc="upper right", ncols=2)


def losses_picture(run: RunFolder) -> Picture | None:
    """Every loss that was logged: the synthesis networks' one a panel, all U-Nets' in one."""
    curves = _curves(run)
    networks = {job: curves[job] for job in NETWORK_STYLES if job in curves}
    names = list(dict.fromkeys(itertools.chain.from_iterable(networks.values())))
    groups, finished = load_groups(run), {result["job"] for result in run.read_results("unet-")}
    unets = {job: losses["loss"] for job, losses in curves.items() if job.startswith("unet-") and "loss" in losses}
    if not names and not unets:
        return None
    rows = math.ceil(len(names) / COLUMNS) + bool(unets)
    figure = new_figure(9.2, 2.2 * rows + 0.4)
    grid = figure.add_gridspec(rows, COLUMNS)
    for place, name in enumerate(names):
        ax = figure.add_subplot(grid[divmod(place, COLUMNS)])
        _panel(ax, name.removeprefix("loss_").replace("_", " "))
        for job, losses in networks.items():
            if name in losses:
                ax.plot(*losses[name], linewidth=1.1, **NETWORK_STYLES[job])
        if place == 0:
            ax.legend()
    if unets:
        _unet_losses(figure.add_subplot(grid[-1, :]), unets, groups, finished)
    caption = f"Losses by optimiser step; curves of more than {POINTS_DRAWN} points are averaged in blocks."
    alt = f"Panels of loss against step: {', '.join([*names, *(['U-Net'] if unets else [])])}."
    return Picture("losses", "Training losses", caption, alt, figure)


def _by_arrangement(groups: list[Group], key: str, base: Group | None = None) -> list[tuple[float, Estimate]]:
    values = ((g.arrangement, difference(g, base, key) if base else g.estimate(key)) for g in groups)
    return [(arrangement, value) for arrangement, value in values if value is not None]


def arrangements_picture(run: RunFolder) -> Picture | None:
    """Dice by the number of training images, and its change against real only, beside the paper's."""
    groups = load_groups(run)
    base = find(groups, "real")
    essnet = [group for group in groups if group.source == "essnet"]
    cyclegan = [group for group in groups if group.source == "cyclegan"]
    if base is None or not (essnet or cyclegan):
        return None
    figure = new_figure(9.2, 4.2)
    left, right = figure.subplots(1, 2)
    mine: dict[str, Any] = {"color": BLUE, "marker": "o", "label": "This run, EssNet"}
    theirs: dict[str, Any] = {"color": GREY, "marker": "s", "linestyle": "--", "label": "Paper"}
    other: dict[str, Any] = {
        "color": VERMILLION,
        "marker": "^",
        "linestyle": "",
        "label": "This run, CycleGAN",
        "shift": 35,
    }

    dots(left, _by_arrangement([base, *essnet], "dice"), **mine)
    dots(left, [(arrangement, Estimate(scores.dice)) for arrangement, scores in paper.SEGMENTATION.items()], **theirs)
    for group in (base, *essnet):
        seed_dots(left, group.arrangement, group)
    left.set_title("Pooled Dice")

    # Real only is the line at zero, by definition without an interval.
    zero = Estimate(0.0)
    dots(right, [(0, zero), *_by_arrangement(essnet, "dice", base)], **mine)
    start = paper.SEGMENTATION[0].dice
    dots(right, [(count, Estimate(scores.dice - start)) for count, scores in paper.SEGMENTATION.items()], **theirs)
    right.axhline(0, color=BLACK, linewidth=0.8)
    right.set_title("Change in Dice against real only")
    if cyclegan:
        dots(left, _by_arrangement(cyclegan, "dice"), **other)
        dots(right, _by_arrangement(cyclegan, "dice", base), **other)

    used = {group.arrangement: group.synthetic for group in groups}
    for ax in (left, right):
        ticks = list(paper.SEGMENTATION)
        ax.set_xticks(ticks, [_tick(count, used.get(count)) for count in ticks])
        ax.set_xlabel("Synthetic images beside the real ones")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    caption = (
        "Pooled Dice by the number of synthetic images (the paper's Table 3). Bars are 95 % t-intervals over seeds and "
        "dots single seeds, where there are several. Test patients differ from the paper's, so changes compare better "
        "than levels."
    )
    if any(synthetic != arrangement for arrangement, synthetic in used.items()):
        caption += " Counts in brackets are this run's, the same fraction of what there was."
    points = "; ".join(
        f"{arrangement}: {value.mean:.4f}" for arrangement, value in _by_arrangement([base, *essnet], "dice")
    )
    alt = f"Dice by number of synthetic images, this run beside the paper. This run: {points}."
    return Picture("arrangements", "Dice by number of synthetic images", caption, alt, figure)


def patients_picture(run: RunFolder) -> Picture | None:
    """Dice of every test patient, real only and combined, joined by a line."""
    groups = load_groups(run)
    base, combined = find(groups, "real"), shown(groups)
    compared = [group for group in (base, combined) if group and group.patients("dice_per_patient")]
    if not compared:
        return None
    scores = [group.patients("dice_per_patient") for group in compared]
    patients = sorted(set.union(*(set(part) for part in scores)), key=lambda name: scores[-1].get(name, 0.0))
    figure = new_figure(7.2, 1.8 + 0.3 * len(patients))
    ax = figure.subplots()
    for row, patient in enumerate(patients):
        known = [part[patient] for part in scores if patient in part]
        ax.plot(known, [row] * len(known), color=GREY, linewidth=1.2, zorder=1)
    for group, part, colour, marker in zip(compared, scores, (BLACK, BLUE), ("s", "o"), strict=False):
        rows = [row for row, patient in enumerate(patients) if patient in part]
        values = [part[patients[row]] for row in rows]
        ax.scatter(values, rows, color=colour, marker=marker, s=26, label=group.label, zorder=2)
    ax.set_yticks(range(len(patients)), patients, parse_math=False)
    ax.set_ylim(-0.6, len(patients) - 0.4)
    ax.set_xlabel("Dice over the whole volume")
    figure.legend(loc="outside lower center", ncols=2)
    caption = (
        "Dice of each test patient on all slices, mean over seeds; patients in order of the last column's Dice. A line "
        "to the right of the square is a patient whom the synthetic images helped."
    )
    found = "; ".join(
        f"{patient}: {', '.join(f'{part[patient]:.3f}' for part in scores if patient in part)}" for patient in patients
    )
    names = " and ".join(group.label for group in compared)
    return Picture("patients", "Dice by patient", caption, f"Dice by patient, {names}. {found}.", figure)


def _tick(paper_count: int, here: int | None) -> str:
    return str(paper_count) if here is None or here == paper_count else f"{paper_count}\n({here})"


FIGURES = {
    "synthesis": synthesis_picture,
    "segmentation": segmentation_picture,
    "patients": patients_picture,
    "extremes": extremes_picture,
    "learning_curve": learning_curve_picture,
    "arrangements": arrangements_picture,
    "roc": roc_picture,
    "ablation": ablation_picture,
    "losses": losses_picture,
}
"""Every figure of a report by the name of its PNG, in the page's order."""


def make_pictures(run: RunFolder) -> list[Picture]:
    """The figures that the folder has the results for."""
    with matplotlib.rc_context(STYLE):
        return [picture for make in FIGURES.values() if (picture := make(run))]
