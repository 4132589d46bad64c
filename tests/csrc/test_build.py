"""Building the extension from outside: what stops it where that is asked for, and nowhere else; compilers by name."""

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


def build(
    source: Path, compiler: str, werror: str | None, cuda: str = "0", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Compile and link the extension into `source/fastliver`."""
    environment = {**os.environ, "CXX": compiler, "FASTLIVER_CUDA": cuda, **variables}
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


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


FAILS = "echo what an old compiler says >&2; exit 1"


@pytest.mark.parametrize(("werror", "cuda", "stops"), [(None, "0", False), ("1", "0", True), (None, "1", True)])
def test_a_compiler_that_fails_stops_an_installation_only_where_the_extension_was_insisted_on(
    source: Path, werror: str | None, cuda: str, stops: bool
) -> None:
    compiler = program(source.parent / "c++", FAILS)
    program(source.parent / "cuda" / "bin" / "nvcc", f'[ "$1" = --list-gpu-code ] && echo sm_90 && exit\n{FAILS}')
    done = build(source, str(compiler), werror, cuda, CUDA_HOME=str(source.parent / "cuda"))
    assert "what an old compiler says" in done.stderr
    assert (done.returncode != 0) == stops, done.stderr
    assert ("installing without the extension" in done.stderr) != stops
    assert not made(source)


def test_cudas_host_compiler_is_the_last_word_before_options(source: Path) -> None:
    launcher, compiler = (program(source.parent / name, FAILS) for name in ("ccache", "c++"))
    program(source.parent / "cuda" / "bin" / "nvcc", f'[ "$1" = --list-gpu-code ] && echo sm_90 && exit\n{FAILS}')
    done = build(source, f"{launcher} {compiler} -isystem /opt/x", None, "1", CUDA_HOME=str(source.parent / "cuda"))
    assert f"-ccbin={compiler} " in done.stderr


@pytest.mark.slow
def test_a_compiler_before_avx512_bf16_makes_the_extension_without_winograds_loops(source: Path) -> None:
    compiler = find_compiler()
    listed = subprocess.run([compiler, "-dM", "-E", "-x", "c++", os.devnull], capture_output=True, text=True).stdout
    if "__clang__" in listed or "__x86_64__" not in listed:
        pytest.skip("for GCC on x86-64")
    refuses = f'case "$*" in *-c*winograd_cpu*) set -- -U__GNUC__ -D__GNUC__=9 "$@";; esac; exec {compiler} "$@"'
    done = build(source, str(program(source.parent / "c++", refuses)), None)
    assert done.returncode == 0, done.stderr
    assert made(source), done.stderr
    code = "import sys, torch; torch.ops.load_library(sys.argv[1]); print(torch.ops.fastliver.has_winograd(False))"
    library = source / "fastliver" / "_C.abi3.so"
    assert subprocess.run([sys.executable, "-c", code, library], capture_output=True, text=True).stdout == "False\n"
