"""The table of cost: parameters, time, memory (the paper's Table 4)."""

from typing import Any

from fastliver.reporting import paper
from fastliver.reporting.results import SOURCES, Group, find, is_number, load_groups, mean, shown
from fastliver.reporting.table import Cell, Column, Table, count_cell, number_cell, text_cell
from fastliver.run_folder import RunFolder
from fastliver.words import counted


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
        text_cell(SOURCES[job]),
        text_cell(training["device"]),
        Cell(f"{counts['paper_count']:,}{with_segmentor}", (counts["paper_count"], total)),
        count_cell(training["epochs"]),
        Cell(counted(training["steps_per_epoch"], "step"), (training["steps_per_epoch"], "steps")),
        number_cell(training["seconds_per_epoch"], 1),
        number_cell(training["seconds"] / 3600, 2),
        number_cell(peaks.get(job), 2),
        number_cell(synthesis["images_per_second"] if synthesis else None, 2),
    )


def _unet_cost(group: Group, peaks: dict[str, float]) -> tuple[Cell, ...]:
    def average(key: str) -> float | None:
        return mean([run[key] for run in group.runs if is_number(run.get(key))])

    first: dict[str, Any] = group.runs[0]
    images, seconds = group.real + group.synthetic, average("seconds")
    return (
        text_cell(f"U-Net, {group.label}"),
        text_cell(first["device"]),
        Cell(f"{first['parameters']:,}", (first["parameters"], first["parameters"])),
        count_cell(first["epochs"]),
        Cell(counted(images, "image"), (images, "images")),
        number_cell(average("seconds_per_epoch"), 1),
        number_cell(None if seconds is None else seconds / 3600, 2),
        number_cell(max((peaks[run["job"]] for run in group.runs if run["job"] in peaks), default=None), 2),
        number_cell(average("images_per_second"), 2),
    )


def _paper_cost(name: str, cost: paper.Cost) -> tuple[Cell, ...]:
    return (
        text_cell(f"{name} in the paper"),
        text_cell(paper.DEVICE),
        Cell(f"{cost.parameters:,}", (cost.parameters, cost.parameters)),
        count_cell(cost.epochs),
        Cell(counted(cost.images_per_epoch, "image"), (cost.images_per_epoch, "images")),
        number_cell(cost.seconds_per_epoch, 1),
        number_cell(cost.hours, 2),
        number_cell(None),
        number_cell(cost.images_per_second, 2),
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
