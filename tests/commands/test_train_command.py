"""`python -m fastliver.train` as a user sees it: what a run prints and what its folder holds afterwards."""

import csv
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from fastliver.data.store import SliceStore

NOT_ALLOWED = 77


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def results(run: Path, prefix: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((run / "results").glob(f"{prefix}*.json"))]


@pytest.mark.parametrize("stage", ["essnet", pytest.param("all", marks=pytest.mark.slow)])
def test_run_from_a_shell(
    stage: str, phantom: Path, finished: Path, learned: Any, train: Any, tmp_path: Path
) -> None:  # fmt: skip
    """The one test that starts Python itself: the run equals the forked ones that all other tests use."""
    arguments = ["--data", phantom, "--runs", tmp_path, "--name", "shell", "--stage", stage]
    given = yaml.safe_load((finished / "config.yaml").read_text())
    plain = {name: value for name, value in given.items() if isinstance(value, int | str) and name != "data"}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in plain.items() if not isinstance(value, bool)]
    done = subprocess.run(
        [sys.executable, "-m", "fastliver.train", *arguments, *options],
        env=train.environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found, expected = learned(tmp_path / "shell"), learned(finished)
    weights = "checkpoints/essnet/final/weights.safetensors"
    assert found[weights] == expected[weights]
    assert stage == "essnet" or found == expected


def test_run_folder_is_complete(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {"config.yaml", "environment.json", "metrics.jsonl", "tensorboard", "checkpoints", "synthetic",
                     "results", "tables", "figures", "report.html", "lock"}  # fmt: skip
    leftovers = [path for path in finished.rglob(".*") if path.is_file() or path.is_dir()]
    assert leftovers == []

    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert (config["image_size"], config["essnet_channels"], config["unet_epochs"]) == (32, 2, 1)
    environment = json.loads((finished / "environment.json").read_text())
    assert {"torch", "python", "device", "command", "fastliver"} <= environment.keys()
    assert "--unet-channels=2" in environment["command"]

    jobs = {"essnet": 7, "unet-real-0-seed0": 4, "unet-essnet-714-seed0": 5}
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    for job, steps in jobs.items():
        own = [line for line in lines if line["job"] == job]
        assert [line["step"] for line in own] == list(range(steps))
        assert all(np.isfinite(value) for line in own for value in line.values() if isinstance(value, float))
        assert list((finished / "tensorboard" / job).glob("events.*"))
        assert {path.name for path in (finished / "checkpoints" / job).iterdir()} == {"final"}
        assert {path.name for path in (finished / "checkpoints" / job / "final").iterdir()} == {
            "checkpoint.json",
            "weights.safetensors",
        }
    assert {"segmentation", "generators", "d1", "d2"} <= lines[0].keys()


def test_synthetic_store_holds_every_liver_slice_of_the_ct(finished: Path) -> None:
    synthetic = SliceStore.open(finished / "synthetic")
    (ct_path,) = (finished.parent / "stores").glob("ct-*")
    ct = SliceStore.open(ct_path)
    chosen = ct.liver_slices()
    assert synthetic.modality == "MR"
    assert len(synthetic) == len(chosen) > 0
    np.testing.assert_array_equal(synthetic.labels, ct.labels[chosen])
    assert [entry.source for entry in synthetic.entries] == [ct.entries[number].source for number in chosen]
    assert np.abs(synthetic.images).max() <= 1
    assert np.ptp(np.asarray(synthetic.images, np.float32), axis=(1, 2)).min() > 0


def test_tables_figures_and_page(finished: Path) -> None:
    table = rows(finished / "tables" / "segmentation.csv")
    real, combined = results(finished, "unet-real"), results(finished, "unet-essnet")
    assert [result["arrangement"] for result in (*real, *combined)] == [0, 714]
    assert len(table) == 2
    for result, row in zip((*real, *combined), table, strict=True):
        assert any(result["scores"]["dice"] == pytest.approx(float(value)) for value in row.values() if number(value))
    # 714 of the paper's 2050 synthetic images are 3 of the 10 that this data gives.
    assert (combined[0]["real"], combined[0]["synthetic"]) == (7, round(714 * 10 / 2050))
    assert not (finished / "tables" / "ablation.csv").exists()
    figures = sorted((finished / "figures").glob("*.png"))
    assert {"synthesis.png", "segmentation.png", "roc.png"} <= {path.name for path in figures}
    for path in figures:
        with Image.open(path) as image:
            assert min(image.size) > 100
    page = (finished / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    HTMLParser().feed(page)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page), "the page needs the network"


def test_scores_agree_with_each_other(finished: Path) -> None:
    for result in results(finished, "unet-"):
        scores = result["scores"]
        for name, value in scores.items():
            for share in value.values() if isinstance(value, dict) else [value]:
                assert 0 <= share <= 1, name
        # Pooled over the same pixels, J = D / (2 - D).
        assert scores["iou"] == pytest.approx(scores["dice"] / (2 - scores["dice"]), abs=1e-9)
    data = json.loads((finished / "results" / "data.json").read_text())
    assert not set(data["split"]["train_patients"]) & set(data["split"]["test_patients"])


def test_output_without_a_terminal(finished: Path) -> None:
    """Plain lines with losses; the counts that were found; the estimate, the results and where the report is."""
    out = (finished.parent / "out.txt").read_text()
    assert "\x1b" not in out
    assert "\r" not in out
    assert re.search(r"CT\W+2\W+16\W+10\W+0", out)
    assert re.search(r"MR\W+3\W+18\W+11\W+0", out)
    assert re.search(r"Split by patient: 7 MR slices of 2 patients .* 4 of 1 to test on", out)
    assert re.search(r"essnet 7/7 epoch 1/1, loss \d+\.\d+", out)
    assert re.search(r"Estimated time on CPU, \d+ threads?: ", out)
    assert re.search(r"Real only \(7\).*\n.*Combined \(10\)\s+\d\.\d{4}\s+[+-]\d\.\d{4}", out)
    assert f"Report: {finished / 'report.html'}" in out


@pytest.mark.slow
def test_long_run_prints_the_time_left(train: Any, phantom: Path, tmp_path: Path) -> None:
    running = train.start("--data", phantom, "--runs", tmp_path, "--stage=essnet", "--essnet-epochs=2000")
    wanted = re.compile(r"essnet \d+/14000 epoch \d+/2000, loss \d+\.\d+, (\d+ min \d+ s|\d+ s) left")
    try:
        for _ in range(900):
            if (running.out.exists() and wanted.search(running.out.read_text())) or running.poll() is not None:
                break
            time.sleep(0.1)
        assert wanted.search(running.out.read_text())
    finally:
        running.send(signal.SIGKILL)
        running.wait()


def test_progress_bar_on_a_terminal(train: Any, phantom: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    drawn = bytearray()

    def read() -> None:
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:
                return
            if not part:
                return
            drawn.extend(part)

    reader = Thread(target=read, daemon=True)
    reader.start()
    running = train.start(
        "--data", phantom, "--runs", tmp_path, "--name", "run", "--stage", "essnet",
        environment={"TERM": "xterm-256color", "COLUMNS": "120"}, terminal=os.ttyname(theirs),
    )  # fmt: skip
    ended = running.wait()
    os.close(theirs)
    reader.join(5)
    text = drawn.decode(errors="replace")
    assert ended.code == 0, text
    assert "\x1b[" in text
    assert "━" in text
    assert re.search(r"epoch 1/1, loss \d+\.\d+", text)
    assert "Traceback" not in text


def test_ablation_and_seeds(train: Any, phantom: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    out = train(
        "--data", phantom, "--runs", tmp_path, "--name", "run", "--ablation", "--seeds", 2
    ).succeeded()  # fmt: skip
    assert {path.name for path in (run / "checkpoints").iterdir()} == {
        "essnet",
        "cyclegan",
        *(f"unet-{source}-seed{seed}" for source in ("real-0", "essnet-714", "cyclegan-714") for seed in (0, 1)),
    }
    essnet, cyclegan = (SliceStore.open(run / name) for name in ("synthetic", "synthetic-cyclegan"))
    assert len(essnet) == len(cyclegan)
    assert (np.asarray(essnet.images) != np.asarray(cyclegan.images)).any()
    names = " ".join(value for row in rows(run / "tables" / "ablation.csv") for value in row.values())
    assert "essnet" in names.lower()
    assert "cyclegan" in names.lower()
    parameters = {result["job"]: result["parameters"] for result in results(run, "train-")}
    assert parameters["cyclegan"]["segmentor"] == 0 < parameters["essnet"]["segmentor"]
    assert parameters["cyclegan"]["paper_count"] == parameters["essnet"]["paper_count"]
    for row in rows(run / "tables" / "segmentation.csv"):
        assert "2" in row.values(), "two seeds"
    assert "One seed: no interval" not in out
    assert re.search(r"\d ± \d", out), "an interval"
    dice = [result["scores"]["dice"] for result in results(run, "unet-real")]
    assert dice[0] != dice[1]


def test_without_segmentor_it_is_a_cyclegan(train: Any, phantom: Path, tmp_path: Path) -> None:
    out = train("--data", phantom, "--runs", tmp_path, "--name", "run", "--no-segmentor").succeeded()
    run = tmp_path / "run"
    assert {path.name for path in (run / "checkpoints").iterdir()} == {
        "cyclegan",
        "unet-real-0-seed0",
        "unet-cyclegan-714-seed0",
    }
    assert SliceStore.open(run / "synthetic-cyclegan").meta["synthetic_by"] == "cyclegan"
    assert "CycleGAN" in out
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert not any("segmentation" in line for line in lines)


def test_unlabelled_ct_trains_a_cyclegan(train: Any, broken: Path, tmp_path: Path) -> None:
    for folder in broken.glob("Train_Sets/CT/*/Ground"):
        shutil.rmtree(folder)
    arguments = ("--data", broken, "--runs", tmp_path, "--name", "run")
    train(*arguments).refused("--no-segmentor", "labels", broken)
    assert not (tmp_path / "run").exists()
    train(*arguments, "--no-segmentor").refused("CT has no labels", "--arrangements 0")
    train("--data", broken, "--runs", tmp_path, "--name", "real", "--no-segmentor", "--arrangements=0").succeeded()


def test_unlabelled_mr_is_enough_for_essnet(train: Any, phantom: Path, broken: Path, tmp_path: Path) -> None:
    """A plain DICOM folder, as a scanner exports it, as MR."""
    folder = tmp_path / "export"
    for patient in broken.glob("Train_Sets/MR/*"):
        shutil.copytree(patient / "T2SPIR" / "DICOM_anon", folder / patient.name)
    arguments = ["--ct", phantom / "Train_Sets" / "CT", "--mr", folder, "--runs", tmp_path, "--name", "run"]
    out = train(*arguments, "--stage", "essnet").succeeded()
    assert "no labels" in out
    train("--resume", tmp_path / "run", "--stage", "synthesize").succeeded()
    assert len(SliceStore.open(tmp_path / "run" / "synthetic")) == 10
    train("--resume", tmp_path / "run", "--stage", "unet").refused("the MR has no labels", "--stage")


def test_a_unet_learns_from_a_store_that_shards_made(train: Any, phantom: Path, tmp_path: Path) -> None:
    train("--data", phantom, "--runs", tmp_path, "--name", "run", "--stage", "essnet").succeeded()
    run = tmp_path / "run"
    for shard in ("2/2", "1/2"):
        arguments = ("--run", run, "--ct", phantom, "--out", run / "synthetic", "--format", "store", "--shard", shard)
        train(*arguments, "--device=cpu", module="fastliver.synthesize", small=False).succeeded()
    assert SliceStore.open(run / "synthetic").patients == ["CT_1", "CT_2"]
    train("--resume", run, "--stage", "unet").succeeded()
    (learned,) = results(run, "unet-essnet-714")
    assert learned["synthetic"] > 0


def test_unlabelled_mr_refused_for_the_whole_way(train: Any, broken: Path, tmp_path: Path) -> None:
    for folder in broken.glob("Train_Sets/MR/*/T2SPIR/Ground"):
        shutil.rmtree(folder)
    arguments = ("--data", broken, "--runs", tmp_path, "--name", "run")
    ended = train(*arguments)
    ended.refused("the MR has no labels", "--stage essnet")
    assert "essnet 7/7" not in ended.out
    train(*arguments, "--stage", "essnet").succeeded()  # the refused run left no folder that stands in the way


def test_runs_without_network(train: Any, phantom: Path, tmp_path: Path) -> None:
    ended = train("--data", phantom, "--runs", tmp_path, "--stage", "essnet", offline=True)
    if ended.code == NOT_ALLOWED:
        pytest.skip("taking the network away needs more rights")
    ended.succeeded()


@pytest.mark.slow
def test_stores_are_shared_by_runs(train: Any, phantom: Path, tmp_path: Path) -> None:
    arguments = ("--data", phantom, "--runs", tmp_path, "--stage", "essnet")
    train(*arguments, "--name", "a").succeeded()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "stores").rglob("*")}
    train(*arguments, "--name", "b", "--seed", 1).succeeded()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "stores").rglob("*")} == before
    weights = [tmp_path / name / "checkpoints" / "essnet" / "final" / "weights.safetensors" for name in "ab"]
    assert weights[0].read_bytes() != weights[1].read_bytes()


def test_names_are_printed_as_they_are(train: Any, phantom: Path, tmp_path: Path) -> None:
    name = "Größe [bold] [1]"
    out = train("--data", phantom, "--runs", tmp_path, "--name", name, "--stage", "essnet").succeeded()
    assert str(tmp_path / name / "report.html") in out


def test_more_mr_is_for_essnet_alone(train: Any, phantom: Path, tmp_path: Path) -> None:
    """Without labels, and with a patient of a name that is taken."""
    more = tmp_path / "more"
    for number, patient in (("1", "1"), ("70", "2")):
        shutil.copytree(phantom / "Train_Sets" / "MR" / patient, more / number)
        shutil.rmtree(more / number / "T2SPIR" / "Ground")
    options = ("--data", phantom, "--runs", tmp_path / "runs", "--essnet-epochs=1")
    plain = train(*options, "--name=plain").succeeded()
    out = train(*options, "--name=more", f"--more-mr={more}").succeeded()
    assert "more MR: " in out
    assert "has patients called MR_1, as --mr has" in out
    assert "MR_70" not in out

    def read(name: str, *path: str) -> Any:
        return json.loads((tmp_path / "runs" / name / "results" / "{}.json".format(*path)).read_text())

    sources = read("more", "data")["sources"]
    assert [(source["name"], source["labelled"]) for source in sources] == [
        ("CT", True),
        ("MR", True),
        ("more MR", False),
    ]
    known = read("plain", "data")["split"]
    assert read("more", "data")["split"] == {**known, "essnet_mr_slices": known["train_slices"] + 12}
    # An epoch of EssNet shows all of it, those of the U-Nets nothing of it, with the same split.
    steps = [read(name, "train-essnet")["steps_per_epoch"] for name in ("plain", "more")]
    assert steps == [known["train_slices"], known["train_slices"] + 12]
    unets = [read(name, "unet-real-0-seed0") for name in ("plain", "more")]
    assert unets[0]["scores"] == unets[1]["scores"]
    assert "EssNet learns from" in plain

    # It may be given alone as little as the MR may.
    train(f"--more-mr={more}", "--runs", tmp_path / "runs").refused("needs data: --data")
    # A run goes on with it where it now lies, and not without it.
    more.rename(tmp_path / "moved")
    run = tmp_path / "runs" / "more"
    train("--resume", run, f"--more-mr={tmp_path / 'moved'}", small=False).succeeded()
    train("--resume", run, f"--more-mr={phantom / 'Train_Sets' / 'MR'}", small=False).refused("images have changed")
