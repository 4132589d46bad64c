"""Tables, figures and the HTML page of a run, rebuilt from its folder alone."""

from pathlib import Path

from rich.console import Console

import fastliver.reporting.quiet  # noqa: F401  before anything imports matplotlib
from fastliver.files import write_file
from fastliver.reporting.figures import FIGURES, make_pictures
from fastliver.reporting.page import make_page
from fastliver.reporting.picture import png
from fastliver.reporting.tables import TABLES, make_tables
from fastliver.reporting.terminal import print_table
from fastliver.run_folder import RunFolder

__all__ = ["build_report", "print_tables"]

ON_TERMINAL = ("segmentation", "ablation", "learning_curve")


def build_report(run: RunFolder) -> Path:
    """Write `tables/*.csv`, `figures/*.png` and `report.html`; return the page's path.

    A table or figure whose results the folder lacks is left out, and its file from an earlier report removed.
    """
    tables = make_tables(run)
    pictures = [(picture, png(picture.figure)) for picture in make_pictures(run)]
    for table in tables:
        write_file(run.tables / f"{table.name}.csv", table.csv())
    for picture, data in pictures:
        write_file(run.figures / f"{picture.name}.png", data)
    for name in TABLES.keys() - {table.name for table in tables}:
        (run.tables / f"{name}.csv").unlink(missing_ok=True)
    for name in FIGURES.keys() - {picture.name for picture, _ in pictures}:
        (run.figures / f"{name}.png").unlink(missing_ok=True)
    write_file(run.report, make_page(run, tables, pictures))
    return run.report


def print_tables(run: RunFolder, console: Console) -> None:
    """Print the result tables on the terminal; the page has the rest."""
    for table in make_tables(run):
        if table.name in ON_TERMINAL:
            print_table(table, console)
