"""The CSV of results, and which of its rows count."""

import csv
import gc
import re
import weakref
from contextlib import contextmanager

import pytest
import torch

from benchmarks import measure, results
from benchmarks.results import Results, newest, newest_results, read_rows, surroundings

WHERE = {"case": "a", "provider": "b", "mode": "full", "shape": "1", "dtype": "fp32"}


def _write(path, date, value, suite="kernels", **columns):
    shared = surroundings(torch.device("cpu")) | {"date": date}
    with Results(path, suite, shared) as file:
        file.add("time", "ms", (value, value, value), **{**WHERE, **columns})


def test_a_second_sitting_is_added_and_other_columns_are_refused(tmp_path):
    path = tmp_path / "kernels.csv"
    for day in ("2026-01-01", "2026-01-02"):
        _write(path, day, 1.0)
    assert len(read_rows(path)) == 2
    path.write_text("suite,case\n")
    with pytest.raises(ValueError, match=r"kernels.csv: its columns are suite, case; expected suite, case, provider"):
        _write(path, "2026-01-03", 1.0)
    assert path.read_text() == "suite,case\n"


def test_the_newest_row_of_each_figure_counts(tmp_path):
    _write(tmp_path / "kernels.csv", "2026-01-02", 2.0)
    _write(tmp_path / "kernels.csv", "2026-01-01", 1.0, commit="before")
    _write(tmp_path / "kernels.csv", "2026-01-01", 3.0, dtype="bf16")
    _write(tmp_path / "decode.csv", "2026-01-01", 4.0, suite="decode")
    found = {(row["suite"], row["dtype"]): row["p50"] for row in newest_results(tmp_path)}
    assert found == {("kernels", "fp32"): "2", ("kernels", "bf16"): "3", ("decode", "fp32"): "4"}
    assert newest([]) == []
    assert newest_results(tmp_path / "nowhere") == []


def test_repetitions_of_a_figure_are_one_with_the_spread_of_all():
    def row(p20, p50, p80, day, **columns):
        same = dict.fromkeys(results.COLUMNS, "x")
        return {**same, "p20": str(p20), "p50": str(p50), "p80": str(p80), "date": day, "commit": "abc", **columns}

    rows = [row(9, 9, 9, "2026-01-01", commit="old"), row(1, 2, 3, "2026-01-02"), row(2, 2.5, 4, "2026-01-03"),
            row(2, 7, 8, "2026-01-03", commit="abc-dirty")]  # fmt: skip
    (found,) = newest(rows)
    assert [found[name] for name in ("p20", "p50", "p80", "date")] == ["1", "2.5", "8", "2026-01-03"]
    (found,) = newest([*rows, row(5, 5, 5, "2026-01-04", torch="newer")])
    assert found["p50"] == "5"
    (found,) = newest([row(n, n, n, f"2026-01-0{n}") for n in range(1, 8)])
    assert [found[name] for name in ("p20", "p50", "p80")] == ["3", "5", "7"], "the newest five"


def test_a_device_has_a_folder_and_says_what_it_is(monkeypatch):
    assert results.results_folder(torch.device("cpu")).name == "cpu"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    assert results.results_folder(torch.device("cuda")).name == "nvidia-h100-80gb-hbm3"
    assert re.fullmatch(r".+, \d+ threads", surroundings(torch.device("cpu"))["device"])


def test_percentiles_rates_and_turns():
    assert measure.percentiles(list(range(101))) == (20.0, 50.0, 80.0)
    assert measure.rates(100.0, (1.0, 2.0, 4.0)) == (25.0, 50.0, 100.0)
    turns = []
    works = {name: lambda name=name: turns.append(name) for name in "ab"}
    seconds = measure.by_turns(works, 2, torch.device("cpu"), warm_up=1)
    assert turns == ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_a_copy_moves_the_bytes_that_it_says():
    target = measure.copy_work(1000, torch.device("cpu"))()
    assert target.numel() * target.element_size() == 500


def test_the_peak_is_the_faster_of_product_and_convolution(monkeypatch):
    device = torch.device("cpu")
    # Taking a second each, of 2 * 1024^3 and 2 * 256 * 64 * 64 * 9 * 256 operations the latter are more.
    monkeypatch.setattr(measure, "seconds_of", lambda work, device: 1.0)
    assert measure.matrix_peak(torch.float32, device) == pytest.approx(2 * 256 * 64 * 64 * 9 * 256 / 1e12)


def test_committed_results_can_be_read():
    paths = sorted(results.FOLDER.glob("*/*.csv"))
    assert paths
    for path in paths:
        for row in read_rows(path):
            assert float(row["p20"]) <= float(row["p50"]) <= float(row["p80"]), (path, row)
            assert row["suite"] == path.stem


def test_rows_end_as_unix_has_it(tmp_path):
    _write(tmp_path / "kernels.csv", "2026-01-02", 2.0)
    assert b"\r" not in (tmp_path / "kernels.csv").read_bytes()
    with (tmp_path / "kernels.csv").open(newline="") as file:
        assert len(list(csv.reader(file))) == 2


class _Cuda:
    """Stands in for torch.cuda: notes on which stream things happen, and that a graph was replayed."""

    def __init__(self, monkeypatch):
        self.on, self.happened = "default", []
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: self)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "default")
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: self)
        monkeypatch.setattr(torch.cuda, "stream", self.entered)
        monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream: self.entered("graph"))

    def wait_stream(self, other):
        assert other == "default"

    @contextmanager
    def entered(self, what):
        before, self.on = self.on, "graph" if what == "graph" else "side"
        yield
        self.on = before

    def replay(self):
        self.happened.append(("replayed", self.on))


def test_a_step_is_made_and_recorded_on_one_stream_and_keeps_what_it_reads(monkeypatch):
    cuda = _Cuda(monkeypatch)
    held = []

    def make():
        cuda.happened.append(("made", cuda.on))
        read = torch.zeros(3)
        held.append(weakref.ref(read))

        def step():
            cuda.happened.append(("step", cuda.on))
            return read + 1

        return step

    again = measure.captured(make, torch.device("cuda"), warm_up=2)
    del make
    again()
    assert cuda.happened == [
        ("made", "side"),
        ("step", "side"),
        ("step", "side"),
        ("step", "graph"),
        ("replayed", "default"),
    ]
    gc.collect()
    assert held[0]() is not None  # a graph reads the memory, not the tensor
