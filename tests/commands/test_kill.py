"""Killed (SIGKILL) at random moments and resumed, a run ends as one that nothing stopped, bit for bit."""

import json
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from fastliver.run_folder import PACE

OFTEN = ("--name", "run", "--checkpoint-steps=1")
MOMENTS = 50
IN_EVERY_RUN = 5


def all_of(run: Path, learned: Any) -> dict[str, Any]:
    """Weights, synthetic images, scores, tables and losses."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [{name: value for name, value in line.items() if name not in PACE} for line in lines]
    return {**learned(run), "losses": losses}


@pytest.fixture(scope="module")
def whole(
    train: Any, phantom: Path, learned: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], float]:
    """What a run that nothing stopped leaves, and its seconds."""
    folder = tmp_path_factory.mktemp("whole")
    began = time.monotonic()
    train("--data", phantom, "--runs", folder, *OFTEN).succeeded()
    return all_of(folder / "run", learned), time.monotonic() - began


@pytest.mark.parametrize(
    "number",
    [pytest.param(number, marks=[] if number < IN_EVERY_RUN else pytest.mark.slow) for number in range(MOMENTS)],
)
def test_a_kill_costs_time_and_nothing_else(
    number: int, whole: tuple[dict[str, Any], float], train: Any, phantom: Path, learned: Any, tmp_path: Path
) -> None:
    expected, seconds = whole
    run = tmp_path / "run"
    # One in each tenth (of 50, five), so that few of them meet all parts of a run; each resumed run may be hit again.
    draw = random.Random(number)
    moments = [seconds * (number * 3 % 10 + draw.random()) / 10]
    if number % 2:
        moments.append(seconds * draw.random() / 2)
    for moment in moments:
        started = (run / "config.yaml").exists()
        if not started:
            shutil.rmtree(run, ignore_errors=True)
        options = ("--resume", run) if started else ("--data", phantom, "--runs", tmp_path, *OFTEN)
        running = train.start(*options, small=not started)
        time.sleep(moment)
        if running.poll() is None:
            running.send(signal.SIGKILL)
            assert running.wait().code in (-signal.SIGKILL, 0)  # it may have ended in this very moment
    if (run / "config.yaml").exists():
        train("--resume", run, small=False).succeeded()
    else:
        shutil.rmtree(run, ignore_errors=True)
        train("--data", phantom, "--runs", tmp_path, *OFTEN).succeeded()
    assert all_of(run, learned) == expected
