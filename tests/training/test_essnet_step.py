"""Which weights a step of EssNet touches, and how fast."""

from collections.abc import Callable

import pytest
import torch

from fastliver.config import EssNetConfig
from fastliver.models import EssNet
from fastliver.training.essnet import EssNetTrainer
from fastliver.training.precision import Precision
from fastliver.training.trainer import Execution


def _snapshot(trainer: EssNetTrainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.network.named_parameters()}


def _changed(trainer: EssNetTrainer, before: dict[str, torch.Tensor]) -> set[str]:
    """The networks of which a weight changed; a network changes in all its kernels or in none."""
    moved = {name for name, value in trainer.network.named_parameters() if not torch.equal(value, before[name])}
    networks = {name.split(".")[0] for name in moved}
    kernels = {name for name in before if name.endswith("weight") and name.split(".")[0] in networks}
    assert kernels <= moved
    return networks


@pytest.mark.parametrize(("segmentor", "expected"), [(True, {"g1", "g2", "s"}), (False, {"g1", "g2"})])
def test_a_generator_step_changes_the_generators_and_the_segmentor_alone(segmentor, expected, make_essnet):
    trainer = make_essnet(segmentor=segmentor)
    before = _snapshot(trainer)
    (ct, labels), (mr, _) = trainer.ct.get(0, 0), trainer.mr.get(0, 0)
    trainer.generator_step(ct, labels, mr)
    assert _changed(trainer, before) == expected
    discriminators = [*trainer.network.d1.parameters(), *trainer.network.d2.parameters()]
    assert all(parameter.grad is None for parameter in discriminators)
    assert all(parameter.requires_grad for parameter in trainer.network.parameters())


@pytest.mark.parametrize("name", ["d1", "d2"])
def test_a_discriminator_step_changes_that_discriminator_alone(name, make_essnet):
    trainer = make_essnet()
    before = _snapshot(trainer)
    (ct, _), (mr, _) = trainer.ct.get(0, 0), trainer.mr.get(0, 0)
    trainer.discriminator_step(name, mr, ct)
    assert _changed(trainer, before) == {name}
    others = [value for key, value in trainer.network.named_parameters() if not key.startswith(name)]
    assert all(parameter.grad is None for parameter in others)


def test_gradients_do_not_add_up_over_steps(make_essnet, keep_gradients):
    def gradients(steps: int) -> list[torch.Tensor]:
        trainer = make_essnet(generator_lr=0.0, discriminator_lr=0.0, pool=0, augment="none")
        kept = keep_gradients(trainer)
        for _ in range(steps):
            trainer.step(0, 0)
        return [kept[parameter] for parameter in trainer.network.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(gradients(1), gradients(3), strict=True))


def test_a_step_leaves_no_gradients_behind(make_essnet):
    trainer = make_essnet()
    trainer.step(0, 0)
    assert all(parameter.grad is None for parameter in trainer.network.parameters())


def test_the_segmentors_gradient_flows_into_g1_and_not_into_g2(make_essnet, keep_gradients):
    trainer = make_essnet(weights=(0.0, 0.0, 0.0, 0.0, 1.0))
    kept = keep_gradients(trainer)
    trainer.step(0, 0)
    network = trainer.network
    assert kept[network.g1.stem.weight].any()
    assert kept[network.s.stem.weight].any()
    assert not any(kept[parameter].any() for parameter in network.g2.parameters())


def _factors(trainer: EssNetTrainer, name: str) -> list[float]:
    factors = []
    for epoch in range(trainer.epochs):
        trainer.set_learning_rates(epoch)
        factors.append(trainer.optimizers[name].param_groups[0]["lr"] / trainer.updates[name].base_lr)
    return factors


@pytest.mark.parametrize(
    ("epochs", "decay", "factors"),
    [
        (2, 2, [1, 1, 2 / 3, 1 / 3]),
        (1, 4, [1, 4 / 5, 3 / 5, 2 / 5, 1 / 5]),
        (3, 0, [1, 1, 1]),
    ],
)
def test_learning_rates_are_constant_and_then_fall_linearly(
    epochs, decay, factors, make_essnet: Callable[..., EssNetTrainer]
):
    trainer = make_essnet(epochs=epochs, decay_epochs=decay)
    for name in ("generators", "d1", "d2"):
        assert _factors(trainer, name) == pytest.approx(factors)
        assert trainer.updates[name].base_lr == (1e-4 if name == "generators" else 2e-4)


def test_a_step_takes_its_epochs_learning_rate(make_essnet):
    trainer = make_essnet(epochs=2, decay_epochs=2)
    trainer.step(3, 0)
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in trainer.optimizers.items()}
    assert rates == pytest.approx({"generators": 1e-4 / 3, "d1": 2e-4 / 3, "d2": 2e-4 / 3})
    trainer.step(0, 0)
    assert trainer.optimizers["generators"].param_groups[0]["lr"] == pytest.approx(1e-4)


def test_the_pools_draw_anew_in_every_step_of_the_training(make_essnet):
    trainer = make_essnet()
    numbers: list[int] = []
    trainer.mr_pool.stage = numbers.append
    trainer.ct_pool.stage = numbers.append
    for epoch in range(2):
        for step in range(trainer.steps_per_epoch):
            trainer.step(epoch, step)
    assert numbers == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert trainer.mr_pool.seed != trainer.ct_pool.seed


# Phases, which several processes can share


def test_a_phases_weights_are_those_that_its_optimizer_changes(make_essnet, make_unet):
    trainer, unet = make_essnet(), make_unet()
    phases = {**trainer.phases, "unet": unet.phase}
    optimizers = {**trainer.optimizers, **unet.optimizers}
    for name, phase in phases.items():
        own = {id(weight) for weight in phase.parameters()}
        assert own == {id(weight) for weight in optimizers[name].param_groups[0]["params"]}, name


class _Shared(torch.nn.Module):
    """Stands in for DistributedDataParallel: averages the gradients of two processes, which take turns."""

    def __init__(self, phase: torch.nn.Module) -> None:
        super().__init__()
        self.phase = phase

    def forward(self, *batch: torch.Tensor):
        # Half of the sum of the halves' losses has the mean of their gradients.
        first, second = (self.phase(*(part.chunk(2)[which] for part in batch)) for which in range(2))
        return self._mean(first, second)

    def _mean(self, a, b):
        if isinstance(a, dict):
            return {name: self._mean(a[name], b[name]) for name in a}
        if isinstance(a, tuple):
            return tuple(self._mean(x, y) for x, y in zip(a, b, strict=True))
        return (a + b) / 2 if a.dim() == 0 else torch.cat((a, b))


@pytest.mark.parametrize("adversarial", ["bce", "lsgan"])
def test_two_processes_with_one_image_learn_what_one_with_two_learns(adversarial, stream, keep_gradients):
    def weights(wrap: Callable[[torch.nn.Module], torch.nn.Module]) -> tuple[list[torch.Tensor], torch.Tensor]:
        torch.manual_seed(0)
        network = EssNet(2, 1).double()
        execution = Execution(Precision.plain(network), wrap=wrap)
        config = EssNetConfig(channels=2, blocks=1, batch=2, pool=0, adversarial=adversarial, betas=(0.0, 0.0))
        trainer = EssNetTrainer(network, config, stream(1, 1, 2), stream(2, 1, 2), 0, execution)
        kept = keep_gradients(trainer)
        result = trainer.step(0, 0)
        return [kept[parameter] for parameter in network.parameters()], result.values()

    (one, losses), (two, shared) = weights(lambda phase: phase), weights(_Shared)
    torch.testing.assert_close(losses, shared)
    for alone, averaged in zip(one, two, strict=True):
        torch.testing.assert_close(alone, averaged, rtol=1e-9, atol=1e-12)


def test_the_learning_rate_of_a_resumed_training_is_the_schedules(make_essnet):
    trainer, resumed = make_essnet(epochs=1, decay_epochs=1), make_essnet(epochs=1, decay_epochs=1)
    trainer.step(1, 0)
    resumed.optimizers["d1"].load_state_dict(trainer.optimizers["d1"].state_dict())
    resumed.step(1, 1)
    assert resumed.optimizers["d1"].param_groups[0]["lr"] == pytest.approx(1e-4)
