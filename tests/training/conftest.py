"""Small trainers on random images and ellipses, and one thread, which small sizes like."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from fastliver.config import EssNetConfig, UNetConfig
from fastliver.data.batches import BatchStream, Slices
from fastliver.models import EssNet, UNet
from fastliver.run_folder import RunFolder
from fastliver.training.essnet import EssNetTrainer
from fastliver.training.trainer import Execution
from fastliver.training.unet import UNetTrainer

SIDE = 32


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine take a hundred times as long as one alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class ListStream:
    """Stands in for a BatchStream: batches that are given, in any dtype."""

    def __init__(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        self.batches, self.steps = batches, len(batches)
        self.batch_size, self.shape = len(batches[0][0]), tuple(batches[0][0].shape[-2:])

    def stage(self, epoch: int, step: int) -> None:
        self.staged = step

    def batch(self) -> tuple[Tensor, Tensor]:
        return self.batches[self.staged]

    def get(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        return self.batches[step]


@pytest.fixture
def stream() -> Callable[..., ListStream]:
    """Makes a stream of random float64 images with random labels."""

    def make(seed: int, steps: int = 3, batch: int = 1) -> ListStream:
        rng = np.random.default_rng(seed)
        batches = [
            (
                torch.from_numpy(rng.uniform(-1, 1, (batch, 1, SIDE, SIDE))),
                torch.from_numpy((rng.random((batch, SIDE, SIDE)) > 0.6).astype(np.uint8)),
            )
            for _ in range(steps)
        ]
        return ListStream(batches)

    return make


@pytest.fixture
def ellipses() -> Callable[..., Slices]:
    """Makes slices of a bright (or dark) liver in a grey body."""

    def make(count: int, seed: int, liver: float = 0.7) -> Slices:
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
        images, labels = [], []
        for _ in range(count):
            cy, cx = rng.uniform(-0.12, 0.12, 2)
            label = ((y - cy) / 0.2) ** 2 + ((x - cx) / 0.26) ** 2 < 1
            image = np.where((y / 0.45) ** 2 + (x / 0.48) ** 2 < 1, 0.0, -1.0)
            images.append(np.where(label, liver, image) + rng.normal(0, 0.03, label.shape))
            labels.append(label)
        stacked = torch.from_numpy(np.clip(np.stack(images), -1, 1).astype(np.float16))
        return Slices(stacked.unsqueeze(1), torch.from_numpy(np.stack(labels).astype(np.uint8)))

    return make


@pytest.fixture
def make_essnet(ellipses: Callable[..., Slices]) -> Callable[..., EssNetTrainer]:
    """Makes a tiny EssNetTrainer on 3 CT and 3 MR slices, its weights from `init`; options go to its config."""

    def make(
        init: int = 0,
        segmentor: bool = True,
        augment: str = "flip-shift",
        execution: Execution | None = None,
        **options: Any,
    ) -> EssNetTrainer:
        torch.manual_seed(init)
        config = EssNetConfig(**{"epochs": 2, "channels": 2, "blocks": 1, "pool": 2, **options})
        network = EssNet(config.channels, config.blocks, segmentor)
        ct = BatchStream(ellipses(3, 1), config.batch, (0, 21), augment)
        mr = BatchStream(ellipses(3, 2, liver=-0.5), config.batch, (0, 22), augment)
        return EssNetTrainer(network, config, ct, mr, seed=0, execution=execution)

    return make


@pytest.fixture
def make_unet(ellipses: Callable[..., Slices]) -> Callable[..., UNetTrainer]:
    """Makes a tiny UNetTrainer on 5 slices, its weights and dropout from `init`; options go to its config."""

    def make(init: int = 0, execution: Execution | None = None, **options: Any) -> UNetTrainer:
        torch.manual_seed(init)
        config = UNetConfig(**{"epochs": 2, "channels": 2, "lr": 1e-3, **options})
        slices = BatchStream(ellipses(5, 3), config.batch, (0, 23))
        return UNetTrainer(UNet(config.channels), config, slices, execution)

    return make


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """An empty run folder."""
    return RunFolder(tmp_path / "run")


@pytest.fixture
def console() -> Console:
    """Takes what is shown; `console.file.getvalue()` gives it."""
    return Console(file=io.StringIO(), width=1000)


@pytest.fixture
def keep_gradients() -> Callable[[Any], dict[Tensor, Tensor]]:
    """Gives the gradients of a trainer's last step by weight, which the step itself frees."""

    def keep(trainer: Any) -> dict[Tensor, Tensor]:
        kept: dict[Tensor, Tensor] = {}

        def before_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            kept.update({weight: weight.grad.clone() for weight in weights if weight.grad is not None})

        for optimizer in trainer.optimizers.values():
            optimizer.register_step_pre_hook(before_step)
        return kept

    return keep
