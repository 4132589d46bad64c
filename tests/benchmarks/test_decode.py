"""The cases of decoding on a few small files: everybody makes the same slices."""

from pathlib import Path

import numpy as np
import pytest
import torch

import benchmarks.decode
from benchmarks.decode import SUITE, TOLERANCE, Material, cases, disagreement

FILES = 3
CPU = torch.device("cpu")


@pytest.fixture
def material(phantom: Path, monkeypatch: pytest.MonkeyPatch) -> Material:
    monkeypatch.setattr(benchmarks.decode, "STORED", 4)
    few = Material()
    few.real = sorted((phantom / "CT/1/DICOM_anon").iterdir())[:FILES]
    few.count = FILES
    return few


def _works(material, name):
    case = next(case for case in cases(CPU, material) if case.name == name)
    return case, {contestant.title: contestant.make() for contestant in case.contestants}


@pytest.mark.parametrize("name", ["files", "jpeg2000"])
def test_every_contestant_makes_the_slices_that_pydicom_does(name, material):
    case, works = _works(material, name)
    assert (case.amount, next(iter(works))) == (FILES, "fastliver")
    differences = disagreement(works)
    assert "fastliver" in differences
    assert max(differences.values()) < TOLERANCE
    assert case.check(works) == {}
    for work in works.values():
        slices = work()
        assert (slices.shape, slices.dtype) == ((FILES, 256, 256), np.float16)


def test_a_contestant_that_is_wrong_is_seen(material):
    case, works = _works(material, "files")
    works["fastliver"] = lambda: np.zeros((FILES, 256, 256), np.float16)
    assert disagreement(works)["fastliver"] > TOLERANCE
    assert list(case.check(works)) == ["fastliver"]


def test_monai_makes_nearly_the_same_slices(material):
    """It doesn't antialias, but turned or mirrored slices would differ by far more."""
    pytest.importorskip("monai")
    _, works = _works(material, "files")
    difference = np.abs(works["monai"]().astype(float) - works["pydicom"]().astype(float))
    assert difference.mean() < 0.02


def test_the_store_and_the_plain_read_take_the_same_bytes(material):
    case, works = _works(material, "store")
    images, labels = works["file"]()
    assert images.size + labels.size - 2 * 128 == 4 * 256 * 256 * 3  # each file has a header of 128 bytes
    assert case.amount == pytest.approx(4 * 256 * 256 * 3 / 1e9)
    assert works["fastliver"]().images.shape == (4, 1, 256, 256)


def test_many_files_are_series_of_links(material, monkeypatch):
    monkeypatch.setattr(benchmarks.decode, "MANY", 7)
    assert [len(part) for part in material.many] == [FILES] * 3


def test_the_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(benchmarks.decode, "STORED", 4)
    assert SUITE.main(["--only", "store", "--repeats", "1", "--out", str(tmp_path / "decode.csv")]) == 0
    printed = capsys.readouterr().out
    assert printed.index("times as fast") < printed.index("median")


def test_without_an_encoder_jpeg_2000_is_left_out(material, monkeypatch):
    assert [case.name for case in cases(CPU, material)] == ["files", "store", "jpeg2000"]
    monkeypatch.setattr(benchmarks.decode, "writes_jpeg2000", lambda: False)
    assert [case.name for case in cases(CPU, material)] == ["files", "store"]
