"""Recording a step and replaying it is the same training as running it, on stand-ins for what only a GPU has."""

from collections.abc import Callable
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fastliver.errors import InputError
from fastliver.training import graph
from fastliver.training.graph import Branches, CudaRecorder, StepGraph, wants_graph
from fastliver.training.precision import Precision
from fastliver.training.trainer import Execution, StepResult

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


class StandIn:
    """Records by keeping the function, and replays by calling it into the same memory, as a graph does."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.calls: list[str] = []

    def warm_up(self, work: Callable[[], Any]) -> Any:
        self.calls.append("warm up")
        return work()

    def record(self, work: Callable[[], tuple[StepResult, Tensor]]) -> list[Any]:
        self.calls.append("record")
        if self.error is not None:
            raise self.error
        self.work = work
        self.static: list[Any] = [None, None]
        return self.static

    def replay(self) -> None:
        self.calls.append("replay")
        result, values = self.work()
        if self.static[1] is None:
            self.static[:] = result, values
        self.static[1].copy_(values)


class Counting:
    """A step that gives its number, and notices a gradient that was left."""

    def __init__(self) -> None:
        self.number = torch.zeros(())
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.optimizer = torch.optim.SGD([self.weight], 0.1)
        self.gradient_before: list[bool] = []

    def __call__(self) -> StepResult:
        self.gradient_before.append(self.weight.grad is not None)
        self.weight.grad = torch.ones(2)
        self.number += 1
        return StepResult({"loss": self.number.clone(), "half": self.number / 2}, {"odd": self.number % 2})


def _numbers(result: StepResult) -> tuple[float, float, float]:
    return float(result.losses["loss"]), float(result.losses["half"]), float(result.faults["odd"])


def test_steps_are_warmed_up_recorded_once_and_replayed_and_none_is_lost_or_taken_twice():
    step, recorder = Counting(), StandIn()
    run = StepGraph(step, [step.optimizer], recorder, warm_up=2)
    results = [run() for _ in range(5)]
    assert recorder.calls == ["warm up", "warm up", "record", "replay", "replay", "replay"]
    # Read at the end: a replay writes over its own results alone.
    assert [_numbers(result) for result in results] == [(n, n / 2, n % 2) for n in range(1, 6)]
    assert list(results[4].losses) == ["loss", "half"]
    # The recording starts without gradients, so that they come to lie in the graph's memory.
    assert step.gradient_before[:3] == [False, True, False]


@pytest.mark.parametrize("required", [False, True])
def test_a_recording_that_fails_is_told_and_training_goes_on_unless_a_graph_was_asked_for(required):
    step, told = Counting(), []
    recorder = StandIn(RuntimeError("operation not permitted\nwhen stream is capturing"))
    run = StepGraph(step, [step.optimizer], recorder, 1, required, told.append)
    assert _numbers(run())[0] == 1
    if required:
        with pytest.raises(RuntimeError, match="not permitted"):
            run()
        return
    assert [_numbers(run())[0] for _ in range(3)] == [2, 3, 4]
    assert recorder.calls == ["warm up", "record"]
    assert len(told) == 1
    assert "no CUDA graph" in told[0] and "(operation not permitted)" in told[0]


def test_the_operation_that_broke_a_recording_is_named_and_not_the_error_of_ending_it():
    step, told = Counting(), []
    last = RuntimeError("operation failed due to a previous error during capture")
    last.__context__ = RuntimeError("item() is not permitted")
    StepGraph(step, [step.optimizer], StandIn(last), 0, False, told.append)()
    assert "(item() is not permitted)" in told[0]


@pytest.mark.parametrize("kind", ["essnet", "cyclegan", "unet"])
def test_a_training_with_a_graph_is_the_training_without(kind, make_essnet, make_unet):
    makers = {
        "essnet": lambda: make_essnet(epochs=2, decay_epochs=1),
        "cyclegan": lambda: make_essnet(segmentor=False, batch=2, epochs=3),
        "unet": make_unet,
    }
    histories = []
    for recorder in (None, StandIn()):
        trainer = makers[kind]()
        torch.manual_seed(5)
        trainer.graph.recorder, trainer.graph.warm_up = recorder, 2
        history = [trainer.step(*divmod(number, trainer.steps_per_epoch)).values() for number in range(6)]
        if recorder is not None:
            assert recorder.calls.count("replay") == 4
        histories.append([*history, *trainer.network.state_dict().values()])
    assert all(torch.equal(eager, replayed) for eager, replayed in zip(*histories, strict=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("kind", ["essnet", "unet"])
def test_no_step_waits_for_the_device(kind, precision, make_essnet, make_unet, no_sync):
    trainer = {"essnet": make_essnet, "unet": make_unet}[kind](execution=Execution(Precision(precision, CPU)))
    trainer.step(0, 0)
    run = trainer.graph

    def watched() -> StepResult:
        with no_sync():
            return run()

    trainer.graph = watched
    assert trainer.step(0, 1).values().isfinite().all()


# When


@pytest.mark.parametrize(
    ("choice", "device", "distributed", "expected"),
    [
        ("auto", CUDA, False, True),
        ("on", CUDA, False, True),
        ("auto", CUDA, True, False),
        ("off", CUDA, False, False),
        ("auto", CPU, False, False),
        ("off", CPU, True, False),
    ],
)
def test_when_steps_are_recorded_and_that_falling_back_is_told(choice, device, distributed, expected):
    told: list[str] = []
    execution = Execution(Precision("fp32", device), choice, distributed=distributed, tell=told.append)
    assert wants_graph(execution) is expected
    fell_back = choice == "auto" and device == CUDA and not expected
    assert [message.startswith("no CUDA graph: ") for message in told] == [True] * fell_back


def test_a_graph_that_is_asked_for_without_a_gpu_is_an_error(make_unet):
    with pytest.raises(InputError, match="--graph=on: CUDA graphs need a GPU, and this run computes on cpu; use auto"):
        make_unet(execution=Execution(Precision("fp32", CPU), "on"))


def test_a_graph_that_is_asked_for_with_several_ranks_is_an_error():
    with pytest.raises(InputError, match="--graph=on: .* over ranks yet; use auto or off"):
        wants_graph(Execution(Precision("fp32", CUDA), "on", distributed=True))


# Parallel branches


@pytest.mark.parametrize(
    ("choice", "distributed", "roomy", "processors", "parallel"),
    [
        ("auto", False, True, 132, True),  # H200
        ("auto", False, False, 132, False),
        ("auto", False, True, 30, False),  # RTX 2060
        ("off", False, True, 132, False),
        ("on", True, True, 132, False),
    ],
)
def test_branches_run_beside_each_other_in_a_graph_on_a_wide_gpu(
    choice, distributed, roomy, processors, parallel, monkeypatch
):
    properties = SimpleNamespace(multi_processor_count=processors)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    execution = Execution(Precision("fp32", CUDA), choice, distributed=distributed, parallel=roomy)
    assert graph.branches(execution).parallel is parallel


class FakeStreams:
    """Writes down what is asked of CUDA's streams."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.made = 0
        self.current: Any = self.stream("main")
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self.current)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: self._new())
        monkeypatch.setattr(torch.cuda, "stream", self._enter)

    def stream(self, name: str) -> SimpleNamespace:
        device = torch.device("cuda", 0)
        return SimpleNamespace(
            name=name, device=device, wait_stream=lambda other: self.log.append(f"{name} waits for {other.name}")
        )

    def _new(self) -> SimpleNamespace:
        self.made += 1
        return self.stream(f"side{self.made}")

    @contextmanager
    def _enter(self, stream: SimpleNamespace) -> Any:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before


def test_parallel_branches_wait_for_what_came_before_and_are_waited_for(monkeypatch):
    fake = FakeStreams(monkeypatch)
    branches = Branches(CUDA, parallel=True)

    def part(name: str) -> Callable[[], str]:
        return lambda: (fake.log.append(f"{name} on {fake.current.name}"), name)[1]

    assert branches.run(g1=part("G1(x)"), g2=part("G2(y)")) == ["G1(x)", "G2(y)"]
    first, fake.log[:] = list(fake.log), []
    assert first == [
        "side1 waits for main",
        "G1(x) on side1",
        "side2 waits for main",
        "G2(y) on side2",
        "main waits for side1",
        "main waits for side2",
    ]
    # A network keeps its stream, whatever order it is called in.
    branches.run(s=part("S"), g2=part("G2(G1(x))"), g1=part("G1(G2(y))"))
    assert [line for line in fake.log if " on " in line] == ["S on side3", "G2(G1(x)) on side2", "G1(G2(y)) on side1"]


def test_a_step_gives_every_network_a_stream_of_its_own(make_essnet, monkeypatch):
    """What a network saves and casts is freed in the order of the stream that made it."""
    trainer = make_essnet()
    fake = FakeStreams(monkeypatch)
    used: dict[str, set[str]] = {}
    for name, network in trainer.network.named_children():
        network.register_forward_hook(
            lambda network, inputs, output, name=name: used.setdefault(name, set()).add(fake.current.name)
        )
    trainer.branches.parallel = True
    parallel = trainer.step(0, 0)
    assert {name: len(streams) for name, streams in used.items()} == dict.fromkeys(("g1", "g2", "s", "d1", "d2"), 1)
    assert len(set.union(*used.values())) == 5
    assert torch.equal(parallel.values(), make_essnet().step(0, 0).values())


@pytest.mark.parametrize("broken_off", [True, False])
def test_a_recording_that_fails_leaves_stream_allocator_and_random_numbers_as_they_were(broken_off, monkeypatch):
    """What CUDA breaks off PyTorch doesn't end: its context manager keeps the stream, the allocator the pool."""
    fake, log = FakeStreams(monkeypatch), []
    main = fake.current

    class FakeCapture:
        def __init__(self, graph: Any, pool: str, stream: Any) -> None:
            self.stream = stream

        def __enter__(self) -> None:
            self.before, fake.current = fake.current, self.stream

        def __exit__(self, *error: object) -> None:
            if broken_off:
                raise RuntimeError("invalidated")
            fake.current = self.before

    def end(device: int, pool: str) -> None:
        log.append((device, pool))
        if not broken_off:
            raise RuntimeError("not currently recording")

    random = SimpleNamespace(clone_state=lambda: "before", graphsafe_set_state=lambda state: log.append(state))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", FakeCapture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(torch.cuda, "default_generators", [random])
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda device, pool: log.append("released"), raising=False)

    def work() -> None:
        raise RuntimeError("not permitted")

    with pytest.raises(RuntimeError, match="invalidated" if broken_off else "not permitted"):
        CudaRecorder(CUDA).record(work)
    assert fake.current is main
    assert log == ["before", (0, "pool"), *(["released"] if broken_off else [])]
