"""What synthetic images are worth by the number of labelled MR patients: the curve's table and figure."""

import math
from collections.abc import Sequence
from typing import Any

from fastliver.reporting.picture import BLACK, Picture, dots, group_styles, new_figure, seed_dots
from fastliver.reporting.results import SOURCES, Estimate, Group, difference, find, load_curve, patient_count
from fastliver.reporting.score_tables import SCORES, score_cells, seeds_note
from fastliver.reporting.table import Cell, Column, Table, count_cell
from fastliver.run_folder import RunFolder

NAME = "learning_curve"
TITLE = "Dice by number of labelled patients"
STEP = 0.06
"""What keeps the bars of one number of patients off each other, in doublings of that number."""


def learning_curve_table(run: RunFolder) -> Table | None:
    """Scores of each training set by the number of labelled patients, and the gain over real images only."""
    groups = load_curve(run)
    if not groups:
        return None
    columns = (
        Column("Labelled patients", ("labelled_patients",), numeric=False),
        Column("Training images", ("source", "arrangement", "synthetic"), numeric=False),
        Column("Real slices", ("real_fewest", "real_most")),
        Column("Seeds", ("seeds",)),
        Column("Steps", ("steps",)),
        *SCORES,
    )
    rows = [
        (
            Cell(_count(group), (group.labelled,)),
            Cell(_name(group), (group.source, group.arrangement, group.synthetic)),
            _real(group),
            count_cell(len(group.runs)),
            count_cell(group.steps),
            *score_cells(group, _base(group, groups)),
        )
        for group in groups
    ]
    note = (
        f"{seeds_note(groups)} Δ is against real only with the same patients' labels. Each seed draws other patients, "
        "and its larger draws contain its smaller ones; the test patients are the same everywhere. In every row the "
        "synthetic images are by a network that saw the MR of all patients, of its labels only which slices show "
        "liver, and the U-Net took as many steps as with all labels."
    )
    return Table(NAME, TITLE, note, columns, tuple(rows))


def learning_curve_picture(run: RunFolder) -> Picture | None:
    """Pooled Dice by the number of labelled patients, real only and combined, and the gain."""
    groups = load_curve(run)
    if not groups:
        return None
    figure = new_figure(9.2, 4.2)
    left, right = figure.subplots(1, 2)
    styles = group_styles(groups)
    lines = [[group for group in groups if (group.source, group.arrangement) == kind] for kind in styles]
    found = []
    for place, line in enumerate(lines):
        first, name = line[0], _name(line[0])
        style: dict[str, Any] = {**styles[first.source, first.arrangement], "label": name}
        style |= {"marker": "s" if first.source == "real" else "o", "shift": STEP * (place - (len(lines) - 1) / 2)}
        levels = [(group, value) for group in line if (value := group.estimate("dice"))]
        dots(left, _points(levels), **style)
        for group in line:
            seed_dots(left, math.log2(group.labelled) + style["shift"], group)
        found.append(f"{name}: {_words(levels)}")
        pairs = [(group, _base(group, groups)) for group in line if group.source != "real"]
        gains = [(group, value) for group, base in pairs if base and (value := difference(group, base, "dice"))]
        if gains:
            dots(right, _points(gains), **style)
            found.append(f"gain with {name}: {_words(gains, sign='+')}")
    right.axhline(0, color=BLACK, linewidth=0.8)
    left.set_title("Pooled Dice")
    right.set_title("Change in Dice against real only")
    counts = {group.labelled: _count(group).replace(" ", "\n") for group in groups}
    for ax in (left, right):
        ax.set_xticks([math.log2(count) for count in counts], list(counts.values()))
        ax.set_xlim(-0.3, math.log2(max(counts)) + 0.3)
        ax.set_xlabel("MR patients whose labels the U-Net saw")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    caption = (
        "Pooled Dice on the same test patients by how many MR patients' labels the U-Net learned from, on a "
        "logarithmic scale; on the right the change that synthetic images brought with the same patients, paired by "
        "seed. "
    )
    if all(len(group.runs) == 1 for group in groups):
        caption += "With one seed it is one draw of patients, and another draw can give another curve."
    else:
        caption += "Each seed draws other patients. Bars are 95 % t-intervals over seeds, dots single seeds."
    return Picture(NAME, TITLE, caption, f"Dice by number of labelled patients. {'. '.join(found)}.", figure)


def _base(group: Group, groups: Sequence[Group]) -> Group | None:
    """Real images only, of as many patients."""
    return find([other for other in groups if other.labelled == group.labelled], "real")


def _name(group: Group) -> str:
    return "Real only" if group.source == "real" else f"Real + {group.synthetic:,} by {SOURCES[group.source]}"


def _count(group: Group) -> str:
    return f"{group.labelled} (all)" if group.all_labelled else str(group.labelled)


def _real(group: Group) -> Cell:
    """How many real slices: with other patients each seed has its own number."""
    counts = [int(run["real"]) for run in group.runs]
    fewest, most = min(counts), max(counts)
    return Cell(f"{fewest:,}" if fewest == most else f"{fewest:,}\N{EN DASH}{most:,}", (fewest, most))


def _points(values: Sequence[tuple[Group, Estimate]]) -> list[tuple[float, Estimate]]:
    return [(math.log2(group.labelled), value) for group, value in values]


def _words(values: Sequence[tuple[Group, Estimate]], sign: str = "") -> str:
    return "; ".join(f"{patient_count(group.labelled)} {value.mean:{sign}.4f}" for group, value in values)
