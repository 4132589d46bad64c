"""Stopping and going on: stages one by one, kills at any moment, and what a resumed run refuses."""

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from fastliver.train import read_options
from fastliver.weights import canonical, digest


def copy(run: Path, folder: Path) -> Path:
    """A run and the stores beside it, to be changed."""
    shutil.copytree(run.parent, folder / "runs", copy_function=shutil.copy2)
    return folder / "runs" / run.name


def test_stage_by_stage_equals_all_in_one_go(
    train: Any, phantom: Path, finished: Path, learned: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train("--data", phantom, "--runs", tmp_path, "--name", "run", "--stage", "essnet").succeeded()
    assert not (run / "synthetic").exists()
    train("--resume", run, "--stage", "synthesize", small=False).succeeded()
    assert not list(run.glob("checkpoints/unet-*"))
    out = train("--resume", run, "--stage", "unet", small=False).succeeded()
    assert "essnet" not in [line.split(" ")[0] for line in out.splitlines()]
    assert learned(run) == learned(finished)


def test_finished_run_resumed_trains_nothing(train: Any, finished: Path, learned: Any, tmp_path: Path) -> None:
    run = copy(finished, tmp_path)
    before = learned(run)
    shutil.rmtree(run / "tables")
    (run / "report.html").unlink()
    out = train("--resume", run, small=False).succeeded()
    assert "trained before" in out
    assert learned(run) == before
    assert (run / "report.html").exists()


@pytest.mark.parametrize(
    ("stage", "missing"), [("synthesize", "essnet is not trained yet"), ("unet", "no synthetic images yet")]
)
def test_later_stage_first(stage: str, missing: str, train: Any, phantom: Path, tmp_path: Path) -> None:
    ended = train("--data", phantom, "--runs", tmp_path, "--name", "run", "--stage", stage)
    ended.refused(missing, "with --resume")
    assert not list(tmp_path.glob("run/checkpoints/*/final")), "a training was done that the message makes useless"


def test_resume_without_a_run(train: Any, tmp_path: Path) -> None:
    train("--resume", tmp_path, small=False).refused(tmp_path, "no run here", "config.yaml")
    train("--resume", tmp_path / "nowhere", small=False).refused("no run here")


@pytest.mark.parametrize(
    "content", ["", "image_size: 32\n", "[1, 2", "- 1\n", "\x00\x01"], ids=["empty", "cut", "yaml", "list", "binary"]
)
def test_resume_with_a_damaged_config(content: str, train: Any, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(content)
    train("--resume", tmp_path, small=False).refused("config.yaml")


@pytest.mark.parametrize(
    "option",
    ["--unet-lr=0.01", "--image-size=64", "--seed=1", "--no-segmentor", "--unet-augment=full", "--essnet-epochs=2"],
)
def test_resume_keeps_the_settings(option: str, train: Any, finished: Path) -> None:
    before = (finished / "config.yaml").read_bytes()
    name = option.split("=")[0].replace("--no-", "--")
    train("--resume", finished, option, small=False).refused(name, finished, "start a new run")
    assert (finished / "config.yaml").read_bytes() == before


def test_resume_refuses_an_unknown_preset(train: Any, finished: Path) -> None:
    train("--resume", finished, "--preset=nonsense", "--stage=essnet", small=False).refused("--preset", "nonsense")


@pytest.mark.parametrize("name", ["quality-essnet", "unet-real-0-seed0", "train-essnet", "data"])
def test_a_damaged_result_is_made_again_as_its_message_says(
    name: str, train: Any, finished: Path, learned: Any, tmp_path: Path
) -> None:
    run = copy(finished, tmp_path)
    path = run / "results" / f"{name}.json"
    before = json.loads(path.read_text())
    path.write_text("{")
    if name != "train-essnet":  # which every resumed run writes anew
        train("--resume", run, small=False).refused(path, "delete it, and python -m fastliver.train --resume makes it")
        path.unlink()
    train("--resume", run, small=False).succeeded()
    assert json.loads(path.read_text()).keys() == before.keys()
    assert learned(run) == learned(finished)


def test_resume_may_add_arrangements_and_seeds(train: Any, finished: Path, tmp_path: Path) -> None:
    run = copy(finished, tmp_path)
    train("--resume", run, "--arrangements=0,1034", "--seeds=2", small=False).succeeded()
    assert {path.name for path in (run / "checkpoints").glob("unet-*")} == {
        "unet-essnet-714-seed0",
        *(f"unet-{source}-seed{seed}" for source in ("real-0", "essnet-1034") for seed in (0, 1)),
    }
    for job in ("essnet", "unet-real-0-seed0"):
        weights = Path("checkpoints", job, "final", "weights.safetensors")
        assert (run / weights).read_bytes() == (finished / weights).read_bytes()


def test_new_run_takes_no_name_twice(train: Any, phantom: Path, finished: Path) -> None:
    arguments = ("--data", phantom, "--runs", finished.parent, "--name", finished.name)
    train(*arguments).refused(finished, "exists already", "--resume")


def test_images_changed_since_the_run_began(train: Any, broken: Path, tmp_path: Path) -> None:
    train("--data", broken, "--runs", tmp_path, "--name", "run", "--stage", "essnet").succeeded()
    run = tmp_path / "run"
    config = (run / "config.yaml").read_bytes()
    patient = broken / "Train_Sets" / "MR" / "2"
    image = sorted((patient / "T2SPIR" / "DICOM_anon").iterdir())[3]

    def rewrite() -> None:
        mask = patient / "T2SPIR" / "Ground" / f"{image.stem}.png"
        Image.fromarray(np.rot90(np.asarray(Image.open(mask)))).save(mask)

    def remove() -> None:
        image.unlink()
        (patient / "T2SPIR" / "Ground" / f"{image.stem}.png").unlink()

    def add() -> None:
        shutil.copytree(patient, patient.with_name("40"))

    for change in (rewrite, remove, add):
        change()
        train("--resume", run, small=False).refused(run, "images have changed", "start a new run")
        assert (run / "config.yaml").read_bytes() == config


def test_images_that_have_moved_are_the_same(train: Any, broken: Path, tmp_path: Path) -> None:
    train("--data", broken, "--runs", tmp_path, "--name", "run", "--stage", "essnet").succeeded()
    run, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(broken, moved, copy_function=shutil.copyfile)  # not the times
    shutil.rmtree(broken)
    train("--resume", run, "--stage=synthesize", small=False).refused(broken)
    out = train("--resume", run, "--data", moved, "--stage=synthesize", small=False).succeeded()
    assert "reading" in out
    assert (run / "synthetic" / "store.json").exists()
    assert yaml.safe_load((run / "config.yaml").read_text())["data"] == str(moved)
    # By a link, whose neighbours are not the run's: the stores are found beside it.
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "link").symlink_to(run)
    train("--resume", tmp_path / "runs" / "link", "--stage=synthesize", small=False).succeeded()
    assert (tmp_path / "runs" / "stores").exists()


def test_data_takes_the_place_of_the_folders_that_a_run_began_with(train: Any, broken: Path, tmp_path: Path) -> None:
    sets = broken / "Train_Sets"
    options = ("--ct", sets / "CT", "--mr", sets / "MR", "--runs", tmp_path, "--name", "run", "--stage", "essnet")
    train(*options).succeeded()
    moved = broken.rename(tmp_path / "moved")
    train("--resume", tmp_path / "run", f"--data={moved}", "--stage=essnet", small=False).succeeded()
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (saved["data"], saved["ct"], saved["mr"]) == (str(moved), None, None)
    train("--resume", tmp_path / "run", f"--data={tmp_path}/no", "--stage=essnet", small=False).refused(
        f"{tmp_path}/no"
    )


@pytest.mark.parametrize("option", ["--name=other", "--runs=elsewhere"])
def test_a_resumed_run_has_a_name_already(option: str, train: Any, finished: Path) -> None:
    train("--resume", finished, option, small=False).refused(f"{option}: --resume={finished} names the run already")


def test_relative_paths_are_kept_whole(finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    _, config = read_options(["--ct=images", "--mr=../mr"])
    assert (config.data.data, config.data.ct) == (None, str(tmp_path / "images"))
    assert config.data.mr == str(tmp_path.parent / "mr")


def test_another_essnet_is_not_mixed_with_images_of_the_first(train: Any, finished: Path, tmp_path: Path) -> None:
    run = copy(finished, tmp_path)
    final = run / "checkpoints" / "essnet" / "final"
    final.rename(tmp_path / "aside")
    train("--resume", run, small=False).refused(final, "missing", "--stage unet")
    train("--resume", run, "--stage=unet", small=False).succeeded()
    # As if it had been trained again: on a GPU that gives other weights.
    meta = json.loads((tmp_path / "aside" / "checkpoint.json").read_text())
    meta["seconds"] += 1
    meta["digest"] = digest(canonical(meta))
    (tmp_path / "aside").rename(final)
    (final / "checkpoint.json").write_text(json.dumps(meta))
    train("--resume", run, small=False).refused(run / "synthetic", "made by another training of essnet")


def test_damaged_last_checkpoint_goes_back_to_the_one_before(
    train: Any, phantom: Path, finished: Path, learned: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    ended = kill_when(train, phantom, tmp_path, "run/checkpoints/essnet/step-00000003")
    assert ended.code == -signal.SIGKILL
    checkpoints = sorted((run / "checkpoints" / "essnet").glob("step-*"))
    whole = {path: (path / "weights.safetensors").read_bytes() for path in checkpoints}
    for path, content in whole.items():
        damaged = bytearray(content)
        damaged[len(damaged) // 2] ^= 1
        (path / "weights.safetensors").write_bytes(damaged)
    train("--resume", run, small=False).refused(
        "no checkpoint is whole", "delete the folder to train this network anew"
    )
    assert sorted((run / "checkpoints" / "essnet").glob("step-*")) == checkpoints
    *before, last = checkpoints
    for path in before:
        (path / "weights.safetensors").write_bytes(whole[path])
    out = train("--resume", run, "--checkpoint-minutes=3", small=False).succeeded()
    assert "warning" in out
    assert last.name in out
    assert learned(run) == learned(finished)


def test_damaged_final_weights_are_not_used(train: Any, finished: Path, tmp_path: Path) -> None:
    run = copy(finished, tmp_path)
    shutil.rmtree(run / "synthetic")
    (run / "results" / "synthesis-essnet.json").unlink()
    weights = run / "checkpoints" / "essnet" / "final" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    message = train("--resume", run, small=False).refused(weights.parent, "damaged")
    assert "delete" in message or "remove" in message, "no remedy"


def kill_when(train: Any, phantom: Path, runs: Path, pattern: str) -> Any:
    """Start a run and kill it (SIGKILL) as soon as a path that matches `pattern` under `runs` exists."""
    running = train.start("--data", phantom, "--runs", runs, "--name", "run", "--checkpoint-minutes=0")
    deadline = time.monotonic() + 120
    while not any(runs.glob(pattern)) and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    running.send(signal.SIGKILL)
    return running.wait()


def go_on(train: Any, phantom: Path, runs: Path) -> Any:
    """What a user does after a kill: resume, or start again if it came before the run folder."""
    if (runs / "run" / "config.yaml").exists():
        return train("--resume", runs / "run", "--checkpoint-minutes=3", small=False)
    shutil.rmtree(runs / "run", ignore_errors=True)
    return train("--data", phantom, "--runs", runs, "--name", "run", "--checkpoint-minutes=0")


@pytest.mark.parametrize(
    "pattern",
    ["stores/.ct-*/images.npy", "run/checkpoints/essnet/step-00000004", "run/checkpoints/unet-real-0-seed0/step-*"],
    ids=["stores", "essnet", "unet"],
)
def test_killed_and_resumed_equals_never_stopped(
    pattern: str, train: Any, phantom: Path, finished: Path, learned: Any, tmp_path: Path
) -> None:
    assert kill_when(train, phantom, tmp_path, pattern).code == -signal.SIGKILL
    go_on(train, phantom, tmp_path).succeeded()
    assert learned(tmp_path / "run") == learned(finished)


@pytest.mark.slow
@pytest.mark.parametrize("write", [1, 3, 9, 17, 26, 44, 61, 83, 107, 131])
def test_killed_in_the_middle_of_a_write(
    write: int, train: Any, phantom: Path, finished: Path, learned: Any, tmp_path: Path
) -> None:
    """At a given fsync or rename, so that every kind of file is once cut off; then twice more on the way."""
    arguments = ("--data", phantom, "--runs", tmp_path, "--name", "run", "--checkpoint-minutes=0")
    ended = train(*arguments, kill_at_write=write)
    assert ended.code == -signal.SIGKILL, ended
    for _ in range(2):
        if (tmp_path / "run" / "config.yaml").exists():
            train("--resume", tmp_path / "run", small=False, kill_at_write=write)
    go_on(train, phantom, tmp_path).succeeded()
    assert learned(tmp_path / "run") == learned(finished)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_by_the_user(
    number: int, train: Any, phantom: Path, finished: Path, learned: Any, tmp_path: Path
) -> None:
    """Ctrl-C or a polite kill: a checkpoint, one message, the shell's exit code, and --resume goes on."""
    run = tmp_path / "run"
    running = train.start("--data", phantom, "--runs", tmp_path, "--name", "run", "--checkpoint-minutes=60")
    while not (run / "metrics.jsonl").exists() and running.poll() is None:
        time.sleep(0.001)
    running.send(number)
    message = running.wait().refused(f"interrupted by {signal.Signals(number).name}", "--resume", code=128 + number)
    saved = list(run.glob("checkpoints/essnet/step-*"))
    assert len(saved) == 1
    assert f"saved {saved[0]}; --resume {run} goes on from there" in message
    assert f"going on from {saved[0]}" in go_on(train, phantom, tmp_path).succeeded()
    assert learned(run) == learned(finished)


@pytest.mark.parametrize(
    ("pattern", "begun"),
    [("stores/.ct-*/images.npy", False), ("run/.synthetic.*", True)],
    ids=["reading", "synthesizing"],
)
def test_interrupted_while_files_are_written(
    pattern: str, begun: bool, train: Any, phantom: Path, finished: Path, learned: Any, tmp_path: Path
) -> None:
    running = train.start("--data", phantom, "--runs", tmp_path, "--name", "run")
    while not any(tmp_path.glob(pattern)) and running.poll() is None:
        time.sleep(0.001)
    running.send(signal.SIGTERM)
    message = running.wait().refused("interrupted by SIGTERM", code=143)
    run = tmp_path / "run"
    way = f"--resume {run} goes on from the last checkpoint" if begun else "run the command again"
    assert message.strip().endswith(f"interrupted by SIGTERM; {way}")
    assert run.exists() == begun
    assert not list(tmp_path.glob("**/.*")), "something half-written is left"
    go_on(train, phantom, tmp_path).succeeded()
    assert learned(tmp_path / "run") == learned(finished)
