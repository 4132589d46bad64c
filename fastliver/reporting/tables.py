"""The table of the data, and the list of all tables of a report: each goes to a CSV, the page and the terminal."""

from fastliver.reporting import paper
from fastliver.reporting.cost_table import cost_table
from fastliver.reporting.learning_curve import learning_curve_table
from fastliver.reporting.quality_table import quality_table
from fastliver.reporting.score_tables import ablation_table, segmentation_table
from fastliver.reporting.table import Column, Table, count_cell, text_cell
from fastliver.run_folder import RunFolder


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
            text_cell(f"{source['name']} read" + ("" if source["labelled"] else ", without labels")),
            count_cell(source["patients"]),
            count_cell(source["slices"]),
            count_cell(source["liver_slices"]),
            count_cell(None),
            count_cell(in_paper.get(source["name"])),
            count_cell(len(source["skipped"])),
        )
        for source in data["sources"]
    ]
    split = data["split"]
    parts = (
        ("MR to train on", len(split["train_patients"]), split["train_slices"], paper.TRAIN_SLICES),
        ("MR to test on", len(split["test_patients"]), split["test_slices"], paper.TEST_SLICES),
        ("CT to train the synthesis on", None, split["essnet_ct_slices"], paper.ESSNET_CT_SLICES),
        ("MR to train the synthesis on", None, split["essnet_mr_slices"], paper.TRAIN_SLICES),
    )
    for name, patients, used, theirs in parts:
        rows.append(
            (
                text_cell(name),
                count_cell(patients),
                count_cell(None),
                count_cell(None),
                count_cell(used),
                count_cell(theirs),
                count_cell(None),
            )
        )
    note = f"Split: {split['name']}. Tested on: {', '.join(map(str, split['test_patients'])) or 'nobody'}."
    return Table("data", "Data and split", f"{note} The paper's counts are slices with liver.", columns, tuple(rows))


TABLES = {
    "data": data_table,
    "segmentation": segmentation_table,
    "ablation": ablation_table,
    "learning_curve": learning_curve_table,
    "quality": quality_table,
    "cost": cost_table,
}
"""Every table of a report by the name of its CSV, in the page's order."""


def make_tables(run: RunFolder) -> list[Table]:
    """The tables that the folder has the results for."""
    return [table for make in TABLES.values() if (table := make(run))]
