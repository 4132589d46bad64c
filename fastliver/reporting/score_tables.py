"""The tables of scores: what each training set is worth, and what the segmentor is (the paper's Tables 3 and 5)."""

from collections.abc import Iterator

from fastliver.reporting import paper
from fastliver.reporting.results import SOURCES, Group, difference, find, load_groups
from fastliver.reporting.table import (
    BLANK,
    Cell,
    Column,
    Table,
    count_cell,
    interval_cell,
    interval_column,
    number_cell,
    spread_cell,
    text_cell,
)
from fastliver.run_folder import RunFolder

SCORES = (
    interval_column("Dice", "dice"),
    interval_column("Δ Dice", "dice_difference"),
    interval_column("IoU", "iou"),
    interval_column("Δ IoU", "iou_difference"),
)
_PAPER_SCORES = (Column("Paper Dice", ("paper_dice",)), Column("Paper IoU", ("paper_iou",)))


def score_cells(group: Group, base: Group | None) -> Iterator[Cell]:
    """The cells of SCORES; without a base, or for the base itself, the changes are blank."""
    for key in ("dice", "iou"):
        yield interval_cell(group.estimate(key))
        changed = None if base is None or base is group else difference(group, base, key)
        yield interval_cell(changed, sign="+")


def _paper_scores(group: Group) -> tuple[Cell, Cell]:
    theirs = paper.scores(group.source, group.arrangement)
    return number_cell(theirs.dice if theirs else None), number_cell(theirs.iou if theirs else None)


def seeds_note(groups: list[Group]) -> str:
    """What the intervals of these rows are."""
    if all(len(group.runs) == 1 for group in groups):
        return "One seed: no interval."
    return "Mean over seeds ± half the 95 % t-interval (none where there is one seed); Δ is paired by seed."


def _patients_cell(scores: list[float]) -> Cell:
    """The mean over patients, with the lowest and the highest."""
    if not scores:
        return Cell(BLANK, (None, None, None))
    found = (sum(scores) / len(scores), min(scores), max(scores))
    return Cell("{:.4f} ({:.2f} to {:.2f})".format(*found), found)


def _fraction_note(groups: list[Group]) -> str:
    counts = {group.arrangement: group.synthetic for group in groups}
    fewer = [f"{here:,} for the paper's {theirs:,}" for theirs, here in counts.items() if here != theirs]
    return f" Synthetic images are the paper's fraction of what there was: {', '.join(fewer)}." if fewer else ""


def segmentation_table(run: RunFolder) -> Table | None:
    """The paper's Table 3: what each training set is worth."""
    groups = load_groups(run)
    if not groups:
        return None
    base = find(groups, "real")
    columns = (
        Column("Training images", ("training_images",), numeric=False),
        Column("Synthetic", ("source", "arrangement", "real", "synthetic"), numeric=False),
        Column("Seeds", ("seeds",)),
        Column("Steps", ("steps",)),
        *SCORES,
        Column("Dice per slice", ("dice_per_slice_mean", "dice_per_slice_std")),
        Column("Dice per patient", ("dice_per_patient_mean", "dice_per_patient_lowest", "dice_per_patient_highest")),
        Column("AUC", ("auc",)),
        *_PAPER_SCORES,
    )
    rows = [
        (
            text_cell(group.label),
            Cell(
                BLANK if group.source == "real" else f"{group.synthetic:,} by {SOURCES[group.source]}",
                (group.source, group.arrangement, group.real, group.synthetic),
            ),
            count_cell(len(group.runs)),
            count_cell(group.steps),
            *score_cells(group, base),
            spread_cell(group.mean("dice_per_slice_mean"), group.mean("dice_per_slice_std")),
            _patients_cell(list(group.patients("dice_per_patient").values())),
            number_cell(group.mean("auc")),
            *_paper_scores(group),
        )
        for group in groups
    ]
    note = (
        f"{seeds_note(groups)} Dice and IoU are pooled over the pixels of all test slices with liver, Δ is against "
        f"real only.{_fraction_note(groups)}"
    )
    of_others = "Per slice is mean ± standard deviation, per patient the mean, the lowest and the highest."
    title = "Segmentation by training set (the paper's Table 3)"
    return Table("segmentation", title, note, columns, tuple(rows), of_others)


def ablation_table(run: RunFolder) -> Table | None:
    """The paper's Table 5: what the segmentor in EssNet is worth."""
    groups = load_groups(run)
    cyclegan = find(groups, "cyclegan")
    if cyclegan is None:
        return None
    base = find(groups, "real")
    kept = [group for group in (base, cyclegan, find(groups, "essnet", cyclegan.arrangement)) if group]
    columns = (
        Column("Training images", ("training_images",), numeric=False),
        Column("Synthetic by", ("source",), numeric=False),
        Column("Seeds", ("seeds",)),
        *SCORES,
        *_PAPER_SCORES,
    )
    rows = [
        (
            text_cell(group.label),
            Cell(BLANK if group.source == "real" else SOURCES[group.source], (group.source,)),
            count_cell(len(group.runs)),
            *score_cells(group, base),
            *_paper_scores(group),
        )
        for group in kept
    ]
    note = (
        f"CycleGAN is EssNet trained without its segmentor. {seeds_note(kept)} Each of the two was trained once: no "
        "interval here covers the chance in their own training."
    )
    return Table("ablation", "Ablation: without the segmentor (the paper's Table 5)", note, columns, tuple(rows))
