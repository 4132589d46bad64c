"""One thread (on a busy machine threads that wait for each other take a hundred times as long), and sittings."""

import argparse
import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.results import Results, surroundings
from benchmarks.suite import Sitting

MakeSitting = Callable[..., Sitting]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    return tmp_path / "device" / "suite.csv"


@pytest.fixture
def sitting(rows_file: Path) -> Iterator[MakeSitting]:
    """Makes a sitting of one repeat that writes to `rows_file`."""
    opened = []

    def make(device: str = "cpu", repeats: int = 1, **options: object) -> Sitting:
        results = Results(rows_file, "suite", surroundings(torch.device("cpu")))
        opened.append(results)
        given = argparse.Namespace(**{"only": "", "minutes": 9.0, **options})
        return Sitting(results, torch.device(device), given, repeats)

    yield make
    for results in opened:
        results.file.close()


@pytest.fixture
def read_rows(rows_file: Path) -> Callable[[], list[dict[str, str]]]:
    def read() -> list[dict[str, str]]:
        with rows_file.open(newline="") as file:
            return list(csv.DictReader(file))

    return read
