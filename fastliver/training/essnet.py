"""One training step of EssNet, or of the CycleGAN that it is without its segmentor (section 2.2 of the paper)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Adam, Optimizer

from fastliver.config import EssNetConfig
from fastliver.data.batches import BatchStream
from fastliver.kernels import cycle_l1_loss, patch_adversarial_loss, patch_discriminator_loss, pixel_cross_entropy
from fastliver.models import EssNet
from fastliver.training.image_pool import ImagePool
from fastliver.training.trainer import StepResult, is_constant

CT_CONSTANT = "G2 outputs a constant CT image"
MR_CONSTANT = "G1 outputs a constant MR image"


@contextmanager
def frozen(*networks: Module) -> Iterator[None]:
    """Gradients flow through these networks but not into their weights."""
    for network in networks:
        network.requires_grad_(False)
    try:
        yield
    finally:
        for network in networks:
            network.requires_grad_(True)


class EssNetTrainer:
    """Trains G1, G2 and S together, then D1, then D2.

    Args:
        network: EssNet on its device.
        config: losses, learning rates and schedule.
        ct: batches of CT with labels.
        mr: batches of MR; one epoch shows each once.
        seed: of the image pools.
    """

    def __init__(self, network: EssNet, config: EssNetConfig, ct: BatchStream, mr: BatchStream, seed: int) -> None:
        self.network, self.config, self.ct, self.mr = network, config, ct, mr
        generators = [network.g1, network.g2, *([network.s] if network.s is not None else [])]
        self.optimizers: dict[str, Optimizer] = {
            "generators": self._adam(generators, config.generator_lr),
            "d1": self._adam([network.d1], config.discriminator_lr),
            "d2": self._adam([network.d2], config.discriminator_lr),
        }
        self.base_lr = {name: optimizer.param_groups[0]["lr"] for name, optimizer in self.optimizers.items()}
        self.mr_pool = ImagePool(config.pool, (seed, 11))
        self.ct_pool = ImagePool(config.pool, (seed, 12))
        self.epochs = config.epochs + config.decay_epochs
        self.steps_per_epoch = mr.steps
        self.patience = {MR_CONSTANT: 100, CT_CONSTANT: 100}

    def _adam(self, networks: list[Any], lr: float) -> Adam:
        weights = [parameter for network in networks for parameter in network.parameters()]
        return Adam(weights, lr=lr, betas=self.config.betas)

    def set_learning_rates(self, epoch: int) -> None:
        """Constant for `epochs`, then falling linearly towards 0 over `decay_epochs`."""
        decay = max(0, epoch + 1 - self.config.epochs) / (self.config.decay_epochs + 1)
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self.base_lr[name] * (1 - decay)

    def step(self, epoch: int, step: int) -> StepResult:
        """Train on one batch of each modality."""
        self.set_learning_rates(epoch)
        ct, labels = self.ct.get(epoch, step)
        mr, _ = self.mr.get(epoch, step)
        losses, fake_mr, fake_ct = self.generator_step(ct, labels, mr)
        number = epoch * self.steps_per_epoch + step
        losses["d1"] = self.discriminator_step("d1", mr, self.mr_pool.query(fake_mr, number))
        losses["d2"] = self.discriminator_step("d2", ct, self.ct_pool.query(fake_ct, number))
        return StepResult(losses, {MR_CONSTANT: is_constant(fake_mr), CT_CONSTANT: is_constant(fake_ct)})

    def generator_step(self, ct: Tensor, labels: Tensor, mr: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Update G1, G2 and S; gives the losses by name and the generated MR and CT."""
        net, mode = self.network, self.config.adversarial
        with frozen(net.d1, net.d2):
            fake_mr, fake_ct = net.g1(ct), net.g2(mr)
            terms = {
                "gan_mr": patch_adversarial_loss(net.d1(fake_mr), True, mode),
                "gan_ct": patch_adversarial_loss(net.d2(fake_ct), True, mode),
                "cycle_ct": cycle_l1_loss(net.g2(fake_mr), ct),
                "cycle_mr": cycle_l1_loss(net.g1(fake_ct), mr),
            }
            if net.s is not None:
                terms["segmentation"] = pixel_cross_entropy(net.s(fake_mr), labels)
            # The CycleGAN has four terms for the five weights.
            total = torch.stack([w * term for w, term in zip(self.config.weights, terms.values(), strict=False)]).sum()
            self._update("generators", total)
        losses = {"generators": total, **terms}
        return {name: value.detach() for name, value in losses.items()}, fake_mr.detach(), fake_ct.detach()

    def discriminator_step(self, name: str, real: Tensor, fake: Tensor) -> Tensor:
        """Update D1 or D2 with half the sum of its losses on real and generated images; gives that loss."""
        discriminator = getattr(self.network, name)
        loss = patch_discriminator_loss(discriminator(real), discriminator(fake), self.config.adversarial)
        self._update(name, loss)
        return loss.detach()

    def _update(self, name: str, loss: Tensor) -> None:
        self.optimizers[name].zero_grad(set_to_none=True)
        loss.backward()
        self.optimizers[name].step()

    def extra_state(self) -> dict[str, Any]:
        return {"mr_pool": self.mr_pool.images, "ct_pool": self.ct_pool.images}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        device = next(self.network.parameters()).device
        self.mr_pool.images = [image.to(device) for image in state["mr_pool"]]
        self.ct_pool.images = [image.to(device) for image in state["ct_pool"]]
