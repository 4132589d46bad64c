"""The result tables on a terminal."""

from rich import box
from rich.console import Console
from rich.text import Text

from fastliver.columns import Printed, print_columns
from fastliver.reporting.table import Table

BRIEF = ("Training images", "Labelled patients", "Synthetic by", "Dice", "Δ Dice", "IoU", "Paper Dice", "Paper IoU")
"""The columns that answer the question; the page and the CSV have all of them."""


def print_table(table: Table, console: Console) -> None:
    """Print a result table's main columns."""
    console.print(Text(table.title, style="bold"))
    columns = [
        Printed(column.label, [row[place].text for row in table.rows], column.numeric)
        for place, column in enumerate(table.columns)
        if column.label in BRIEF
    ]
    print_columns(columns, console, style=box.SIMPLE_HEAD)
    console.print(Text(table.note, style="dim"), end="\n\n")
