"""The networks and both training steps through the kernels against the same through the reference."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastliver.config import EssNetConfig, UNetConfig
from fastliver.models import EssNet, PatchDiscriminator, ResNetGenerator, UNet
from fastliver.models.generator import ResidualBlock
from fastliver.training.essnet import EssNetTrainer
from fastliver.training.unet import UNetTrainer

SIDE = 20
CLOSE = {"rtol": 1e-3, "atol": 1e-5}
"""fp32 through a dozen layers, each norm dividing by a spread that the layer before changed: 1e-4, and room."""


class OneBatch:
    """Stands in for a BatchStream."""

    steps = 1

    def __init__(self, device: torch.device, side: int, seed: int, batch: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.images = torch.from_numpy(rng.uniform(-1, 1, (batch, 1, side, side)).astype(np.float32)).to(device)
        self.labels = torch.from_numpy((rng.random((batch, side, side)) > 0.6).astype(np.uint8)).to(device)
        self.batch_size, self.shape = batch, (side, side)

    def stage(self, epoch: int, step: int) -> None:
        pass

    def batch(self) -> tuple[Tensor, Tensor]:
        return self.images, self.labels


@pytest.fixture
def both(device, monkeypatch):
    """Runs a function of a network through the kernels and, on a copy, through the reference."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # formats would differ by what TF32 rounds

    def run(network, function, form: torch.memory_format = torch.contiguous_format) -> tuple:
        torch.manual_seed(3)
        for parameter in network.parameters():
            # Larger than at the start of a training, so that every layer has a say; biases aren't zero.
            torch.nn.init.normal_(parameter, 0.0, (2 / parameter[0].numel()) ** 0.5 if parameter.dim() > 1 else 0.1)
        results = []
        # The reference stays contiguous: see conftest.py.
        for choice, layout in (("triton", form), ("torch", torch.contiguous_format)):
            monkeypatch.setenv("FASTLIVER_KERNELS", choice)
            twin = copy.deepcopy(network).to(device, memory_format=layout)
            torch.manual_seed(4)
            values = function(twin)
            gradients = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
            results.append((values, gradients, twin.state_dict()))
        return tuple(results)

    return run


def _assert_close(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(got) == list(expected)
    for name, value in got.items():
        scale = expected[name].abs().max().clamp_min(1e-6)
        # A bias before an instance norm has no gradient but rounding.
        noise = 1e-5 if name.endswith("bias") else 0
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-3 * scale.item() + noise, msg=name)


def _forward_and_backward(image: Tensor):
    def run(network) -> Tensor:
        y = network(image.clone().requires_grad_())
        y.square().mean().backward()
        return y.detach()

    return run


@pytest.mark.parametrize("channels_last", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("make", "side"),
    [
        (lambda: ResNetGenerator(1, channels=2, blocks=2), SIDE),
        (lambda: ResNetGenerator(2, channels=2, blocks=1, tanh=False), SIDE),
        (lambda: PatchDiscriminator(2), 32),
    ],
    ids=["generator", "segmentor", "discriminator"],
)
def test_networks(both, device, make, side, channels_last):
    image = OneBatch(device, side, 0).images
    network, form = make(), torch.channels_last if channels_last else torch.contiguous_format
    (y, gradients, _), (expected, expected_gradients, _) = both(network, _forward_and_backward(image), form)
    torch.testing.assert_close(y, expected, **CLOSE)
    assert len(gradients) == len(list(network.parameters()))
    _assert_close(gradients, expected_gradients)


@pytest.mark.parametrize("adversarial", ["bce", pytest.param("lsgan", marks=pytest.mark.slow)])
def test_a_step_of_essnet(both, device, adversarial):
    config = EssNetConfig(channels=1, blocks=1, pool=0, adversarial=adversarial)

    def step(network: EssNet) -> dict[str, Tensor]:
        trainer = EssNetTrainer(network, config, OneBatch(device, 32, 0), OneBatch(device, 32, 1), seed=0)
        return trainer.step(0, 0).losses

    got, expected = both(EssNet(1, 1), step)
    assert set(got[0]) == {"generators", "gan_mr", "gan_ct", "cycle_ct", "cycle_mr", "segmentation", "d1", "d2"}
    _assert_close(got[0], expected[0])
    _assert_close(got[1], expected[1])
    # Adam moves every weight by the rate, to a side that rounding decides where a gradient is nothing but rounding.
    for name, weight in got[2].items():
        assert (weight - expected[2][name]).abs().max() <= 2.1 * config.discriminator_lr, name
        if not name.endswith("bias"):
            close = (weight - expected[2][name]).abs() <= 1e-2 * config.generator_lr + 1e-6 * weight.abs()
            assert close.float().mean() > 0.97, name


def test_a_step_of_the_unet(both, device):
    def step(network: UNet) -> dict[str, Tensor]:
        return UNetTrainer(network, UNetConfig(channels=2), OneBatch(device, 32, 0, batch=2)).step(0, 0).losses

    got, expected = both(UNet(2), step)
    for which in range(2):
        _assert_close(got[which], expected[which])
    assert list(got[2]) == list(expected[2])


class Recorder(TorchDispatchMode):
    """Every operator with its first tensor's shape."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, tuple[int, ...]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        shape = next((tuple(a.shape) for a in args if isinstance(a, Tensor)), ())
        self.seen.append((func._schema.name.split("::")[1], shape))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_chain_of_residual_blocks_copies_nothing(noise, channels_last):
    form = torch.channels_last if channels_last else torch.contiguous_format
    chain = torch.nn.ModuleList(ResidualBlock(3) for _ in range(3)).to(noise(1).device, memory_format=form)
    padded = noise(1, 3, 8, 8, channels_last=channels_last).requires_grad_()
    incoming = noise(1, 3, 6, 6, channels_last=channels_last, seed=1)
    with Recorder() as recorder:
        inside = padded[:, :, 1:-1, 1:-1]
        for number, block in enumerate(chain):
            padded, inside = block(padded, inside, pad=1 if number < 2 else 0)
        # The first block's input isn't a norm's output: its two uses aren't this chain's matter.
        torch.autograd.grad(inside, list(chain.parameters()), incoming)
    names = [name for name, _ in recorder.seen]
    assert names.count("instance_norm_act_forward") == names.count("instance_norm_act_backward") == 6
    copying = {"clone", "copy_", "_to_copy", "contiguous", "slice_backward", "constant_pad_nd", "zeros", "cat"}
    assert not copying & set(names)
    assert not [shape for name, shape in recorder.seen if name in ("add", "add_") and len(shape) == 4]
    assert not [name for name in names if name.startswith("reflection_pad")]
    assert inside.is_contiguous(memory_format=form)
