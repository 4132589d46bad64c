"""The cases of decoding on a few small files: everybody makes the same slices, and what is printed and written."""

import csv
from pathlib import Path

import numpy as np
import pytest

import benchmarks.decode
from benchmarks.decode import TOLERANCE, cases, disagreement, main, time_case
from benchmarks.measure import COLUMNS

FILES = 3


@pytest.fixture(autouse=True)
def _few_files(phantom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sorted((phantom / "CT/1/DICOM_anon").iterdir())[:FILES]
    monkeypatch.setattr(benchmarks.decode, "files", lambda folder: paths)
    monkeypatch.setattr(benchmarks.decode, "STORED", 4)
    monkeypatch.setattr(benchmarks.decode, "MANY", 7)


@pytest.mark.parametrize("name", ["files", "jpeg2000"])
def test_every_provider_makes_the_slices_that_pydicom_does(name):
    with cases(name) as found:
        case = next(case for case in found if case.name == name)
        assert (case.amount, next(iter(case.providers))) == (FILES, "fastliver")
        differences = disagreement(case)
        assert "fastliver" in differences
        assert max(differences.values()) < TOLERANCE
        for work in case.providers.values():
            slices = work()
            assert (slices.shape, slices.dtype) == ((FILES, 256, 256), np.float16)


def test_a_provider_that_is_wrong_is_seen():
    with cases("files") as found:
        (case,) = (case for case in found if case.name == "files")
        case.providers["fastliver"] = lambda: np.zeros((FILES, 256, 256), np.float16)
        assert disagreement(case)["fastliver"] > TOLERANCE


def test_monai_makes_nearly_the_same_slices():
    """It doesn't antialias, but turned or mirrored slices would differ by far more."""
    pytest.importorskip("monai")
    with cases("files") as found:
        providers = found[0].providers
        difference = np.abs(providers["monai"]().astype(float) - providers["pydicom"]().astype(float))
    assert difference.mean() < 0.02


def test_providers_take_turns_and_the_first_turn_does_not_count():
    turns = []
    providers = {name: lambda name=name: turns.append(name) for name in "ab"}
    case = benchmarks.decode.Case("made up", 1, "slices/s", providers)
    seconds = time_case(case, repeats=2)
    assert turns == ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_ratios_come_first_and_the_csv_has_the_columns_of_every_suite(tmp_path, capsys):
    path = tmp_path / "decode.csv"
    assert main(["--only", "store", "--repeats", "1", "--output", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "times as fast as file (wanted 0.8)" in printed
    assert printed.index("times as fast") < printed.index("GB/s (")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["suite"], row["case"], row["provider"], row["unit"]) for row in rows] == [
        ("decode", "store", "fastliver", "GB/s"),
        ("decode", "store", "file", "GB/s"),
    ]
