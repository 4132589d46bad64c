"""The slice store: what it holds, and when it is built anew."""

import importlib.util
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from fastliver.data.intensity import IntensityRule
from fastliver.data.pipeline import Road
from fastliver.data.sources import Source
from fastliver.data.store import SliceStore
from fastliver.data.store_builder import build_store

CT, MR = IntensityRule("CT", -160, 240), IntensityRule("MR", 0.5, 99.5)


@pytest.fixture
def tree(phantom, tmp_path) -> Path:
    """A copy of the phantom that may be changed."""
    return shutil.copytree(phantom, tmp_path / "Train_Sets")


@pytest.fixture
def reads() -> list[str]:
    """The patients that were read, in order."""
    return []


@pytest.fixture
def studies(tree, reads):
    """The CT studies of the tree, counted as they are read."""

    def find(**options):
        def counted(study):
            def plan():
                reads.append(study.patient)
                return study.plan()

            return replace(study, plan=plan)

        return [counted(study) for study in Source(tree, "CT", **options).studies()]

    return find


def test_images_and_labels_are_those_of_the_files(phantom, tmp_path):
    """At the files' own size nothing is resized, so the window is all that happens to a CT."""
    store = build_store(Source(phantom, "CT").studies(), CT, 128, tmp_path)
    assert len(store) == 20
    for number, entry in enumerate(store.entries):
        path = Path(entry.source)
        header = pydicom.dcmread(path)
        hu = header.pixel_array.astype(float) - 1000
        expected = (np.clip(hu, -160, 240) + 160) / 200 - 1
        np.testing.assert_allclose(store.images[number], expected, atol=5e-4)  # half precision
        rank = sorted(path.parent.iterdir()).index(path)
        mask = np.asarray(Image.open(path.parents[1] / f"Ground/liver_GT_{rank:03d}.png"))
        np.testing.assert_array_equal(store.labels[number], mask)


def test_arrays_have_the_types_and_shape_of_the_contract(phantom, tmp_path):
    store = build_store(Source(phantom, "MR").studies(), MR, 48, tmp_path)
    assert (store.images.dtype, store.labels.dtype) == (np.float16, np.uint8)
    assert store.images.shape == store.labels.shape == (24, 48, 48)
    assert float(store.images.min()) >= -1
    assert float(store.images.max()) <= 1
    assert set(np.unique(store.labels)) == {0, 1}
    assert np.load(store.path / "images.npy").tobytes() == np.asarray(store.images).tobytes()


def test_the_index_says_where_each_slice_comes_from(phantom, tmp_path):
    store = build_store(Source(phantom, "MR").studies(), MR, 64, tmp_path)
    assert store.patients == ["MR_1", "MR_2", "MR_3"]
    assert [entry.slice for entry in store.entries] == list(range(8)) * 3
    assert [entry.study for entry in store.entries] == [0] * 8 + [1] * 8 + [2] * 8
    for number, entry in enumerate(store.entries):
        header = pydicom.dcmread(entry.source, stop_before_pixels=True)
        assert entry.patient == "MR_" + Path(entry.source).parts[-4]
        assert entry.z == pytest.approx(float(header.ImagePositionPatient[2]), abs=0.01)
        assert entry.spacing[1:] == pytest.approx([float(v) for v in header.PixelSpacing], abs=1e-5)
        assert entry.spacing[0] == pytest.approx(float(header.SpacingBetweenSlices), abs=0.002)
        assert entry.liver == np.count_nonzero(store.labels[number])
    np.testing.assert_array_equal(store.liver_slices(), np.flatnonzero(store.labels.any((1, 2))))
    assert 0 < len(store.liver_slices()) <= len(store)


def test_the_description_says_how_it_was_built(phantom, tmp_path):
    store = build_store(Source(phantom, "MR").studies(), MR, 48, tmp_path)
    assert store.modality == store.meta["modality"] == "MR"
    assert store.labelled
    assert store.meta["intensity"] == {"modality": "MR", "low": 0.5, "high": 99.5}
    assert store.meta["size"] == 48
    assert len(store.meta["studies"]) == 3
    first = pydicom.dcmread(store.entries[0].source, stop_before_pixels=True)
    place = np.array(store.meta["studies"][0]["source_affine"]) @ [0, 0, 0, 1]
    np.testing.assert_allclose(place[:3], [float(v) for v in first.ImagePositionPatient], atol=1e-3)
    # 64 pixels became 48, so a pixel of the store is 4/3 as wide; both share the picture's outer corner.
    stored = np.array(store.meta["studies"][0]["affine"])
    step = float(first.PixelSpacing[0])
    assert stored[0, 0] == pytest.approx(step * 4 / 3)
    assert stored[0, 3] - stored[0, 0] / 2 == pytest.approx(place[0] - step / 2, abs=1e-3)


def test_an_unlabelled_store_counts_every_slice(phantom, tmp_path):
    study = Source(phantom, "CT").studies()[0]
    bare = replace(study, labelled=False, plan=None, read=lambda: replace(study.read(), label=None))
    store = build_store([bare], CT, 64, tmp_path)
    assert not store.labelled
    assert not np.asarray(store.labels).any()
    assert store.liver_slices().tolist() == list(range(10))


def test_a_store_is_opened_for_reading_only(phantom, tmp_path):
    store = build_store(Source(phantom, "CT").studies(), CT, 32, tmp_path)
    for array in (store.images, store.labels):
        assert isinstance(array, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0, 0] = 1


def test_an_unchanged_store_is_reused_without_reading(studies, reads, tmp_path):
    first = build_store(studies(), CT, 32, tmp_path / "stores")
    assert reads == ["CT_1", "CT_2"]
    before = {path.name: path.stat().st_mtime_ns for path in first.path.iterdir()}
    second = build_store(studies(), CT, 32, tmp_path / "stores")
    assert reads == ["CT_1", "CT_2"]
    assert second.path == first.path
    assert {path.name: path.stat().st_mtime_ns for path in second.path.iterdir()} == before
    np.testing.assert_array_equal(second.images, first.images)


@pytest.mark.parametrize("change", ["content", "time", "mask", "fewer patients", "no labels"])
def test_changed_inputs_are_read_again(studies, reads, tree, tmp_path, change):
    first = build_store(studies(), CT, 32, tmp_path / "stores")
    image = sorted((tree / "CT/1/DICOM_anon").iterdir())[4]
    mask = sorted((tree / "CT/1/Ground").iterdir())[4]
    if change == "content":
        header = pydicom.dcmread(image)
        header.PixelData = bytes(len(header.PixelData))
        header.save_as(image)
    elif change == "time":
        os.utime(image, ns=(1, image.stat().st_mtime_ns + 1))
    elif change == "mask":
        Image.new("1", (128, 128)).save(mask)
    elif change == "fewer patients":
        shutil.rmtree(tree / "CT/2")
    else:
        for patient in ("1", "2"):
            shutil.rmtree(tree / "CT" / patient / "Ground")
    reads.clear()
    second = build_store(studies(), CT, 32, tmp_path / "stores")
    assert reads == (["CT_1"] if change == "fewer patients" else ["CT_1", "CT_2"])
    assert second.path != first.path
    number = [entry.source for entry in second.entries].index(str(image))
    if change == "content":
        assert (np.asarray(second.images[number]) == -1).all(), "0 is -1000 HU, below the window"
    if change in ("mask", "no labels"):
        assert not np.asarray(second.labels[number]).any()
    assert SliceStore.open(first.path).path == first.path, "the store before stays whole"


def test_every_setting_has_a_store_of_its_own(studies, reads, tmp_path):
    settings = [(CT, 32, False), (CT, 48, False), (IntensityRule("CT", -160, 241), 32, False), (CT, 32, True)]
    paths = {build_store(studies(), rule, size, tmp_path / "stores", skip).path for rule, size, skip in settings}
    assert len(paths) == 4
    assert len(reads) == 8
    for rule, size, skip in settings:
        build_store(studies(), rule, size, tmp_path / "stores", skip)
    assert len(reads) == 8


def test_progress_is_told_study_by_study(studies, tmp_path):
    told = []
    build_store(studies(), CT, 32, tmp_path / "stores", on_study=lambda *counts: told.append(counts))
    assert told == [(1, 2, 10), (2, 2, 20)]


def test_skip_bad_counts_slices_and_whole_studies(tree, studies, tmp_path):
    bad = sorted((tree / "CT/1/DICOM_anon").iterdir())[3]
    bad.write_bytes(bad.read_bytes()[:600])
    for image in (tree / "CT/2/DICOM_anon").iterdir():
        image.write_text("no image at all")
    store = build_store(studies(skip_bad=True), CT, 32, tmp_path / "stores", skip_bad=True)
    assert len(store) == 9
    assert store.patients == ["CT_1"]
    assert len(store.meta["skipped"]) == 2
    assert str(bad) in store.meta["skipped"][0]
    assert "CT/2/DICOM_anon: none of its 10 files could be read" in store.meta["skipped"][1]


def test_the_content_is_that_of_the_files_wherever_they_lie(tree, tmp_path):
    """Not of the way there: another folder, other times, another reader."""

    def content(root: Path, name: str, road: Road = "threads") -> str:
        return build_store(Source(root, "MR").studies(), MR, 32, tmp_path / name, road=road).meta["content"]

    found = content(tree, "first")
    copied = tmp_path / "copied"
    shutil.copytree(tree, copied, copy_function=shutil.copyfile)
    assert content(copied, "second") == found
    if importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.dali"):
        assert content(copied, "third", "dali") == found
    mask = next(path for path in sorted(copied.rglob("MR/*/T2SPIR/Ground/*.png")))
    mask.write_bytes(mask.read_bytes() + b"\0")
    assert content(copied, "fourth") != found
