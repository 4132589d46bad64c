"""Which folder a command line means, also when torchrun starts it again."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from fastliver.config import TrainConfig, flatten
from fastliver.errors import InputError
from fastliver.files import write_file, write_json
from fastliver.run_folder import RunFolder
from fastliver.train import GoOn, find_run
from fastliver.training.distributed import Launch

NOW = datetime(2026, 5, 4, 13, 2, 1)


def begin(folder: Path, job: str | None) -> None:
    """What a run that torchrun's `job` began leaves at least."""
    write_json(folder / "environment.json", {"torchrun": job})
    write_file(folder / "config.yaml", yaml.safe_dump({**flatten(TrainConfig()), "data": "x"}))


@pytest.mark.parametrize(
    ("launch", "name"),
    [
        (None, "default-20260504-130201"),
        (Launch("job-7", may_restart=False), "default-20260504-130201"),
        (Launch("job-7", may_restart=True), "default-job-7"),
    ],
)
def test_a_run_without_a_name(launch: Launch | None, name: str, tmp_path: Path) -> None:
    options, _, folder = find_run(["--data=x", f"--runs={tmp_path}"], launch, NOW)
    assert folder.root == tmp_path / name
    assert options.resume is None


@pytest.mark.parametrize("name", [[], ["--name=mine"]])
def test_a_restart_could_not_tell_runs_apart_without_torchruns_id(name: list[str], tmp_path: Path) -> None:
    begin(tmp_path / "mine", None)
    with pytest.raises(InputError, match="--rdzv-id is missing"):
        find_run(["--data=x", f"--runs={tmp_path}", *name], Launch(None, may_restart=True), NOW)


@pytest.mark.parametrize("arguments", [["--name=mine"], []])
def test_a_restart_goes_on_with_what_it_began(arguments: list[str], tmp_path: Path) -> None:
    root = tmp_path / ("mine" if arguments else "default-job-7")
    begin(root, "job-7")
    line = ["--data=x", f"--runs={tmp_path}", *arguments]
    options, _, folder = find_run(line, Launch("job-7", may_restart=True), NOW)
    assert (folder.root, options.resume) == (root, str(root))


@pytest.mark.parametrize(
    ("began", "launch"),
    [
        ("job-6", Launch("job-7", may_restart=True)),
        (None, Launch("job-7", may_restart=True)),
        (None, Launch(None, may_restart=False)),
        ("job-7", None),
    ],
)
def test_nobody_goes_on_with_a_run_of_others_unasked(began: Any, launch: Launch | None, tmp_path: Path) -> None:
    begin(tmp_path / "mine", began)
    with pytest.raises(InputError, match=f"exists already.*--resume {tmp_path / 'mine'}"):
        find_run(["--data=x", f"--runs={tmp_path}", "--name=mine"], launch, NOW)


def test_resume_is_advised_for_runs_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(InputError, match="mine: exists already, and is no run to go on with; choose another --name"):
        find_run(["--data=x", f"--runs={tmp_path}", "--name=mine"], None, NOW)


def test_what_was_killed_while_it_began_is_begun_again(tmp_path: Path) -> None:
    """A folder without settings is none that --resume could go on with."""
    begin(tmp_path / "mine", None)
    (tmp_path / "mine" / "config.yaml").rename(tmp_path / "mine" / ".config.yaml.x1")
    options, _, folder = find_run(["--data=x", f"--runs={tmp_path}", "--name=mine"], None, NOW)
    assert (folder.root, options.resume) == (tmp_path / "mine", None)


def test_the_way_to_go_on_is_one_that_there_is(tmp_path: Path) -> None:
    go_on = GoOn()
    assert go_on() == "run the command again"
    go_on.folder = RunFolder(tmp_path / "mine")
    write_json(go_on.folder.environment, {})
    assert go_on() == "run the command again"
    begin(tmp_path / "mine", None)
    assert go_on() == f"--resume {tmp_path / 'mine'} goes on from the last checkpoint"
    find_run([f"--resume={tmp_path / 'mine'}"], None, NOW)
