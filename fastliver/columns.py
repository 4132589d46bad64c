"""Tables on a terminal of any width, or in a pipe: no cell is cut."""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

PADDING = 3
"""What a box adds to each column (a space on both sides and a line or gap), and at most once more to the table."""

NO_LIMIT = 100_000
"""Characters that no row has."""


@dataclass(frozen=True)
class Printed:
    """A column as it is printed.

    Attributes:
        label: its heading.
        cells: one for each row.
        numeric: to the right, and in whichever block there is room; columns of words say what a row is and stand in
            every block.
    """

    label: str
    cells: Sequence[str]
    numeric: bool = True

    @property
    def width(self) -> int:
        """Characters that it takes."""
        return max(map(cell_len, (self.label, *self.cells))) + PADDING


def _blocks(columns: Sequence[Printed], width: float) -> Iterator[list[Printed]]:
    """Columns that fit side by side; each block repeats the columns of words."""
    words = [column for column in columns if not column.numeric]
    block: list[Printed] = list(words)
    for column in columns:
        if not column.numeric:
            continue
        if len(block) > len(words) and sum(each.width for each in (*block, column)) + PADDING > width:
            yield block
            block = list(words)
        block.append(column)
    yield block


def print_columns(
    columns: Sequence[Printed],
    console: Console,
    sections: Collection[int] = (),
    title: str = "",
    style: box.Box = box.HEAVY_HEAD,
) -> None:
    """Print a table, in several blocks where the terminal is too narrow, and whole where nobody says how wide it is.

    Args:
        columns: with as many cells each; those of words come first.
        console: where to.
        sections: numbers of the rows with a line above.
        title: stands above.
        style: the lines around the cells.
    """
    for block in _blocks(columns, console.width if console.is_terminal else math.inf):
        # Text, not strings: brackets in a name aren't markup.
        table = Table(box=style, title=Text(title) if title else None)
        for column in block:
            table.add_column(Text(column.label), justify="right" if column.numeric else "left")
        for number, row in enumerate(zip(*(column.cells for column in block), strict=True)):
            if number in sections:
                table.add_section()
            table.add_row(*map(Text, row))
        # Where even one column is wider than the terminal, that breaks the line; rich would cut the cells.
        table.width = Measurement.get(console, console.options.update(width=NO_LIMIT), table).maximum
        console.print(table, crop=False, no_wrap=True)
