"""Weights with every bias non-zero, so that a bias in the wrong place shows; and one thread, which small sizes like."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn as nn


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine take a hundred times as long as one alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def randomise() -> Callable[..., nn.Module]:
    """Turns a network into float64 with random weights and biases; gives it back."""

    def apply(network: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        network.double()
        with torch.no_grad():
            for parameter in network.parameters():
                deviation = (2 / parameter[0].numel()) ** 0.5 if parameter.dim() > 1 else 0.1
                parameter.normal_(0.0, deviation, generator=generator)
        return network

    return apply
