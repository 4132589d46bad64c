"""What a run is told about memory before it begins, on a CPU and on a GPU that is only pretended."""

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from fastliver.byte_sizes import GIB
from fastliver.config import EngineConfig, TrainConfig
from fastliver.errors import InputError
from fastliver.models import UNet
from fastliver.train import choose_device
from fastliver.training import estimate, memory_plan, stages
from fastliver.training.distributed import Ranks
from fastliver.training.estimate import memory_lines, plan_run, seconds_per_step, workloads
from fastliver.training.graph import wants_graph
from fastliver.training.loop import TrainingTime
from fastliver.training.memory import StepMemory, Workload
from fastliver.training.memory_plan import DeviceMemory
from fastliver.training.stages import Run


@pytest.fixture(autouse=True)
def _given(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes 2 GiB, a quarter of it with every saving."""

    def given(workload: Workload, precision: str, checkpoint_blocks: bool, resident: bool) -> StepMemory:
        return StepMemory(activations=GIB // (2 if checkpoint_blocks else 1) * (2 if resident else 1))

    monkeypatch.setattr(memory_plan, "step_memory", given)


def _run(device: str = "cpu", plans: Any = None, ablation: bool = False, **engine: Any) -> Any:
    """Stands in for a Run: 408 MR slices with liver to train on, 2050 of CT, 350 of them for EssNet."""
    config = TrainConfig(engine=EngineConfig(**engine))
    config = replace(config, experiment=replace(config.experiment, ablation=ablation))
    data = SimpleNamespace(
        split=SimpleNamespace(train=range(408)),
        essnet_ct=range(350),
        essnet_mr_count=500,
        ct=SimpleNamespace(liver_slices=lambda: range(2050)),
    )
    return SimpleNamespace(config=config, data=data, device=torch.device(device), plans=plans or {})


def test_a_stages_trainings_with_the_most_slices_that_they_draw_from():
    both = [(work.name, work.slices) for work in workloads(_run(), "all")]
    assert both == [("essnet", (350, 500)), ("unet", (408 + 2050,))]
    assert [work.name for work in workloads(_run(ablation=True), "essnet")] == ["essnet", "cyclegan"]
    assert [work.name for work in workloads(_run(), "unet")] == ["unet"]
    assert workloads(_run(), "synthesize") == []


def test_on_a_cpu_nothing_is_planned_or_told_without_a_limit():
    assert plan_run(_run(), "all") == {}
    assert memory_lines(_run(), "all") == []


def test_on_a_cpu_a_limit_tells_what_a_gpu_would_do():
    first, essnet, unet = memory_lines(_run(memory_limit="6GiB"), "all")
    assert "caps nothing on a CPU" in first
    assert "6.00 GiB" in first
    assert essnet.split() == ["EssNet:", "3.12", "GiB", "(bf16,", "batch", "1,", "slices", "on", "the", "GPU)"]
    assert "U-Net" in unet
    assert "takes at least" in memory_lines(_run(memory_limit="1GiB"), "all")[1]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Pretends a GPU of 24 GiB; collects what its allocator is capped at."""
    capped: list[Any] = []
    monkeypatch.setattr(DeviceMemory, "of", lambda device: DeviceMemory(24 * GIB, 23 * GIB))
    monkeypatch.setattr(estimate, "cap_allocators", lambda limit, memory, device: capped.append(limit))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    return capped


def test_on_a_gpu_every_training_is_planned_and_the_limit_holds(gpu):
    plans = plan_run(_run("cuda", memory_limit="3GiB"), "all")
    assert {name: (plan.precision, plan.resident) for name, plan in plans.items()} == {
        "essnet": ("fp16", False),
        "unet": ("fp16", False),
    }
    assert gpu == [3 * GIB]
    lines = memory_lines(_run("cuda", plans), "all")
    assert lines[0].startswith("Estimated GPU memory for EssNet: 2.06 GiB (fp16, batch 1, slices in host memory")


def test_a_large_gpu_without_a_limit_is_not_capped(gpu):
    assert plan_run(_run("cuda"), "all")["unet"].resident
    assert gpu == []


def test_what_cannot_fit_is_refused_before_anything_is_capped(gpu):
    with pytest.raises(InputError, match="takes at least"):
        plan_run(_run("cuda", memory_limit="1GiB"), "all")
    assert gpu == []


def test_automatic_precision_goes_lower_only_where_it_was_not_low_already(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    device = torch.device("cuda")
    assert estimate._precisions("auto", device) == ["fp32", "fp16"]
    assert estimate._precisions("fp32", device) == ["fp32"]


def test_the_gpu_that_is_chosen_has_its_number(monkeypatch):
    """torch.cuda.set_per_process_memory_fraction refuses one without."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert choose_device("auto", Ranks()) == torch.device("cuda", 0)


def test_no_step_of_a_gpus_start_is_timed(monkeypatch):
    """Compiling kernels takes a minute, which no step takes again."""
    clock = chain(*((start, start + 60) for start in (0, 100, 200, 300)), range(1000, 2000))
    monkeypatch.setattr(estimate.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    trainer: Any = SimpleNamespace(step=lambda epoch, step: None)
    assert seconds_per_step(trainer, torch.device("cuda")) == 1.0


class Knotted:
    """A trainer that holds itself, as one with a graph of its steps does."""

    steps_per_epoch = 1

    def __init__(self) -> None:
        self.knot = self


@pytest.fixture
def _no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
def test_what_a_training_held_is_free_before_the_next(monkeypatch):
    made: list[weakref.ref[Knotted]] = []

    def make() -> Any:
        trainer = Knotted()
        made.append(weakref.ref(trainer))
        return trainer

    monkeypatch.setattr(stages, "train", lambda trainer, *rest: TrainingTime(1, 1, 1.0))
    run: Any = SimpleNamespace(
        ranks=SimpleNamespace(first=lambda work: None),
        config=TrainConfig(),
        folder=None,
        console=None,
        signals=None,
        device=torch.device("cpu"),
    )
    assert Run._train(run, "essnet", {}, make, 1).steps == 1
    assert made[0]() is None


@pytest.mark.usefixtures("_no_collector")
def test_what_an_estimate_held_is_free_before_the_training(monkeypatch):
    made: list[weakref.ref[Knotted]] = []

    def make(*arguments: Any) -> Any:
        trainer = Knotted()
        made.append(weakref.ref(trainer))
        return trainer

    run = _run()
    builder = SimpleNamespace(essnet=make, unet=make)
    run.ranks, run.builder = SimpleNamespace(count=1), SimpleNamespace(alone=lambda: builder)
    monkeypatch.setattr(estimate, "_steps_left", lambda run, job, total: total)
    monkeypatch.setattr(estimate, "seconds_per_step", lambda trainer, device: 1.0)
    estimate.estimate(run, "all")
    assert [held() for held in made] == [None, None]


def test_a_learning_curves_trainings_are_counted_and_no_shorter(monkeypatch):
    """408 real and, of 2050 slices, 714 synthetic: 204 and 561 steps of batch 2 an epoch, of 300 epochs."""
    run = _run()
    experiment = replace(run.config.experiment, arrangements="0,714", labelled_patients="1,4")
    run.config = replace(run.config, experiment=experiment)
    builder = SimpleNamespace(unet=lambda *arguments: None)
    run.ranks, run.builder = SimpleNamespace(count=1), SimpleNamespace(alone=lambda: builder)
    asked = {}
    monkeypatch.setattr(estimate, "_steps_left", lambda run, job, total: asked.setdefault(job, total))
    monkeypatch.setattr(estimate, "seconds_per_step", lambda trainer, device: 0.5)
    found = estimate.estimate(run, "unet")
    counts = ("", "-patients1", "-patients4")
    assert asked == {f"unet-real-0{count}-seed0": 300 * 204 for count in counts} | {
        f"unet-essnet-714{count}-seed0": 300 * 561 for count in counts
    }
    assert found.unet == 0.5 * 3 * 300 * (204 + 561)


def test_epochs_of_a_given_length_give_every_unet_as_many_steps(monkeypatch):
    run = _run()
    run.config = replace(run.config, unet=replace(run.config.unet, epoch_slices=1001, epochs=3))
    builder = SimpleNamespace(unet=lambda *arguments: None)
    run.ranks, run.builder = SimpleNamespace(count=1), SimpleNamespace(alone=lambda: builder)
    asked = {}
    monkeypatch.setattr(estimate, "_steps_left", lambda run, job, total: asked.setdefault(job, total))
    monkeypatch.setattr(estimate, "seconds_per_step", lambda trainer, device: 0.5)
    estimate.estimate(run, "unet")
    assert len(asked) == 6
    assert set(asked.values()) == {3 * 501}


def test_steps_timed_for_several_ranks_are_none_of_a_graph_and_a_graph_asked_for_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GeForce RTX 2060")
    for count, choice in ((1, "auto"), (2, "auto"), (2, "on")):
        config = TrainConfig(engine=EngineConfig(graph=choice, precision="fp32"))
        ranks = Ranks(count=count, device=torch.device("cuda", 0))
        run: Any = Run(config, None, None, Console(), ranks, None)  # type: ignore[arg-type]
        builder = run.builder.alone()
        assert builder.ranks.alone
        execution = builder._execution("unet", UNet(1))
        if choice == "on":
            with pytest.raises(InputError, match="--graph=on: .* over ranks yet"):
                wants_graph(execution)
        else:
            assert wants_graph(execution) is (count == 1)
