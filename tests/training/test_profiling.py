"""--profile traces exactly the steps that it names; spans are no work otherwise."""

import json
from typing import Any

import pytest
import torch

from fastliver.config import EngineConfig
from fastliver.errors import InputError
from fastliver.training.loop import train
from fastliver.training.profiling import StepWindow, span


def _names(path: Any) -> list[str]:
    return [event.get("name", "") for event in json.loads(path.read_text())["traceEvents"]]


def test_the_window_holds_its_steps_alone(tmp_path):
    path = tmp_path / "profile" / "job.json"
    with StepWindow(range(2, 4), path, torch.device("cpu")) as window:
        for step in range(6):
            window.at(step)
            with span(f"step {step}"):
                torch.ones(4).cos()
    names = _names(path)
    assert [name for name in names if name.startswith("step ")] == ["step 2", "step 3"]
    assert names.count("aten::cos") == 2
    assert [each.name for each in path.parent.iterdir()] == ["job.json"]


def test_a_run_cut_off_in_the_window_leaves_what_there_was(tmp_path):
    path = tmp_path / "job.json"
    with pytest.raises(KeyboardInterrupt), StepWindow(range(1, 9), path, torch.device("cpu")) as window:
        for step in range(4):
            window.at(step)
            with span(f"step {step}"):
                pass
        raise KeyboardInterrupt
    assert [name for name in _names(path) if name.startswith("step ")] == ["step 1", "step 2", "step 3"]


def test_a_window_that_was_passed_before_writes_nothing(tmp_path):
    for steps in (None, range(1, 3)):
        with StepWindow(steps, tmp_path / "job.json", torch.device("cpu")) as window:
            window.at(5)
    assert not list(tmp_path.iterdir())


def test_training_writes_its_trace_into_the_run_folder_and_learns_the_same(make_unet, run, console):
    plain = make_unet()
    train(plain, run, "plain", {}, EngineConfig(), console)
    profiled = make_unet()
    train(profiled, run, "unet", {}, EngineConfig(profile="1:3"), console)
    names = _names(run.profile("unet"))
    assert names.count("unet step") == 2
    assert "aten::convolution" in names
    assert not run.profile("plain").exists()
    for name, weight in plain.network.state_dict().items():
        assert weight.equal(profiled.network.state_dict()[name]), name


@pytest.mark.parametrize("text", ["20", "30:20", "5:5", "a:b", "1:2:3", "-1:4", "", ":", "1230"])
def test_what_is_no_window_is_refused(text):
    with pytest.raises(InputError, match=f"--profile={text}: expected first and last step"):
        EngineConfig(profile=text).profile_steps()


def test_a_window():
    assert EngineConfig(profile="20:30").profile_steps() == range(20, 30)
    assert EngineConfig().profile_steps() is None


@pytest.mark.parametrize(
    ("window", "note"), [("6:9", "unet: nothing to profile, --profile=6:9 lies outside 0:6"), ("5:9", "")]
)
def test_a_window_past_the_end_is_told(window: str, note: str, make_unet: Any, run: Any, console: Any) -> None:
    train(make_unet(), run, "unet", {}, EngineConfig(profile=window), console)
    assert note in console.file.getvalue()
    assert ("nothing to profile" in console.file.getvalue()) == bool(note)
