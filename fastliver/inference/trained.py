"""What a run folder holds of finished networks, found by the names of its trainings and loaded when asked for."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fastliver.data.intensity import IntensityRule
from fastliver.errors import InputError, RunError
from fastliver.inference.networks import load_essnet, load_unet
from fastliver.models import EssNet, UNet
from fastliver.run_folder import RunFolder
from fastliver.weights import Checkpoint, DamagedCheckpoint, final

GENERATORS = ("essnet", "cyclegan")
"""Trainings with a generator; the first one that a run has is used."""

UNET = re.compile(r"unet-(?P<source>real|essnet|cyclegan)-(?P<arrangement>\d+)-seed(?P<seed>\d+)")
"""U-Nets that segment; those of the learning curve, which saw fewer labels than there are, have other names."""


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        job: its name, such as `essnet` or `unet-essnet-714-seed0`.
        network: in evaluation mode, on its device.
        meta: checkpoint.json.
    """

    job: str
    network: nn.Module
    meta: dict[str, Any]

    @property
    def image_size(self) -> int:
        """Side in pixels of the squares that the network works on."""
        return int(self.meta["image_size"])

    @property
    def version(self) -> str:
        """Tells these weights from any others: the start of their SHA-256."""
        return str(self.meta["sha256"]["weights.safetensors"])[:12]

    def rule(self, modality: str) -> IntensityRule:
        """How grey values became [-1, 1] when this was trained."""
        return IntensityRule(**self.meta[f"{modality.lower()}_intensity"])


def load_generator(folder: RunFolder, device: torch.device) -> Trained:
    """EssNet, or the CycleGAN of a run without segmentor.

    Raises:
        InputError: when neither is trained; the message names the stage to run.
    """
    for job in GENERATORS:
        found = final(folder.checkpoints(job))
        if found is not None:
            return Trained(job, _load(load_essnet, found, device), found.meta)
    raise InputError(
        f"{folder.root}: holds no finished EssNet; train it with python -m fastliver.train --resume {folder.root} "
        "--stage essnet"
    )


def load_unets(folder: RunFolder, device: torch.device, arrangement: int | None, ensemble: bool) -> list[Trained]:
    """The U-Nets that segment.

    Args:
        folder: of the run.
        device: where they will work.
        arrangement: the paper's number of synthetic images they learned from, 0 for real images alone; None takes the
            one with the most, those of EssNet before those of a CycleGAN. It is fixed by the method, not by scores:
            choosing by what the test patients scored would make those scores worthless.
        ensemble: all seeds of the arrangement, rather than the lowest.

    Raises:
        InputError: when none is trained; the message names the stage to run, or the arrangements that there are.
    """
    jobs = finished_unets(folder)
    if not jobs:
        raise InputError(
            f"{folder.root}: holds no finished U-Net; train it with python -m fastliver.train --resume {folder.root} "
            "--stage unet, or, if it was trained with EssNet's segmentor, segment with that: --with essnet"
        )
    order = ("real", "cyclegan", "essnet")
    keys = {job: (int(match["arrangement"]), order.index(match["source"])) for job, match in jobs.items()}
    wanted = [key for key in keys.values() if arrangement is None or key[0] == arrangement]
    if not wanted:
        there = ", ".join(str(number) for number in sorted({key[0] for key in keys.values()}))
        raise InputError(f"--arrangement={arrangement}: {folder.root} has U-Nets for {there}; choose one of them")
    chosen = sorted((job for job in jobs if keys[job] == max(wanted)), key=lambda job: int(jobs[job]["seed"]))
    networks = []
    for job in chosen if ensemble else chosen[:1]:
        found = final(folder.checkpoints(job))
        assert found is not None
        networks.append(Trained(job, _load(load_unet, found, device), found.meta))
    return networks


def finished_unets(folder: RunFolder) -> dict[str, re.Match[str]]:
    """The names of the finished U-Net trainings, taken apart."""
    names = sorted(path.parent.name for path in (folder.root / "checkpoints").glob("*/final"))
    return {name: match for name in names if (match := UNET.fullmatch(name))}


def _load(load: Any, found: Checkpoint, device: torch.device) -> EssNet | UNet:
    try:
        network = load(found.meta["network"], found.weights(), torch.device("cpu"))
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise DamagedCheckpoint(
            f"{found.path}: these weights don't fit the network that checkpoint.json describes ({reason}); the folder "
            "is another version's, or was changed: train again"
        ) from error
    try:
        return network.to(device)
    except RuntimeError as error:  # a GPU that is full, or busy with somebody who doesn't share it
        reason = str(error).partition("\n")[0]
        raise RunError(f"--device={device}: can't take the networks ({reason}); use --device cpu, or wait") from error
