"""metrics.jsonl and TensorBoard over interruptions."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from fastliver.run_folder import PACE, RunFolder
from fastliver.training.metrics_log import MetricsLog, Pace, peak_memory


def _write(run: RunFolder, job: str, start: int, steps: range, loss: float = 1.0) -> None:
    with MetricsLog(run, job, start) as log:
        for step in steps:
            log.write(step, step // 4, Pace(0.12345678 * step, 0.25, 4 / 3, 1.5), {"loss": loss, "gan": 2.0})


def _steps(run: RunFolder, job: str) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in run.read_metrics() if line["job"] == job]


def test_a_line_holds_job_step_epoch_pace_and_losses(run):
    _write(run, "essnet", 0, range(5, 6))
    assert [json.loads(line) for line in run.metrics.read_text().splitlines()] == [
        {"job": "essnet", "step": 5, "epoch": 1, "seconds": 0.617284, "step_seconds": 0.25,
         "images_per_second": 1.33333, "memory_gib": 1.5, "loss": 1.0, "gan": 2.0}
    ]  # fmt: skip
    names = {field.name for field in fields(Pace)}
    assert names == set(PACE), "what the figures don't take for a loss"


def test_lines_are_on_disk_as_soon_as_they_are_written(run):
    with MetricsLog(run, "essnet", 0) as log:
        log.write(0, 0, Pace(0.1, 0.1, 10, 1), {"loss": 1.0})
        assert len(run.read_metrics()) == 1


def test_resuming_drops_later_lines_of_the_same_job_alone(run):
    _write(run, "essnet", 0, range(6))
    _write(run, "unet", 0, range(6))
    _write(run, "essnet", 4, range(4, 7), loss=9.0)
    assert _steps(run, "essnet") == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0), (4, 9.0), (5, 9.0), (6, 9.0)]
    assert _steps(run, "unet") == [(step, 1.0) for step in range(6)]


def test_a_line_cut_in_half_is_dropped(run):
    _write(run, "essnet", 0, range(3))
    text = run.metrics.read_text()
    run.metrics.write_text(text[: len(text) - 20])
    assert _steps(run, "essnet") == [(0, 1.0), (1, 1.0)]
    _write(run, "essnet", 3, range(3, 4))
    assert _steps(run, "essnet") == [(0, 1.0), (1, 1.0), (3, 1.0)]
    assert all(json.loads(line) for line in run.metrics.read_text().splitlines())


def test_numbers_are_read_back_exactly(run):
    _write(run, "essnet", 0, range(1), loss=0.1 + 0.2)
    _write(run, "unet", 0, range(1))  # rewrites the file
    assert _steps(run, "essnet") == [(0, 0.1 + 0.2)]


def test_tensorboard_gets_each_loss_under_the_job(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _write(run, "essnet", 0, range(3), loss=0.25)
    events = EventAccumulator(str(run.tensorboard / "essnet")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(0, 0.25), (1, 0.25), (2, 0.25)]
    assert set(events.Tags()["scalars"]) == {"loss", "gan", *(f"pace/{name}" for name in PACE)}
    assert [event.value for event in events.Scalars("pace/step_seconds")] == [0.25, 0.25, 0.25]


def test_memory_of_a_cpu_is_the_resident_set():
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("no /proc here to compare with")
    torch.ones(2**20).sum()
    most = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    assert peak_memory(torch.device("cpu")) == pytest.approx(most / 2**20, rel=0.02)
