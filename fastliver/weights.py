"""Checkpoints as they are read: checked against their digests, and nothing in them is ever executed.

`checkpoints/<job>/<name>/` holds `weights.safetensors`, `checkpoint.json` (position, settings, digests) and, while a
training is under way, `state.pt` and `rank-<r>.pt`. `fastliver.training.checkpoint` writes them.
"""

import hashlib
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from fastliver.errors import InputError
from fastliver.files import read_json

FORMAT = 2


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
            InputError: for one of another version's format, which is whole and must not give way as a damaged one does.
        """
        try:
            meta = read_json(path / "checkpoint.json")
            if meta["format"] != FORMAT:
                raise InputError(
                    f"{path / 'checkpoint.json'}: format is {meta['format']}, expected {FORMAT}; go on with the "
                    "fastliver that wrote it, or start a new run"
                )
            if digest(canonical(meta)) != meta["digest"]:
                raise DamagedCheckpoint(
                    f"{path / 'checkpoint.json'}: damaged, not what was written; delete {path} and resume"
                )
            for name, expected in meta["sha256"].items():
                if digest((path / name).read_bytes()) != expected:
                    raise DamagedCheckpoint(f"{path / name}: damaged, not what was written; delete {path} and resume")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedCheckpoint(f"{path}: not a whole checkpoint ({error}); delete it and resume") from error
        return Checkpoint(path, meta)

    def weights(self) -> dict[str, Tensor]:
        """The network's state dict, on the CPU."""
        path = self.path / "weights.safetensors"
        try:
            return safetensors.torch.load(path.read_bytes())
        except safetensors.SafetensorError as error:
            raise DamagedCheckpoint(f"{path}: not weights that fastliver wrote ({error})") from error

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


def final(folder: Path) -> Checkpoint | None:
    """The finished training's checkpoint, or None before that. Raises DamagedCheckpoint if it isn't whole."""
    return Checkpoint.open(folder / "final") if (folder / "final").exists() else None


def digest(content: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()


def canonical(meta: dict[str, Any]) -> bytes:
    """What `digest` in checkpoint.json is taken of: all the rest."""
    return json.dumps({name: value for name, value in meta.items() if name != "digest"}, sort_keys=True).encode()
