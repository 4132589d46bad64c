"""A tiny phantom, and commands run as a user runs them: arguments in; exit code, output and files out."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import generate_uid

from fastliver.data.phantom import PhantomSpec, write_phantom

REPOSITORY = Path(__file__).parents[2]
SMALL = ("--device=cpu", "--image-size=32", "--arrangements=0,714", "--log-every=1",
         "--essnet-channels=2", "--essnet-blocks=1", "--essnet-epochs=1", "--essnet-augment=none",
         "--unet-channels=2", "--unet-epochs=1", "--unet-augment=none")  # fmt: skip
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code (negative: killed by that signal), standard output and standard error."""

    code: int
    out: str
    err: str

    def refused(self, *texts: Any, code: int = 2) -> str:
        """Check that it failed with one message and no traceback, and that the message holds the texts; gives it."""
        assert self.code == code, (self.code, self.out, self.err)
        assert "Traceback" not in self.err + self.out, self.err
        assert self.err.count("error:") == 1, self.err
        for text in texts:
            assert str(text) in self.err, self.err
        return self.err

    def succeeded(self) -> str:
        """Check that it ended well; gives its output."""
        assert self.code == 0, (self.code, self.out, self.err)
        assert "Traceback" not in self.err
        return self.out


class Running:
    """A command at work."""

    def __init__(self, commands: "Commands", pid: int, out: Path, err: Path) -> None:
        self.commands, self.pid, self.out, self.err = commands, pid, out, err

    def poll(self) -> int | None:
        return self.commands.ask({"poll": self.pid})

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 240) -> Outcome:
        """Wait for its end; it is killed when that takes too long."""
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                raise AssertionError(f"still running after {seconds} s: {self.out.read_text()}")
            time.sleep(0.01)
        out, err = (path.read_text() if path.exists() else "" for path in (self.out, self.err))
        return Outcome(code, out, err)


class Commands:
    """Starts commands as forks of one warm process; see command_server.py."""

    small = SMALL

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, count()
        paths = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
        self.environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": paths, "PYTHONUTF8": "1", "COLUMNS": "250"}
        self.server = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("command_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env=self.environment,
        )

    def ask(self, request: dict[str, Any]) -> Any:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(
        self,
        *arguments: Any,
        module: str = "fastliver.train",
        small: bool = True,
        environment: dict[str, str] | None = None,
        largest_file: int | None = None,
        terminal: str | None = None,
        offline: bool = False,
        kill_at_write: int | None = None,
        figures: bool = False,
    ) -> Running:
        """Start a command.

        Args:
            arguments: its command line.
            module: what `python -m` is given, or the path of a script.
            small: put the settings of a training that takes seconds in front of the arguments.
            environment: variables to set besides.
            largest_file: bytes that a file may have (RLIMIT_FSIZE), which is what a full disk looks like.
            terminal: device of a pseudo-terminal to be the three standard streams.
            offline: take the network away.
            kill_at_write: die by SIGKILL at this fsync or rename, counted from 1.
            figures: draw the report's figures.
        """
        name = f"{next(self.number)}"
        out, err = (self.folder / f"{name}.{kind}" for kind in ("out", "err"))
        request = {
            "module": module,
            "arguments": [*(SMALL if small else ()), *map(str, arguments)],
            "environment": environment or {},
            "largest_file": largest_file,
            "terminal": terminal,
            "offline": offline,
            "kill_at_write": kill_at_write,
            "figures": figures,
            "out": str(out),
            "err": str(err),
        }
        return Running(self, self.ask(request), out, err)

    def __call__(self, *arguments: Any, **options: Any) -> Outcome:
        """Run a command to its end; see `start`."""
        return self.start(*arguments, **options).wait()

    def close(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait(30)


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Runs `python -m fastliver.train`."""
    commands = Commands(tmp_path_factory.mktemp("commands"))
    yield commands
    commands.close()


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny data set in CHAOS's layout; not to be changed."""
    spec = PhantomSpec(ct_patients=2, mr_patients=3, ct_slices=8, mr_slices=6, ct_size=64, mr_size=64)
    root = tmp_path_factory.mktemp("phantom") / "data set"
    write_phantom(root, spec)
    return root


@pytest.fixture
def broken(phantom: Path, tmp_path: Path) -> Path:
    """A copy of the phantom to break."""
    return Path(shutil.copytree(phantom, tmp_path / "broken"))


@pytest.fixture(scope="session")
def finished(train: Commands, phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted, not to be changed; what it printed lies beside it in out.txt."""
    runs = tmp_path_factory.mktemp("finished")
    out = train("--data", phantom, "--runs", runs, "--name", "run", figures=True).succeeded()
    (runs / "out.txt").write_text(out)
    return runs / "run"


@pytest.fixture(scope="session")
def learned() -> Callable[[Path], dict[str, Any]]:
    """What a run learned and found, without what may differ between two equal runs: times and paths."""

    def read(run: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for path in sorted(run.glob("checkpoints/*/[!.]*/weights.safetensors")):
            found[str(path.relative_to(run))] = path.read_bytes()
        for path in sorted(run.glob("synthetic*/*.npy")):
            found[str(path.relative_to(run))] = path.read_bytes()
        for path in sorted(run.glob("results/unet-*.json")):
            result = json.loads(path.read_text())
            found[path.name] = {name: result[name] for name in ("scores", "roc", "real", "synthetic", "steps")}
        for name in ("segmentation", "ablation", "data"):
            path = run / "tables" / f"{name}.csv"
            found[name] = path.read_text() if path.exists() else None
        return found

    return read


@pytest.fixture
def as_enhanced() -> Callable[..., Path]:
    """Makes one file of several frames, in the files' order backwards, of a series; gives its new folder."""
    from highdicom.legacy import LegacyConvertedEnhancedCTImage, LegacyConvertedEnhancedMRImage

    def convert(paths: Iterable[Path], folder: Path) -> Path:
        images = [pydicom.dcmread(path) for path in sorted(paths, reverse=True)]
        for image in images:
            image.PositionReferenceIndicator = ""
        kind = {"CT": LegacyConvertedEnhancedCTImage, "MR": LegacyConvertedEnhancedMRImage}[images[0].Modality]
        folder.mkdir()
        kind(images, generate_uid(), 5, generate_uid(), 1).save_as(folder / "enhanced.dcm")
        return folder

    return convert
