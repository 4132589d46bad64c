"""What all suites share: who is timed and how, what is written, what is left out, what is printed last."""

import time
from contextlib import suppress

import pytest
import torch

from benchmarks import suite
from benchmarks.results import COLUMNS
from benchmarks.suite import Case, Contestant, Suite, table


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch):
    """A suite as a command takes the GPU where there is one, with other repeats, after a while for its start."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def _case(works=None, **options):
    works = works or {"fastliver": lambda: None, "peer": lambda: None}
    contestants = tuple(Contestant(name, lambda work=work: work) for name, work in works.items())
    return Case("made up", "1x2", "fp32", contestants, **options)


def test_contestants_take_turns_and_the_first_turn_does_not_count(sitting):
    turns = []
    works = {name: lambda name=name: turns.append(name) for name in ("fastliver", "peer")}
    sitting(repeats=2).race(_case(works))
    assert turns == ["fastliver", "peer"] * 3


def test_rows_are_the_ratio_turn_by_turn_the_time_and_the_rate(sitting, read_rows):
    case = _case(amount=6.0, unit="slices/s")
    sitting().record(case, {"fastliver": [1.0, 2.0, 4.0], "peer": [3.0, 2.0, 4.0]})
    rows = {(row["provider"], row["metric"]): row for row in read_rows()}
    assert set(rows) == {
        ("fastliver", "speed vs peer"),
        ("fastliver", "time"),
        ("fastliver", "rate"),
        ("peer", "time"),
        ("peer", "rate"),
    }
    # 3/1, 2/2 and 4/4: a machine that slows down in the third turn changes no ratio.
    assert float(rows["fastliver", "speed vs peer"]["p50"]) == 1.0
    assert float(rows["fastliver", "speed vs peer"]["p80"]) == pytest.approx(1 + 0.6 * 2)
    assert (rows["fastliver", "time"]["p50"], rows["fastliver", "time"]["unit"]) == ("2000", "ms")
    assert (rows["peer", "rate"]["p50"], rows["peer", "rate"]["unit"]) == ("2", "slices/s")
    assert tuple(rows["peer", "rate"]) == COLUMNS
    assert {(row["suite"], row["case"], row["shape"], row["dtype"], row["mode"]) for row in rows.values()} == {
        ("suite", "made up", "1x2", "fp32", "full")
    }


def test_each_of_ours_is_held_against_each_peer_and_a_dtype_of_its_own_is_written(sitting, read_rows):
    contestants = (
        Contestant("stock", lambda: None, "fp32"),
        Contestant("fastliver", lambda: None, "fp32"),
        Contestant("fastliver", lambda: None, "bf16"),
    )
    case = Case("step", "1", "fp32", contestants)
    sitting().record(case, {"stock fp32": [6.0], "fastliver fp32": [3.0], "fastliver bf16": [2.0]})
    ratios = {row["dtype"]: float(row["p50"]) for row in read_rows() if row["metric"] == "speed vs stock fp32"}
    assert ratios == {"fp32": 2.0, "bf16": 3.0}


@pytest.mark.parametrize(("wrong", "other"), [("peer", "fastliver"), ("fastliver", "peer")])
def test_who_does_it_wrong_is_not_timed_and_ours_make_the_exit_status_1(wrong, other, sitting, read_rows, capsys):
    held = sitting()
    held.race(_case(check=lambda works: {wrong: "is 3 off"}))
    text = f"made up 1x2: {wrong} is 3 off; not timed"
    assert (held.complaints, held.notes) == (([text], []) if wrong == "fastliver" else ([], [text]))
    assert {row["provider"] for row in read_rows()} == {other}
    assert text in capsys.readouterr().out


def test_ratios_are_shown_before_times_with_what_was_wanted(sitting, capsys):
    held = sitting()
    case = _case(targets={("fastliver", "peer"): 1.5})
    held.record(case, {"fastliver": [1.0], "peer": [2.0]})
    capsys.readouterr()
    held.show()
    lines = capsys.readouterr().out.splitlines()
    ratio = next(number for number, line in enumerate(lines) if "2.00" in line and line.endswith("1.5   "))
    assert ratio < next(number for number, line in enumerate(lines) if "1000 ms" in line)


def test_only_and_minutes_leave_cases_out_and_the_latter_says_so(sitting, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(suite.time, "monotonic", lambda: now[0])
    held = sitting(only="a", minutes=1.0)
    assert held.takes("a case")
    assert not held.takes("other")
    now[0] = 29.0  # the first took 29 s, so a second ends in time, and a third after it would not
    assert held.takes("a case")
    now[0] = 58.0
    assert not held.takes("last case")
    assert "last case: left out, the 1 minutes are over" in capsys.readouterr().out


def test_a_suite_as_a_command(tmp_path, capsys):
    out = tmp_path / "new" / "x.csv"

    def run(sitting):
        assert sitting.repeats == 3
        assert sitting.takes("made up")
        sitting.race(_case())
        sitting.complain("odd")

    assert Suite("x", "`python -m x`: does x.", run, repeats=(3, 4)).main(["--out", str(out)]) == 1
    printed = capsys.readouterr().out
    assert printed.index("times as fast") < printed.index("median") < printed.index("wrong: odd")
    assert out.exists()


def test_minutes_end_a_case_in_its_middle_and_the_tables_are_shown(tmp_path, capsys):
    def run(sitting):
        assert sitting.takes("made up")
        sitting.race(_case())
        with suppress(Exception):  # as torch.compile would catch it
            time.sleep(60)

    began = time.monotonic()
    assert (
        Suite("x", "`python -m x`: does x.", run, (1, 1)).main(["--minutes", "0.02", "--out", str(tmp_path / "x")]) == 0
    )
    assert time.monotonic() - began < 30
    printed = capsys.readouterr().out
    assert printed.index("0.02 minutes are over in the middle of a case") < printed.index("times as fast")


def test_an_error_still_shows_the_tables(tmp_path, capsys):
    def run(sitting):
        assert sitting.takes("made up")
        sitting.race(_case())
        raise KeyError("broken")

    with pytest.raises(KeyError):
        Suite("x", "`python -m x`: does x.", run, (1, 1)).main(["--out", str(tmp_path / "x")])
    assert "times as fast" in capsys.readouterr().out


def test_a_name_that_no_case_has_is_no_success(tmp_path, capsys):
    suite = Suite("x", "`python -m x`: does x.", lambda sitting: sitting.takes("made up"), (1, 1))
    assert suite.main(["--only", "nowhere", "--out", str(tmp_path / "x")]) == 1
    assert "no case was taken (--only 'nowhere'" in capsys.readouterr().out


def test_what_does_not_fit_in_memory_is_said_and_the_next_case_goes_on(sitting, capsys, read_rows):
    def too_much():
        raise torch.OutOfMemoryError("CUDA out of memory")

    held = sitting()
    held.race(_case({"fastliver": too_much, "peer": lambda: None}))
    assert "made up 1x2: left out, it does not fit in memory" in capsys.readouterr().out
    held.race(_case())
    assert {row["provider"] for row in read_rows()} == {"fastliver", "peer"}


def test_columns_are_aligned():
    assert table(("a", "long"), [("xyz", "1")]).splitlines() == ["a    long", "---  ----", "xyz  1   "]
