"""SIGINT, SIGTERM and SIGHUP save and leave; asked twice, the process leaves at once."""

import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from fastliver.cli import run_command
from fastliver.config import EngineConfig
from fastliver.errors import Interrupted
from fastliver.files import new_folder
from fastliver.training import checkpoint
from fastliver.training.loop import train
from fastliver.training.progress import Bar
from fastliver.training.signals import Signals

NEVER = EngineConfig(checkpoint_minutes=60, log_every=1)
ALL = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])


@ALL
def test_a_signal_ends_what_is_under_way_and_leaves_nothing_half_written(number, tmp_path):
    with Signals(), pytest.raises(Interrupted, match=f"interrupted by {number.name}$") as caught:  # noqa: SIM117
        with new_folder(tmp_path / "store") as folder:
            (folder / "images.npy").write_text("half")
            os.kill(os.getpid(), number)
            time.sleep(1)
    assert caught.value.exit_code == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}[number]
    assert list(tmp_path.iterdir()) == []


@ALL
def test_a_held_signal_waits_for_the_end_of_the_block(number):
    reached = False
    with Signals() as signals, pytest.raises(Interrupted), signals.held():
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        assert signals.caught == number
        reached = True
    assert reached


def test_the_handlers_are_put_back():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with Signals():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in numbers] == before


def test_an_exception_that_catches_everything_lets_it_pass():
    with Signals(), pytest.raises(Interrupted):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        except Exception:
            pytest.fail("taken for a failure")


@ALL
def test_a_command_ends_with_the_shells_exit_code_and_one_message(number, capsys):
    def main() -> None:
        with Signals():
            os.kill(os.getpid(), number)
            time.sleep(1)

    assert run_command(main, lambda: "go on so") == 128 + number
    assert capsys.readouterr().err == f"error: interrupted by {number.name}; go on so\n"


@pytest.mark.parametrize(("forwarded", "code"), [(False, -signal.SIGINT), (True, 7)])
def test_a_second_signal_kills_unless_a_launcher_forwards_it(forwarded: bool, code: int, tmp_path: Path) -> None:
    """In the middle of a long save; a launcher such as torchrun passes on a Ctrl-C that already arrived."""
    script = (
        "import os, signal, sys\n"
        "from fastliver.training.signals import Signals\n"
        f"with Signals(forwarded={forwarded}) as signals, signals.held():\n"
        "    for _ in range(2): os.kill(os.getpid(), signal.SIGINT)\n"
        "    os._exit(7)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == code


def _signal_at(trainer: Any, at: int) -> None:
    """Let the signal arrive in the middle of step `at`."""
    step = trainer.step

    def signalled(epoch: int, number: int) -> Any:
        if epoch * trainer.steps_per_epoch + number == at:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        return step(epoch, number)

    trainer.step = signalled


def test_training_finishes_the_step_saves_and_says_where(make_unet, run, console):
    whole = make_unet()
    train(whole, type(run)(run.root.with_name("whole")), "unet", {}, NEVER, console)
    trainer = make_unet()
    _signal_at(trainer, 3)
    with Signals() as signals, pytest.raises(Interrupted) as caught:
        train(trainer, run, "unet", {}, NEVER, console, signals=signals)
    path = run.checkpoints("unet") / "step-00000004"
    assert str(caught.value) == f"interrupted by SIGTERM; saved {path}; --resume {run.root} goes on from there"
    assert checkpoint.latest(run.checkpoints("unet"))[0].path == path
    again = make_unet(9)
    train(again, run, "unet", {}, NEVER, console)
    for name, weight in whole.network.state_dict().items():
        assert weight.equal(again.network.state_dict()[name]), name


def test_a_signal_in_the_last_step_ends_after_the_final_weights(make_unet, run, console):
    trainer = make_unet()
    _signal_at(trainer, 5)
    with Signals() as signals, pytest.raises(Interrupted):
        train(trainer, run, "unet", {}, NEVER, console, signals=signals)
    assert checkpoint.final(run.checkpoints("unet")).meta["step"] == 6


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
            assert signals.caught is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_is_gone_costs_nothing(tmp_path: Path) -> None:
    """The kernel and the shell each say so, and what is printed afterwards must not end the process."""
    script = (
        "import os, signal, sys, time\n"
        "from fastliver.training.signals import Signals\n"
        "with Signals() as signals, signals.held():\n"
        "    print('ready', flush=True)\n"
        "    while signals.caught is None: time.sleep(0.01)\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    print('a line of progress', flush=True)\n"
        f"    open({str(tmp_path / 'saved')!r}, 'w').close()\n"
        "    os._exit(7)\n"
    )
    terminal, end = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=end, stdout=end, stderr=end, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # its controlling terminal
    )  # fmt: skip
    os.close(end)
    assert os.read(terminal, 100).startswith(b"ready")
    os.close(terminal)
    assert process.wait(60) == 7
    assert (tmp_path / "saved").exists()


def test_a_stop_is_saved_before_anything_is_printed(make_unet, run, console, monkeypatch):
    """What read the output may have ended by the same signal, and then rich ends this process."""
    trainer = make_unet()
    _signal_at(trainer, 3)
    with Signals() as signals:

        def update(bar: Bar, done: int, note: str = "") -> None:
            if signals.caught is not None:
                raise SystemExit(1)

        monkeypatch.setattr(Bar, "update", update)
        with pytest.raises(Interrupted, match="saved"):
            train(trainer, run, "unet", {}, NEVER, console, signals=signals)


def test_the_exit_code_is_the_signals_though_nobody_reads_the_message() -> None:
    script = (
        "import os, signal, sys, time\n"
        "from fastliver.cli import run_command\n"
        "from fastliver.training.signals import Signals\n"
        "def main():\n"
        "    with Signals():\n"
        "        sys.stdin.readline()\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(1)\n"
        "sys.exit(run_command(main))\n"
    )
    ours, theirs = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.close(ours)
    process.communicate(b"go on\n", timeout=60)
    assert process.returncode == 143
