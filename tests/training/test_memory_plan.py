"""Which way to train is chosen for how much memory, and what is said where none fits; estimates are given, not made."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from fastliver.byte_sizes import GIB, MIB, format_bytes, parse_bytes
from fastliver.config import EngineConfig, TrainConfig
from fastliver.errors import InputError
from fastliver.training import memory_plan
from fastliver.training.memory import StepMemory, Workload
from fastliver.training.memory_plan import (
    CONTEXT,
    LIBRARIES,
    WORKSPACE,
    DeviceMemory,
    cap_allocators,
    estimate_plan,
    largest_batch,
    plan_memory,
)

BESIDE = CONTEXT + LIBRARIES + WORKSPACE
ESSNET = Workload("essnet", TrainConfig(), (2050, 350))


@pytest.fixture(autouse=True)
def _given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of a step in round numbers, and no allowance for gaps.

    An image's activations are 512 MiB at 256x256: half in 16 bit, and half again with blocks computed twice. Slices are
    256 MiB, the rest is 256 MiB.
    """

    def given(workload: Workload, precision: str, checkpoint_blocks: bool, resident: bool) -> StepMemory:
        share = (workload.config.data.image_size / 256) ** 2
        each = 512 * MIB * share / (1 if precision == "fp32" else 2) / (2 if checkpoint_blocks else 1)
        slices = int(256 * MIB * share) if resident else 0
        return StepMemory(weights=256 * MIB, slices=slices, activations=int(each * workload.batch))

    monkeypatch.setattr(memory_plan, "step_memory", given)
    monkeypatch.setattr(memory_plan, "SPARE", 0)


@pytest.mark.parametrize(
    ("tensors", "precisions", "way"),
    [
        (1024, ["fp32"], ("fp32", False, True)),
        (1023, ["fp32"], ("fp32", False, False)),
        (768, ["fp32"], ("fp32", False, False)),
        (767, ["fp32"], ("fp32", True, False)),
        (767, ["fp32", "fp16"], ("fp32", True, False)),
        (512, ["fp32"], ("fp32", True, False)),
        (511, ["fp32", "fp16"], ("fp16", True, False)),
        (384, ["fp32", "fp16"], ("fp16", True, False)),
    ],
)
def test_the_first_way_that_fits_is_taken(tensors, precisions, way):
    plan = plan_memory(ESSNET, precisions, BESIDE + tensors * MIB)
    assert (plan.precision, plan.checkpoint_blocks, plan.resident) == way
    assert plan.slices_budget == (None if plan.resident else 0)
    assert plan.total <= BESIDE + tensors * MIB


def test_blocks_are_computed_twice_with_slices_on_the_device_where_that_suffices():
    plan = plan_memory(ESSNET.with_batch(2), ["fp32"], BESIDE + 1024 * MIB)
    # Plain 1536, without slices 1280, checkpointed 1024.
    assert (plan.checkpoint_blocks, plan.resident) == (True, True)


def test_the_total_is_of_the_whole_process(monkeypatch):
    monkeypatch.setattr(memory_plan, "SPARE", 1 / 16)
    plan = estimate_plan(ESSNET, "fp32", False, True, context=300 * MIB)
    assert plan.total == 1024 * MIB * 17 // 16 + WORKSPACE + LIBRARIES + 300 * MIB
    assert str(plan) == f"EssNet: {format_bytes(plan.total)} (fp32, batch 1, slices on the GPU)"


def test_what_cannot_fit_is_refused_with_the_estimate_and_what_would_fit():
    limit = BESIDE + 640 * MIB
    with pytest.raises(InputError) as caught:
        plan_memory(ESSNET.with_batch(4), ["fp32"], limit)
    text = str(caught.value)
    assert "EssNet takes at least 2.25 GiB" in text  # 1024 + 256 + 1024 MiB
    assert "may use 1.62 GiB" in text
    assert "--essnet-batch 1," in text
    assert "--image-size 128," in text  # 192 takes 256 + 4 * 144 MiB
    assert "--memory-limit 2.3GiB" in text
    assert "--precision" not in text  # 256 + 4 * 128 MiB
    with pytest.raises(InputError, match="--precision auto"):
        plan_memory(ESSNET.with_batch(3), ["fp32"], limit)


def test_where_nothing_helps_only_more_memory_is_named():
    with pytest.raises(InputError) as caught:
        plan_memory(replace(ESSNET, name="unet"), ["fp16"], BESIDE)
    assert "choose --memory-limit" in str(caught.value)
    assert "U-Net takes at least" in str(caught.value)


@pytest.mark.parametrize(("tensors", "batch"), [(1023, 0), (1024, 1), (1535, 1), (1536, 2), (5120, 9)])
def test_the_largest_batch_that_fits(tensors, batch):
    assert largest_batch(ESSNET, "fp32", BESIDE + tensors * MIB) == batch


def test_the_largest_batch_where_the_peak_bends_upwards(monkeypatch):
    def bent(workload: Workload, *way: object) -> StepMemory:
        return StepMemory(activations=max(10 * workload.batch, 40 * workload.batch - 100) * MIB)

    monkeypatch.setattr(memory_plan, "step_memory", bent)
    assert largest_batch(ESSNET, "fp32", BESIDE + 300 * MIB) == 10
    assert largest_batch(ESSNET, "fp32", BESIDE + 299 * MIB) == 9


def test_limits():
    laptop = DeviceMemory(6 * GIB, free=5 * GIB, context=512 * MIB)
    assert laptop.limit(None) == 5 * GIB + 256 * MIB  # free before the context was there, less 256 MiB
    assert laptop.limit(4 * GIB) == 4 * GIB
    assert laptop.limit(8 * GIB) == 5 * GIB + 512 * MIB
    big = DeviceMemory(80 * GIB, free=70 * GIB, context=GIB)
    assert big.limit(None) == 71 * GIB
    assert (laptop.is_limited(None), big.is_limited(None), big.is_limited(6 * GIB)) == (True, False, True)


@pytest.mark.parametrize(("taken", "context"), [(400, 400), (900, 900), (9000, CONTEXT // MIB)])
def test_the_context_is_what_is_taken_unless_that_is_another_process(taken, context, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (24 * GIB - taken * MIB, 24 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    assert DeviceMemory.of(torch.device("cuda")).context == context * MIB


def test_allocators_stop_at_what_is_left_beside_everything_else(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: seen.update(share=share, device=device)
    )
    pool = SimpleNamespace(set_limit=lambda size: seen.update(cupy=size))
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(get_default_memory_pool=lambda: pool))
    device = torch.device("cuda", 0)
    cap_allocators(6 * GIB, DeviceMemory(8 * GIB, 7 * GIB, 512 * MIB), device)
    assert seen["device"] == device
    assert seen["share"] * 8 * GIB == 6 * GIB - 512 * MIB - LIBRARIES
    assert 0 < seen["cupy"] < LIBRARIES


def test_streams_side_by_side_have_room_where_twice_the_estimate_fits():
    total = estimate_plan(ESSNET, "fp32", False, True).total
    assert estimate_plan(ESSNET, "fp32", False, True).is_roomy
    assert plan_memory(ESSNET, ["fp32"], 2 * total).is_roomy
    assert not plan_memory(ESSNET, ["fp32"], 2 * total - 1).is_roomy


@pytest.mark.parametrize(
    ("text", "size"),
    [("6GiB", 6 * 2**30), ("6gib", 6 * 2**30), ("5.5 GiB", 11 * 2**29), ("6144MiB", 6 * 2**30), ("6GB", 6 * 10**9),
     (" 500 MB ", 5 * 10**8)],
)  # fmt: skip
def test_sizes_as_people_write_them(text, size):
    assert parse_bytes(text, "--memory-limit") == size


@pytest.mark.parametrize(
    "text", ["", "6", "GiB", "6TiB", "6 G iB", "-6GiB", "0GiB", "0.0MB", "6GiBs", "1e3GB", "nan GB"]
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError, match="--memory-limit=.*expected a size above 0 such as 6GiB"):
        TrainConfig(engine=EngineConfig(memory_limit=text))


def test_sizes_in_words():
    assert format_bytes(6 * GIB) == "6.00 GiB"
    assert format_bytes(50 * MIB) == "50 MiB"
