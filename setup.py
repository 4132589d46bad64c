"""Packaging: `fastliver`, with the folder `kernels/` as `fastliver.kernels`, and the C++/CUDA extension `fastliver._C`.

The extension is a library that `fastliver.compiled` loads. It speaks torch's stable ABI and nothing of
Python's, so one file serves every Python, and needs neither Python's headers nor a GPU to be built:

    FASTLIVER_CUDA=0        C++ alone
    FASTLIVER_CUDA=1        C++ and CUDA, or fail
    (unset)                 CUDA where nvcc is found
    FASTLIVER_WERROR=1      warnings are errors: for development, where compilers are known
    CXX, CUDA_HOME          the compilers to use

Without a C++ compiler, or with one that fails, the package installs all the same, and counts and convolves with
PyTorch's own operators; FASTLIVER_CUDA=1 and FASTLIVER_WERROR=1 insist.
"""

import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
VERSION = next(
    line.split('"')[1]
    for line in ROOT.joinpath("fastliver", "__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

LINUX = "; platform_system == 'Linux'"
NOT_MAC = "; platform_system != 'Darwin'"

REQUIRES = [
    "torch>=2.11",
    f"triton>=3.6{LINUX}",
    "numpy>=1.26",
    f"cupy-cuda13x>=14{NOT_MAC}",
    f"nvidia-dali-cuda130>=2.4{LINUX}",
    "pydicom>=3.0",
    "pylibjpeg>=2.0",
    "pylibjpeg-openjpeg>=2.3",
    "pylibjpeg-rle>=2.0",
    "pyjpegls>=1.4",
    "python-gdcm>=3.0.24",
    "nibabel>=5.2",
    "highdicom>=0.25",
    "safetensors>=0.4.5",
    "jsonargparse>=4.48",
    "shtab>=1.10",
    "pyyaml>=6.0",
    "rich>=13.7",
    "matplotlib>=3.8",
    "tensorboard>=2.16",
    "scipy>=1.12",
    "scikit-learn>=1.4",
    "pillow>=10.2",
]

EXPORT = ["onnx>=1.16", "onnxscript>=0.2"]

TEST = [
    *EXPORT,
    "onnxruntime>=1.18",
    "SimpleITK>=2.3",
    "pytest>=8",
    "pytest-benchmark>=5",
    "pytest-xdist>=3.5",
    "hypothesis>=6.100",
    "monai>=1.4",
    "torchmetrics>=1.4",
    "pydicom-data>=1.0",
]

CPP = ("csrc/bindings.cpp", "csrc/overlap_cpu.cpp", "csrc/winograd_bindings.cpp", "csrc/winograd_cpu.cpp")
CUDA = ("csrc/cuda/overlap.cu",)
HEADERS = ("csrc/overlap.h", "csrc/winograd.h", "csrc/winograd_transforms.h")
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
"""Compiled for, as far as nvcc knows them; the newest as PTX too, for GPUs to come."""
PTX = 90
"""As PTX too, for GPUs of a family between these (sm_110): they take neither another family's code nor newer PTX."""

WERROR = os.environ.get("FASTLIVER_WERROR") == "1"
INSISTS = WERROR or os.environ.get("FASTLIVER_CUDA") == "1"
WITHOUT = (
    "installing without the extension. Overlap counts, and 3x3 convolutions on a CPU, will use PyTorch's operators, "
    "which are slower."
)
FAILURES = (RuntimeError, OSError, subprocess.SubprocessError)
WARNINGS = ["-Wall", "-Wextra", "-Wshadow", *(["-Werror"] if WERROR else [])]
CXX_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", *WARNINGS]
NVCC_FLAGS = ["-std=c++17", "-O3", "--threads=0", *(["--Werror=all-warnings"] if WERROR else [])]
DEFINES = ["-DTORCH_TARGET_VERSION=0x020b000000000000"]


def say(text: str) -> None:
    """A line that the installation shows (pip: with -v)."""
    print(f"fastliver: {text}", file=sys.stderr, flush=True)


def cxx() -> list[str] | None:
    """The C++ compiler, or None; `CXX` may hold options, or a launcher such as ccache."""
    given = shlex.split(os.environ.get("CXX", ""))
    if given:
        return given if shutil.which(given[0]) else None
    return next(([found] for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), None)


def nvcc() -> str | None:
    """The CUDA compiler, or None."""
    wanted = os.environ.get("FASTLIVER_CUDA", "")
    if wanted not in ("", "0", "1"):
        raise SystemExit(f"FASTLIVER_CUDA={wanted}: expected 0, 1 or nothing")
    if wanted == "0":
        return None
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    places = [Path(home, "bin", "nvcc")] if home else []
    places += [Path(found)] if (found := shutil.which("nvcc")) else []
    places.append(Path("/usr/local/cuda/bin/nvcc"))
    for place in places:
        if place.is_file():
            return str(place)
    if wanted == "1":
        raise SystemExit("FASTLIVER_CUDA=1: no nvcc in CUDA_HOME/bin, on PATH or in /usr/local/cuda/bin")
    return None


def gencode(compiler: str) -> list[str]:
    """nvcc's options for every architecture that it knows of those wanted."""
    listed = subprocess.run([compiler, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout
    known = [number for number in ARCHITECTURES if re.search(rf"\bsm_{number}\b", listed)]
    if not known:
        raise RuntimeError(f"{compiler} knows none of sm_{', sm_'.join(map(str, ARCHITECTURES))}")
    options = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in known]
    ptx = sorted({PTX, known[-1]} & set(known))
    return [*options, *(f"-gencode=arch=compute_{number},code=compute_{number}" for number in ptx)]


def torch_folder() -> Path:
    """Where torch lies; found, not imported."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the extension is built against torch: pip install torch, then use --no-build-isolation")
    return Path(spec.submodule_search_locations[0])


class Plan:
    """The commands that make the library, into a folder."""

    def __init__(self, compiler: list[str], cuda: str | None) -> None:
        torch = torch_folder()
        self.objects: list[tuple[str, list[str]]] = []
        for source in CPP:
            flags = [*CXX_FLAGS, *DEFINES, f"-DFASTLIVER_CUDA={int(cuda is not None)}", "-isystem", f"{torch}/include"]
            self.objects.append((source, [*compiler, *flags, "-c", source]))
        for source in CUDA if cuda else ():
            assert cuda is not None
            host = ",".join(flag for flag in CXX_FLAGS if flag.startswith(("-f", "-W")))
            *_, host_compiler = takewhile(lambda word: not word.startswith("-"), compiler)  # behind a launcher
            flags = [*NVCC_FLAGS, f"-Xcompiler={host}", *gencode(cuda), f"-ccbin={host_compiler}"]
            self.objects.append((source, [cuda, *flags, "-c", source]))
        # libtorch.so brings what this torch has: its CPU library, and its CUDA library where there is one.
        self.compiler, libraries = compiler, ["-ltorch", "-ltorch_cpu"]
        if sys.platform == "darwin":
            self.link = ["-dynamiclib", f"-L{torch}/lib", *libraries, "-undefined", "dynamic_lookup"]
        else:
            names = "-Wl,--no-as-needed,--exclude-libs,ALL"
            self.link = ["-shared", "-s", f"-L{torch}/lib", names, *libraries]
        if cuda:
            found = subprocess.run([cuda, "--dryrun", "-c", "x.cu"], capture_output=True, text=True).stderr
            folders = re.findall(r'-L"?([^"\s]+)"?', found)
            self.link += [*(f"-L{folder}" for folder in folders), "-lcudart_static", "-ldl", "-lpthread", "-lrt"]

    def key(self) -> str:
        """Changes with whatever the library depends on."""
        digest = hashlib.sha256()
        for name in (*CPP, *CUDA, *HEADERS):
            digest.update(ROOT.joinpath(name).read_bytes())
        commands = [command for _, command in self.objects]
        digest.update(repr((commands, self.link)).encode())
        for program in sorted({command[0] for command in commands}):
            done = subprocess.run([program, "--version"], capture_output=True)
            digest.update(done.stdout)
        return digest.hexdigest()[:16]

    def run(self, folder: Path, library: Path) -> None:
        """Compile and link, the sources side by side."""
        folder.mkdir(parents=True, exist_ok=True)
        outputs = [str(folder / f"{Path(source).name}.o") for source, _ in self.objects]

        def call(command: list[str]) -> None:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
            if done.returncode != 0:
                raise RuntimeError(f"{shlex.join(command)}\n{done.stdout}{done.stderr}")
            if done.stderr:
                say(f"{shlex.join(command)}\n{done.stderr}")

        commands = [[*command, "-o", out] for (_, command), out in zip(self.objects, outputs, strict=True)]
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            list(pool.map(call, commands[::-1]))  # CUDA takes longest: first
        part = library.with_suffix(f".{os.getpid()}.part")
        call([*self.compiler, *outputs, *self.link, "-o", str(part)])
        part.replace(library)


class BuildLibrary(build_ext):
    """Makes `fastliver/_C.abi3.so`; what was made before from the same sources and compilers is taken again."""

    def build_extension(self, ext: Extension) -> None:
        """Compile, or take from build/."""
        compiler, cuda = cxx(), nvcc()
        assert compiler is not None
        try:
            library = self._make(compiler, cuda)
        except FAILURES as error:
            if INSISTS:
                raise
            say(f"{error}\nThe extension could not be compiled: {WITHOUT} FASTLIVER_WERROR=1 insists.")
            return
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(f".{os.getpid()}.part")
        shutil.copyfile(library, part)  # renamed into place: a process that has the old one loaded keeps it
        part.replace(target)

    def _make(self, compiler: list[str], cuda: str | None) -> Path:
        try:
            plan = Plan(compiler, cuda)
            library = ROOT / "build" / "csrc" / plan.key() / "_C.so"
            if not library.exists():
                say(f"compiling the extension for the CPU{f' and, with {cuda}, for CUDA' if cuda else ''}")
                plan.run(library.parent, library)
        except FAILURES as error:
            if not cuda or os.environ.get("FASTLIVER_CUDA") == "1":
                raise
            say(f"{error}\nCUDA could not be compiled: making the extension without it. FASTLIVER_CUDA=1 insists.")
            return self._make(compiler, None)
        return library


if cxx() is None:
    say(f"no C++ compiler (c++, g++, clang++ or $CXX): {WITHOUT} Install a compiler and repeat to change that.")
    extensions = []
else:
    sources = [*CPP, *CUDA]
    extensions = [Extension("fastliver._C", sources, depends=[*HEADERS], py_limited_api=True, optional=not INSISTS)]

setup(
    name="fastliver",
    version=VERSION,
    description="Labelled synthetic MRI from labelled CT (EssNet), and a liver U-Net that learns from it",
    long_description=ROOT.joinpath("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["fastliver", "fastliver.*"], exclude=["fastliver.kernels*"]),
        "fastliver.kernels",
    ],
    package_dir={"fastliver.kernels": "kernels"},
    ext_modules=extensions,
    cmdclass={"build_ext": BuildLibrary},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if extensions else {},
    install_requires=REQUIRES,
    entry_points={"console_scripts": ["fastliver = fastliver.__main__:main"]},
    extras_require={
        "export": EXPORT,
        "test": TEST,
        "dev": [*TEST, "ruff>=0.8", "mypy>=1.13", "types-PyYAML", "clang-format>=18", "pdoc>=15"],
    },
)
