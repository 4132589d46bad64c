"""Parameters and shapes are those of the paper, at its own sizes; on meta tensors, which hold no values."""

import pytest
import torch

from benchmarks.stock import StockEssNet, StockUNet
from fastliver.models import EssNet, PatchDiscriminator, ResNetGenerator, UNet, count_parameters


@pytest.fixture(autouse=True)
def _no_values():
    with torch.device("meta"):
        yield


def test_each_network_has_the_papers_number_of_parameters():
    assert count_parameters(ResNetGenerator()) == 11_365_633
    assert count_parameters(ResNetGenerator(2, tanh=False)) == 11_368_770
    assert count_parameters(PatchDiscriminator()) == 2_762_689
    assert count_parameters(UNet()) == 31_031_685
    assert count_parameters(UNet(head_relu=True)) == 31_031_685


def test_essnet_has_the_papers_number_of_parameters_without_segmentor_and_the_sum_with_it():
    net = EssNet()
    assert count_parameters(net.g1, net.g2, net.d1, net.d2) == 28_256_644
    assert count_parameters(net) == 39_625_414
    assert count_parameters(EssNet(segmentor=False)) == 28_256_644


def test_the_stock_twins_have_the_same_number():
    assert sum(p.numel() for p in StockEssNet().parameters()) == 39_625_414
    assert sum(p.numel() for p in StockUNet().parameters()) == 31_031_685


@pytest.mark.parametrize("side", [256, 96])
def test_the_generator_keeps_the_size_and_the_segmentor_gives_two_classes(side):
    net = EssNet()
    image = torch.empty(2, 1, side, side)
    assert net.g1(image).shape == net.g2(image).shape == (2, 1, side, side)
    assert net.s(image).shape == (2, 2, side, side)


@pytest.mark.parametrize(("height", "width", "patches"), [(256, 256, (30, 30)), (128, 64, (14, 6))])
def test_the_discriminator_gives_one_logit_for_each_patch(height, width, patches):
    assert PatchDiscriminator()(torch.empty(2, 1, height, width)).shape == (2, 1, *patches)


def test_the_unet_gives_one_logit_for_each_pixel():
    assert UNet()(torch.empty(2, 1, 256, 256)).shape == (2, 1, 256, 256)
    assert UNet(channels=4)(torch.empty(1, 1, 32, 48)).shape == (1, 1, 32, 48)


def test_channels_and_blocks_set_width_and_depth():
    net = EssNet(channels=8, blocks=3)
    assert net.g1.stem.out_channels == net.s.stem.out_channels == net.d1.conv1.out_channels == 8
    assert len(net.g1.blocks) == len(net.g2.blocks) == len(net.s.blocks) == 3
