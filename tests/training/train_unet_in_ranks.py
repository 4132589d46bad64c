"""Run by each rank of tests/commands/test_distributed.py: trains a U-Net without dropout, and saves what it became."""

import io
import sys
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from fastliver.config import EngineConfig, UNetConfig
from fastliver.data.batches import BatchStream, Slices
from fastliver.models import UNet
from fastliver.run_folder import RunFolder
from fastliver.training.distributed import join
from fastliver.training.loop import train
from fastliver.training.precision import Precision
from fastliver.training.trainer import Execution
from fastliver.training.unet import UNetTrainer

COUNT, SIDE = 7, 32


def main(folder: Path, batch: int) -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((COUNT, SIDE, SIDE), np.uint8)
    for label in labels:
        top, left = rng.integers(2, 14, 2)
        label[top : top + 14, left : left + 16] = 1
    images = (labels - 0.5 + rng.normal(0, 0.2, labels.shape)).clip(-1, 1).astype(np.float16)
    slices = Slices(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels))
    with join() as ranks:
        torch.manual_seed(5)
        network = UNet(channels=2)
        network.dropout.p = 0.0
        config = UNetConfig(epochs=3, batch=batch, lr=1e-3)
        stream = BatchStream(slices, batch, (1,), "none", None, ranks.rank, ranks.count)
        execution = Execution(Precision.plain(network), "off", ranks.wrap, not ranks.alone)
        trainer = UNetTrainer(network, config, stream, execution)
        engine, console = EngineConfig(log_every=1), Console(file=io.StringIO())
        train(trainer, RunFolder(folder), "unet", {}, engine, console, batch, ranks)
        gathered = ranks.gather(torch.cat([weight.flatten() for weight in network.state_dict().values()]))
        if ranks.is_main:
            torch.save(gathered, folder / "weights of all ranks.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
