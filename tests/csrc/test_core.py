"""The extension's torch-free core, in C++ under sanitizers, and what the built library is made of."""

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from fastliver.metrics import extension

REPOSITORY = Path(__file__).parents[2]
SOURCES = sorted(path for path in REPOSITORY.joinpath("csrc").rglob("*") if path.suffix in (".cpp", ".cu", ".h"))
FATBIN = 0xBA55ED50


def compiler() -> str:
    for name in ("c++", "g++", "clang++"):
        if found := shutil.which(name):
            return found
    pytest.skip("no C++ compiler")


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["-mavx2"]], ids=["baseline", "avx2"])
def test_the_core_counts_right_and_stays_inside_its_buffers(tmp_path: Path, flags: list[str]) -> None:
    cpu = Path("/proc/cpuinfo")
    if flags and "avx2" not in (cpu.read_text() if cpu.exists() else ""):
        pytest.skip("no AVX2 here")
    program = tmp_path / "overlap_test"
    options = ["-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Wshadow", "-Werror", *flags,
               "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]  # fmt: skip
    source = REPOSITORY / "tests" / "csrc" / "overlap_test.cpp"
    build = subprocess.run([compiler(), *options, source, "-o", program], capture_output=True, text=True)
    assert build.returncode == 0, build.stderr
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_sources_are_formatted() -> None:
    beside = Path(sys.executable).with_name("clang-format")  # of an environment that isn't active
    tool = shutil.which("clang-format") or (beside if beside.exists() else pytest.skip("no clang-format"))
    files = [*SOURCES, REPOSITORY / "tests" / "csrc" / "overlap_test.cpp"]
    done = subprocess.run([tool, "--dry-run", "--Werror", *files], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def cuda_images(library: bytes) -> tuple[set[int], set[int]]:
    """Architectures of the machine code and of the PTX in a library, from the header of every fatbin entry."""
    code: set[int] = set()
    ptx: set[int] = set()
    magic = struct.pack("<IHH", FATBIN, 1, 16)
    at = library.find(magic)
    while at >= 0:
        (size,) = struct.unpack_from("<Q", library, at + 8)
        entry, end = at + 16, at + 16 + size
        while entry < end:
            kind, _, header = struct.unpack_from("<HHI", library, entry)
            (payload,) = struct.unpack_from("<Q", library, entry + 8)
            (architecture,) = struct.unpack_from("<I", library, entry + 28)
            (code if kind == 2 else ptx).add(architecture)
            entry += header + payload
        at = library.find(magic, end)
    return code, ptx


def test_a_library_made_with_nvcc_holds_code_for_every_gpu_that_nvcc_knows() -> None:
    nvcc = shutil.which("nvcc") or pytest.skip("no nvcc")
    if extension.MISSING or os.environ.get("FASTLIVER_CUDA") == "0" or not extension.has_kernel("cuda"):
        pytest.skip("the extension was built without CUDA")
    known = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True).stdout.split()
    expected = {number for number in (75, 80, 86, 89, 90, 100, 120) if f"sm_{number}" in known}
    code, ptx = cuda_images(extension.LIBRARY.read_bytes())
    assert code == expected
    assert ptx == {90, max(expected)} & expected


@pytest.mark.skipif(bool(extension.MISSING) or shutil.which("readelf") is None, reason="no library, or no readelf")
def test_the_library_needs_torch_and_the_system_alone() -> None:
    dynamic = subprocess.run(["readelf", "-d", extension.LIBRARY], capture_output=True, text=True).stdout
    needed = {line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "(NEEDED)" in line}
    assert {name.split(".so")[0] for name in needed} <= {
        "libtorch", "libtorch_cpu", "libstdc++", "libgcc_s", "libc", "libm", "libdl", "libpthread", "librt",
        "ld-linux-x86-64", "ld-linux-aarch64",
    }  # fmt: skip
    symbols = subprocess.run(["readelf", "--dyn-syms", "-W", extension.LIBRARY], capture_output=True, text=True).stdout
    undefined = [line.split()[-1] for line in symbols.splitlines() if " UND " in line and line.split()[-1] != "UND"]
    assert not [name for name in undefined if name.startswith(("_ZN2at", "_ZN3c10", "_ZN5torch", "Py"))]
