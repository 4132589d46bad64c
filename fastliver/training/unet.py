"""One training step of the U-Net."""

from typing import Any

from torch import Tensor
from torch.optim import Adam, Optimizer

from fastliver.config import UNetConfig
from fastliver.data.batches import BatchStream
from fastliver.kernels import binary_cross_entropy_with_logits
from fastliver.models import UNet
from fastliver.training.trainer import StepResult, is_constant

GREY = "the U-Net outputs the same value everywhere"
ONE_CLASS = "the U-Net outputs one class everywhere"


class UNetTrainer:
    """Trains a U-Net with Adam on the binary cross-entropy of its sigmoid.

    Args:
        network: U-Net on its device.
        config: learning rate and schedule.
        slices: batches of labelled MR, real and synthetic.
    """

    def __init__(self, network: UNet, config: UNetConfig, slices: BatchStream) -> None:
        self.network, self.slices = network, slices
        self.optimizers: dict[str, Optimizer] = {"unet": Adam(network.parameters(), lr=config.lr)}
        self.epochs = config.epochs
        self.steps_per_epoch = slices.steps
        self.patience = {GREY: 100, ONE_CLASS: config.collapse_steps}

    def step(self, epoch: int, step: int) -> StepResult:
        """Train on one batch."""
        images, labels = self.slices.get(epoch, step)
        self.network.train()
        logits = self.network(images)
        loss = binary_cross_entropy_with_logits(logits, labels)
        self.optimizers["unet"].zero_grad(set_to_none=True)
        loss.backward()
        self.optimizers["unet"].step()
        return StepResult({"loss": loss.detach()}, {GREY: is_constant(logits), ONE_CLASS: _one_class(logits, labels)})

    def extra_state(self) -> dict[str, Any]:
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        pass


def _one_class(logits: Tensor, labels: Tensor) -> Tensor:
    """1.0 if every pixel of the batch falls into one class though its labels hold both, else 0.0."""
    liver = logits.detach() > 0
    alone = ~liver.any() | liver.all()
    return (alone & labels.any() & ~labels.bool().all()).float()
