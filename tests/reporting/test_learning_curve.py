"""The learning curve: its table and figure by hand, and that nothing else takes its U-Nets for those on all labels."""

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from rich.console import Console

from fastliver.reporting import build_report, print_tables
from fastliver.reporting.figures import FIGURES, losses_picture
from fastliver.reporting.learning_curve import learning_curve_picture, learning_curve_table
from fastliver.reporting.results import load_curve, load_groups
from fastliver.reporting.summary import answer, caveats
from fastliver.reporting.tables import TABLES
from fastliver.run_folder import RunFolder

MakeRun = Callable[..., RunFolder]
T_3 = 4.302652729911275  # the 97.5 % quantile of Student's t with two degrees of freedom, from a printed table


@pytest.fixture
def run(make_run: MakeRun) -> RunFolder:
    return make_run(size=24, slices=2, steps=20, curve=True)


def rows(run: RunFolder) -> list[dict[str, str]]:
    table = learning_curve_table(run)
    assert table is not None
    return list(csv.DictReader(io.StringIO(table.csv())))


def test_rows_by_hand(run: RunFolder) -> None:
    """EssNet's 714 less real only with one patient is 0.15, 0.20, 0.07: 0.14 on average, 0.0656 its deviation."""
    found = rows(run)
    keys = [(row["labelled_patients"], row["source"], row["arrangement"], row["synthetic"]) for row in found]
    assert keys == [(count, *kind) for count in "123" for kind in (("real", "0", "0"), ("essnet", "714", "714"))], (
        "neither the 354 nor the CycleGAN, which have no curve"
    )
    real, combined = found[:2]
    assert (real["real_fewest"], real["real_most"], real["seeds"]) == ("100", "102", "3")
    assert float(real["dice"]) == pytest.approx(0.7)
    assert float(real["dice_low"]) == pytest.approx(0.7 - T_3 * 0.1 / math.sqrt(3))
    assert float(combined["dice"]) == pytest.approx(0.84)
    assert float(combined["dice_difference"]) == pytest.approx(0.14)
    half = T_3 * math.sqrt((0.01**2 + 0.06**2 + 0.07**2) / 2) / math.sqrt(3)
    assert float(combined["dice_difference_low"]) == pytest.approx(0.14 - half)
    assert float(combined["dice_difference_high"]) == pytest.approx(0.14 + half)
    # 0.02, 0.04, -0.01 with two patients; with all it is the gain of Table 3.
    assert float(found[3]["dice_difference"]) == pytest.approx(0.05 / 3)
    assert float(found[5]["dice_difference"]) == pytest.approx(0.085 / 3)
    assert [row["dice_difference"] for row in found[::2]] == ["", "", ""]


def test_the_gain_is_paired_by_seed(run: RunFolder) -> None:
    """Seed 1 has no real-only U-Net with one patient: what is left is 0.15 and 0.07."""
    run.result("unet-real-0-patients1-seed1").unlink()
    combined = rows(run)[1]
    assert (combined["seeds"], rows(run)[0]["seeds"]) == ("3", "2")
    assert float(combined["dice_difference"]) == pytest.approx(0.11)
    assert float(combined["dice"]) == pytest.approx(0.84)


def test_words_of_the_table(run: RunFolder) -> None:
    table = learning_curve_table(run)
    assert table is not None
    assert [row[0].text for row in table.rows] == ["1", "1", "2", "2", "3 (all)", "3 (all)"]
    assert [row[1].text for row in table.rows[:2]] == ["Real only", "Real + 714 by EssNet"]
    assert [row[2].text for row in table.rows[::2]] == ["100\N{EN DASH}102", "200\N{EN DASH}202", "350"]
    console = Console(width=80, record=True, file=io.StringIO())
    print_tables(run, console)
    assert "+0.1400 ± 0.1629" in console.export_text()


def drawn(ax: Axes) -> list[list[tuple[float, float]]]:
    """Points of the lines with bars: patients, value."""
    lines = [bars[0] for bars in ax.containers if isinstance(bars, ErrorbarContainer)]
    return [[(round(2 ** float(x), 9), round(float(y), 9)) for x, y in np.asarray(line.get_xydata())] for line in lines]


def test_figure_by_hand(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastliver.reporting.learning_curve.STEP", 0.0)
    picture = learning_curve_picture(run)
    assert picture is not None
    levels, gains = picture.figure.axes
    real, combined = drawn(levels)
    assert real == [(1, 0.7), (2, 0.81), (3, 0.91)]
    assert combined == [(1, 0.84), (2, pytest.approx(2.48 / 3)), (3, pytest.approx(2.815 / 3))]
    assert drawn(gains) == [[(1, 0.14), (2, pytest.approx(0.05 / 3)), (3, pytest.approx(0.085 / 3))]]
    assert [tick.get_text() for tick in gains.get_xticklabels()] == ["1", "2", "3\n(all)"]
    assert "Real only: 1 patient 0.7000; 2 patients 0.8100; 3 patients 0.9100." in picture.alt
    assert "gain with Real + 714 by EssNet: 1 patient +0.1400;" in picture.alt
    assert "dots single seeds" in picture.caption


def test_one_seed_is_one_draw(make_run: MakeRun) -> None:
    run = make_run(size=24, slices=2, steps=20, curve=True, seeds=1)
    picture, table = learning_curve_picture(run), learning_curve_table(run)
    assert picture is not None and table is not None
    assert "With one seed it is one draw of patients" in picture.caption
    assert "One seed: no interval." in table.note
    assert float(rows(run)[1]["dice_difference"]) == pytest.approx(0.15)


def test_nothing_else_takes_few_labels_for_all(run: RunFolder, make_run: MakeRun, tmp_path: Path) -> None:
    """With or without the curve's results every other table, figure and answer is the same."""
    groups, said = load_groups(run), answer(run)
    assert [(group.source, group.arrangement, group.labelled) for group in groups] == [
        ("real", 0, 3),
        ("essnet", 354, 3),
        ("essnet", 714, 3),
        ("cyclegan", 714, 3),
    ]
    build_report(run)
    with_curve = {path: path.read_bytes() for path in (*run.tables.iterdir(), *run.figures.iterdir())}
    assert "<h2>How many labelled patients</h2>" in run.report.read_text(encoding="utf-8")
    for path in (run.root / "results").glob("unet-*-patients*"):
        path.unlink()
    lines = [line for line in run.metrics.read_text().splitlines(keepends=True) if "-patients" not in line]
    run.metrics.write_text("".join(lines))
    assert answer(run) == said
    build_report(run)
    without = {path: path.read_bytes() for path in (*run.tables.iterdir(), *run.figures.iterdir())}
    curve = {run.tables / "learning_curve.csv", run.figures / "learning_curve.png"}
    assert with_curve.keys() - without.keys() == curve
    assert all(with_curve[path] == data for path, data in without.items())
    assert {path.stem for path in without} | {"learning_curve"} == TABLES.keys() | FIGURES.keys()
    page = run.report.read_text(encoding="utf-8")
    assert "labelled patients" not in page
    assert load_curve(run) == []


def test_a_u_net_of_the_curve_in_training_is_drawn_as_one_in_training(run: RunFolder) -> None:
    run.result("unet-real-0-patients1-seed0").unlink()
    picture = losses_picture(run)
    assert picture is not None
    labels = [line.get_label() for line in picture.figure.axes[-1].lines]
    assert "unet-real-0-patients1-seed0" in labels
    assert "unet-real-0-patients2-seed0" not in labels


def test_results_of_before_there_were_curves_count_as_all(run: RunFolder) -> None:
    for path in (run.root / "results").glob("unet-*-patients*"):
        path.unlink()
    for result in run.read_results("unet-"):
        run.write_result(result["job"], {name: value for name, value in result.items() if "labelled" not in name})
    assert len(load_groups(run)) == 4
    assert learning_curve_table(run) is None


def test_a_u_net_that_found_nothing_is_named_with_its_patients(run: RunFolder) -> None:
    result = run.read_result("unet-real-0-patients1-seed0")
    assert result is not None
    result["scores"]["dice"] = 0.0
    run.write_result(result["job"], result)
    assert caveats(run)[0].text.startswith("Real only (100), labels of 1 patient: a U-Net found no liver")
