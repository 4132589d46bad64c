"""Checkpoints: written whole or not at all, checked when read, and read without executing anything.

`checkpoints/<job>/step-<n>/` holds `weights.safetensors`, `state.pt` (optimizers, random state, image pools: tensors
and plain values only) and `checkpoint.json` (position, settings, digests of the two). A finished training leaves
`checkpoints/<job>/final/` with the weights alone.
"""

import hashlib
import io
import json
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from fastliver.errors import InputError
from fastliver.files import new_folder, read_json, write_file, write_json

FORMAT = 1
KEPT = 2
"""Checkpoints kept of a training: the last, and the one before in case the last is damaged."""


class DamagedCheckpoint(InputError):
    """A checkpoint whose files are missing or not what was written."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk."""

    path: Path
    meta: dict[str, Any]

    @staticmethod
    def open(path: Path) -> "Checkpoint":
        """Read `checkpoint.json` and check the other files against it.

        Raises:
            DamagedCheckpoint: when a file is missing or differs from what was written.
        """
        try:
            meta = read_json(path / "checkpoint.json")
            if meta["format"] != FORMAT:
                raise DamagedCheckpoint(
                    f"{path / 'checkpoint.json'}: format is {meta['format']}, expected {FORMAT}; delete {path}"
                )
            if _digest(_canonical(meta)) != meta["digest"]:
                raise DamagedCheckpoint(
                    f"{path / 'checkpoint.json'}: damaged, not what was written; delete {path} and resume"
                )
            for name, digest in meta["sha256"].items():
                if _digest((path / name).read_bytes()) != digest:
                    raise DamagedCheckpoint(f"{path / name}: damaged, not what was written; delete {path} and resume")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedCheckpoint(f"{path}: not a whole checkpoint ({error}); delete it and resume") from error
        return Checkpoint(path, meta)

    def weights(self) -> dict[str, Tensor]:
        """The network's state dict, on the CPU."""
        return safetensors.torch.load((self.path / "weights.safetensors").read_bytes())

    def state(self) -> dict[str, Any]:
        """Everything else that going on needs."""
        try:
            return torch.load(self.path / "state.pt", map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            raise DamagedCheckpoint(f"{self.path / 'state.pt'}: not a state that fastliver wrote ({error})") from error


def save(folder: Path, step: int, weights: dict[str, Tensor], state: dict[str, Any], meta: dict[str, Any]) -> Path:
    """Write `folder/step-<step>` and remove all but the newest checkpoints; gives the new one's path."""
    path = folder / f"step-{step:08d}"
    for abandoned in folder.glob(".*"):
        # A kill while writing left it; one training alone writes here.
        shutil.rmtree(abandoned)
    _write(path, weights, state, {**meta, "step": step})
    # What claims to be later was damaged, or training would have gone on from it.
    before = [old for old in _steps(folder) if old <= path]
    for old in set(_steps(folder)) - set(before[-KEPT:]):
        shutil.rmtree(old)
    return path


def save_final(folder: Path, weights: dict[str, Tensor], meta: dict[str, Any]) -> Path:
    """Write `folder/final` and remove the checkpoints that led to it; gives its path."""
    path = folder / "final"
    _write(path, weights, None, meta)
    for old in _steps(folder):
        shutil.rmtree(old)
    return path


def latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and a message for each newer one that isn't."""
    warnings: list[str] = []
    for path in reversed(_steps(folder)):
        try:
            return Checkpoint.open(path), warnings
        except DamagedCheckpoint as error:
            warnings.append(str(error))
    return None, warnings


def final(folder: Path) -> Checkpoint | None:
    """The finished training's checkpoint, or None before that. Raises DamagedCheckpoint if it isn't whole."""
    return Checkpoint.open(folder / "final") if (folder / "final").exists() else None


def _steps(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _canonical(meta: dict[str, Any]) -> bytes:
    """What `digest` in checkpoint.json is taken of: all the rest."""
    return json.dumps({name: value for name, value in meta.items() if name != "digest"}, sort_keys=True).encode()


def _write(path: Path, weights: dict[str, Tensor], state: dict[str, Any] | None, meta: dict[str, Any]) -> None:
    contents = {"weights.safetensors": safetensors.torch.save({name: w.contiguous() for name, w in weights.items()})}
    if state is not None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        contents["state.pt"] = buffer.getvalue()
    with new_folder(path) as temporary:
        for name, content in contents.items():
            write_file(temporary / name, content)
        full = {"format": FORMAT, **meta, "sha256": {name: _digest(content) for name, content in contents.items()}}
        write_json(temporary / "checkpoint.json", {**full, "digest": _digest(_canonical(full))})
