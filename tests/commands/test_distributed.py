"""Several processes train as one: the same numbers, one writer, errors that end them all, and restarts."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fastliver.errors import InputError
from fastliver.run_folder import PACE, RunFolder
from fastliver.train import check_shared
from fastliver.training.distributed import Ranks

REPOSITORY = Path(__file__).parents[2]
UNET_SCRIPT = REPOSITORY / "tests" / "training" / "train_unet_in_ranks.py"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def launch(train: Any) -> Callable[..., list[Any]]:
    """Starts a command as two ranks, as torchrun would but without its start; gives both."""

    def start(*arguments: Any, environment: dict[str, str] | None = None, **options: Any) -> list[Any]:
        address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
        return [
            train.start(
                *arguments,
                environment={**address, "RANK": rank, "LOCAL_RANK": rank, **(environment or {})},
                **options,
            )
            for rank in ("0", "1")
        ]

    return start


def wait_for_a_step(run: Path, first: Any, job: str = "essnet", step: int = 0) -> None:
    """Until the first rank has logged a step of a training: then all are at it."""
    metrics, text = run / "metrics.jsonl", f'"job": "{job}", "step": {step},'
    while not (metrics.exists() and text in metrics.read_text()) and first.poll() is None:
        time.sleep(0.001)


def losses(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in PACE} for line in lines]


def assert_close(found: list[dict[str, Any]], expected: list[dict[str, Any]], rel: float) -> None:
    assert [line.keys() for line in found] == [line.keys() for line in expected]
    for line, other in zip(found, expected, strict=True):
        for name, value in line.items():
            assert value == (pytest.approx(other[name], rel=rel) if isinstance(value, float) else other[name]), name


def test_two_ranks_of_one_image_are_one_rank_of_two(launch: Any, train: Any, phantom: Path, tmp_path: Path) -> None:
    """EssNet without image pools, which each rank has of its own."""
    # Not seed 0: there the last bit of a weight, on one rank alone, moves the last step's losses by 1.6e-3.
    options = (
        "--data",
        phantom,
        "--runs",
        tmp_path,
        "--stage=essnet",
        "--essnet-pool=0",
        "--essnet-epochs=2",
        "--seed=1",
    )
    ranks = [running.wait() for running in launch(*options, "--name=two", "--essnet-batch=1")]
    out = ranks[0].succeeded()
    assert ranks[1].succeeded() == "", "only the first rank speaks"
    assert "2 processes on CPU" in out
    train(*options, "--name=one", "--essnet-batch=2").succeeded()
    two, one = tmp_path / "two", tmp_path / "one"
    assert len(losses(one)) == 8
    assert_close(losses(two)[:2], losses(one)[:2], rel=1e-6)
    assert_close(losses(two), losses(one), rel=1e-3)
    found, expected = (
        load_file(run / "checkpoints" / "essnet" / "final" / "weights.safetensors") for run in (two, one)
    )
    assert found.keys() == expected.keys()
    for name in found:
        # Adam's first steps are as large for a gradient of rounding errors as for any other (biases before a norm).
        difference = np.abs(found[name] - expected[name])
        assert difference.max() < 2 * 8 * 2e-4, name
        if not name.endswith("bias"):
            assert difference.mean() < 1e-5, name


def test_two_ranks_train_the_unet_of_one(launch: Any, train: Any, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    for running in launch(tmp_path / "two", 1, module=str(UNET_SCRIPT), small=False):
        running.wait().succeeded()
    train(tmp_path / "one", 2, module=str(UNET_SCRIPT), small=False).succeeded()
    assert len(losses(tmp_path / "one")) == 12
    assert_close(losses(tmp_path / "two"), losses(tmp_path / "one"), rel=1e-4)
    weights = [torch.load(tmp_path / name / "weights of all ranks.pt") for name in ("two", "one")]
    (first, second), (alone,) = weights
    assert torch.equal(first, second), "ranks must stay equal, bit for bit"
    assert (first - alone).abs().mean() < 1e-5


@pytest.mark.parametrize("job", ["essnet", "unet-real-0-seed0"])
def test_ranks_that_are_stopped_save_together_and_go_on_bit_for_bit(
    job: str, launch: Any, train: Any, phantom: Path, learned: Any, tmp_path: Path
) -> None:
    """Image pools and dropout are each rank's own, and saved for each."""
    options = ("--data", phantom, "--runs", tmp_path, "--arrangements=0",
               "--essnet-pool=1", "--essnet-epochs=3", "--unet-epochs=4")  # fmt: skip
    for running in launch(*options, "--name=whole"):
        running.wait().succeeded()
    run = tmp_path / "run"
    ranks = launch(*options, "--name=run", "--checkpoint-minutes=60")
    wait_for_a_step(run, ranks[0], job, step=2)
    ranks[1].send(signal.SIGTERM)  # one alone, as when a machine is taken away
    ended = [running.wait() for running in ranks]
    assert [end.code for end in ended] == [143, 143], ended
    assert ended[0].err.startswith("rank 0: error: interrupted by a signal to another rank; saved ")
    assert ended[1].err == ""
    (saved,) = run.glob(f"checkpoints/{job}/step-*")
    assert {path.name for path in saved.glob("rank-*")} == {"rank-0.pt", "rank-1.pt"}
    train("--resume", run, small=False).refused(saved, "written by 2 processes, and this run has 1", "start 2")
    for running in launch("--resume", run, small=False):
        running.wait().succeeded()
    assert learned(run) == learned(tmp_path / "whole")
    assert losses(run) == losses(tmp_path / "whole")


def test_ranks_that_find_other_images_end_at_once(train: Any, phantom: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(phantom, other)
    shutil.rmtree(sorted((other / "Train_Sets" / "MR").iterdir())[0])
    address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    ranks = [
        train.start("--data", data, "--runs", tmp_path / "runs", "--name=run", "--stage=essnet",
                    environment={**address, "RANK": rank, "LOCAL_RANK": rank})
        for rank, data in (("0", phantom), ("1", other))
    ]  # fmt: skip
    first, second = (running.wait() for running in ranks)
    first.refused("rank 1 found other images than rank 0")
    assert second.code == 1
    assert second.err == ""


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([("a", True), ("a", True)], ""),
        ([("a", True), ("a", True), ("b", True)], "rank 2 found other images"),
        ([("a", True), ("a", False)], "rank 1 doesn't see .*--runs must lie on a file system that all machines share"),
    ],
)
def test_all_ranks_must_see_the_same(found: list[Any], message: str, tmp_path: Path, monkeypatch: Any) -> None:
    class Several(Ranks):
        def gather(self, value: Any) -> list[Any]:
            assert value == found[0]
            return found

    monkeypatch.setattr("fastliver.train.VISIBLE_SECONDS", 0.0)
    folder = RunFolder(tmp_path)
    folder.config.touch()
    run: Any = SimpleNamespace(folder=folder, ranks=Several(), data=SimpleNamespace(fingerprint=lambda: "a"))
    with pytest.raises(InputError, match=message) if message else nullcontext():
        check_shared(run)


def test_unets_of_a_run_are_trained_by_as_many_ranks(launch: Any, train: Any, phantom: Path, tmp_path: Path) -> None:
    """A batch is one image of each rank: EssNet and the U-Nets may differ in it, but not what is compared."""
    options = ("--data", phantom, "--runs", tmp_path, "--name=run", "--arrangements=0,714")
    for running in launch(*options, "--stage=essnet"):
        running.wait().succeeded()
    run = tmp_path / "run"
    train("--resume", run, small=False).succeeded()
    for first in [running.wait() for running in launch("--resume", run, "--seeds=2", small=False)][:1]:
        first.refused("unet-real-0-seed0.json: trained by 1 process, and this is 2", "start 1")
    train("--resume", run, "--seeds=2", small=False).succeeded()


COUNTS_THREADS = """
import os, sys, torch
from fastliver.training.distributed import join

def count(when):
    threads = len(os.listdir("/proc/self/task"))
    sys.stdout.write(f"{when} {threads}\\n")

def train():
    with join() as ranks:
        network = ranks.wrap(torch.nn.Linear(2, 1))
        network(torch.ones(3, 2)).sum().backward()
        network.itself = network  # a cycle, as in a real training
        del network
        count("learned")

train()
count("left")
"""


def test_gloo_has_ended_before_python_does(tmp_path: Path) -> None:
    """A thread of gloo's that is left may want Python's lock while Python shuts down, which aborts the process."""
    script = tmp_path / "script.py"
    script.write_text(COUNTS_THREADS)
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", str(script))
    # Where there is a GPU, autograd starts a thread for it.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)}
    out = subprocess.run(torchrun, env=environment, capture_output=True, text=True, timeout=240, check=True).stdout
    assert sorted(out.splitlines()) == ["learned 4", "learned 4", "left 1", "left 1"]


def test_what_rank_0_refuses_ends_all_with_one_message(launch: Any, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    first, second = (running.wait() for running in launch("--data", nowhere, "--runs", tmp_path, "--name=run"))
    assert (first.code, second.code) == (2, 1)
    assert first.err.startswith("rank 0: error: ") and "does not exist" in first.err
    assert "Traceback" not in first.err
    assert second.err == ""


def test_a_killed_rank_ends_the_others_with_a_message(launch: Any, phantom: Path, tmp_path: Path) -> None:
    ranks = launch("--data", phantom, "--runs", tmp_path, "--name=run", "--essnet-epochs=2000")
    wait_for_a_step(tmp_path / "run", ranks[0])
    ranks[1].send(signal.SIGKILL)
    message = ranks[0].wait(60).err
    assert message.startswith("rank 0: error: another rank has ended or can't be reached")
    assert f"--resume {tmp_path / 'run'} goes on" in message
    assert "Traceback" not in message


def children(pid: int) -> dict[str, int]:
    """The processes that torchrun started, by rank."""
    found = {}
    for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        variables = dict(part.partition("=")[::2] for part in Path(f"/proc/{number}/environ").read_text().split("\0"))
        if "RANK" in variables:
            found[variables["RANK"]] = int(number)
    return found


@pytest.mark.parametrize("machines", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_torchrun_starts_killed_ranks_again_and_they_go_on(
    machines: int, launch: Any, train: Any, phantom: Path, learned: Any, tmp_path: Path
) -> None:
    """Two machines are two agents of torchrun that meet at an address."""
    options = ("--data", phantom, "--runs", tmp_path, "--arrangements=0", "--checkpoint-steps=1")
    for running in launch(*options, "--name=whole"):
        running.wait().succeeded()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--max-restarts=1"]
    torchrun += [f"--nnodes={machines}", f"--nproc-per-node={2 // machines}"]
    torchrun += ["--rdzv-id=7", "--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{free_port()}"]
    arguments = [*torchrun, "-m", "fastliver.train", *train.small, *map(str, options)]
    outputs = [tmp_path / f"output-{machine}.txt" for machine in range(machines)]
    run = tmp_path / "default-7"

    def said() -> str:
        return "\n".join(output.read_text() for output in outputs)

    with ExitStack() as files:
        jobs = [
            subprocess.Popen(
                arguments, stdout=files.enter_context(output.open("w")), stderr=subprocess.STDOUT, env=train.environment
            )
            for output in outputs
        ]
        while not (run / "checkpoints" / "essnet" / "step-00000002").exists():
            assert all(job.poll() is None for job in jobs), said()
            time.sleep(0.01)
        ranks = {rank: pid for job in jobs for rank, pid in children(job.pid).items()}
        os.kill(ranks["1"], signal.SIGKILL)
        codes = [job.wait(240) for job in jobs]
    assert codes == [0] * machines, said()
    assert "going on from" in said()
    assert learned(run) == learned(tmp_path / "whole")
    assert losses(run) == losses(tmp_path / "whole")
