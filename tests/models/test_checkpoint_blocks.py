"""Computing blocks again in the backward changes no bit of what is learned, and keeps less."""

from collections.abc import Callable

import pytest
import torch
import torch.nn as nn
from torch import Tensor

from fastliver.models import ResNetGenerator, UNet

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "generator": lambda: ResNetGenerator(channels=4, blocks=3),
    "generator of one block": lambda: ResNetGenerator(channels=4, blocks=1),
    "segmentor": lambda: ResNetGenerator(2, channels=4, blocks=2, tanh=False),
    "unet": lambda: UNet(channels=4),
}


def _step(network: nn.Module, image: Tensor, autocast: bool) -> list[Tensor]:
    """Output and gradients of an uneven sum of it: of the image, then of the parameters."""
    torch.manual_seed(3)  # dropout's
    image = image.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = network(image)
    weight = torch.linspace(0.5, 1.5, output.numel(), dtype=output.dtype).reshape(output.shape)
    return [output.detach(), *torch.autograd.grad((output * weight).sum(), [image, *network.parameters()])]


CASES: list = [(name, autocast, "torch") for name in NETWORKS for autocast in (False, True)]
INTERPRETER = pytest.mark.skipif(torch.cuda.is_available(), reason="runs in Triton's interpreter: where no GPU is")
CASES += [pytest.param("generator", False, "triton", marks=INTERPRETER)]  # one: it is slow


@pytest.mark.parametrize(("name", "autocast", "kernels"), CASES)
def test_the_same_bits_come_out(name, autocast, kernels, monkeypatch):
    monkeypatch.setenv("FASTLIVER_KERNELS", kernels)
    torch.manual_seed(1)
    network = NETWORKS[name]()
    image = torch.rand(1 if kernels == "triton" else 2, 1, 32, 32) * 2 - 1
    plain = _step(network, image, autocast)
    network.checkpoint_blocks = True
    again = _step(network, image, autocast)
    assert plain[0].std() > 0
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_fewer_bytes_are_kept_for_the_backward(name):
    def kept(checkpoint: bool) -> int:
        network = NETWORKS[name]()
        network.checkpoint_blocks = checkpoint
        bytes_of: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            bytes_of[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = network(torch.rand(1, 1, 64, 64))
        assert output.requires_grad
        return sum(bytes_of.values())

    assert kept(True) < kept(False)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_random_state_is_neither_read_nor_set(name, monkeypatch):
    # Either waits for a GPU, which no capture allows.
    for function in ("get_rng_state", "set_rng_state"):
        monkeypatch.setattr(torch, function, lambda *_: pytest.fail("the random state was touched"))
    network = NETWORKS[name]()
    network.checkpoint_blocks = True
    network(torch.rand(1, 1, 32, 32)).sum().backward()


def test_the_switch_is_no_part_of_the_weights():
    plain, checkpointed = NETWORKS["unet"](), NETWORKS["unet"]()
    checkpointed.checkpoint_blocks = True
    assert plain.state_dict().keys() == checkpointed.state_dict().keys()
