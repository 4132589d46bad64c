"""Checkpoints: written whole or not at all, checked when read, and read without executing anything.

`checkpoints/<job>/step-<n>/` holds `weights.safetensors`, `state.pt` (optimizers, collapse counts), `rank-<r>.pt` (what
each rank has of its own: random state, image pools) and `checkpoint.json` (position, settings, digests of the others).
The `.pt` files hold tensors and plain values only. A finished training leaves `checkpoints/<job>/final/` with the
weights alone.
"""

import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from fastliver.files import new_folder, remove_folder, write_file, write_json
from fastliver.weights import FORMAT, Checkpoint, DamagedCheckpoint, canonical, digest, final

__all__ = ["Checkpoint", "DamagedCheckpoint", "drop_steps", "final", "latest", "save", "save_final"]

KEPT = 2
"""Checkpoints kept of a training: the last, and the one before in case the last is damaged."""


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
    _remove_abandoned(folder)
    states = {"state.pt": pack(state), **{f"rank-{rank}.pt": packed for rank, packed in enumerate(rank_states)}}
    _write(path, weights, states, {**meta, "step": step})
    # What claims to be later was damaged, or training would have gone on from it.
    before = [old for old in _steps(folder) if old <= path]
    for old in set(_steps(folder)) - set(before[-KEPT:]):
        remove_folder(old)
    return path


def save_final(folder: Path, weights: dict[str, Tensor], meta: dict[str, Any]) -> Path:
    """Write `folder/final` and remove the checkpoints that led to it; gives its path."""
    path = folder / "final"
    _write(path, weights, {}, meta)
    drop_steps(folder)
    return path


def drop_steps(folder: Path) -> None:
    """Remove the checkpoints that led to a finished training; a kill after its last write may have left some."""
    _remove_abandoned(folder)
    for old in _steps(folder):
        remove_folder(old)


def latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and a message for each newer one that isn't."""
    warnings: list[str] = []
    for path in reversed(_steps(folder)):
        try:
            return Checkpoint.open(path), warnings
        except DamagedCheckpoint as error:
            warnings.append(str(error))
    return None, warnings


def _remove_abandoned(folder: Path) -> None:
    """Remove what a kill while writing or removing left; one training alone is at work here."""
    for abandoned in folder.glob(".*"):
        shutil.rmtree(abandoned, ignore_errors=True)  # a file is somebody else's, and stays


def _steps(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _write(path: Path, weights: dict[str, Tensor], states: dict[str, bytes], meta: dict[str, Any]) -> None:
    plain = {name: weight.contiguous() for name, weight in weights.items()}
    contents = {"weights.safetensors": safetensors.torch.save(plain), **states}
    with new_folder(path) as temporary:
        for name, content in contents.items():
            write_file(temporary / name, content)
        full = {"format": FORMAT, **meta, "sha256": {name: digest(content) for name, content in contents.items()}}
        write_json(temporary / "checkpoint.json", {**full, "digest": digest(canonical(full))})
