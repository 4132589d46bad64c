"""EssNetTrainer's losses, gradients and updated weights equal those of the recipe in plain torch.nn, in float64."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from benchmarks.stock import StockEssNet, copy_parameters
from fastliver.config import EssNetConfig
from fastliver.models import EssNet
from fastliver.training.essnet import EssNetTrainer
from fastliver.training.precision import Precision
from fastliver.training.trainer import Execution


@dataclass
class Case:
    """One way to train."""

    options: dict[str, Any]
    segmentor: bool = True
    batch: int = 1
    channels_last: bool = False


CASES = {
    "paper": Case({}),
    "least squares": Case({"adversarial": "lsgan"}),
    "without segmentor": Case({}, segmentor=False),
    "least squares without segmentor": Case({"adversarial": "lsgan"}, segmentor=False),
    "batch of 2": Case({}, batch=2),
    "channels_last": Case({}, channels_last=True),
    "channels_last, batch of 2": Case({"adversarial": "lsgan"}, batch=2, channels_last=True),
    "uneven weights": Case({"weights": (0.5, 2.0, 3.0, 7.0, 11.0)}),
    "uneven weights without segmentor": Case({"weights": (0.5, 2.0, 3.0, 7.0, 11.0)}, segmentor=False),
    "tanh, other rates and betas": Case(
        {"segmentor_tanh": True, "generator_lr": 3e-3, "discriminator_lr": 1e-3, "betas": (0.8, 0.9)}, batch=2
    ),
}


def _pair(case: Case, stream: Any, steps: int) -> tuple[EssNetTrainer, StockEssNet]:
    torch.manual_seed(0)
    config = EssNetConfig(channels=2, blocks=2, batch=case.batch, **case.options)
    tanh = config.segmentor_tanh
    network = EssNet(config.channels, config.blocks, case.segmentor, tanh).double()
    stock = StockEssNet(
        config.channels,
        config.blocks,
        case.segmentor,
        tanh,
        config.adversarial,
        config.weights,
        config.generator_lr,
        config.discriminator_lr,
        config.betas,
        config.pool,
    ).double()
    copy_parameters(network, stock)
    streams = stream(1, steps, case.batch), stream(2, steps, case.batch)
    execution = Execution(Precision("fp32", torch.device("cpu"))) if case.channels_last else None
    return EssNetTrainer(network, config, *streams, seed=0, execution=execution), stock


@pytest.mark.parametrize("name", CASES)
def test_losses_gradients_and_weights_equal_the_stock_recipe_over_three_steps(name, stream, keep_gradients):
    trainer, stock = _pair(CASES[name], stream, steps=3)
    gradients = keep_gradients(trainer)
    for step in range(3):
        losses = trainer.step(0, step).losses
        ct, labels = trainer.ct.get(0, step)
        expected = stock.step(ct, labels, trainer.mr.get(0, step)[0])
        assert set(losses) == set(expected)
        assert next(iter(losses)) == "generators"
        for loss in losses:
            assert losses[loss].item() == pytest.approx(expected[loss].item(), rel=1e-9), loss
            assert not losses[loss].requires_grad
        pairs = list(zip(trainer.network.named_parameters(), stock.parameters(), strict=True))
        for (parameter, ours), theirs in pairs:
            # Biases before a norm have a gradient of rounding errors, which Adam blows up.
            assert_close(gradients[ours], theirs.grad, rtol=1e-6, atol=1e-9, msg=lambda m, p=parameter: f"{p}: {m}")
            assert_close(ours, theirs, rtol=0, atol=1e-8, msg=lambda m, p=parameter: f"{p}: {m}")
    assert ("segmentation" in losses) is CASES[name].segmentor


def test_the_papers_default_is_what_the_stock_twin_does_by_default():
    config, stock = EssNetConfig(), StockEssNet(channels=2, blocks=1)
    assert config.weights == stock.weights == (1.0, 1.0, 10.0, 10.0, 1.0)
    assert config.betas == stock.generator_adam.defaults["betas"] == (0.5, 0.999)
    assert config.generator_lr == stock.generator_adam.defaults["lr"] == 1e-4
    assert config.discriminator_lr == stock.d1_adam.defaults["lr"] == stock.d2_adam.defaults["lr"] == 2e-4
    assert config.pool == stock.mr_pool.size == 50
    assert config.adversarial == "bce"
    assert isinstance(stock.gan, torch.nn.BCEWithLogitsLoss)


def test_the_discriminators_see_what_the_pools_give(stream):
    trainer, stock = _pair(Case({}), stream, steps=1)
    ct, labels = trainer.ct.get(0, 0)
    mr = trainer.mr.get(0, 0)[0]
    with torch.no_grad():
        fake_mr, fake_ct = trainer.network.g1(ct), trainer.network.g2(mr)
    fed = {}
    # The stock twin's D1 and D2 are as ours before the step; its pools give these old images.
    old_mr, old_ct = torch.full_like(mr, 0.3), torch.full_like(ct, -0.6)
    trainer.mr_pool.query = lambda images: (fed.update(mr=images), old_mr)[1]
    trainer.ct_pool.query = lambda images: (fed.update(ct=images), old_ct)[1]
    stock.mr_pool.query = lambda images: old_mr
    stock.ct_pool.query = lambda images: old_ct
    losses, expected = trainer.step(0, 0).losses, stock.step(ct, labels, mr)
    assert losses["d1"].item() == pytest.approx(expected["d1"].item(), rel=1e-9)
    assert losses["d2"].item() == pytest.approx(expected["d2"].item(), rel=1e-9)
    assert torch.equal(fed["mr"], fake_mr)  # made before the generators were updated
    assert torch.equal(fed["ct"], fake_ct)
    assert not fed["mr"].requires_grad
