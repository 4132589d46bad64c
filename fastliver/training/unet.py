"""One training step of the U-Net."""

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from fastliver.config import UNetConfig
from fastliver.data.batches import BatchStream
from fastliver.kernels import binary_cross_entropy_with_logits
from fastliver.models import UNet
from fastliver.training.graph import step_graph
from fastliver.training.precision import Precision
from fastliver.training.profiling import span
from fastliver.training.trainer import Execution, StepResult, is_constant
from fastliver.training.update import Update

GREY = "the U-Net outputs the same value everywhere"
ONE_CLASS = "the U-Net outputs one class everywhere"
NOT_FINITE = "the gradients of the U-Net are not finite"
BETAS = (0.9, 0.999)
"""Adam's own, as in Keras."""


class UNetPhase(nn.Module):
    """The U-Net's loss.

    Args:
        network: the U-Net.
        precision: of the forward pass.
    """

    def __init__(self, network: UNet, precision: Precision) -> None:
        super().__init__()
        self.network, self.precision = network, precision

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and the logits (N, 1, H, W) of images (N, 1, H, W) in [-1, 1] with labels (N, H, W)."""
        with self.precision.autocast():
            logits = self.network(images)
        return binary_cross_entropy_with_logits(logits, labels), logits


class UNetTrainer:
    """Trains a U-Net with Adam on the binary cross-entropy of its sigmoid.

    Args:
        network: U-Net on its device; brought into the precision's memory format.
        config: learning rate and schedule.
        slices: batches of labelled MR, real and synthetic.
        execution: precision, CUDA graph and distribution; without it steps run as they are, in the weights' own format.
    """

    def __init__(
        self, network: UNet, config: UNetConfig, slices: BatchStream, execution: Execution | None = None
    ) -> None:
        self.network, self.slices = network, slices
        execution = execution or Execution(Precision.plain(network))
        self.precision = execution.precision
        self.precision.prepare(network)
        self.update = Update([network], config.lr, BETAS, self.precision)
        self.optimizers: dict[str, Optimizer] = {"unet": self.update.optimizer}
        self.phase = execution.wrap(UNetPhase(network, self.precision))
        self.epochs = config.epochs
        self.steps_per_epoch = slices.steps
        self.patience = {GREY: 100, ONE_CLASS: config.collapse_steps, NOT_FINITE: self.update.patience}
        self.graph = step_graph(self.train_step, self.optimizers.values(), execution)

    def step(self, epoch: int, step: int) -> StepResult:
        """Train on one batch."""
        self.network.train()
        self.update.set_rate(1.0)
        self.slices.stage(epoch, step)
        return self.graph()

    def train_step(self) -> StepResult:
        """Train on what is staged: device operations alone, so that it can be a CUDA graph."""
        with self.precision.step():
            with span("batches"):
                images, labels = self.slices.batch()
            with span("unet"):
                loss, logits = self.phase(images, labels)
                fault = self.update(loss)
            faults = {GREY: is_constant(logits), ONE_CLASS: _one_class(logits, labels), NOT_FINITE: fault}
            return StepResult({"loss": loss.detach()}, faults)

    def extra_state(self) -> dict[str, Any]:
        """See `Trainer`: the loss scale."""
        return {"scale": self.update.state()}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """The opposite of `extra_state`."""
        self.update.load_state(state["scale"])


def _one_class(logits: Tensor, labels: Tensor) -> Tensor:
    """1.0 if every pixel of the batch falls into one class though its labels hold both, else 0.0."""
    liver = logits.detach() > 0
    alone = ~liver.any() | liver.all()
    return (alone & labels.any() & ~labels.bool().all()).float()
