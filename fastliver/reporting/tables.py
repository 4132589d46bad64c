"""The tables: each is made from the run folder, kept as CSV, and printed on the page and the terminal alike."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fastliver.reporting import paper
from fastliver.reporting.results import SOURCES, Estimate, Group, difference, find, is_number, load_groups, shown
from fastliver.run_folder import RunFolder

Value = str | int | float | None


@dataclass(frozen=True)
class Column:
    """A column as people read it, and the columns that it becomes in the CSV."""

    label: str
    keys: tuple[str, ...]
    numeric: bool = True


@dataclass(frozen=True)
class Cell:
    """What is printed and, unrounded, what the CSV holds: one value for each of the column's keys."""

    text: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Table:
    """One table of the report; `name` is that of its CSV file."""

    name: str
    title: str
    note: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def csv(self) -> str:
        """The table as CSV text, numbers in full precision."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([key for column in self.columns for key in column.keys])
        writer.writerows([value for cell in row for value in cell.values] for row in self.rows)
        return file.getvalue()


BLANK = "\N{EN DASH}"


def _text(value: str) -> Cell:
    return Cell(value, (value,))


def _count(value: int | None) -> Cell:
    return Cell(BLANK if value is None else f"{value:,}", (value,))


def _number(value: float | None, digits: int = 4) -> Cell:
    if value is None or not is_number(value):
        return Cell(BLANK, (None,))
    return Cell(f"{value:,.{digits}f}", (value,))


def _interval(value: Estimate | None, sign: str = "") -> Cell:
    if value is None:
        return Cell(BLANK, (None, None, None))
    text = f"{value.mean:{sign}.4f}" + ("" if value.half is None else f" ± {value.half:.4f}")
    return Cell(text, (value.mean, value.low, value.high))


def _spread(mean: float | None, deviation: float | None) -> Cell:
    if mean is None or deviation is None:
        return Cell(BLANK, (None, None))
    return Cell(f"{mean:.4f} ± {deviation:.4f}", (mean, deviation))


def _interval_column(label: str, key: str) -> Column:
    return Column(label, (key, f"{key}_low", f"{key}_high"))


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def data_table(run: RunFolder) -> Table | None:
    """What was read and how it was split."""
    data = run.read_result("data")
    if data is None:
        return None
    columns = (
        Column("Data", ("data",), numeric=False),
        Column("Patients", ("patients",)),
        Column("Slices", ("slices",)),
        Column("With liver", ("liver_slices",)),
        Column("Used", ("used",)),
        Column("Paper", ("paper",)),
        Column("Files skipped", ("skipped",)),
    )
    in_paper = {"CT": paper.CT_SLICES, "MR": paper.MR_SLICES}
    rows = [
        (
            _text(f"{source['modality']} read" + ("" if source["labelled"] else ", without labels")),
            _count(source["patients"]),
            _count(source["slices"]),
            _count(source["liver_slices"]),
            _count(None),
            _count(in_paper.get(source["modality"])),
            _count(len(source["skipped"])),
        )
        for source in data["sources"]
    ]
    split = data["split"]
    parts = (
        ("MR to train on", len(split["train_patients"]), split["train_slices"], paper.TRAIN_SLICES),
        ("MR to test on", len(split["test_patients"]), split["test_slices"], paper.TEST_SLICES),
        ("CT to train the synthesis on", None, split["essnet_ct_slices"], paper.ESSNET_CT_SLICES),
    )
    for name, patients, used, theirs in parts:
        rows.append(
            (_text(name), _count(patients), _count(None), _count(None), _count(used), _count(theirs), _count(None))
        )
    note = f"Split: {split['name']}. Tested on: {', '.join(map(str, split['test_patients'])) or 'nobody'}."
    return Table("data", "Data and split", f"{note} The paper's counts are slices with liver.", columns, tuple(rows))


_SCORES = (
    _interval_column("Dice", "dice"),
    _interval_column("Δ Dice", "dice_difference"),
    _interval_column("IoU", "iou"),
    _interval_column("Δ IoU", "iou_difference"),
)
_PAPER_SCORES = (Column("Paper Dice", ("paper_dice",)), Column("Paper IoU", ("paper_iou",)))


def _scores(group: Group, base: Group | None) -> Iterator[Cell]:
    for key in ("dice", "iou"):
        yield _interval(group.estimate(key))
        changed = None if base is None or base is group else difference(group, base, key)
        yield _interval(changed, sign="+")


def _paper_scores(group: Group) -> tuple[Cell, Cell]:
    theirs = paper.scores(group.source, group.arrangement)
    return _number(theirs.dice if theirs else None), _number(theirs.iou if theirs else None)


def _seeds_note(groups: list[Group]) -> str:
    if all(len(group.runs) == 1 for group in groups):
        return "One seed: no interval."
    return "Mean over seeds ± half the 95 % t-interval (none where there is one seed); Δ is paired by seed."


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
        *_SCORES,
        Column("Dice per slice", ("dice_per_slice_mean", "dice_per_slice_std")),
        Column("Dice per patient", ("dice_per_patient_mean",)),
        Column("AUC", ("auc",)),
        *_PAPER_SCORES,
    )
    rows = [
        (
            _text(group.label),
            Cell(
                BLANK if group.source == "real" else f"{group.synthetic:,} by {SOURCES[group.source]}",
                (group.source, group.arrangement, group.real, group.synthetic),
            ),
            _count(len(group.runs)),
            *_scores(group, base),
            _spread(group.mean("dice_per_slice_mean"), group.mean("dice_per_slice_std")),
            _number(_mean(list(group.patients("dice_per_patient").values()))),
            _number(group.mean("auc")),
            *_paper_scores(group),
        )
        for group in groups
    ]
    note = (
        f"{_seeds_note(groups)} Dice and IoU are pooled over the pixels of all test slices with liver, Δ is against "
        f"real only, per slice is mean ± standard deviation.{_fraction_note(groups)}"
    )
    return Table("segmentation", "Segmentation by training set (the paper's Table 3)", note, columns, tuple(rows))


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
        *_SCORES,
        *_PAPER_SCORES,
    )
    rows = [
        (
            _text(group.label),
            Cell(BLANK if group.source == "real" else SOURCES[group.source], (group.source,)),
            _count(len(group.runs)),
            *_scores(group, base),
            *_paper_scores(group),
        )
        for group in kept
    ]
    note = f"CycleGAN is EssNet trained without its segmentor. {_seeds_note(kept)}"
    return Table("ablation", "Ablation: without the segmentor (the paper's Table 5)", note, columns, tuple(rows))


def _peaks(run: RunFolder) -> dict[str, float]:
    """The most memory that each training logged, in GiB."""
    found: dict[str, float] = {}
    for line in run.read_metrics():
        if is_number(line.get("memory_gib")):
            found[line["job"]] = max(line["memory_gib"], found.get(line["job"], 0.0))
    return found


def _synthesis_cost(run: RunFolder, job: str, peaks: dict[str, float]) -> tuple[Cell, ...] | None:
    training, synthesis = run.read_result(f"train-{job}"), run.read_result(f"synthesis-{job}")
    if training is None:
        return None
    counts: dict[str, int] = training["parameters"]
    total = counts["total"]
    with_segmentor = f" ({total:,} with the segmentor)" if total != counts["paper_count"] else ""
    return (
        _text(SOURCES[job]),
        _text(training["device"]),
        Cell(f"{counts['paper_count']:,}{with_segmentor}", (counts["paper_count"], total)),
        _count(training["epochs"]),
        Cell(f"{training['steps_per_epoch']:,} steps", (training["steps_per_epoch"], "steps")),
        _number(training["seconds_per_epoch"], 1),
        _number(training["seconds"] / 3600, 2),
        _number(peaks.get(job), 2),
        _number(synthesis["images_per_second"] if synthesis else None, 2),
    )


def _unet_cost(group: Group, peaks: dict[str, float]) -> tuple[Cell, ...]:
    def mean(key: str) -> float | None:
        return _mean([run[key] for run in group.runs if is_number(run.get(key))])

    first: dict[str, Any] = group.runs[0]
    images, seconds = group.real + group.synthetic, mean("seconds")
    return (
        _text(f"U-Net, {group.label}"),
        _text(first["device"]),
        Cell(f"{first['parameters']:,}", (first["parameters"], first["parameters"])),
        _count(first["epochs"]),
        Cell(f"{images:,} images", (images, "images")),
        _number(mean("seconds_per_epoch"), 1),
        _number(None if seconds is None else seconds / 3600, 2),
        _number(max((peaks[run["job"]] for run in group.runs if run["job"] in peaks), default=None), 2),
        _number(mean("images_per_second"), 2),
    )


def _paper_cost(name: str, cost: paper.Cost) -> tuple[Cell, ...]:
    return (
        _text(f"{name} in the paper"),
        _text(paper.DEVICE),
        Cell(f"{cost.parameters:,}", (cost.parameters, cost.parameters)),
        _count(cost.epochs),
        Cell(f"{cost.images_per_epoch:,} images", (cost.images_per_epoch, "images")),
        _number(cost.seconds_per_epoch, 1),
        _number(cost.hours, 2),
        _number(None),
        _number(cost.images_per_second, 2),
    )


def cost_table(run: RunFolder) -> Table | None:
    """The paper's Table 4: parameters, time to train, speed at work."""
    groups = load_groups(run)
    peaks = _peaks(run)
    networks = [row for job in ("essnet", "cyclegan") if (row := _synthesis_cost(run, job, peaks))]
    unets = [_unet_cost(group, peaks) for group in (find(groups, "real"), shown(groups)) if group]
    if not networks and not unets:
        return None
    columns = (
        Column("Network", ("network",), numeric=False),
        Column("Device", ("device",), numeric=False),
        Column("Parameters", ("parameters", "parameters_total")),
        Column("Epochs", ("epochs",)),
        Column("One epoch", ("epoch_size", "epoch_unit")),
        Column("Seconds per epoch", ("seconds_per_epoch",)),
        Column("Hours in all", ("hours",)),
        Column("Peak memory, GiB", ("memory_gib",)),
        Column("Images per second", ("images_per_second",)),
    )
    rows: list[tuple[Cell, ...]] = []
    if networks:
        rows += [_paper_cost("EssNet", paper.ESSNET_COST), *networks]
    if unets:
        rows += [_paper_cost("U-Net, Combined (1064)", paper.UNET_COST), *unets]
    note = (
        f"The paper's times are from a {paper.DEVICE} and this run's from the device named; epochs differ in size, so "
        "compare seconds per epoch with that in mind. Peak memory is what training's tensors took on a GPU, and the "
        "whole process on a CPU. Images per second is inference. The paper counts EssNet without its segmentor."
    )
    return Table("cost", "Cost (the paper's Table 4)", note, columns, tuple(rows))


def quality_table(run: RunFolder) -> Table | None:
    """How good the synthetic images are."""
    found = {job: value for job in SOURCES if (value := run.read_result(f"quality-{job}"))}
    if not found:
        return None
    first = next(iter(found.values()))
    regions = list(first["distance"])
    columns = (
        Column("Images", ("images_by",), numeric=False),
        Column("Count", ("count",)),
        *(Column(f"Distance, {region}", (f"distance_{region}",)) for region in regions),
        Column("S agrees with label", ("agreement_mean",)),
        Column("5 % of slices below", ("agreement_p5",)),
        Column("Dropped by filter", ("dropped", "dropped_share")),
        Column("FID", ("fid",)),
        Column("KID", ("kid", "kid_deviation")),
    )
    rows: list[tuple[Cell, ...]] = []
    for job, value in found.items():
        distance = value["distance"]
        if not rows:
            blank = (_number(None),) * 2
            rows.append(
                (
                    _text("CT, untranslated"),
                    _count(value["images"]),
                    *(_number(distance[region]["ct"]) for region in regions),
                    *blank,
                    _spread(None, None),
                    _number(None),
                    _spread(None, None),
                )
            )
        agreement = value["agreement"] or {}
        features = run.read_result(f"features-{job}") or {}
        share = agreement["dropped"] / value["images"] if agreement else None
        rows.append(
            (
                _text(f"Synthetic MR by {SOURCES[job]}"),
                _count(value["images"]),
                *(_number(distance[region]["synthetic"]) for region in regions),
                _number(agreement.get("mean")),
                _number(agreement.get("p5")),
                Cell(BLANK, (None, None))
                if share is None
                else Cell(f"{agreement['dropped']:,} ({share:.1%})", (agreement["dropped"], share)),
                _number(features.get("fid"), 2),
                _spread(features.get("kid"), features.get("kid_deviation")),
            )
        )
    note = (
        f"Distance: how far grey values lie from those of {first['real']:,} real MR slices that EssNet learned from "
        "(1-Wasserstein, where black to white is 2); less is closer. S agrees: mean Dice between the segmentor's mask "
        "of a synthetic slice and the label carried over from its CT. S and G1 were trained together, so this shows "
        "failures, not quality."
    )
    if any(value["agreement"] for value in found.values()):
        limit = next(value["agreement"]["threshold"] for value in found.values() if value["agreement"])
        note += f" The filter would drop slices below a Dice of {limit:g}."
    networks = {result["network"] for result in run.read_results("features-")}
    note += (
        f" FID and KID on the features of {', '.join(sorted(networks))}."
        if networks
        else " FID and KID were not measured; the report's --feature-network adds them."
    )
    return Table("quality", "Synthetic MR beside real MR", note, columns, tuple(rows))


TABLES = {
    "data": data_table,
    "segmentation": segmentation_table,
    "ablation": ablation_table,
    "quality": quality_table,
    "cost": cost_table,
}
"""Every table of a report by the name of its CSV, in the page's order."""


def make_tables(run: RunFolder) -> list[Table]:
    """The tables that the folder has the results for."""
    return [table for make in TABLES.values() if (table := make(run))]
