"""`python -m benchmarks`: which suites it takes, what it leaves out, and what they need."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as runner

REPOSITORY = Path(__file__).parents[2]
BARE = """
import importlib.abc, sys
import torch, torch._dynamo  # may look for anything; what follows may not

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

for name in list(sys.modules):
    if name.split(".")[0] in {refused}:
        del sys.modules[name]
sys.meta_path.insert(0, Refuse())
import benchmarks.{suite}
print("imported")
"""
REFUSED = (
    *("pydicom", "nibabel", "highdicom", "nvidia", "cupy", "scipy", "sklearn", "rich", "yaml", "jsonargparse"),
    *("matplotlib", "PIL", "monai", "torchmetrics", "safetensors", "tensorboard", "pytest"),
)


@pytest.mark.parametrize("suite", [name for name, entry in runner.SUITES.items() if not entry.needs])
def test_a_bare_gpu_machine_can_import_a_suite(suite):
    code = BARE.format(refused=set(REFUSED), suite=suite)
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.strip() == "imported", done.stderr[-1500:]


def _main(monkeypatch, tmp_path, *arguments):
    ran = []

    def run(name, minutes, folder):
        ran.append((name, minutes))
        return int(name == "decode")

    monkeypatch.setattr(runner, "run_suite", run)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--results", str(tmp_path), *arguments])
    return runner.main(), ran


def test_on_a_cpu_the_suites_take_ten_minutes_and_a_failure_is_told(monkeypatch, tmp_path, capsys):
    status, ran = _main(monkeypatch, tmp_path)
    assert [name for name, _ in ran] == 3 * ["kernels", "convolution", "train_step", "overlap", "inference", "decode"]
    assert sum(minutes for _, minutes in ran) <= 10 + 1e-9
    assert status == 1
    assert "failed: decode\n" in capsys.readouterr().out
    assert len(_main(monkeypatch, tmp_path, "--rounds", "1")[1]) == 6


def test_one_suite_alone(monkeypatch, tmp_path):
    assert _main(monkeypatch, tmp_path, "--only", "memory") == (0, [("memory", 9.0)])


def test_on_a_gpu_every_suite_has_nine_minutes(monkeypatch, tmp_path, capsys):
    if not torch.cuda.is_available():
        assert _main(monkeypatch, tmp_path, "--gpu") == (2, [])
        assert "torch sees no GPU" in capsys.readouterr().out
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    _, ran = _main(monkeypatch, tmp_path, "--gpu")
    assert [name for name, _ in ran] == [name for name in runner.SUITES if name != "convolution"]
    assert {minutes for _, minutes in ran} == {9.0}


def test_a_suite_whose_package_is_missing_is_left_out_and_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(runner, "find_spec", lambda name: None)
    assert runner.run_suite("decode", 1.0, tmp_path) == 0
    assert "decode: left out, pydicom, nibabel isn't installed" in capsys.readouterr().out


def test_a_suite_that_runs_over_is_ended_with_what_it_started(monkeypatch, tmp_path, capsys):
    """A shell that hangs, with a child of its own; both are gone in the end."""
    real = runner.subprocess.Popen
    started = []

    def popen(command, **options):
        started.append(real(["sh", "-c", f"sleep 300 & echo $! > {tmp_path}/child; wait"], **options))
        return started[-1]

    monkeypatch.setattr(runner.subprocess, "Popen", popen)
    monkeypatch.setattr(runner, "GRACE", 1.0)
    assert runner.run_suite("overlap", 0.0, tmp_path) == 124
    assert "overlap: ended, it took over 0 minutes" in capsys.readouterr().out
    assert started[0].poll() is not None
    child = int((tmp_path / "child").read_text())
    end = time.monotonic() + 10  # a killed process is gone when it next would run
    while is_alive(child):
        assert time.monotonic() < end
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
