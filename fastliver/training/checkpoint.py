"""Checkpoints: written whole or not at all, checked when read, and read without executing anything.

`checkpoints/<job>/step-<n>/` holds `weights.safetensors`, `state.pt` (optimizers, collapse counts), `rank-<r>.pt` (what
each rank has of its own: random state, image pools) and `checkpoint.json` (position, settings, digests of the others).
The `.pt` files hold tensors and plain values only. A finished training leaves `checkpoints/<job>/final/` with the
weights alone.
"""

import hashlib
import io
import json
import pickle
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from fastliver.errors import InputError
from fastliver.files import new_folder, read_json, write_file, write_json

FORMAT = 2
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
        """What else going on needs and all ranks have alike."""
        return self._unpack("state.pt")

    def rank_state(self, rank: int) -> dict[str, Any]:
        """What a rank had of its own."""
        return self._unpack(f"rank-{rank}.pt")

    def _unpack(self, name: str) -> dict[str, Any]:
        try:
            return torch.load(self.path / name, map_location="cpu", weights_only=True)
        except (OSError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            raise DamagedCheckpoint(f"{self.path / name}: not a state that fastliver wrote ({error})") from error


def pack(state: dict[str, Any]) -> bytes:
    """A state as the content of its file; tensors keep their values wherever they lie."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def save(
    folder: Path,
    step: int,
    weights: dict[str, Tensor],
    state: dict[str, Any],
    meta: dict[str, Any],
    rank_states: Sequence[bytes] = (),
) -> Path:
    """Write a checkpoint and remove all but the newest.

    Args:
        folder: of the training's checkpoints.
        step: steps done.
        weights: the network's state dict.
        state: what else all ranks have alike.
        meta: what `checkpoint.json` holds besides.
        rank_states: what each rank has of its own, packed.

    Returns:
        Its path, `folder/step-<step>`.
    """
    path = folder / f"step-{step:08d}"
    for abandoned in folder.glob(".*"):
        # A kill while writing left it; one training alone writes here.
        shutil.rmtree(abandoned)
    states = {"state.pt": pack(state), **{f"rank-{rank}.pt": packed for rank, packed in enumerate(rank_states)}}
    _write(path, weights, states, {**meta, "step": step})
    # What claims to be later was damaged, or training would have gone on from it.
    before = [old for old in _steps(folder) if old <= path]
    for old in set(_steps(folder)) - set(before[-KEPT:]):
        shutil.rmtree(old)
    return path


def save_final(folder: Path, weights: dict[str, Tensor], meta: dict[str, Any]) -> Path:
    """Write `folder/final` and remove the checkpoints that led to it; gives its path."""
    path = folder / "final"
    _write(path, weights, {}, meta)
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


def _write(path: Path, weights: dict[str, Tensor], states: dict[str, bytes], meta: dict[str, Any]) -> None:
    plain = {name: weight.contiguous() for name, weight in weights.items()}
    contents = {"weights.safetensors": safetensors.torch.save(plain), **states}
    with new_folder(path) as temporary:
        for name, content in contents.items():
            write_file(temporary / name, content)
        full = {"format": FORMAT, **meta, "sha256": {name: _digest(content) for name, content in contents.items()}}
        write_json(temporary / "checkpoint.json", {**full, "digest": _digest(_canonical(full))})
