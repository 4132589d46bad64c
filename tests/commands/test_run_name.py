"""Which folder a command line means, also when torchrun starts it again."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from fastliver.config import TrainConfig, flatten
from fastliver.errors import InputError
from fastliver.files import write_file, write_json
from fastliver.train import find_run
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
        (Launch("job-7", 0, may_restart=False), "default-20260504-130201"),
        (Launch("job-7", 0, may_restart=True), "default-job-7"),
    ],
)
def test_a_run_without_a_name(launch: Launch | None, name: str, tmp_path: Path) -> None:
    options, _, folder = find_run(["--data=x", f"--runs={tmp_path}"], launch, NOW)
    assert folder.root == tmp_path / name
    assert options.resume is None


def test_a_restart_could_not_find_a_run_without_any_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--name is missing"):
        find_run(["--data=x", f"--runs={tmp_path}"], Launch(None, 0, may_restart=True), NOW)


@pytest.mark.parametrize("arguments", [["--name=mine"], []])
def test_a_restart_goes_on_with_what_it_began(arguments: list[str], tmp_path: Path) -> None:
    root = tmp_path / ("mine" if arguments else "default-job-7")
    begin(root, "job-7")
    line = ["--data=x", f"--runs={tmp_path}", *arguments]
    options, _, folder = find_run(line, Launch("job-7", 1, may_restart=True), NOW)
    assert (folder.root, options.resume) == (root, str(root))


@pytest.mark.parametrize(
    ("began", "launch"),
    [
        ("job-6", Launch("job-7", 1, may_restart=True)),
        (None, Launch("job-7", 1, may_restart=True)),
        (None, Launch(None, 0, may_restart=True)),
        ("job-7", None),
    ],
)
def test_nobody_goes_on_with_a_run_of_others_unasked(began: Any, launch: Launch | None, tmp_path: Path) -> None:
    begin(tmp_path / "mine", began)
    with pytest.raises(InputError, match="exists already"):
        find_run(["--data=x", f"--runs={tmp_path}", "--name=mine"], launch, NOW)
