"""What the package is made of: imports that stay light, arrows that run one way, a wheel that holds what it should."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LIGHT = ("fastliver", "fastliver.kernels", "fastliver.models", "fastliver.training.essnet",
         "fastliver.training.unet", "fastliver.training.memory_plan")  # fmt: skip
HEAVY = ("pydicom", "nibabel", "nvidia", "cupy", "highdicom", "scipy", "sklearn", "matplotlib", "tensorboard",
         "torch.utils.tensorboard", "rich", "jsonargparse", "yaml", "safetensors", "PIL")  # fmt: skip
BLOCK = """
import importlib.abc, importlib, sys
class Blocked(importlib.abc.MetaPathFinder):
    names = {names!r}
    def find_spec(self, name, path=None, target=None):
        if any(name == blocked or name.startswith(blocked + ".") for blocked in self.names):
            raise ImportError(f"{{name}} is not installed here")
        return None
import torch  # may look for anything; what follows may not
for name in list(sys.modules):
    if any(name == blocked or name.startswith(blocked + ".") for blocked in Blocked.names):
        del sys.modules[name]
sys.meta_path.insert(0, Blocked())
for name in {modules!r}:
    importlib.import_module(name)
"""


def files() -> list[Path]:
    """What is or may become part of the repository."""
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()
    return [REPOSITORY / name for name in listed if (REPOSITORY / name).is_file()]


def modules() -> dict[str, Path]:
    """Every module of the package by name."""
    found = {}
    for root, name in ((REPOSITORY / "fastliver", "fastliver"), (REPOSITORY / "kernels", "fastliver.kernels")):
        for path in root.rglob("*.py"):
            inner = path.relative_to(root).with_suffix("").parts
            if inner[:1] != ("kernels",):
                found[".".join((name, *(part for part in inner if part != "__init__")))] = path
    return found


def imports(path: Path, name: str) -> Iterator[str]:
    """Every module that a file imports, in functions too, with names from packages spelled out."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


STORES = tuple(f"fastliver.data.{name}" for name in ("store", "pipeline", "slices", "dali", "sources"))


@pytest.mark.parametrize(
    ("modules", "absent"), [(LIGHT, HEAVY), (STORES, ("nvidia", "torch", "cupy", "monai"))], ids=["kernels", "data"]
)
def test_imports_need_no_more_than_they_promise(modules: tuple[str, ...], absent: tuple[str, ...]) -> None:
    """Kernels and networks need torch, triton and NumPy alone; data is read without DALI, and found without torch."""
    code = BLOCK.format(names=absent, modules=modules)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


LAYERS = [
    {"kernels"},
    {"models", "data", "metrics"},
    {"inference"},
    {"training", "export", "reporting"},
]
EVERYWHERE = {
    "errors",
    "byte_sizes",
    "files",
    "interval",
    "words",
    "columns",
    "config",
    "run_folder",
    "weights",
    "environment",
    "cli",
    "parser",
    "compiled",
    "_C",
}
"""Modules beside the folders that folders may import; the rest of `fastliver/*.py` are commands."""


def layer(part: str) -> int:
    for number, parts in enumerate(LAYERS):
        if part in parts:
            return number
    return -1 if part in EVERYWHERE else len(LAYERS)


def test_arrows_run_one_way() -> None:
    known = modules()
    assert "fastliver.kernels.reference" in known
    assert "fastliver.training.loop" in known
    wrong = []
    for name, path in known.items():
        own = name.split(".")[1] if "." in name else ""
        if not own:
            continue
        for imported in imports(path, name):
            parts = imported.split(".")
            if parts[0] != "fastliver" or len(parts) < 2 or parts[1] == own:
                continue
            if parts[1] not in {other.split(".")[1] for other in known if "." in other}:
                continue  # a name of the package itself, such as its version
            if layer(parts[1]) > layer(own) >= 0 or (layer(own) == -1 and layer(parts[1]) >= 0):
                wrong.append(f"{name} imports {imported}")
    assert wrong == []


def test_same_layer_imports_go_by_the_table() -> None:
    """Folders of one layer don't know each other, but for what the table of folders says."""
    allowed = {("export", "models")}
    known = modules()
    wrong = {
        (name, imported)
        for name, path in known.items()
        for imported in imports(path, name)
        if imported.startswith("fastliver.") and "." in name
        for own, other in [(name.split(".")[1], imported.split(".")[1])]
        if own != other and layer(own) == layer(other) >= 0 and layer(own) < len(LAYERS) and (own, other) not in allowed
    }
    assert wrong == set()


def test_reporting_knows_no_live_model() -> None:
    for name, path in modules().items():
        if name.startswith("fastliver.reporting"):
            found = set(imports(path, name))
            forbidden = ("torch", "fastliver.training", "fastliver.models", "fastliver.inference", "fastliver.kernels")
            assert not [item for item in found if any(item == bad or item.startswith(f"{bad}.") for bad in forbidden)]


def test_kernels_import_torch_and_triton_alone() -> None:
    allowed = {"torch", "triton", "numpy", "fastliver"}
    for name, path in modules().items():
        if name.startswith("fastliver.kernels"):
            outside = {item.split(".")[0] for item in imports(path, name)} - set(sys.stdlib_module_names)
            assert outside <= allowed, name


def test_nobody_imports_the_kernels_folder_by_its_own_name() -> None:
    """Its operators would register twice."""
    for path in files():
        if path.suffix == ".py":
            assert not [name for name in imports(path, "x") if name.split(".")[0] == "kernels"], path


def test_files_are_short() -> None:
    long = {str(path): path.read_text(encoding="utf-8").count("\n") for path in files() if path.suffix == ".py"}
    assert {path: lines for path, lines in long.items() if lines > 450} == {}


def test_no_file_names_a_machine() -> None:
    """Paths of a person or a machine don't belong into a repository."""
    patterns = [r"/home/\w", r"/Users/\w", r"[A-Z]:\\Users"]
    if len(REPOSITORY.parts) > 2:
        patterns.append(re.escape(str(REPOSITORY)) + r"\b")
    wanted = re.compile("|".join(patterns))
    found = []
    for path in files():
        if path == Path(__file__):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.name}: {match.group()}" for match in wanted.finditer(text)]
    assert found == []


@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for path in files():
        copy = source / path.relative_to(REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy, follow_symlinks=False)
    for path in REPOSITORY.joinpath("fastliver").iterdir():
        if path.is_symlink():
            (source / "fastliver" / path.name).symlink_to(os.readlink(path))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, "."]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"fastliver"}
    expected = {
        "/".join((*name.split("."), "__init__.py")) if path.name == "__init__.py" else name.replace(".", "/") + ".py"
        for name, path in modules().items()
    }
    assert expected <= set(names)
    assert "fastliver/kernels/reference.py" in names
    assert not [name for name in names if "test" in Path(name).name or name.startswith("benchmarks")]

    # What was installed is imported from the wheel, far from the checkout.
    target = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    code = "import fastliver.kernels.reference as r, fastliver.train; print(r.__file__)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**environment, "PYTHONPATH": str(target)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith(str(target))


def test_every_folder_of_the_package_is_one() -> None:
    """A folder without __init__.py would be left out of the wheel."""
    parents = set(chain.from_iterable(path.parents for path in (REPOSITORY / "fastliver").rglob("*.py")))
    inside = [folder for folder in parents if (REPOSITORY / "fastliver") in (folder, *folder.parents)]
    assert [folder for folder in inside if not (folder / "__init__.py").exists()] == []
