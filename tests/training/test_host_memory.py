"""Memory that a step frees is there for the next one, and the kernel's again after the training."""

import platform
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from fastliver.config import EngineConfig
from fastliver.run_folder import RunFolder
from fastliver.training.host_memory import kept_memory
from fastliver.training.loop import train
from fastliver.training.trainer import StepResult

CPU = torch.device("cpu")

PAGES = 4096
"""Pages of 4 KiB in what a step of these tests takes: less than where glibc's own threshold may have grown to."""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other settings")


def _faults(steps: int) -> int:
    """Pages that the kernel had to hand out while as much memory was asked for and freed so many times."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        held = [torch.ones(PAGES * 4096 // 4 // 8) for _ in range(8)]
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _resident() -> int:
    """Bytes of the process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@glibc
def test_freed_memory_is_used_again() -> None:
    with kept_memory(CPU):
        _faults(2)
        assert _faults(10) < PAGES


@glibc
def test_it_goes_back_afterwards() -> None:
    size = 256 << 20
    with kept_memory(CPU):
        before = _resident()
        held = torch.ones(size // 4)
        del held
        assert _resident() - before > size * 0.9
    assert _resident() - before < size * 0.1


@glibc
def test_a_training_keeps_what_its_steps_free(make_unet: Any, tmp_path: Path, console: Console) -> None:
    """An error on the way leaves the allocator as it was, too."""
    trainer = make_unet(0)
    step, size, kept = trainer.step, 256 << 20, []

    def then_free(epoch: int, number: int) -> StepResult:
        before = _resident()
        held = torch.ones(size // 4)
        del held
        kept.append(_resident() - before)
        if number == 1:
            raise RuntimeError("on the way")
        return step(epoch, number)

    trainer.step = then_free
    before = _resident()
    with pytest.raises(RuntimeError, match="on the way"):
        train(trainer, RunFolder(tmp_path), "job", {"network": {}}, EngineConfig(), console)
    assert kept[0] > size * 0.9  # the kernel gave it
    assert kept[1] < size * 0.1  # it was there already
    assert _resident() - before < size * 0.5
