"""A training that was interrupted ends as one that was not, bit for bit."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from fastliver.config import EngineConfig
from fastliver.errors import InputError
from fastliver.run_folder import PACE, RunFolder
from fastliver.training import checkpoint
from fastliver.training.loop import train
from fastliver.training.trainer import StepResult, Trainer

EVERY_STEP = EngineConfig(checkpoint_minutes=0, log_every=1)
META = {"network": {"channels": 2}}


class Killed(Exception):
    """Stands for a kill."""


def _kill_before(trainer: Trainer, at: int) -> None:
    """Let the trainer's step number `at` raise instead."""
    step = trainer.step

    def maybe(epoch: int, number: int) -> StepResult:
        if epoch * trainer.steps_per_epoch + number == at:
            raise Killed
        return step(epoch, number)

    trainer.step = maybe


@pytest.fixture(params=["essnet", "cyclegan", "unet"])
def make(request: pytest.FixtureRequest, make_essnet: Any, make_unet: Any) -> Callable[[int], Trainer]:
    """Makes the trainer of 6 steps whose first weights come from a seed."""
    makers = {
        # Rates fall, pools of 2 swap, images are shifted, dropout is on: all of it must go on where it was.
        "essnet": lambda init: make_essnet(init, epochs=1, decay_epochs=1, generator_lr=1e-3),
        "cyclegan": lambda init: make_essnet(init, segmentor=False, batch=2, epochs=3),
        "unet": make_unet,
    }
    return makers[request.param]


def _train(trainer: Trainer, root: Path, console: Console) -> tuple[bytes, list[dict[str, Any]]]:
    """The bytes of the final weights, and the metrics without what a clock says."""
    run = RunFolder(root)
    train(trainer, run, "job", META, EVERY_STEP, console)
    lines = [{key: value for key, value in line.items() if key not in PACE} for line in run.read_metrics()]
    return (run.checkpoints("job") / "final" / "weights.safetensors").read_bytes(), lines


def _interrupt(trainer: Trainer, root: Path, console: Console, at: int) -> None:
    _kill_before(trainer, at)
    with pytest.raises(Killed):
        train(trainer, RunFolder(root), "job", META, EVERY_STEP, console)


def test_an_interrupted_training_ends_bit_for_bit_as_an_uninterrupted_one(make, tmp_path, console):
    expected, lines = _train(make(0), tmp_path / "whole", console)
    assert [line["step"] for line in lines] == list(range(6))
    for at in (1, 4):
        root = tmp_path / f"killed at {at}"
        _interrupt(make(0), root, console, at)
        assert checkpoint.latest(RunFolder(root).checkpoints("job"))[0].meta["step"] == at
        # A new process: other first weights, another random state.
        weights, again = _train(make(99), root, console)
        assert f"going on from {root}" in console.file.getvalue()
        assert weights == expected
        assert again == lines


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before_and_nothing_else(make, tmp_path, console):
    expected, lines = _train(make(0), tmp_path / "whole", console)
    root = tmp_path / "damaged"
    _interrupt(make(0), root, console, 4)
    newest = RunFolder(root).checkpoints("job") / "step-00000004" / "state.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(bytes(content))
    weights, again = _train(make(99), root, console)
    assert f"warning: {newest}: damaged" in console.file.getvalue()
    assert f"going on from {newest.parent.with_name('step-00000003')}" in console.file.getvalue()
    assert weights == expected
    assert again == lines


def test_another_seed_ends_elsewhere(make, tmp_path, console):
    """What the tests above compare is not the same whatever happens."""
    first, lines = _train(make(0), tmp_path / "a", console)
    second, others = _train(make(1), tmp_path / "b", console)
    assert first != second
    assert lines != others


def test_a_finished_training_leaves_the_final_weights_and_says_what_they_took(make_unet, run, console):
    trainer = make_unet()
    times = train(trainer, run, "unet", META, EngineConfig(log_every=4), console)
    assert (times.steps, times.steps_per_epoch) == (6, 3)
    assert 0 < times.seconds_per_epoch == times.seconds / 2
    found = checkpoint.final(run.checkpoints("unet"))
    assert found.meta["network"] == {"channels": 2}
    assert (found.meta["step"], found.meta["seconds"]) == (6, times.seconds)
    assert all(torch.equal(found.weights()[name], value) for name, value in trainer.network.state_dict().items())
    assert [path.name for path in run.checkpoints("unet").iterdir()] == ["final"]
    assert [(line["step"], line["epoch"]) for line in run.read_metrics()] == [(3, 1)]


def test_no_checkpoint_is_written_before_its_time(make_unet, run, console):
    trainer = make_unet()
    _kill_before(trainer, 5)
    with pytest.raises(Killed):
        train(trainer, run, "unet", META, EngineConfig(checkpoint_minutes=60), console)
    assert checkpoint.latest(run.checkpoints("unet")) == (None, [])


def test_a_checkpoint_is_written_every_so_many_steps(make_unet, run, console):
    trainer = make_unet()
    _kill_before(trainer, 5)
    with pytest.raises(Killed):
        train(trainer, run, "unet", META, EngineConfig(checkpoint_minutes=60, checkpoint_steps=2), console)
    assert sorted(path.name for path in run.checkpoints("unet").iterdir()) == ["step-00000002", "step-00000004"]


def test_a_checkpoint_of_other_ranks_is_refused(make_unet, run, console):
    """Its image pools and random numbers belong to so many processes, and so does the size of its batches."""
    trainer = make_unet()
    _kill_before(trainer, 2)
    with pytest.raises(Killed):
        train(trainer, run, "unet", META, EVERY_STEP, console)
    path = run.checkpoints("unet") / "step-00000002"
    meta = json.loads((path / "checkpoint.json").read_text())
    del meta["digest"]
    meta["ranks"] = 2
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()
    (path / "checkpoint.json").write_text(json.dumps({**meta, "digest": digest}))
    with pytest.raises(InputError, match=f"{path}: written by 2 processes, and this run has 1; start 2, or delete"):
        train(make_unet(), run, "unet", META, EVERY_STEP, console)


def test_speed_and_memory_are_logged(make_unet, run, console):
    train(make_unet(), run, "unet", META, EngineConfig(log_every=2), console, batch=5)
    lines = run.read_metrics()
    assert [line["step"] for line in lines] == [1, 3, 5]
    times = [0.0, *(line["seconds"] for line in lines)]
    for before, after, line in zip(times, times[1:], lines, strict=False):
        assert line["step_seconds"] == pytest.approx((after - before) / 2, rel=1e-3)
        assert line["images_per_second"] == pytest.approx(5 / line["step_seconds"], rel=1e-4)
        assert 0.05 < line["memory_gib"] < 64
    assert re.search(r"unet 6/6 epoch 2/2, loss \S+, \S+ images/s, \S+ s/step, \d+\.\d\d GiB", console.file.getvalue())


def test_seconds_add_up_over_sittings(make_unet, run, console):
    trainer = make_unet()
    _kill_before(trainer, 3)
    with pytest.raises(Killed):
        train(trainer, run, "unet", META, EVERY_STEP, console)
    before = checkpoint.latest(run.checkpoints("unet"))[0].meta["seconds"]
    assert before > 0
    assert train(make_unet(), run, "unet", META, EVERY_STEP, console).seconds > before
