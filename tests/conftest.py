"""What tests of every part share: the real images, where there are any, and a small phantom."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when kernels are defined: before any import of them

from fastliver.data.phantom import PhantomSpec, write_phantom
from tests.no_sync import forbid_sync

REAL_FOLDERS = ("chaos/Train_Sets/CT", "chaos/Train_Sets/MR", "Dataset101_ChaosMR", "Dataset102_BtcvCT")

settings.register_profile("fastliver", deadline=None)  # a busy machine is no failure
settings.load_profile("fastliver")
if os.environ.get("PYTEST_XDIST_WORKER"):
    torch.set_num_threads(1)  # the workers share the cores


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real CHAOS and BTCV images; they may not be handed on, so not everybody has them."""
    given = os.environ.get("FASTLIVER_REAL_DATA")
    if not given:
        pytest.skip("no real images: FASTLIVER_REAL_DATA is not set (a folder with " + ", ".join(REAL_FOLDERS) + ")")
    root = Path(given)
    missing = [name for name in REAL_FOLDERS if not (root / name).is_dir()]
    if missing:
        pytest.skip(f"no real images: FASTLIVER_REAL_DATA={root} lacks {', '.join(missing)}")
    return root


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`Train_Sets` of a small phantom in CHAOS's layout: read it, never write to it."""
    spec = PhantomSpec(ct_patients=2, mr_patients=3, ct_slices=10, mr_slices=8, ct_size=128, mr_size=64)
    return write_phantom(tmp_path_factory.mktemp("phantom") / "chaos", spec)


@pytest.fixture
def no_sync() -> Callable[[], AbstractContextManager[None]]:
    """`with no_sync():` fails on what would wait for a GPU, on any device."""
    return forbid_sync
