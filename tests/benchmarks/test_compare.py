"""Two revisions beside each other: what counts as a drop, and how the other tree comes and goes."""

import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks import compare
from benchmarks.compare import Change, changes, figures

KEY = ("kernels", "stem", "fastliver", "full", "speed vs eager", "1", "fp32")


@pytest.mark.parametrize(
    ("base", "here", "drop"),
    [
        ((2.0, 2.0, 2.0), (1.7, 1.7, 1.7), True),
        ((2.0, 2.0, 2.0), (1.85, 1.85, 1.85), False),  # by less than 10 %
        ((2.0, 1.6, 2.2), (1.7, 1.7, 1.7), False),  # within the spread: a round of BASE was below
        ((2.0, 2.0, 2.0), (3.0, 3.0, 3.0), False),
    ],
)
def test_a_drop_is_over_10_percent_and_beyond_the_spread(base, here, drop):
    assert Change(KEY, base, here).is_drop is drop


def _row(**columns):
    values = dict(zip(compare.IDENTITY, KEY, strict=True))
    return {**values, "unit": "x", "p50": "2.5", **columns}


def test_ratios_of_ours_and_rates_without_a_peer_are_compared():
    rows = [
        _row(),
        _row(metric="rate", unit="GB/s", p50="7"),
        _row(case="alone", metric="rate", unit="GB/s", p50="7"),
        _row(metric="time", unit="ms"),
        _row(provider="eager", metric="rate"),
    ]
    # A rate depends on the machine's mood: it is compared where there is no peer beside it.
    assert figures(rows) == {KEY: 2.5, ("kernels", "alone", *KEY[2:4], "rate", *KEY[5:]): 7.0}


def test_what_both_have_is_listed_the_largest_drop_first():
    other = ("decode", *KEY[1:])
    found = changes({KEY: [2.0], other: [4.0], ("gone", *KEY[1:]): [1.0]}, {KEY: [2.0], other: [2.0]})
    assert [(change.key, change.ratio) for change in found] == [(other, 0.5), (KEY, 1.0)]
    text = compare.report(found)
    assert "DROPPED" in text.splitlines()[2]
    assert "DROPPED" not in text.splitlines()[3]


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with a revision `old` whose benchmarks differ from the working tree's."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    root = tmp_path / "repository"
    (root / "benchmarks" / "results").mkdir(parents=True)
    (root / "fastliver").mkdir()
    (root / "csrc").mkdir()
    (root / "benchmarks" / "suite.py").write_text("old ruler")
    (root / "fastliver" / "code.py").write_text("old code")
    (root / "csrc" / "a.cpp").write_text("same")

    def git(*words: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", *identity, "-C", str(root), *words], check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "-m", "old")
    git("tag", "old")
    (root / "benchmarks" / "suite.py").write_text("new ruler")
    (root / "benchmarks" / "results" / "rows.csv").write_text("")
    (root / "fastliver" / "code.py").write_text("new code")
    (root / "fastliver" / "_C.abi3.so").write_text("library")
    monkeypatch.setattr(compare, "REPOSITORY", root)
    return root


def _worktrees(root: Path) -> int:
    done = subprocess.run(["git", "-C", str(root), "worktree", "list"], capture_output=True, text=True, check=True)
    return len(done.stdout.splitlines())


def test_the_other_tree_has_its_code_this_ruler_and_a_library_and_goes_again(repository):
    with pytest.raises(KeyError), compare.checked_out("old") as tree:
        assert (tree / "fastliver" / "code.py").read_text() == "old code"
        assert (tree / "benchmarks" / "suite.py").read_text() == "new ruler"
        assert (tree / "fastliver" / "_C.abi3.so").read_text() == "library"
        assert not (tree / "benchmarks" / "results").exists()
        assert _worktrees(repository) == 2
        raise KeyError
    assert not tree.exists()
    assert _worktrees(repository) == 1


def test_an_unknown_revision_is_named(repository):
    with pytest.raises(SystemExit, match="BASE=nowhere: git can't check it out"), compare.checked_out("nowhere"):
        pass
    assert _worktrees(repository) == 1


def test_the_command_takes_turns_and_ends_with_1_at_a_drop(repository, monkeypatch, capsys):
    turns = []

    def run_suite(tree, suite, out, minutes):
        here = tree == repository
        turns.append((suite, "here" if here else "base"))
        return [_row(p50="1.5" if here else "2.0")]

    monkeypatch.setattr(compare, "run_suite", run_suite)
    assert compare.main(["old", "--only", "kernels", "--rounds", "2"]) == 1
    assert [name for _, name in turns] == ["base", "here", "here", "base"]
    assert "1 figures compared, 1 dropped by over 10% beyond the spread, 0 gone" in capsys.readouterr().out


@pytest.mark.parametrize("rows", [[], [_row(case="other")]])
def test_figures_that_are_gone_are_told_and_nothing_to_compare_is_no_success(rows, repository, monkeypatch, capsys):
    monkeypatch.setattr(compare, "run_suite", lambda tree, *rest: rows if tree == repository else [_row()])
    assert compare.main(["old", "--only", "kernels", "--rounds", "1"]) == 1
    assert "gone: kernels stem fastliver" in capsys.readouterr().out
