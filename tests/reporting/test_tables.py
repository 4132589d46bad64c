"""The tables hold what the results say, with means, intervals and differences as computed by hand."""

import csv
import io
import math
from collections.abc import Callable

import pytest
from rich.console import Console

from fastliver.reporting import build_report, print_tables
from fastliver.reporting.cost_table import cost_table
from fastliver.reporting.results import Group, difference, estimate, load_groups
from fastliver.reporting.score_tables import ablation_table, segmentation_table
from fastliver.reporting.table import BLANK, Table
from fastliver.reporting.tables import data_table, make_tables
from fastliver.run_folder import RunFolder

MakeRun = Callable[..., RunFolder]
T_3 = 4.302652729911275  # the 97.5 % quantile of Student's t with two degrees of freedom, from a printed table


def read(table: Table | None) -> list[dict[str, str]]:
    assert table is not None
    return list(csv.DictReader(io.StringIO(table.csv())))


def remove(run: RunFolder, pattern: str) -> None:
    for path in (run.root / "results").glob(pattern):
        path.unlink()


def test_segmentation_by_hand(make_run: MakeRun) -> None:
    real, few, combined, cyclegan = read(segmentation_table(make_run()))
    half = T_3 * 0.01 / math.sqrt(3)
    assert float(real["dice"]) == pytest.approx(0.91)
    assert float(real["dice_low"]) == pytest.approx(0.91 - half)
    assert float(real["dice_high"]) == pytest.approx(0.91 + half)
    assert (real["dice_difference"], real["source"], real["synthetic"]) == ("", "real", "0")

    # Dice 0.93, 0.935, 0.95 less 0.90, 0.91, 0.92 is 0.03, 0.025, 0.03.
    half = T_3 * math.sqrt((0.005 / 3) ** 2 * 2 / 2 + (0.01 / 3) ** 2 / 2) / math.sqrt(3)
    assert combined["training_images"] == "Combined (1064)"
    assert float(combined["dice_difference"]) == pytest.approx(0.085 / 3)
    assert float(combined["dice_difference_low"]) == pytest.approx(0.085 / 3 - half)
    assert float(combined["dice_difference_high"]) == pytest.approx(0.085 / 3 + half)
    assert float(combined["dice_per_patient_mean"]) == pytest.approx(2.815 / 3)
    assert float(combined["dice_per_slice_mean"]) == pytest.approx(2.815 / 3 - 0.02)
    assert float(combined["iou"]) == pytest.approx(sum(d / (2 - d) for d in (0.93, 0.935, 0.95)) / 3)
    assert float(combined["auc"]) == pytest.approx(1 - (1 - 2.815 / 3) / 10)
    assert (combined["paper_dice"], combined["paper_iou"], combined["seeds"]) == ("0.9524", "0.9091", "3")
    assert (few["arrangement"], few["paper_dice"]) == ("354", "0.9467")
    assert (cyclegan["source"], cyclegan["paper_dice"]) == ("cyclegan", "0.946")


def test_one_seed_has_no_interval(make_run: MakeRun) -> None:
    table = segmentation_table(make_run(seeds=1))
    combined = read(table)[2]
    assert float(combined["dice_difference"]) == pytest.approx(0.03)
    assert combined["dice_low"] == combined["dice_high"] == combined["dice_difference_low"] == ""
    assert table is not None
    assert "One seed: no interval" in table.note


def test_difference_is_paired_by_seed() -> None:
    def group(dice: dict[int, float]) -> Group:
        return Group("essnet", 714, tuple({"seed": seed, "scores": {"dice": value}} for seed, value in dice.items()))

    paired = difference(group({0: 0.9, 1: 0.8, 5: 0.1}), group({1: 0.7, 0: 0.8}), "dice")
    assert paired is not None
    assert paired.mean == pytest.approx(0.1)
    assert paired.half == pytest.approx(0.0, abs=1e-12)
    apart = difference(group({0: 0.9, 1: 0.8}), group({2: 0.7}), "dice")
    assert apart is not None
    assert (apart.mean, apart.half) == (pytest.approx(0.15), None)
    assert difference(group({}), group({0: 0.5}), "dice") is None
    assert estimate([]) is None


def test_scores_without_a_value_are_blank(make_run: MakeRun) -> None:
    run = make_run(seeds=1)
    result = run.read_result("unet-real-0-seed0")
    assert result is not None
    result["scores"] |= {"auc": None, "iou": math.nan, "dice_per_patient": {"a": 0.5, "b": None}}
    run.write_result("unet-real-0-seed0", result)
    real = read(segmentation_table(run))[0]
    assert (real["auc"], real["iou"], real["dice_per_patient_mean"]) == ("", "", "0.5")


def test_fraction_of_the_papers_count_is_noted(make_run: MakeRun) -> None:
    run = make_run(seeds=1)
    result = run.read_result("unet-essnet-354-seed0")
    assert result is not None
    run.write_result("unet-essnet-354-seed0", result | {"real": 100, "synthetic": 101})
    table = segmentation_table(run)
    assert read(table)[1]["training_images"] == "Combined (201)"
    assert table is not None
    assert "101 for the paper's 354." in table.note


def test_ablation(make_run: MakeRun) -> None:
    run = make_run()
    rows = read(ablation_table(run))
    assert [row["source"] for row in rows] == ["real", "cyclegan", "essnet"]
    assert [row["paper_iou"] for row in rows] == ["0.8974", "0.8976", "0.9091"]
    assert float(rows[1]["dice_difference"]) == pytest.approx(0.0)
    remove(run, "unet-cyclegan-*")
    assert ablation_table(run) is None


def test_data_and_cost(make_run: MakeRun) -> None:
    run = make_run()
    data = {row["data"]: row for row in read(data_table(run))}
    assert data["CT read"]["liver_slices"] == data["CT read"]["paper"] == "2050"
    assert data["CT read"]["skipped"] == "1"
    assert data["MR to test on"] | {"patients": "2", "used": "58", "paper": "58"} == data["MR to test on"]

    cost = {row["network"]: row for row in read(cost_table(run))}
    essnet, unet = cost["EssNet"], cost["U-Net, Combined (1064)"]
    assert (essnet["parameters"], essnet["parameters_total"]) == ("28256644", "39625414")
    assert (essnet["hours"], essnet["images_per_second"], essnet["device"]) == ("0.35", "357.0", "NVIDIA H100")
    assert essnet["memory_gib"] == "1.75", "the highest line, not the last"
    assert unet["memory_gib"] == "", "a run that logged none"
    assert (unet["seconds_per_epoch"], unet["epoch_size"]) == ("11.0", "1064")  # seeds took 10, 11 and 12 s
    assert cost["U-Net, Combined (1064) in the paper"]["seconds_per_epoch"] == "80"
    assert cost["EssNet in the paper"]["device"] == "GeForce RTX 2060"


@pytest.mark.parametrize(
    ("kept", "names"),
    [
        ("nothing", []),
        ("data.json", ["data"]),
        ("train-essnet.json", ["cost"]),
        ("unet-real-0-seed0.json", ["segmentation", "cost"]),
        ("unet-cyclegan-714-seed1.json", ["segmentation", "ablation", "cost"]),
    ],
)
def test_missing_results_leave_tables_out(make_run: MakeRun, kept: str, names: list[str]) -> None:
    run = make_run()
    for path in (run.root / "results").iterdir():
        if path.name != kept:
            path.unlink()
    assert [table.name for table in make_tables(run)] == names


def test_order_of_rows(make_run: MakeRun) -> None:
    groups = load_groups(make_run(seeds=1))
    order = [(group.arrangement, group.source) for group in groups]
    assert order == [(0, "real"), (354, "essnet"), (714, "essnet"), (714, "cyclegan")]


@pytest.mark.parametrize("width", [80, 200])
def test_terminal_cuts_nothing(make_run: MakeRun, width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO(), force_terminal=True)
    print_tables(make_run(), console)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert "0.9383 ± 0.0259" in text
    assert "+0.0283 ± 0.0072" in text


def test_the_note_on_a_terminal_speaks_of_what_it_shows(make_run: MakeRun) -> None:
    run = make_run()
    console = Console(width=200, record=True, file=io.StringIO())
    print_tables(run, console)
    text = console.export_text()
    assert "Δ is against real only." in text
    assert "per slice" not in text.lower()
    assert "per patient" not in text.lower()
    build_report(run)
    note = "per patient the mean, the lowest and the highest"
    assert note in run.report.read_text(encoding="utf-8")


def test_quality_of_synthetic_images(make_run: MakeRun) -> None:
    run = make_run()
    run.write_result("features-essnet", {"network": "net.onnx", "fid": 12.5, "kid": 0.01, "kid_deviation": 0.002})
    table = next(table for table in make_tables(run) if table.name == "quality")
    ct, essnet, cyclegan = ([cell.text for cell in row] for row in table.rows)
    assert ct[:5] == ["CT, untranslated", "714", "0.7500", "0.5000", "0.2500"]
    assert essnet == [
        "Synthetic MR by EssNet", "714", "0.0625", "0.1250", "0.0312", "0.9000", "0.7000", "71 (9.9%)", "12.50",
        "0.0100 ± 0.0020",
    ]  # fmt: skip
    assert cyclegan[5:] == [BLANK] * 5
    assert "net.onnx" in table.note
    assert "Dice of 0.8" in table.note
    assert "that EssNet and CycleGAN learned from" in table.note
    (run.root / "results" / "quality-essnet.json").unlink()
    table = next(table for table in make_tables(run) if table.name == "quality")
    assert "that CycleGAN learned from" in table.note
    assert "EssNet" not in table.note
    assert "S agrees" not in table.note
