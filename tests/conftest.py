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
    # Not for all: tests of kernels and training run where pydicom isn't installed.
    from fastliver.data.phantom import PhantomSpec, write_phantom

    spec = PhantomSpec(ct_patients=2, mr_patients=3, ct_slices=10, mr_slices=8, ct_size=128, mr_size=64)
    return write_phantom(tmp_path_factory.mktemp("phantom") / "chaos", spec)


@pytest.fixture
def no_sync() -> Callable[[], AbstractContextManager[None]]:
    """`with no_sync():` fails on what would wait for a GPU, on any device."""
    return forbid_sync


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    """Writes the folder of a finished run: tiny networks of random weights that work on 32x32 slices.

    An EssNet (a CycleGAN without `segmentor`, nothing without `generator`), and U-Nets by their trainings' names.
    """
    import yaml

    from fastliver.config import TrainConfig, flatten
    from fastliver.files import write_file
    from fastliver.models import EssNet, UNet
    from fastliver.run_folder import RunFolder
    from fastliver.training import checkpoint

    ct, mr = {"modality": "CT", "low": -160.0, "high": 240.0}, {"modality": "MR", "low": 0.5, "high": 99.5}

    def write(
        root: Path,
        unets: tuple[str, ...] = ("unet-essnet-714-seed0", "unet-essnet-714-seed1", "unet-real-0-seed0"),
        generator: bool = True,
        segmentor: bool = True,
        augment: str = "flip-shift",
        contrast: float = 20,
    ) -> Path:
        folder = RunFolder(root)
        write_file(folder.config, yaml.safe_dump({**flatten(TrainConfig()), "unet_augment": augment}))
        if generator:
            torch.manual_seed(5)
            job = "essnet" if segmentor else "cyclegan"
            settings = {"channels": 2, "blocks": 1, "segmentor": segmentor, "segmentor_tanh": False}
            network = EssNet(**settings)
            with torch.no_grad():
                network.g1.head.weight.mul_(contrast)
                if network.s is not None and network.s.head.bias is not None:
                    network.s.head.bias.copy_(torch.tensor([1.0, -1.0]))  # S finds no liver anywhere
            meta = {"job": job, "network": settings, "image_size": 32, "ct_intensity": ct, "mr_intensity": mr}
            checkpoint.save_final(folder.checkpoints(job), network.state_dict(), meta)
        for seed, name in enumerate(unets):
            torch.manual_seed(seed)
            settings = {"channels": 2, "head_relu": False}
            meta = {"job": name, "network": settings, "image_size": 32, "mr_intensity": mr}
            checkpoint.save_final(folder.checkpoints(name), UNet(**settings).state_dict(), meta)
        return root

    return write
