"""The networks start as the public recipes start them."""

import pytest
import torch
import torch.nn as nn

from fastliver.models import PatchDiscriminator, ResNetGenerator, UNet

NETWORKS = {
    "generator": lambda: ResNetGenerator(channels=16, blocks=2),
    "segmentor": lambda: ResNetGenerator(2, channels=16, blocks=2, tanh=False),
    "discriminator": lambda: PatchDiscriminator(channels=16),
}


def _convolutions(network: nn.Module, least: int = 8_000) -> dict[str, nn.Conv2d | nn.ConvTranspose2d]:
    """Those with at least so many weights, enough for statistics."""
    found = {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)}
    return {name: module for name, module in found.items() if module.weight.numel() >= least}


@pytest.mark.parametrize("name", NETWORKS)
def test_adversarial_networks_start_with_normal_weights_of_deviation_0_02(name):
    torch.manual_seed(1)
    chosen = _convolutions(NETWORKS[name]())
    assert len(chosen) >= 3
    assert name == "discriminator" or any(isinstance(module, nn.ConvTranspose2d) for module in chosen.values())
    for module in chosen.values():
        weight = module.weight.detach().double()
        assert abs(weight.mean()) < 5 * 0.02 / weight.numel() ** 0.5
        assert weight.std() == pytest.approx(0.02, rel=0.04)
        # A normal, and no uniform (1.8) or cut normal (2.4 or less at two deviations).
        assert (weight / weight.std()).pow(4).mean() == pytest.approx(3.0, abs=0.3)


def test_the_unet_starts_with_keras_he_normal():
    torch.manual_seed(1)
    chosen = _convolutions(UNet(channels=8))
    assert len(chosen) >= 8
    for module in chosen.values():
        weight = module.weight.detach().double()
        fan_in = weight[0].numel()
        assert abs(weight.mean()) < 5 * (2 / fan_in / weight.numel()) ** 0.5
        assert weight.var() == pytest.approx(2 / fan_in, rel=0.06)
        # Cut at two of the deviations that the normal had before the cut.
        assert weight.abs().max() <= 2 * (2 / fan_in) ** 0.5 / 0.8796 + 1e-9


def test_the_unets_output_layer_starts_with_keras_default():
    """Glorot uniform: from -sqrt(6 / (2 + 1)) to as much above 0, of variance 2 / 3."""
    torch.manual_seed(1)
    weights = torch.stack([UNet(channels=1).out.weight.detach().double().flatten() for _ in range(300)]).flatten()
    assert weights.abs().max() <= 2**0.5
    assert weights.abs().max() > 0.98 * 2**0.5
    assert weights.var() == pytest.approx(2 / 3, rel=0.1)


@pytest.mark.parametrize("network", [*NETWORKS.values(), lambda: UNet(channels=4)])
def test_biases_start_at_zero(network):
    biases = [parameter for name, parameter in network().named_parameters() if name.endswith("bias")]
    assert biases
    assert not any(bias.any() for bias in biases)


def test_a_seed_gives_the_same_weights_again():
    def weights(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        return list(UNet(channels=2).parameters())

    assert all(torch.equal(a, b) for a, b in zip(weights(3), weights(3), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights(3), weights(4), strict=True))
