"""What a run was made with, for `environment.json` and `python -m fastliver.info`."""

import importlib.metadata
import platform
import sys
from datetime import UTC, datetime
from typing import Any

import torch

from fastliver import __version__

PACKAGES = ("torch", "triton", "numpy", "cupy-cuda13x", "nvidia-dali-cuda130", "pydicom", "nibabel", "highdicom")


def versions() -> dict[str, str]:
    """Version of each package that matters, or "not installed"."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def describe(device: str) -> dict[str, Any]:
    """The software, the machine, the time and the command.

    Args:
        device: what the run computes on, in words.
    """
    return {
        "fastliver": __version__,
        "python": platform.python_version(),
        **versions(),
        "cuda": torch.version.cuda or "none",
        "device": device,
        "platform": platform.platform(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m fastliver.train", *sys.argv[1:]]),
    }
