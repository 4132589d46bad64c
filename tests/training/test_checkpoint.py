"""Checkpoints are whole or recognised as damaged, and reading one runs nothing."""

import hashlib
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from fastliver.errors import InputError
from fastliver.training import checkpoint
from fastliver.training.checkpoint import Checkpoint, DamagedCheckpoint

WEIGHTS = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.tensor([0.5])}
STATE = {"optimizers": {"adam": {"step": torch.tensor(3.0), "lr": 1e-4}}, "random": torch.arange(4, dtype=torch.uint8)}


def _save(folder: Path, step: int) -> Path:
    return checkpoint.save(folder, step, WEIGHTS, STATE, {"job": "essnet", "seconds": 1.5})


def _flip(path: Path, place: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 0x10
    path.write_bytes(bytes(content))


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_is_read(tmp_path):
    path = _save(tmp_path, 7)
    found, warnings = checkpoint.latest(tmp_path)
    assert (found.path, warnings) == (path, [])
    assert (found.meta["step"], found.meta["job"], found.meta["seconds"]) == (7, "essnet", 1.5)
    assert all(torch.equal(found.weights()[name], WEIGHTS[name]) for name in WEIGHTS)
    state = found.state()
    assert state["optimizers"]["adam"]["lr"] == 1e-4
    assert torch.equal(state["random"], STATE["random"])
    assert _names(path) == ["checkpoint.json", "state.pt", "weights.safetensors"]


def test_weights_in_channels_last_are_read_back(tmp_path):
    weight = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    checkpoint.save(tmp_path, 1, {"w": weight}, STATE, {})
    assert torch.equal(checkpoint.latest(tmp_path)[0].weights()["w"], weight)


def test_two_are_kept_and_the_newest_by_number_is_found(tmp_path):
    assert checkpoint.latest(tmp_path / "none") == (None, [])
    for step in (9, 10, 99, 100, 1000):
        _save(tmp_path, step)
        assert checkpoint.latest(tmp_path)[0].meta["step"] == step
    assert _names(tmp_path) == ["step-00000100", "step-00001000"]


def test_the_final_checkpoint_holds_the_weights_alone_and_removes_the_others(tmp_path):
    assert checkpoint.final(tmp_path) is None
    _save(tmp_path, 5)
    assert checkpoint.final(tmp_path) is None
    path = checkpoint.save_final(tmp_path, WEIGHTS, {"job": "essnet", "step": 9})
    assert _names(tmp_path) == ["final"]
    assert _names(path) == ["checkpoint.json", "weights.safetensors"]
    assert checkpoint.final(tmp_path).meta["step"] == 9
    _flip(path / "weights.safetensors")
    with pytest.raises(DamagedCheckpoint, match=r"weights.safetensors: damaged"):
        checkpoint.final(tmp_path)


@pytest.mark.parametrize("name", ["weights.safetensors", "state.pt"])
@pytest.mark.parametrize("place", [0, None, -1])
def test_one_flipped_bit_is_recognised_and_the_checkpoint_before_is_used(name, place, tmp_path):
    _save(tmp_path, 5)
    newest = _save(tmp_path, 6)
    _flip(newest / name, place)
    found, warnings = checkpoint.latest(tmp_path)
    assert found.meta["step"] == 5
    assert len(warnings) == 1 and warnings[0].startswith(f"{newest / name}: damaged, not what was written")


@pytest.mark.parametrize("name", ["weights.safetensors", "state.pt", "checkpoint.json"])
@pytest.mark.parametrize("harm", ["missing", "empty", "half"])
def test_a_missing_or_short_file_is_recognised(name, harm, tmp_path):
    _save(tmp_path, 5)
    path = _save(tmp_path, 6) / name
    content = path.read_bytes()
    path.unlink()
    if harm != "missing":
        path.write_bytes(b"" if harm == "empty" else content[: len(content) // 2])
    found, warnings = checkpoint.latest(tmp_path)
    assert found.meta["step"] == 5
    assert len(warnings) == 1
    assert str(path.parent) in warnings[0]


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"format": 2}', '{"format": 2, "sha256": []}', "\xff"])
def test_a_checkpoint_json_of_another_shape_is_recognised(text, tmp_path):
    path = _save(tmp_path, 6)
    (path / "checkpoint.json").write_text(text, encoding="latin-1")
    assert checkpoint.latest(tmp_path)[0] is None


def test_another_format_is_named(tmp_path):
    path = _save(tmp_path, 6)
    meta = json.loads((path / "checkpoint.json").read_text())
    (path / "checkpoint.json").write_text(json.dumps({**meta, "format": 99}))
    for read in (lambda: Checkpoint.open(path), lambda: checkpoint.latest(tmp_path)):
        with pytest.raises(
            InputError, match="format is 99, expected 2; go on with the fastliver that wrote it"
        ) as found:
            read()
        assert not isinstance(found.value, DamagedCheckpoint), "a damaged one gives way to another"


def test_a_checkpoint_cut_off_while_it_is_written_leaves_nothing(tmp_path, monkeypatch):
    _save(tmp_path, 5)
    with monkeypatch.context() as patch:

        def full(path: Path, value: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(checkpoint, "write_json", full)
        with pytest.raises(OSError, match="No space left"):
            _save(tmp_path, 6)
    assert _names(tmp_path) == ["step-00000005"]
    assert checkpoint.latest(tmp_path)[0].meta["step"] == 5


def test_a_temporary_folder_that_a_kill_left_is_not_taken_for_a_checkpoint_and_goes_with_the_next(tmp_path):
    left = _save(tmp_path, 5).rename(tmp_path / ".step-00000005.abcdef")  # whole, but without its name
    (tmp_path / ".DS_Store").touch()  # somebody else's: no reason to end a training
    assert checkpoint.latest(tmp_path) == (None, [])
    _save(tmp_path, 6)
    assert not left.exists()
    assert _names(tmp_path) == [".DS_Store", "step-00000006"]


class _Malice:
    """What a pickle runs when it is read as any object."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("kind", ["plain pickle", "torch.save"])
def test_a_pickle_with_code_is_refused_and_not_run(kind, tmp_path):
    path = _save(tmp_path / "job", 5)
    target = tmp_path / "executed"
    if kind == "torch.save":
        torch.save(_Malice(target), path / "state.pt")
        assert zipfile.is_zipfile(path / "state.pt")
    else:
        (path / "state.pt").write_bytes(pickle.dumps(_Malice(target), protocol=2))
    meta = json.loads((path / "checkpoint.json").read_text())
    meta["sha256"]["state.pt"] = hashlib.sha256((path / "state.pt").read_bytes()).hexdigest()
    without = {name: value for name, value in meta.items() if name != "digest"}
    meta["digest"] = hashlib.sha256(json.dumps(without, sort_keys=True).encode()).hexdigest()
    (path / "checkpoint.json").write_text(json.dumps(meta))
    found = Checkpoint.open(path)
    with pytest.raises(DamagedCheckpoint, match="Weights only load failed"):
        found.state()
    assert not target.exists()
    # The trap works: read without weights_only it goes off.
    if kind == "torch.save":
        torch.load(path / "state.pt", weights_only=False)
        assert target.exists()
