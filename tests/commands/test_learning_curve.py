"""`--labelled-patients`: U-Nets on the labels of few patients, added to a finished run, and what is refused."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fastliver.data.store import SliceStore
from fastliver.inference.trained import finished_unets
from fastliver.run_folder import RunFolder

ALL = ("unet-real-0-seed0", "unet-essnet-714-seed0")
FEW = ("unet-real-0-patients1-seed0", "unet-essnet-714-patients1-seed0")


def result(run: Path, job: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "results" / f"{job}.json").read_text())
    return found


@pytest.fixture(scope="module")
def output(train: Any, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A copy of the finished run, resumed for its learning curve, and what that printed; not to be changed."""
    runs = tmp_path_factory.mktemp("curve") / "runs"
    shutil.copytree(finished.parent, runs, copy_function=shutil.copy2)
    run = runs / finished.name
    return run, train("--resume", run, "--labelled-patients=1", small=False, figures=True).succeeded()


@pytest.fixture(scope="module")
def curve(output: tuple[Path, str]) -> Path:
    return output[0]


def test_the_curve_is_added_and_nothing_trained_again(output: tuple[Path, str], finished: Path) -> None:
    run, out = output
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"essnet", *ALL, *FEW}
    for job in ("essnet", *ALL):
        assert f"{job}: trained before" in out or f"{job}: done before" in out
        weights = Path("checkpoints", job, "final", "weights.safetensors")
        assert (run / weights).read_bytes() == (finished / weights).read_bytes()
        assert (run / weights).stat().st_mtime_ns == (finished / weights).stat().st_mtime_ns
    for job in FEW:
        assert f"\n{job} " in out, "its progress"
    assert (run / "tables" / "segmentation.csv").read_bytes() == (finished / "tables/segmentation.csv").read_bytes()
    assert "labelled_patients: '1'" in (run / "config.yaml").read_text()


def test_results_say_how_many_patients_and_which(curve: Path) -> None:
    split = json.loads((curve / "results" / "data.json").read_text())["split"]
    (path,) = (curve.parent / "stores").glob("mr-*")
    store = SliceStore.open(path)
    for job in (*ALL, *FEW):
        found = result(curve, job)
        chosen = found["labelled_patients"]
        assert found["all_labelled"] == (job in ALL)
        assert len(chosen) == (2 if job in ALL else 1)
        assert set(chosen) <= set(split["train_patients"])
        assert found["real"] == sum(entry.liver > 0 and entry.patient in chosen for entry in store.entries)
        assert found["scores"]["dice_per_patient"].keys() == set(split["test_patients"])
    assert result(curve, FEW[0])["labelled_patients"] == result(curve, FEW[1])["labelled_patients"]
    for few, every in zip(FEW, ALL, strict=True):
        assert result(curve, few)["synthetic"] == result(curve, every)["synthetic"]
        assert result(curve, few)["steps"] == result(curve, every)["steps"], "no shorter with fewer labels"


def test_labels_of_other_patients_are_not_learned_from(curve: Path) -> None:
    """Not by the slices that are counted, but by those that are loaded: other labels give other weights."""
    weights = [(curve / "checkpoints" / job / "final" / "weights.safetensors").read_bytes() for job in (*ALL, *FEW)]
    assert len(set(weights)) == 4


def test_table_figure_and_section(output: tuple[Path, str], finished: Path) -> None:
    run, out = output
    with open(run / "tables" / "learning_curve.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["labelled_patients"], row["source"]) for row in rows] == [
        ("1", "real"),
        ("1", "essnet"),
        ("2", "real"),
        ("2", "essnet"),
    ]
    dice = [result(run, job)["scores"]["dice"] for job in (*FEW, *ALL)]
    assert [float(row["dice"]) for row in rows] == pytest.approx(dice)
    gains = [row["dice_difference"] for row in rows]
    assert (gains[0], gains[2]) == ("", "")
    assert [float(gains[1]), float(gains[3])] == pytest.approx([dice[1] - dice[0], dice[3] - dice[2]], abs=1e-12)
    assert "Dice by number of labelled patients" in out
    assert (run / "figures" / "learning_curve.png").exists()
    assert "<h2>How many labelled patients</h2>" in (run / "report.html").read_text()
    assert not (finished / "tables" / "learning_curve.csv").exists()
    assert "labelled patients" not in (finished / "report.html").read_text()
    assert "number of labelled patients" not in (finished.parent / "out.txt").read_text()


def test_the_report_is_built_anew_from_the_folder(train: Any, curve: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(curve, tmp_path / curve.name))
    made = ("tables/learning_curve.csv", "figures/learning_curve.png")
    for name in made:
        (run / name).unlink()
    train(run, module="fastliver.report", small=False, figures=True).succeeded()
    for name in made:
        assert (run / name).read_bytes() == (curve / name).read_bytes()


def test_its_u_nets_segment_for_nobody(curve: Path) -> None:
    assert set(finished_unets(RunFolder(curve))) == set(ALL)


def test_finished_curve_is_not_trained_again(train: Any, curve: Path, learned: Any, tmp_path: Path) -> None:
    run = Path(shutil.copytree(curve.parent, tmp_path / "runs", copy_function=shutil.copy2)) / curve.name
    before = learned(run)
    out = train("--resume", run, small=False).succeeded()
    assert all(f"{job}: done before" in out for job in FEW)
    assert learned(run) == before


@pytest.mark.parametrize("stage", ["all", "essnet"])
def test_more_patients_than_there_are(stage: str, train: Any, phantom: Path, tmp_path: Path) -> None:
    ended = train("--data", phantom, "--runs", tmp_path, "--name", "run", "--labelled-patients=1,2", "--stage", stage)
    message = ended.refused("--labelled-patients=1,2", "there are 2 labelled MR patients", "below 2", "add patients")
    assert "Estimated time" not in message
    assert not (tmp_path / "run").exists()


def test_more_patients_asked_of_a_finished_run(train: Any, finished: Path) -> None:
    before = (finished / "config.yaml").read_bytes()
    train("--resume", finished, "--labelled-patients=8", small=False).refused("--labelled-patients=8", "2 labelled MR")
    assert (finished / "config.yaml").read_bytes() == before


def test_unlabelled_mr_can_not_have_one(train: Any, broken: Path, tmp_path: Path) -> None:
    for folder in broken.glob("Train_Sets/MR/*/T2SPIR/Ground"):
        shutil.rmtree(folder)
    ended = train("--data", broken, "--runs", tmp_path, "--name", "run", "--labelled-patients=1")
    ended.refused("the MR has no labels", "--stage essnet")
