"""Printed tables: on a terminal of any width, and in a pipe, every cell is there whole."""

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from fastliver.columns import Printed, print_columns

NAME = "a patient with a name as long as they come"
COLUMNS = [
    Printed("patient", [NAME, "[b]", "mean"], numeric=False),
    *(Printed(f"score {number}", [f"{number}.{row}25" for row in range(3)]) for number in range(9)),
]
CELLS = [cell for column in COLUMNS for cell in (column.label, *column.cells)]


def printed(width: int, terminal: bool) -> list[str]:
    file = io.StringIO()
    console = Console(width=width, file=file, force_terminal=terminal, no_color=True, highlight=False)
    print_columns(COLUMNS, console, sections=[2])
    return file.getvalue().splitlines()


def test_a_pipe_gets_one_row_for_each_row() -> None:
    lines = printed(80, terminal=False)
    assert [line.count("│") for line in lines if "25" in line] == [11, 11, 11]
    first = next(line for line in lines if NAME in line)
    assert [cell.strip() for cell in first.strip("│").split("│")] == [NAME, *(f"{n}.025" for n in range(9))]
    assert sum("├" in line for line in lines) == 1


@pytest.mark.parametrize("width", [200, 100, 80, 60])
def test_a_terminal_gets_blocks_that_fit(width) -> None:
    lines = printed(width, terminal=True)
    text = "\n".join(lines)
    assert max(len(line.replace("\x1b[1m", "").replace("\x1b[0m", "")) for line in lines) <= width
    assert [cell for cell in CELLS if cell not in text] == []
    assert text.count(NAME) == text.count("mean") == sum("┏" in line for line in lines) > 0
    assert (text.count("┏") == 1) == (width == 200)


def test_what_is_wider_than_the_terminal_is_not_cut() -> None:
    text = "\n".join(printed(20, terminal=True))
    assert [cell for cell in CELLS if cell not in text] == []
    assert "…" not in text


def test_letters_that_are_two_columns_wide() -> None:
    file = io.StringIO()
    wide = [Printed("patient", ["患者" * 8], numeric=False), *(Printed(f"score {n}", ["0.125"]) for n in range(6))]
    print_columns(wide, Console(width=80, file=file, force_terminal=True, no_color=True, highlight=False))
    assert (
        max(cell_len(line.replace("\x1b[1m", "").replace("\x1b[0m", "")) for line in file.getvalue().splitlines()) <= 80
    )
