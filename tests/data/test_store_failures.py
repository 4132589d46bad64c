"""A store is there whole or not at all, whatever stops its making."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastliver.data.intensity import IntensityRule
from fastliver.data.sources import Source
from fastliver.data.store import SliceStore
from fastliver.data.store_builder import build_store
from fastliver.data.study import Study, Volume
from fastliver.errors import InputError

RULE = IntensityRule("CT", 0, 100)

# Builds a store of three studies in a process of its own: it is killed in the second, fills the disk, or does neither.
PROGRAM = """
import os, resource, signal, sys
from pathlib import Path
import numpy as np
from fastliver.data.intensity import IntensityRule
from fastliver.data.store_builder import build_store
from fastliver.data.study import Study, Volume

folder, what = Path(sys.argv[1]), sys.argv[2]

def read(number):
    if number == 1 and what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    image = np.full((8, 64, 64), 10.0 * number, np.float32)
    return Volume(image, None, np.eye(4), np.arange(8.0), (folder / "input",) * 8)

if what == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
studies = [Study("CT", f"p{n}", "made", (folder / "input",), False, lambda n=n: read(n)) for n in range(3)]
try:
    build_store(studies, IntensityRule("CT", 0, 100), 64, folder / "stores")
except OSError as error:
    print(f"OSError {error}")
    sys.exit(3)
"""


def visible(folder: Path) -> list[str]:
    """What stands under the stores' folder by a name that is no temporary one."""
    return sorted(item.name for item in folder.iterdir() if not item.name.startswith("."))


def study(folder: Path, patient: str, error: BaseException | None = None) -> Study:
    (folder / "input").touch()

    def read() -> Volume:
        if error is not None:
            raise error
        return Volume(np.full((2, 8, 8), 50.0, np.float32), None, np.eye(4), np.arange(2.0), (folder / "input",) * 2)

    return Study("CT", patient, "made", (folder / "input",), False, read)


@pytest.fixture
def store(tmp_path) -> SliceStore:
    return build_store([study(tmp_path, "a"), study(tmp_path, "b")], RULE, 32, tmp_path / "stores")


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt(), InputError("a bad file")])
def test_an_exception_leaves_nothing_and_is_passed_on(tmp_path, error):
    studies = [study(tmp_path, "a"), study(tmp_path, "b", error)]
    with pytest.raises(type(error)):
        build_store(studies, RULE, 32, tmp_path / "stores")
    assert list((tmp_path / "stores").iterdir()) == []


def test_skip_bad_forgives_bad_input_and_nothing_else(tmp_path):
    good, bad = study(tmp_path, "a"), study(tmp_path, "b", InputError("b: a bad file"))
    store = build_store([good, bad], RULE, 32, tmp_path / "stores", skip_bad=True)
    assert (store.patients, store.meta["skipped"]) == (["a"], ["b: a bad file"])
    with pytest.raises(RuntimeError):
        build_store([good, study(tmp_path, "c", RuntimeError("bug"))], RULE, 32, tmp_path / "stores", skip_bad=True)


def test_nothing_readable_is_an_error_that_names_the_first(tmp_path):
    bad = [study(tmp_path, name, InputError(f"{name}: a bad file")) for name in "ab"]
    with pytest.raises(InputError, match="none of the 2 studies could be read; the first: a: a bad file"):
        build_store(bad, RULE, 32, tmp_path / "stores", skip_bad=True)
    assert list((tmp_path / "stores").iterdir()) == []


def run(folder: Path, what: str) -> subprocess.CompletedProcess[str]:
    (folder / "input").touch()
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), what], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_killed_build_leaves_no_store_and_the_next_one_succeeds(tmp_path):
    assert run(tmp_path, "kill").returncode == -signal.SIGKILL
    assert visible(tmp_path / "stores") == []
    again = run(tmp_path, "whole")
    assert again.returncode == 0, again.stderr
    (name,) = visible(tmp_path / "stores")
    store = SliceStore.open(tmp_path / "stores" / name)
    assert len(store) == 24
    np.testing.assert_allclose(np.unique(store.images), [-1.0, -0.8, -0.6], atol=1e-3)


def test_a_kill_between_studies_of_dicom_loses_nothing_else(phantom, tmp_path):
    """Threads read the second study when the first one is written and the process is killed."""
    before = build_store(Source(phantom, "MR").studies(), IntensityRule("MR", 0.5, 99.5), 32, tmp_path)
    program = (
        "import os, sys; from pathlib import Path; from fastliver.data.intensity import IntensityRule;"
        "from fastliver.data.sources import Source; from fastliver.data.store_builder import build_store;"
        "studies = Source(Path(sys.argv[1]), 'CT').studies(); rule = IntensityRule('CT', 0, 100);"
        "build_store(studies, rule, 32, Path(sys.argv[2]), on_study=lambda *counts: os.kill(os.getpid(), 9))"
    )
    command = [sys.executable, "-c", program, str(phantom), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert visible(tmp_path) == [before.path.name]
    assert len(SliceStore.open(before.path)) == 24
    whole = build_store(Source(phantom, "CT").studies(), RULE, 32, tmp_path)
    assert len(whole) == 20
    assert visible(tmp_path) == sorted([before.path.name, whole.path.name])


def test_a_full_disk_is_an_os_error_and_leaves_nothing(tmp_path):
    done = run(tmp_path, "full")
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("OSError")
    assert list((tmp_path / "stores").iterdir()) == []


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "index.json", "store.json"])
@pytest.mark.parametrize("how", ["cut", "empty", "gone"])
def test_a_damaged_store_is_named_with_the_remedy(store, name, how):
    path = store.path / name
    content = path.read_bytes()
    path.unlink()
    if how != "gone":
        path.write_bytes(content[:-20] if how == "cut" else b"")
    with pytest.raises(InputError, match="delete") as error:
        SliceStore.open(store.path)
    assert str(store.path) in str(error.value)


@pytest.mark.parametrize("array", ["images", "labels"])
def test_files_that_disagree_are_refused(store, array):
    shorter = np.array(getattr(store, array)[:-1])
    (store.path / f"{array}.npy").unlink()
    np.save(store.path / f"{array}.npy", shorter)
    with pytest.raises(InputError, match=r"expected \(4, 32, 32\); delete the store"):
        SliceStore.open(store.path)


def test_a_store_of_another_format_is_refused(store):
    meta = json.loads((store.path / "store.json").read_text())
    (store.path / "store.json").write_text(json.dumps({**meta, "format": 99}))
    with pytest.raises(InputError, match=r"store\.json: format is 99, expected 3; delete the store"):
        SliceStore.open(store.path)


def test_a_folder_that_is_no_store_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match="no slice store"):
            SliceStore.open(path)


def test_pickled_objects_are_never_loaded(store):
    (store.path / "images.npy").unlink()
    np.save(store.path / "images.npy", np.array([{"run": "me"}] * 4, object), allow_pickle=True)
    with pytest.raises(InputError, match="delete"):
        SliceStore.open(store.path)
