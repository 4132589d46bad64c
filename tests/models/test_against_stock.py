"""Every network computes what its twin of plain torch.nn layers computes, forward and backward, in float64."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn as nn
from torch import Tensor
from torch.testing import assert_close

from benchmarks.stock import StockUNet, copy_parameters, stock_discriminator, stock_generator
from fastliver.models import EssNet, PatchDiscriminator, ResNetGenerator, UNet

Pair = tuple[nn.Module, nn.Module]
PAIRS: dict[str, Callable[[], Pair]] = {
    "generator": lambda: (ResNetGenerator(channels=3, blocks=3), stock_generator(1, 3, 3)),
    "generator of one block": lambda: (ResNetGenerator(channels=3, blocks=1), stock_generator(1, 3, 1)),
    "segmentor": lambda: (ResNetGenerator(2, 3, 2, tanh=False), stock_generator(2, 3, 2, tanh=False)),
    "discriminator": lambda: (PatchDiscriminator(3), stock_discriminator(3)),
    "unet": lambda: (UNet(2).eval(), StockUNet(2).eval()),
    "unet with head ReLU": lambda: (UNet(2, head_relu=True).eval(), StockUNet(2, head_relu=True).eval()),
}


def _image(height: int = 32, width: int = 48) -> Tensor:
    return torch.rand(2, 1, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) * 2 - 1


def _run(network: nn.Module, image: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Output, and gradients of an uneven sum of it: of the input, then of the parameters."""
    image = image.clone().requires_grad_()
    output = network(image)
    weight = torch.linspace(0.5, 1.5, output.numel(), dtype=output.dtype).reshape(output.shape)
    return output, list(torch.autograd.grad((output * weight).sum(), [image, *network.parameters()]))


@pytest.mark.parametrize("name", PAIRS)
def test_output_and_gradients_equal_the_stock_twins(name, randomise):
    ours, stock = PAIRS[name]()
    randomise(ours)
    stock.double()
    copy_parameters(ours, stock)
    output, gradients = _run(ours, _image())
    expected, expected_gradients = _run(stock, _image())
    assert expected.std() > 0.05  # says something
    assert_close(output, expected, rtol=0, atol=1e-10)
    for gradient, stock_gradient in zip(gradients, expected_gradients, strict=True):
        assert_close(gradient, stock_gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PAIRS)
def test_channels_last_gives_the_same(name, randomise):
    ours = randomise(PAIRS[name]()[0])
    expected, expected_gradients = _run(ours, _image())
    other = copy.deepcopy(ours).to(memory_format=torch.channels_last)
    output, gradients = _run(other, _image().to(memory_format=torch.channels_last))
    assert_close(output, expected, rtol=0, atol=1e-10)
    for gradient, contiguous in zip(gradients, expected_gradients, strict=True):
        assert_close(gradient, contiguous, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PAIRS)
def test_images_of_a_batch_do_not_see_each_other(name, randomise):
    ours = randomise(PAIRS[name]()[0])
    image = _image()
    assert_close(ours(image), torch.cat([ours(image[:1]), ours(image[1:])]), rtol=0, atol=1e-10)


def test_the_segmentor_gives_plain_logits_unless_tanh_is_on(randomise):
    plain, bounded = randomise(EssNet(3, 2)), randomise(EssNet(3, 2, segmentor_tanh=True))
    image = _image()
    assert plain.s(image).abs().max() > 1
    assert_close(bounded.s(image), plain.s(image).tanh())
    assert plain.g1(image).abs().max() <= 1
    assert plain.g2(image).abs().max() <= 1
    assert EssNet(3, 2, segmentor=False).s is None
    network = EssNet(3, 2)
    assert len({id(p) for p in network.parameters()}) == len(list(network.g1.parameters())) * 3 + 20


def test_copying_parameters_of_another_shape_raises():
    with pytest.raises(ValueError, match=r"stem.weight is \(3, 1, 7, 7\)"):
        copy_parameters(ResNetGenerator(channels=3, blocks=1), stock_generator(1, 4, 1))
    with pytest.raises(ValueError, match="the source has 16 parameters, the target 20"):
        copy_parameters(ResNetGenerator(channels=3, blocks=1), stock_generator(1, 3, 2))
