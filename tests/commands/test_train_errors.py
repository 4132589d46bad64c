"""What goes wrong for a user: one message that names file, field and remedy, an exit code, and nothing half-written."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import BasicTextSRStorage

from fastliver.files import sole_owner

BAD_INPUT, FAILURE = 2, 1


def ct_image(root: Path) -> Path:
    return sorted((root / "Train_Sets" / "CT" / "2" / "DICOM_anon").iterdir())[3]


def ct_mask(root: Path) -> Path:
    return sorted((root / "Train_Sets" / "CT" / "2" / "Ground").iterdir())[3]


def mr_image(root: Path) -> Path:
    return sorted((root / "Train_Sets" / "MR" / "3" / "T2SPIR" / "DICOM_anon").iterdir())[2]


def mr_mask(root: Path) -> Path:
    return root / "Train_Sets" / "MR" / "3" / "T2SPIR" / "Ground" / f"{mr_image(root).stem}.png"


def check_nothing_left(runs: Path) -> None:
    """No run folder, and no store but whole ones."""
    if runs.exists():
        assert {path.name for path in runs.iterdir()} <= {"stores"}
        for store in (runs / "stores").glob("*"):
            assert not store.name.startswith("."), "a temporary folder was left"
            assert (store / "store.json").exists()


def edit(path: Path, **elements: Any) -> Path:
    """Set elements of a DICOM file, keeping what was written there byte for byte where it is bytes."""
    dataset = pydicom.dcmread(path)
    for name, value in elements.items():
        if isinstance(value, bytes):
            tag = Tag(name)
            raw = RawDataElement(tag, pydicom.datadict.dictionary_VR(tag), len(value), value, 0, True, True)
            dataset._dict[tag] = raw
        elif value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.save_as(path)
    return path


def cut(path: Path, kept: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    return path


def smaller(path: Path) -> Path:
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(path)
    return path


def remove(path: Path) -> Path:
    path.unlink()
    return path


def overwrite(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def report_object(path: Path) -> Path:
    """A structured report among the images, as some exports have it."""
    dataset = pydicom.dcmread(path)
    for name in ("PixelData", "Rows", "Columns"):
        delattr(dataset, name)
    dataset.SOPClassUID = BasicTextSRStorage
    dataset.save_as(path)
    return path


REMEDY = r"repair|move|remove|add |copy|complete|check|export|put |name |choose|leave|--skip-bad"

ONE_BAD_FILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "empty CT file": (lambda root: cut(ct_image(root), 0), "not a DICOM file"),
    "CT cut in its header": (lambda root: cut(ct_image(root), 0.05), "no image"),
    "CT cut in its pixels": (lambda root: cut(ct_image(root), 0.7), "PixelData"),
    "MR cut in its pixels": (lambda root: cut(mr_image(root), 0.7), "PixelData"),
    "text instead of CT": (lambda root: overwrite(ct_image(root), b"not an image\n" * 99), "not a DICOM file"),
    "structured report": (lambda root: report_object(mr_image(root)), "holds no image"),
    "no position": (lambda root: edit(ct_image(root), ImagePositionPatient=None), "ImagePositionPatient"),
    "spacing of 0": (lambda root: edit(ct_image(root), PixelSpacing=[0, 1]), "PixelSpacing"),
    "slope not a number": (lambda root: edit(ct_image(root), RescaleSlope=b"abc "), "RescaleSlope"),
    "thickness not a number": (lambda root: edit(ct_image(root), SliceThickness=b"abc "), "SliceThickness"),
    "frames not a number": (lambda root: edit(ct_image(root), NumberOfFrames=b"abc "), "NumberOfFrames"),
    "MR among CT": (lambda root: edit(ct_image(root), Modality="MR"), "Modality is MR, expected CT"),
    "CT mask of another size": (lambda root: smaller(ct_mask(root)), "48x64.*64x64"),
    "MR mask of another size": (lambda root: smaller(mr_mask(root)), "48x64.*64x64"),
    "MR mask missing": (lambda root: remove(mr_mask(root)), "missing"),
    "CT mask cut": (lambda root: cut(ct_mask(root), 0.5), "can't be read"),
    "CT mask not an image": (lambda root: overwrite(ct_mask(root), b"liver"), "can't be read"),
}


@pytest.mark.parametrize("name", ONE_BAD_FILE)
def test_one_bad_file(name: str, train: Any, broken: Path, tmp_path: Path) -> None:
    """It is named with its fault and a remedy, and nothing is written."""
    break_it, field = ONE_BAD_FILE[name]
    path = break_it(broken)
    message = train("--data", broken, "--runs", tmp_path / "runs", "--stage", "essnet").refused(path)
    assert re.search(field, message), message
    assert re.search(REMEDY, message.replace(str(tmp_path), "")), f"no remedy: {message}"
    check_nothing_left(tmp_path / "runs")


def check_skipped(train: Any, data: Path, runs: Path, ct: list[Path], mr: list[Path]) -> None:
    """With --skip-bad these files are left out, counted and named on the terminal, in data.json and in the report."""
    out = train("--data", data, "--runs", runs, "--name", "run", "--stage", "essnet", "--skip-bad").succeeded()
    found = json.loads((runs / "run" / "results" / "data.json").read_text())["sources"]
    page = (runs / "run" / "report.html").read_text()
    for source, bad, slices in zip(found, (ct, mr), (16, 18), strict=True):
        assert len(source["skipped"]) == len(bad)
        assert source["slices"] == slices - len(bad)
        for path in bad:
            assert any(str(path) in text for text in source["skipped"])
            assert path.name in out
            assert path.name in page
        if bad:
            noun = "file was" if len(bad) == 1 else "files were"
            assert f"{source['modality']}: {len(bad)} {noun} skipped" in page


def test_bad_files_skipped_and_counted(train: Any, broken: Path, tmp_path: Path) -> None:
    ct = [
        cut(ct_image(broken), 0.7),
        overwrite(ct_image(broken).parents[2] / "1" / "Ground" / ct_mask(broken).name, b""),
    ]
    check_skipped(train, broken, tmp_path / "runs", ct, [remove(mr_mask(broken))])


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_BAD_FILE)
def test_one_bad_file_skipped(name: str, train: Any, broken: Path, tmp_path: Path) -> None:
    path = ONE_BAD_FILE[name][0](broken)
    ct, mr = ([path], []) if "CT" in path.relative_to(broken).parts else ([], [path])
    check_skipped(train, broken, tmp_path / "runs", ct, mr)


def test_one_bad_file_more_than_there_are_masks(train: Any, broken: Path, tmp_path: Path) -> None:
    """CHAOS pairs CT masks by rank: a stray file that is no image must not shift them."""
    stray = ct_image(broken).with_name("i0000,0000a.dcm")
    stray.write_text("not an image")
    arguments = ("--data", broken, "--runs", tmp_path / "runs", "--name", "run", "--stage", "essnet")
    train(*arguments).refused(stray, "--skip-bad")
    train(*arguments, "--skip-bad").succeeded()
    found = json.loads((tmp_path / "runs" / "run" / "results" / "data.json").read_text())["sources"]
    assert (found[0]["slices"], found[0]["liver_slices"], len(found[0]["skipped"])) == (16, 10, 1)


def test_missing_ct_mask(train: Any, broken: Path, tmp_path: Path) -> None:
    ct_mask(broken).unlink()
    message = train("--data", broken, "--runs", tmp_path / "runs").refused(ct_mask(broken).parent, "7 masks for 8")
    assert "complete the folder" in message
    check_nothing_left(tmp_path / "runs")


@pytest.mark.parametrize(
    ("ct", "mr", "texts"),
    [
        ("MR", "CT", ("a CHAOS folder of MR, but CT belongs here",)),
        ("MR", "MR", ("a CHAOS folder of MR, but CT belongs here",)),
        ("CT", "CT", ("a CHAOS folder of CT, but MR belongs here",)),
        ("MR/1/T2SPIR/DICOM_anon", "MR", ("no CT images found", "Modality MR")),
        ("CT", "CT/1/DICOM_anon", ("no MR images found", "Modality CT")),
        ("CT/1/Ground", "MR", ("no CT images found", "name a folder")),
        ("nowhere", "MR", ("does not exist", "name a folder")),
        ("CT/1/DICOM_anon/i0000,0000b.dcm", "MR", ("is a file", "name a folder")),
    ],
)
def test_wrong_folders(ct: str, mr: str, texts: tuple[str, ...], train: Any, phantom: Path, tmp_path: Path) -> None:
    root = phantom / "Train_Sets"
    ended = train("--ct", root / ct, "--mr", root / mr, "--runs", tmp_path / "runs")
    ended.refused(root / (ct if "CT belongs" in texts[0] or "CT images" in texts[0] or ct == "nowhere" else ""), *texts)
    check_nothing_left(tmp_path / "runs")


def test_folders_without_images(train: Any, broken: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    runs = tmp_path / "runs"
    train("--data", empty, "--runs", runs).refused(empty, "no CT images found", "name a folder")
    train("--data", broken, "--runs", runs, "--mr-sequence", "t1-in").refused("MR", "--mr-sequence")
    for path in broken.rglob("*.dcm"):
        path.unlink()
    train("--data", broken, "--runs", runs).refused(broken, "no images", "complete the folder")
    check_nothing_left(runs)


def test_half_of_what_is_needed(train: Any, phantom: Path, tmp_path: Path) -> None:
    ct = phantom / "Train_Sets" / "CT"
    train("--ct", ct, "--runs", tmp_path).refused("--ct", "--mr", "--data")
    train("--mr", ct, "--runs", tmp_path).refused("--ct", "--mr", "--data")
    train("--preset", "quick", "--runs", tmp_path).refused("--preset=quick needs data", "--data")
    one_patient = phantom / "Train_Sets" / "MR" / "1"
    train("--ct", ct, "--mr", one_patient, "--runs", tmp_path).refused("1 MR patient", "add patients")
    assert {path.name for path in tmp_path.iterdir()} <= {"stores"}


def test_partly_labelled(train: Any, broken: Path, tmp_path: Path) -> None:
    shutil.rmtree(broken / "Train_Sets" / "CT" / "1" / "Ground")
    train("--data", broken, "--runs", tmp_path / "runs").refused("no labels for patient CT_1", "add the labels")


def test_labels_without_liver(train: Any, broken: Path, tmp_path: Path) -> None:
    for path in broken.glob("Train_Sets/CT/*/Ground/*.png"):
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(path)
    train("--data", broken, "--runs", tmp_path / "runs").refused(broken, "no CT slice shows liver", "check the labels")


def test_damaged_store_is_named(train: Any, phantom: Path, tmp_path: Path) -> None:
    arguments = ("--data", phantom, "--runs", tmp_path, "--stage", "essnet")
    train(*arguments, "--name", "a").succeeded()
    (store,) = (tmp_path / "stores").glob("ct-*")
    cut(store / "images.npy", 0.5)
    train(*arguments, "--name", "b").refused(store, "delete")
    assert not (tmp_path / "b").exists()


def test_gpu_that_is_not_there(train: Any, phantom: Path, tmp_path: Path) -> None:
    ended = train(
        "--data", phantom, "--runs", tmp_path / "runs", "--device=cuda", environment={"CUDA_VISIBLE_DEVICES": ""}
    )
    ended.refused("--device=cuda", "no GPU", "cpu")
    check_nothing_left(tmp_path / "runs")


def test_over_a_day_on_a_cpu_wants_consent(train: Any, phantom: Path, tmp_path: Path) -> None:
    arguments = ("--data", phantom, "--runs", tmp_path / "runs", "--name", "run", "--essnet-epochs=100000000")
    ended = train(*arguments)
    ended.refused("24 hours", "--yes")
    assert re.search(r"Estimated time on CPU.*: \d+ d \d+ h \(EssNet \d+ d", ended.out)
    check_nothing_left(tmp_path / "runs")
    running = train.start(*arguments, "--yes", "--checkpoint-minutes=0")
    started = tmp_path / "runs" / "run" / "checkpoints" / "essnet"
    while not any(started.glob("step-*")) and running.poll() is None:
        time.sleep(0.01)
    running.send(signal.SIGKILL)
    assert running.wait().code == -signal.SIGKILL
    assert any(started.glob("step-*"))


def test_runs_folder_that_is_a_file(train: Any, phantom: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    train("--data", phantom, "--runs", tmp_path / "runs").refused(tmp_path / "runs", code=FAILURE)


def test_diverging_training_stops(train: Any, phantom: Path, tmp_path: Path) -> None:
    arguments = ("--data", phantom, "--runs", tmp_path, "--name", "run", "--essnet-epochs=9", "--checkpoint-minutes=0")
    ended = train(*arguments, "--essnet-generator-lr=1e30", "--stage=essnet")
    ended.refused("essnet", "step", "last good checkpoint", "--seed", code=FAILURE)
    assert not (tmp_path / "run" / "checkpoints" / "essnet" / "final").exists()


# A full disk


def go_on(train: Any, phantom: Path, runs: Path) -> Any:
    """The same command again, or --resume where the run had begun."""
    if (runs / "run" / "config.yaml").exists():
        return train("--resume", runs / "run", small=False)
    return train("--data", phantom, "--runs", runs, "--name", "run")


def check_trustworthy(runs: Path) -> None:
    """What is there under its own name is whole."""
    for path in runs.rglob("*"):
        assert not path.name.startswith("."), f"{path}: left half-written"
        if path.suffix == ".json":
            json.loads(path.read_text())
    for path in runs.glob("stores/*"):
        assert {"images.npy", "labels.npy", "index.json", "store.json"} == {item.name for item in path.iterdir()}
    for path in runs.glob("run/checkpoints/*/*"):
        assert (path / "checkpoint.json").exists()


FULL_AT = {
    "the CT store": ("../stores/ct-*/images.npy", "stores"),
    "the U-Net's checkpoint": ("checkpoints/unet-real-0-seed0/final/weights.safetensors", "checkpoints"),
    "the report": ("report.html", "report"),
}


@pytest.mark.parametrize("name", ["the CT store", "the U-Net's checkpoint", "the report"])
def test_full_disk(name: str, train: Any, phantom: Path, finished: Path, learned: Any, tmp_path: Path) -> None:
    """Files may not grow to the size that this one needs; with space the run goes on and ends like any other."""
    pattern, wanted = FULL_AT[name]
    (file,) = finished.glob(pattern)
    limit = file.stat().st_size - 1
    figures = name == "the report"
    ended = train("--data", phantom, "--runs", tmp_path, "--name", "run", largest_file=limit, figures=figures)
    message = ended.refused("the disk is full", "free some space", code=FAILURE)
    assert wanted in message, "the message names no file"
    check_trustworthy(tmp_path)
    go_on(train, phantom, tmp_path).succeeded()
    assert learned(tmp_path / "run") == learned(finished)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [2**power for power in range(10, 20)])
def test_full_disk_at_any_file(
    limit: int, train: Any, phantom: Path, finished: Path, learned: Any, tmp_path: Path
) -> None:
    ended = train("--data", phantom, "--runs", tmp_path, "--name", "run", largest_file=limit, figures=True)
    if ended.code:
        ended.refused("the disk is full", code=FAILURE)
    check_trustworthy(tmp_path)
    go_on(train, phantom, tmp_path).succeeded()
    assert learned(tmp_path / "run") == learned(finished)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of so many KiB, or gives the mounted one that size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def size(kib: int) -> Path:
        nonlocal mounted
        options = f"size={kib}k" + (",remount" if mounted else "")
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounting needs more rights: {done.stderr.strip()}")
        mounted = True
        return folder

    yield size
    if mounted:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("kib", [200, *(pytest.param(kib, marks=pytest.mark.slow) for kib in (40, 100, 300, 400))])
def test_small_disk(
    kib: int, small_disk: Any, train: Any, phantom: Path, finished: Path, learned: Any
) -> None:  # fmt: skip
    runs = small_disk(kib)
    ended = train("--data", phantom, "--runs", runs, "--name", "run")
    ended.refused("the disk is full", "No space left on device", "free some space", code=FAILURE)
    check_trustworthy(runs)
    small_disk(20000)
    go_on(train, phantom, runs).succeeded()
    assert learned(runs / "run") == learned(finished)


def test_a_folder_that_another_process_trains_in_is_left_alone(train: Any, phantom: Path, tmp_path: Path) -> None:
    with sole_owner(tmp_path / "mine"):
        train("--data", phantom, "--runs", tmp_path, "--name=mine").refused(tmp_path / "mine", "another process")
        (tmp_path / "mine" / "kept").touch()
    assert {item.name for item in (tmp_path / "mine").iterdir()} == {"kept", "lock"}


def test_a_run_that_is_refused_leaves_no_folder(train: Any, tmp_path: Path) -> None:
    train("--data", tmp_path / "absent", "--runs", tmp_path / "runs", "--name=mine").refused("absent", "does not exist")
    assert not (tmp_path / "runs" / "mine").exists()


def test_output_that_nobody_reads() -> None:
    """As with `| head`: one message, no traceback, and not a success."""
    script = (
        "import sys\n"
        "from rich.console import Console\n"
        "from fastliver.cli import run_command\n"
        "def main():\n"
        "    sys.stdin.readline()\n"
        "    Console().print('a line')\n"
        "sys.exit(run_command(main))\n"
    )
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen([sys.executable, "-c", script], text=True, **pipes)
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, told = process.communicate("go on\n", timeout=60)
    assert process.returncode == FAILURE
    assert told == "error: what read the output has ended; run the command again\n"
