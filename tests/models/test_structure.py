"""What can't be seen from outputs that equal a twin's alone: receptive field, padding, dropout."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

import fastliver.models.discriminator
from fastliver.models import PatchDiscriminator, UNet
from fastliver.models.unet import UpBlock


def test_a_patch_of_the_discriminator_sees_70_by_70_pixels(monkeypatch):
    # Norms look at whole planes: without them what is left is what the convolutions see.
    monkeypatch.setattr(
        fastliver.models.discriminator,
        "instance_norm_act",
        lambda x, activation, slope: F.leaky_relu(x, slope),
    )
    network = PatchDiscriminator(channels=1).double()
    for parameter in network.parameters():
        nn.init.uniform_(parameter, 0.1, 1.0)
    image = torch.rand(1, 1, 128, 128, dtype=torch.float64, requires_grad=True)
    row, column = 5, 8
    network(image)[0, 0, row, column].backward()
    seen = image.grad[0, 0] != 0
    rows, columns = seen.any(1).nonzero().flatten(), seen.any(0).nonzero().flatten()
    assert seen.sum() == 70 * 70
    assert (int(rows[0]), int(rows[-1])) == (8 * row - 23, 8 * row + 46)
    assert (int(columns[0]), int(columns[-1])) == (8 * column - 23, 8 * column + 46)


def _up_part(down: int, right: int, x: Tensor) -> Tensor:
    """What UpBlock makes of `x` before its double convolution if the 2x2 kernel's one tap is at (down, right)."""
    block = UpBlock(2)
    block.convs = nn.Identity()
    with torch.no_grad():
        block.up.weight.zero_()
        block.up.weight[0, 0, down, right] = 1.0
        block.up.bias.zero_()
    skip = torch.full((1, 1, 2 * x.shape[2], 2 * x.shape[3]), 7.0)
    joined = block(x, skip).detach()
    assert torch.equal(joined[:, :1], skip)  # the skip connection comes first, as in Keras
    return joined[0, 1]


def test_the_unet_upsamples_by_nearest_and_pads_right_and_bottom():
    x = torch.stack([torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(2, 2)])[None]
    assert _up_part(0, 0, x).tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    assert _up_part(1, 1, x).tolist() == [[1, 2, 2, 0], [3, 4, 4, 0], [3, 4, 4, 0], [0, 0, 0, 0]]
    assert _up_part(0, 1, x).tolist() == [[1, 2, 2, 0], [1, 2, 2, 0], [3, 4, 4, 0], [3, 4, 4, 0]]


def test_dropout_of_a_half_acts_at_the_two_deepest_levels_and_in_training_alone():
    network = UNet(channels=2)
    dropped: list[tuple[int, ...]] = []
    network.dropout.register_forward_hook(lambda module, inputs, output: dropped.append(tuple(output.shape[1:])))
    image = torch.rand(1, 1, 64, 64)
    network(image)
    assert dropped == [(16, 8, 8), (32, 4, 4)]
    assert network.dropout.p == 0.5
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))


def test_the_skip_connection_of_the_fourth_level_is_the_dropped_one_as_in_keras():
    network = UNet(channels=2)
    dropped: list[Tensor] = []
    skips: list[Tensor] = []
    network.dropout.register_forward_hook(lambda module, inputs, output: dropped.append(output))
    network.up[0].register_forward_hook(lambda module, inputs, output: skips.append(inputs[1]))
    network(torch.rand(1, 1, 32, 32))
    assert torch.equal(skips[0], dropped[0])


def test_the_head_relu_kills_the_output_when_its_channels_are_negative_and_without_it_nothing_dies():
    image = torch.rand(1, 1, 32, 32)
    for head_relu, alive in ((True, False), (False, True)):
        network = UNet(channels=2, head_relu=head_relu).eval()
        nn.init.constant_(network.head.bias, -1e4)
        output = network(image)
        assert bool(output.std() > 0) is alive
        output.sum().backward()
        assert bool(network.head.weight.grad.any()) is alive
