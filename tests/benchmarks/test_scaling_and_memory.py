"""Sizes that vary one at a time, ranks that step together, batches that fit."""

import pytest
import torch

from benchmarks import memory, scaling
from benchmarks.train_step import Size
from fastliver.byte_sizes import GIB

CPU = torch.device("cpu")


def test_batch_and_side_vary_one_at_a_time():
    for device in (CPU, torch.device("cuda")):
        found = scaling.sizes(device)
        usual = {size.size for size in found if size.batch > 1}
        assert len(usual) == 1
        assert {size.batch for size in found if size.size not in usual} == {1}
        assert {size.training for size in found} == {"essnet", "unet"}


def test_stock_and_ours_are_beside_each_other():
    assert [(one.name, one.precision) for one in scaling.kinds(CPU)] == [
        ("stock", "fp32"),
        ("fastliver", "fp32"),
        ("fastliver", "bf16"),
    ]


def test_a_failing_torchrun_is_a_complaint_with_its_words(sitting):
    held = sitting()
    scaling.race_ranks("no such training", 32, 1, held)
    (complaint,) = held.complaints
    assert "benchmarks.rank_step" in complaint
    assert "no such training" in complaint


@pytest.mark.slow
def test_two_ranks_step_together(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # two GPUs are rare
    seconds = scaling.time_ranks("unet", 32, 2, 2)
    assert len(seconds) == 2
    assert all(0 < value < 300 for value in seconds)


def test_batches_go_as_far_as_the_limit(monkeypatch):
    monkeypatch.setattr(memory, "largest_batch", lambda *args, **options: 5)
    found = [case.batch for case in memory.cases(6 * GIB) if (case.training, case.precision) == ("essnet", "fp32")]
    assert found == [1, 2, 4, 5] * 2
    monkeypatch.setattr(memory, "largest_batch", lambda *args, **options: 0)
    assert list(memory.cases(GIB)) == []


def test_images_per_second_count_all_ranks(sitting, read_rows, monkeypatch):
    monkeypatch.setattr(scaling, "time_ranks", lambda *args: [0.5])
    scaling.race_ranks("unet", 64, 2, sitting())
    rows = {row["metric"]: row for row in read_rows()}
    assert (rows["rate"]["p50"], rows["rate"]["unit"], rows["rate"]["provider"]) == (
        "4",
        "images/s",
        "fastliver 2 ranks",
    )
    assert Size("unet", 64, 1).shape == rows["rate"]["shape"]
