"""Building the extension from outside: warnings stop it where they are asked to, and nowhere else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of what the build reads."""
    for name in ("csrc", "kernels"):
        shutil.copytree(REPOSITORY / name, tmp_path / "source" / name)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "fastliver/__init__.py"):
        copy = tmp_path / "source" / name
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, copy)
    return tmp_path / "source"


def build(source: Path, compiler: str, werror: str | None, cuda: str = "0") -> subprocess.CompletedProcess[str]:
    """Compile and link the extension into `source/fastliver`."""
    environment = {**os.environ, "CXX": compiler, "FASTLIVER_CUDA": cuda}
    environment.pop("FASTLIVER_WERROR", None)
    if werror is not None:
        environment["FASTLIVER_WERROR"] = werror
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    return subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True)


def made(source: Path) -> bool:
    return (source / "fastliver" / "_C.abi3.so").exists()


def find_compiler() -> str:
    return next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None) or pytest.skip("no C++ compiler")


@pytest.mark.slow
@pytest.mark.parametrize("cuda", ["0", "1"], ids=["cpu", "cuda"])
def test_the_sources_have_no_warnings(source: Path, cuda: str) -> None:
    if cuda == "1" and shutil.which("nvcc") is None and not Path("/usr/local/cuda/bin/nvcc").exists():
        pytest.skip("no nvcc")
    done = build(source, find_compiler(), "1", cuda)
    assert done.returncode == 0, done.stderr
    assert made(source)


@pytest.mark.slow
@pytest.mark.parametrize("werror", ["1", None])
def test_a_warning_stops_the_build_only_where_warnings_are_errors(source: Path, werror: str | None) -> None:
    header = source.parent / "newer.h"
    header.write_text("#warning what a newer compiler finds\n")
    done = build(source, f"{find_compiler()} -include {header}", werror)
    assert "what a newer compiler finds" in done.stderr
    assert (done.returncode != 0) == (werror == "1"), done.stderr
    assert made(source) == (werror is None)
