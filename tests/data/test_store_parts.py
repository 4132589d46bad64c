"""Parts of a store, and processes that join the same ones at the same time."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from fastliver.data import store_parts
from fastliver.data.intensity import IntensityRule
from fastliver.data.store import SliceStore
from fastliver.data.store_parts import StoreParts
from fastliver.errors import InputError

NAMES = ("b", "a", "c.failed")
MADE_WITH = {"model": "m", "hash": "h"}


def parts_of(folder: Path, **made_with: str) -> StoreParts:
    return StoreParts(folder / "store", NAMES, 4, IntensityRule("MR", 0.5, 99.5), {**MADE_WITH, **made_with})


def write(parts: StoreParts, name: str, labelled: bool = True) -> None:
    """Two slices more than the name's place; their value tells the patient."""
    place = NAMES.index(name)
    count = place + 2
    labels = np.zeros((count, 4, 4), np.uint8)
    labels[:, 0, : place + 1] = 1
    entries = [{"patient": name, "slice": k, "z": 5.0 * k, "spacing": [5, 1, 1], "source": f"{name}.nii"}
               for k in range(count)]  # fmt: skip
    with parts.write(name, labelled) as writer:
        writer.add(np.full((count, 4, 4), place / 4, np.float16), labels, {"patient": name}, entries)


def check(folder: Path) -> None:
    """The whole store, and nothing beside it."""
    store = SliceStore.open(folder / "store")
    assert [entry.patient for entry in store.entries] == ["b"] * 2 + ["a"] * 3 + ["c.failed"] * 4
    assert [entry.study for entry in store.entries] == [0] * 2 + [1] * 3 + [2] * 4
    assert [entry.liver for entry in store.entries] == [1] * 2 + [2] * 3 + [3] * 4
    assert store.images[:, 0, 0].tolist() == [0] * 2 + [0.25] * 3 + [0.5] * 4
    assert store.labels.sum((1, 2)).tolist() == [1] * 2 + [2] * 3 + [3] * 4
    assert [study["patient"] for study in store.meta["studies"]] == list(NAMES)
    assert MADE_WITH.items() <= store.meta.items()
    assert [path.name for path in folder.iterdir()] == ["store"]


@pytest.mark.parametrize("order", [NAMES, NAMES[::-1]])
def test_the_store_is_in_the_patients_order_whoever_comes_first(tmp_path, order):
    for number, name in enumerate(order):
        parts = parts_of(tmp_path)
        parts.begin([name])
        assert parts.missing() == [other for other in NAMES if other not in order[:number]]
        write(parts, name)
    assert parts.joined() is None
    assert parts.join()
    check(tmp_path)
    assert parts.joined() is not None


def test_one_patient_without_label_leaves_the_store_without(tmp_path):
    parts = parts_of(tmp_path)
    for name in NAMES:
        write(parts, name, labelled=name != "a")
    parts.join()
    assert not SliceStore.open(tmp_path / "store").labelled


def test_a_failed_patient_is_listed_and_tried_again(tmp_path):
    parts = parts_of(tmp_path)
    write(parts, "b")
    parts.fail("a", "a.nii: rubbish")
    parts.fail("c.failed", "c.nii: rubbish")
    assert parts.missing() == []
    parts.begin(["a"])
    assert parts.missing() == ["a"]
    write(parts, "a")
    assert parts.join()
    store = SliceStore.open(tmp_path / "store")
    assert store.patients == ["b", "a"]
    assert store.meta["skipped"] == ["c.failed: c.nii: rubbish"]


def test_nothing_is_made_of_failures_alone(tmp_path):
    parts = parts_of(tmp_path)
    for name in NAMES:
        parts.fail(name, "rubbish")
    assert not parts.join()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["before the parts are opened", "between parts", "before the store has its name"])
def test_another_process_joins_meanwhile(tmp_path, monkeypatch, moment):
    """The other one does all of its work at one moment of ours."""
    parts = parts_of(tmp_path)
    for name in NAMES:
        write(parts, name)
    opened: list[Path] = []
    others = []

    def other() -> None:
        monkeypatch.undo()
        assert parts_of(tmp_path).join()
        others.append((tmp_path / "store").stat().st_ino)

    def open_store(path: Path) -> SliceStore:
        opened.append(path)
        if (len(opened), moment) in ((1, "before the parts are opened"), (2, "between parts")):
            other()
        return SliceStore.open(path)

    class Writer(store_parts.StoreWriter):
        def finish(self, **meta):
            super().finish(**meta)
            if moment == "before the store has its name":
                other()

    monkeypatch.setattr(store_parts, "StoreWriter", Writer)
    monkeypatch.setattr(store_parts, "SliceStore", type("Opened", (), {"open": staticmethod(open_store)}))
    assert parts.join()
    assert others == [(tmp_path / "store").stat().st_ino], "a store that is there is never taken away"
    check(tmp_path)


def finish_together(folder: Path, name: str, barrier) -> None:
    parts = parts_of(folder)
    parts.begin([name])
    write(parts, name)
    barrier.wait()
    if not parts.missing() or parts.store.exists():
        parts.join()


def test_processes_that_finish_at_the_same_time(tmp_path):
    context = multiprocessing.get_context("fork")
    for number in range(10):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        barrier = context.Barrier(len(NAMES))
        processes = [context.Process(target=finish_together, args=(folder, name, barrier)) for name in NAMES]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0] * len(NAMES)
        check(folder)


def test_what_cannot_be_joined_is_told_and_the_parts_stay(tmp_path):
    parts = parts_of(tmp_path)
    for name in NAMES:
        write(parts, name)
    (parts.part("a") / "images.npy").write_bytes(b"rubbish")
    with pytest.raises(InputError, match=r"store.parts/patients/a: not a whole slice store .*delete it"):
        parts.join()
    assert [path.name for path in tmp_path.iterdir()] == ["store.parts"]
    assert parts.missing() == []


def test_parts_and_stores_of_other_settings_are_refused(tmp_path):
    parts_of(tmp_path).begin(["b"])
    with pytest.raises(InputError, match=r"store.parts: holds parts made with model m, not other; delete it"):
        parts_of(tmp_path, model="other").begin(["a"])
    for name in NAMES:
        write(parts_of(tmp_path), name)
    parts_of(tmp_path).join()
    with pytest.raises(InputError, match="store: exists already, made with model m, not other"):
        parts_of(tmp_path, model="other").joined()
    (tmp_path / "store" / "store.json").unlink()
    with pytest.raises(InputError, match="no slice store"):
        parts_of(tmp_path).joined()


def test_an_unreadable_record_is_named(tmp_path):
    parts = parts_of(tmp_path)
    parts.folder.mkdir()
    parts.record.write_text("[1")
    with pytest.raises(InputError, match=r"store.parts/store.json: no valid JSON object .*delete"):
        parts.begin(["a"])
