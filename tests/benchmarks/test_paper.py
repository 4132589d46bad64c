"""The paper's experiment: its stages, its budget, its tables, and all of it on a phantom at the smallest size."""

import csv
import json
import signal
import time
from pathlib import Path

import pytest
import yaml

from benchmarks import paper
from benchmarks.paper import Stage, carry_out, differences, main, stages, unet_stage, with_missing
from fastliver.config import PAPER_SYNTHETIC, PRESETS, TrainConfig, flatten
from fastliver.run_folder import RunFolder

TINY = (
    *("--image-size=32", "--essnet-channels=2", "--essnet-blocks=1", "--essnet-epochs=1", "--essnet-ct-slices=4"),
    *("--unet-channels=2", "--unet-epochs=1", "--device=cpu"),
)


def test_stages_follow_the_order_that_is_asked_for():
    found = [stage.title for stage in stages([0, 714], 1, True, [2])]
    assert found == [
        "EssNet",
        "synthetic MR by EssNet",
        "U-Net on real images alone",
        "U-Net with 714 synthetic images",
        "CycleGAN",
        "synthetic MR by CycleGAN",
        "U-Net with CycleGAN's images",
        "U-Net on real images alone, labels of 2 patients",
        "U-Net with 714 synthetic images, labels of 2 patients",
    ]


def test_a_stage_is_done_when_every_seed_has_its_result(tmp_path):
    run, stage = RunFolder(tmp_path), unet_stage(714, 2)
    assert stage.results == ("unet-essnet-714-seed0", "unet-essnet-714-seed1")
    run.write_result("unet-essnet-714-seed0", {})
    assert not stage.is_done(run)
    run.write_result("unet-essnet-714-seed1", {})
    assert stage.is_done(run)


class _Training:
    """Stands in for a training process, which leaves `after` seconds after a signal."""

    def __init__(self, command, after=0.0):
        self.command, self.after = command, after
        self.signals, self.killed = [], False

    def wait(self, timeout):
        if not self.signals:
            raise paper.subprocess.TimeoutExpired(self.command, timeout)
        if self.after > timeout and not self.killed:
            raise paper.subprocess.TimeoutExpired(self.command, timeout)
        return 143

    def send_signal(self, number):
        self.signals.append(number)

    def kill(self):
        self.killed = True


@pytest.mark.parametrize(("after", "killed"), [(1.0, False), (1e6, True)])
def test_a_budget_that_is_spent_has_the_training_save_and_leave(after, killed, monkeypatch, tmp_path):
    started = []

    def popen(command):
        started.append(_Training(command, after))
        return started[-1]

    monkeypatch.setattr(paper.subprocess, "Popen", popen)
    run = RunFolder(tmp_path / "runs" / "paper")
    assert carry_out(Stage("x", ("--stage", "essnet"), ()), run, ["--ct", "a"], time.monotonic()) == 124
    (training,) = started
    assert training.command[2:] == [
        *("fastliver.train", "--runs", str(tmp_path / "runs"), "--name", "paper", "--ct", "a", "--stage", "essnet")
    ]
    assert training.signals == [signal.SIGTERM]
    assert training.killed is killed


def test_a_run_that_was_begun_is_resumed(monkeypatch, tmp_path):
    commands = []

    class Done:
        def wait(self, timeout):
            return 0

    monkeypatch.setattr(paper.subprocess, "Popen", lambda command: commands.append(command) or Done())
    (tmp_path / "config.yaml").write_text("")
    assert carry_out(Stage("x", ("--stage", "unet"), ()), RunFolder(tmp_path), ["--ct", "a"], float("inf")) == 0
    assert commands[0][3:] == ["--resume", str(tmp_path), "--stage", "unet"]


def test_what_was_not_run_is_marked_with_the_paper_s_scores():
    text = "training_images,source,arrangement,dice,paper_dice\nReal only,real,0,0.9,0.9459\n"
    found = list(csv.DictReader(with_missing("segmentation", text).splitlines()))
    assert [row["arrangement"] for row in found] == ["0", "354", "714", "1034", "1487", "2050"]
    assert {row["training_images"] for row in found[1:]} == {"not run"}
    expected = {"training_images": "not run", "source": "essnet", "arrangement": "714", "dice": ""}
    assert found[2] == {**expected, "paper_dice": "0.9524"}
    assert with_missing("cost", text) == text


def test_before_any_u_net_table_3_and_5_are_there_and_all_is_marked():
    found = list(csv.DictReader(with_missing("segmentation", "").splitlines()))
    assert [row["source"] for row in found] == ["real", *["essnet"] * 5]
    assert {row["training_images"] for row in found} == {"not run"}
    (cyclegan,) = csv.DictReader(with_missing("ablation", "").splitlines())
    assert (cyclegan["source"], cyclegan["paper_dice"], cyclegan["training_images"]) == ("cyclegan", "0.946", "not run")
    assert with_missing("cost", "") == ""
    done = "training_images,source,dice\nCombined,cyclegan,0.9\n"
    assert with_missing("ablation", done) == done


def test_what_differs_from_the_paper_s_setting_is_told(tmp_path):
    run = RunFolder(tmp_path)
    config = {**flatten(TrainConfig()), **PRESETS["paper"]}
    run.config.write_text(yaml.safe_dump({**config, "ct": "somewhere", "device": "cpu", "arrangements": "0"}))
    assert differences(run) == []
    run.config.write_text(yaml.safe_dump({**config, "unet_epochs": 2, "image_size": 64}))
    assert sorted(differences(run)) == ["--image-size 64", "--unet-epochs 2"]


def test_all_arrangements_are_trained_unless_told_otherwise():
    assert sorted(map(int, paper.ORDER.split(","))) == sorted(PAPER_SYNTHETIC)


@pytest.mark.slow
def test_the_experiment_goes_on_where_its_budget_ended_and_writes_tables(phantom: Path, tmp_path, capfd):
    results = tmp_path / "results"
    where = ["--data", str(phantom), "--run", str(tmp_path / "runs" / "paper"), "--results", str(results)]
    arguments = [*where, "--arrangements", "0,714", "--ablation", "--", *TINY]
    assert main([*where, "--minutes", "0", "--arrangements", "0,714", "--", *TINY]) == 124
    assert not results.exists()  # nothing was begun, so there is nothing to tell
    assert main(arguments) == 0
    with (results / "table3.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["training_images"] == "not run" for row in table].count(True) == 4
    trained = [row for row in table if row["training_images"] != "not run"]
    assert {(row["source"], row["arrangement"]) for row in trained} == {
        ("real", "0"),
        ("essnet", "714"),
        ("cyclegan", "714"),
    }
    for row in trained:
        assert 0 <= float(row["dice"]) <= 1
    assert (results / "table4.csv").exists()
    assert (results / "table5.csv").exists()
    about = json.loads((results / "about.json").read_text())
    assert "--unet-epochs 1" in about["options"]
    assert about["not run"] == []
    assert about["finished"][-1] == "U-Net with CycleGAN's images"
    capfd.readouterr()
    assert main(arguments) == 0  # all is done: nothing is trained
    assert "==" not in capfd.readouterr().out
