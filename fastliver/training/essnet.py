"""One training step of EssNet, or of the CycleGAN that it is without its segmentor (section 2.2 of the paper)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fastliver.config import EssNetConfig
from fastliver.data.batches import BatchStream
from fastliver.kernels import cycle_l1_loss, patch_adversarial_loss, patch_discriminator_loss, pixel_cross_entropy
from fastliver.models import EssNet
from fastliver.models.discriminator import PatchDiscriminator
from fastliver.training.graph import Branches, branches, step_graph
from fastliver.training.image_pool import ImagePool
from fastliver.training.precision import Precision
from fastliver.training.profiling import span
from fastliver.training.repetition import Repetition
from fastliver.training.trainer import Execution, StepResult, is_constant
from fastliver.training.update import Update

CT_CONSTANT = "G2 outputs a constant CT image"
MR_CONSTANT = "G1 outputs a constant MR image"
MR_REPEATED = "G1 outputs the same MR image whatever the CT shows"
CT_REPEATED = "G2 outputs the same CT image whatever the MR shows"
D1_CONSTANT = "D1 gives every patch of real and generated MR the same score"
D2_CONSTANT = "D2 gives every patch of real and generated CT the same score"
NOT_FINITE = {
    "generators": "the gradients of G1, G2 and S are not finite",
    "d1": "the gradients of D1 are not finite",
    "d2": "the gradients of D2 are not finite",
}


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Gradients flow through these networks but not into their weights."""
    for network in networks:
        network.requires_grad_(False)
    try:
        yield
    finally:
        for network in networks:
            network.requires_grad_(True)


class GeneratorPhase(nn.Module):
    """The loss of G1, G2 and S, which are its weights; D1 and D2 judge and belong to phases of their own.

    Args:
        network: EssNet.
        config: the kind of adversarial loss and the terms' weights.
        precision: of the forward pass.
        branches: runs what doesn't depend on each other.
    """

    def __init__(self, network: EssNet, config: EssNetConfig, precision: Precision, branches: Branches) -> None:
        super().__init__()
        self.g1, self.g2, self.s = network.g1, network.g2, network.s
        self.judges = (network.d1, network.d2)  # in a tuple they are no submodules
        self.mode, self.weights = config.adversarial, config.weights
        self.precision, self.branches = precision, branches

    def forward(self, ct: Tensor, labels: Tensor, mr: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """The losses by name, of which "generators" is the sum to lower, and the generated MR and CT.

        Args:
            ct: (N, 1, H, W) in [-1, 1].
            labels: (N, H, W) of `ct`.
            mr: (N, 1, H, W) in [-1, 1].
        """
        (d1, d2), s, run = self.judges, self.s, self.branches.run
        with self.precision.autocast():
            fake_mr, fake_ct = run(g1=lambda: self.g1(ct), g2=lambda: self.g2(mr))
            parts = {
                "d1": lambda: d1(fake_mr),
                "d2": lambda: d2(fake_ct),
                "g2": lambda: self.g2(fake_mr),
                "g1": lambda: self.g1(fake_ct),
            }
            if s is not None:
                parts["s"] = lambda: s(fake_mr)
            score_mr, score_ct, cycled_ct, cycled_mr, *classes = run(**parts)
        terms = {
            "gan_mr": patch_adversarial_loss(score_mr, True, self.mode),
            "gan_ct": patch_adversarial_loss(score_ct, True, self.mode),
            "cycle_ct": cycle_l1_loss(cycled_ct, ct),
            "cycle_mr": cycle_l1_loss(cycled_mr, mr),
        }
        if classes:
            terms["segmentation"] = pixel_cross_entropy(classes[0], labels)
        # The CycleGAN has four terms for the five weights.
        total = torch.stack([w * term for w, term in zip(self.weights, terms.values(), strict=False)]).sum()
        return {"generators": total, **terms}, fake_mr, fake_ct


class DiscriminatorPhase(nn.Module):
    """The loss of D1 or D2, half the sum of what it is for real and for generated images.

    Args:
        discriminator: D1 or D2.
        mode: "bce" or "lsgan".
        precision: of the forward pass.
    """

    def __init__(self, discriminator: PatchDiscriminator, mode: str, precision: Precision) -> None:
        super().__init__()
        self.discriminator, self.mode, self.precision = discriminator, mode, precision

    def forward(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and the scores (2N, 1, h, w), of the real images first, from images (N, 1, H, W)."""
        with self.precision.autocast():
            # One batch: every norm is of one sample, and a GPU is fuller.
            scores = self.discriminator(torch.cat((real, fake.to(real.dtype))))
        on_real, on_fake = scores.chunk(2)
        return patch_discriminator_loss(on_real, on_fake, self.mode), scores


class EssNetTrainer:
    """Trains G1, G2 and S together, then D1 and D2.

    Args:
        network: EssNet on its device; brought into the precision's memory format.
        config: losses, learning rates and schedule.
        ct: batches of CT with labels.
        mr: batches of MR; one epoch shows each once.
        seed: of the image pools.
        execution: precision, CUDA graph and distribution; without it steps run as they are, in the weights' own format.
    """

    def __init__(
        self,
        network: EssNet,
        config: EssNetConfig,
        ct: BatchStream,
        mr: BatchStream,
        seed: int,
        execution: Execution | None = None,
    ) -> None:
        self.network, self.config, self.ct, self.mr = network, config, ct, mr
        execution = execution or Execution(Precision.plain(network))
        self.precision = execution.precision
        self.precision.prepare(network)
        generators = [network.g1, network.g2, *([network.s] if network.s is not None else [])]
        self.updates = {
            "generators": Update(generators, config.generator_lr, config.betas, self.precision),
            "d1": Update([network.d1], config.discriminator_lr, config.betas, self.precision),
            "d2": Update([network.d2], config.discriminator_lr, config.betas, self.precision),
        }
        self.optimizers: dict[str, Optimizer] = {name: update.optimizer for name, update in self.updates.items()}
        self.branches = branches(execution)
        self.phases = {
            "generators": execution.wrap(GeneratorPhase(network, config, self.precision, self.branches)),
            "d1": execution.wrap(DiscriminatorPhase(network.d1, config.adversarial, self.precision)),
            "d2": execution.wrap(DiscriminatorPhase(network.d2, config.adversarial, self.precision)),
        }
        weight = next(network.parameters())
        self.mr_pool, self.ct_pool = (
            ImagePool(config.pool, stream.batch_size, stream.shape, (seed, number), weight.device, weight.dtype)
            for stream, number in ((mr, 11), (ct, 12))
        )
        self.epochs = config.epochs + config.decay_epochs
        self.steps_per_epoch = mr.steps
        shape = (mr.batch_size, 1, *mr.shape)
        self.mr_repetition, self.ct_repetition = (Repetition(shape, weight.device) for _ in range(2))
        collapses = (MR_CONSTANT, CT_CONSTANT, MR_REPEATED, CT_REPEATED, D1_CONSTANT, D2_CONSTANT)
        self.patience = dict.fromkeys(collapses, 100)
        self.patience |= {NOT_FINITE[name]: update.patience for name, update in self.updates.items()}
        self.graph = step_graph(self.train_step, self.optimizers.values(), execution)

    def set_learning_rates(self, epoch: int) -> None:
        """Constant for `epochs`, then falling linearly towards 0 over `decay_epochs`."""
        decay = max(0, epoch + 1 - self.config.epochs) / (self.config.decay_epochs + 1)
        for update in self.updates.values():
            update.set_rate(1 - decay)

    def step(self, epoch: int, step: int) -> StepResult:
        """Train on one batch of each modality."""
        self.set_learning_rates(epoch)
        self.ct.stage(epoch, step)
        self.mr.stage(epoch, step)
        number = epoch * self.steps_per_epoch + step
        self.mr_pool.stage(number)
        self.ct_pool.stage(number)
        return self.graph()

    def train_step(self) -> StepResult:
        """Train on what is staged: device operations alone, so that it can be a CUDA graph."""
        with self.precision.step():
            with span("batches"):
                ct, labels = self.ct.batch()
                mr, _ = self.mr.batch()
            losses, faults, fake_mr, fake_ct = self.generator_step(ct, labels, mr)
            old_mr, old_ct = self.mr_pool.query(fake_mr), self.ct_pool.query(fake_ct)
            steps = self.branches.run(
                d1=lambda: self.discriminator_step("d1", mr, old_mr),
                d2=lambda: self.discriminator_step("d2", ct, old_ct),
            )
            for loss, fault in steps:
                losses |= loss
                faults |= fault
            faults |= {MR_CONSTANT: is_constant(fake_mr), CT_CONSTANT: is_constant(fake_ct)}
            faults[MR_REPEATED] = self.mr_repetition.found(ct, fake_mr)
            faults[CT_REPEATED] = self.ct_repetition.found(mr, fake_ct)
            return StepResult(losses, faults)

    def generator_step(
        self, ct: Tensor, labels: Tensor, mr: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor]:
        """Update G1, G2 and S; gives the losses by name, the faults, and the generated MR and CT."""
        with span("generators"), frozen(self.network.d1, self.network.d2):
            losses, fake_mr, fake_ct = self.phases["generators"](ct, labels, mr)
            fault = self.updates["generators"](losses["generators"])
        losses = {name: value.detach() for name, value in losses.items()}
        return losses, {NOT_FINITE["generators"]: fault}, fake_mr.detach(), fake_ct.detach()

    def discriminator_step(self, name: str, real: Tensor, fake: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Update D1 or D2; gives its loss and its faults by name."""
        with span(name):
            loss, scores = self.phases[name](real, fake)
            fault = self.updates[name](loss)
        # One score for all of the batch: nothing that G1 or G2 could learn from.
        dead = is_constant(scores.reshape(1, -1))
        return {name: loss.detach()}, {NOT_FINITE[name]: fault, {"d1": D1_CONSTANT, "d2": D2_CONSTANT}[name]: dead}

    def extra_state(self) -> dict[str, Any]:
        """See `Trainer`: the image pools, the loss scales and the last images."""
        return {
            "mr_pool": self.mr_pool.state(),
            "ct_pool": self.ct_pool.state(),
            "scales": {name: update.state() for name, update in self.updates.items()},
            "mr_repetition": self.mr_repetition.state(),
            "ct_repetition": self.ct_repetition.state(),
        }

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """The opposite of `extra_state`."""
        self.mr_pool.load_state(state["mr_pool"])
        self.ct_pool.load_state(state["ct_pool"])
        for name in ("mr_repetition", "ct_repetition"):
            if name in state:  # not in checkpoints from before there was such a check
                getattr(self, name).load_state(state[name])
        for name, update in self.updates.items():
            update.load_state(state["scales"][name])
