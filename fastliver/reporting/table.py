"""What every table is made of: columns, cells that hold what is printed and what the CSV says, and the table."""

import csv
import io
from dataclasses import dataclass

from fastliver.reporting.results import Estimate, is_number

Value = str | int | float | None

BLANK = "\N{EN DASH}"
"""What is printed where there is no value."""


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
    """One table of the report; `name` is that of its CSV file.

    Of the notes, `note` speaks of columns that a terminal shows too, `page_note` of the others.
    """

    name: str
    title: str
    note: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    page_note: str = ""

    def csv(self) -> str:
        """The table as CSV text, numbers in full precision."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([key for column in self.columns for key in column.keys])
        writer.writerows([value for cell in row for value in cell.values] for row in self.rows)
        return file.getvalue()


def text_cell(value: str) -> Cell:
    """Words."""
    return Cell(value, (value,))


def count_cell(value: int | None) -> Cell:
    """A whole number."""
    return Cell(BLANK if value is None else f"{value:,}", (value,))


def number_cell(value: float | None, digits: int = 4) -> Cell:
    """A number, printed with so many digits after the point."""
    if value is None or not is_number(value):
        return Cell(BLANK, (None,))
    return Cell(f"{value:,.{digits}f}", (value,))


def interval_cell(value: Estimate | None, sign: str = "") -> Cell:
    """A mean with its interval, for an `interval_column`; `sign` is "+" for a change."""
    if value is None:
        return Cell(BLANK, (None, None, None))
    text = f"{value.mean:{sign}.4f}" + ("" if value.half is None else f" ± {value.half:.4f}")
    return Cell(text, (value.mean, value.low, value.high))


def spread_cell(mean: float | None, deviation: float | None) -> Cell:
    """A mean and a standard deviation."""
    if mean is None or deviation is None:
        return Cell(BLANK, (None, None))
    return Cell(f"{mean:.4f} ± {deviation:.4f}", (mean, deviation))


def interval_column(label: str, key: str) -> Column:
    """A column of `interval_cell`s."""
    return Column(label, (key, f"{key}_low", f"{key}_high"))
