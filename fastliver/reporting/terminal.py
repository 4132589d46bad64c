"""The tables on a terminal of any width."""

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from fastliver.reporting.table import Table

PADDING = 3
"""What the box adds to each column (a space on both sides and the gap), and at most once more to the table."""

BRIEF = ("Training images", "Labelled patients", "Synthetic by", "Dice", "Δ Dice", "IoU", "Paper Dice", "Paper IoU")
"""The columns that answer the question; the page and the CSV have all of them."""


def _width(table: Table, place: int) -> int:
    cells = [row[place].text for row in table.rows]
    return max(map(len, (table.columns[place].label, *cells))) + PADDING


def _blocks(table: Table, width: int) -> Iterator[list[int]]:
    """Columns that fit side by side; each block repeats the leading columns of words, which say what a row is."""
    places = [place for place, column in enumerate(table.columns) if column.label in BRIEF]
    lead = [place for place in places if not table.columns[place].numeric]
    block = list(lead)
    for place in places:
        if place in lead:
            continue
        if len(block) > len(lead) and sum(_width(table, each) for each in (*block, place)) + PADDING > width:
            yield block
            block = list(lead)
        block.append(place)
    yield block


def print_table(table: Table, console: Console) -> None:
    """Print a result table's main columns, in several blocks where the terminal is too narrow: no number is cut."""
    # Text, not strings: brackets in a name aren't markup.
    console.print(Text(table.title, style="bold"))
    for block in _blocks(table, console.width):
        printed = RichTable(box=box.SIMPLE_HEAD)
        for place in block:
            column = table.columns[place]
            printed.add_column(Text(column.label), justify="right" if column.numeric else "left")
        for row in table.rows:
            printed.add_row(*(Text(row[place].text) for place in block))
        console.print(printed)
    console.print(Text(table.note, style="dim"), end="\n\n")
