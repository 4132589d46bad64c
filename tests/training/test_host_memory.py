"""Memory that a step frees is there for the next one, and the kernel's again after the training.

In processes of their own: what a process has asked for before decides what its allocator does next.
"""

import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from fastliver.config import EngineConfig
from fastliver.run_folder import RunFolder
from fastliver.training import loop

SIZE = 256 << 20
START = f"""
import resource, torch
from fastliver.training.host_memory import kept_memory

CPU, SIZE = torch.device("cpu"), {SIZE}

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

def use(parts):
    "Ask for SIZE bytes, write them and free them; gives the pages that the kernel handed out for that."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.ones(SIZE // 4 // parts) for _ in range(parts)]
    del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other settings")


def _run(script: str) -> list[int]:
    """The numbers that a script prints."""
    done = subprocess.run([sys.executable, "-c", START + script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [int(number) for number in done.stdout.split()]


def test_freed_memory_is_used_again() -> None:
    # Of several sizes, all below 32 MiB; the first few times they still settle into the heap.
    step = "sum(use(parts) for parts in (9, 17, 33, 64))"
    first, *others = _run(f"with kept_memory(CPU):\n    for _ in range(12): print({step})\n")
    assert first > SIZE / 4096
    assert sum(others[-4:]) < first / 4


def test_large_blocks_leave_no_holes() -> None:
    """Each ends with its mapping: in the heap an aligned one left a hole that the next didn't fit, again and again."""
    before, after = _run(
        "with kept_memory(CPU):\n    print(resident())\n    for _ in range(4): use(1)\n    print(resident())\n"
    )
    assert after - before < SIZE * 0.1


@pytest.mark.parametrize("end", ["pass", "raise ValueError"])
def test_it_goes_back_at_the_end_however_that_comes(end: str) -> None:
    before, kept, after = _run(
        "print(resident())\n"
        "try:\n"
        "    with kept_memory(CPU):\n"
        "        use(64)\n"
        "        print(resident())\n"
        f"        {end}\n"
        "except ValueError: pass\n"
        "print(resident())\n"
    )
    assert kept - before > SIZE * 0.9
    assert after - before < SIZE * 0.1


def test_nothing_is_set_for_another_device() -> None:
    before, after = _run(
        "print(resident())\nwith kept_memory(torch.device('cuda')):\n    use(64)\n    print(resident())\n"
    )
    assert after - before < SIZE * 0.1


def test_a_training_keeps_what_its_steps_free(
    make_unet: Any, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work: list[str] = []

    @contextmanager
    def watched(device: torch.device) -> Iterator[None]:
        at_work.append(device.type)
        yield
        at_work.append("done")

    trainer = make_unet(0)
    step = trainer.step

    def take(epoch: int, number: int) -> Any:
        assert at_work == ["cpu"]
        return step(epoch, number)

    monkeypatch.setattr(loop, "kept_memory", watched)
    trainer.step = take
    loop.train(trainer, RunFolder(tmp_path), "job", {"network": {}}, EngineConfig(), console)
    assert at_work == ["cpu", "done"]
