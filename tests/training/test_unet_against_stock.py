"""UNetTrainer's losses, gradients and updated weights equal those of the recipe in plain torch.nn, in float64."""

import pytest
import torch
from torch.testing import assert_close

from benchmarks.stock import StockUNet, copy_parameters
from fastliver.config import UNetConfig
from fastliver.models import UNet
from fastliver.training.precision import Precision
from fastliver.training.trainer import Execution
from fastliver.training.unet import UNetTrainer


@pytest.mark.parametrize(
    ("batch", "head_relu", "lr", "channels_last"),
    [(2, False, 1e-4, False), (1, True, 3e-3, False), (2, True, 1e-4, True)],
)
def test_losses_gradients_and_weights_equal_the_stock_recipe_over_three_steps(
    batch, head_relu, lr, channels_last, stream, keep_gradients
):
    torch.manual_seed(1)
    network, stock = UNet(2, head_relu).double(), StockUNet(2, head_relu, dropout=0.0, lr=lr).double()
    network.dropout.p = 0.0
    copy_parameters(network, stock)
    execution = Execution(Precision("fp32", torch.device("cpu"))) if channels_last else None
    trainer = UNetTrainer(network, UNetConfig(lr=lr), stream(1, 3, batch), execution)
    gradients = keep_gradients(trainer)
    for step in range(3):
        losses = trainer.step(0, step).losses
        expected = stock.step(*trainer.slices.get(0, step))
        assert set(losses) == set(expected) == {"loss"}
        assert losses["loss"].item() == pytest.approx(expected["loss"].item(), rel=1e-9)
        assert not losses["loss"].requires_grad
        for (name, ours), theirs in zip(network.named_parameters(), stock.parameters(), strict=True):
            assert_close(gradients[ours], theirs.grad, rtol=1e-6, atol=1e-10, msg=lambda m, p=name: f"{p}: {m}")
            assert_close(ours, theirs, rtol=0, atol=1e-8, msg=lambda m, p=name: f"{p}: {m}")
    assert gradients[network.out.weight].any()


def test_with_dropout_a_step_equals_the_stock_recipe_for_the_same_random_numbers(stream):
    torch.manual_seed(1)
    network, stock = UNet(2).double(), StockUNet(2).double()
    copy_parameters(network, stock)
    trainer = UNetTrainer(network, UNetConfig(), stream(1, 1, 2))
    network.eval()  # as testing leaves it: a step must turn dropout on again
    torch.manual_seed(7)
    loss = trainer.step(0, 0).losses["loss"].item()
    torch.manual_seed(7)
    assert loss == pytest.approx(stock.step(*trainer.slices.get(0, 0))["loss"].item(), rel=1e-9)


def test_the_papers_default_is_what_the_stock_twin_does_by_default():
    config, stock = UNetConfig(), StockUNet(channels=2)
    assert config.lr == stock.adam.defaults["lr"] == 1e-4
    assert (config.epochs, config.batch) == (300, 2)
    assert stock.adam.defaults["betas"] == (0.9, 0.999)
