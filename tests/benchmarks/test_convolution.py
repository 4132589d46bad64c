"""The convolutions that race: all give the same numbers, and who doesn't is not timed."""

import pytest
import torch

from benchmarks import convolution
from benchmarks.convolution import LAYERS, Layer, disagreement, make

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", convolution.DTYPES)
@pytest.mark.parametrize("mode", convolution.MODES)
def test_everybody_gives_stock_s_numbers(mode, dtype):
    layer = Layer("small", (2, 32, 10, 12), 64, 1)
    works = {name: make(layer, mode, dtype, name) for name in convolution.WAYS}
    assert disagreement(dtype, works) == {}
    assert [tuple(part.shape) for part in works["fastliver"]()] == (
        [(2, 64, 10, 12)] if mode == "forward" else [(2, 32, 10, 12), (64, 32, 3, 3), (64,)]
    )
    wrong = [part * 1.1 for part in works["fastliver"]()]
    assert list(disagreement(dtype, {**works, "fastliver": lambda: wrong})) == ["fastliver"]


def test_layers_are_those_of_the_networks_and_operations_those_of_a_direct_convolution():
    assert [(layer.shape, layer.outputs) for layer in LAYERS][2] == ((1, 256, 66, 66), 256)
    # 256 x 256 x 9 multiplications and additions for each of 64 x 64 pixels: 2.4 GMAC.
    assert LAYERS[2].tflop == pytest.approx(2 * 2.415919104e-3)
    assert LAYERS[-1].shape == (2, 1024, 4, 4)
    assert LAYERS[-1].tflop == pytest.approx(2 * 2 * 16 * 9 * 1024 * 1024 / 1e12)


def test_a_gpu_has_no_cases():
    assert list(convolution.cases(torch.device("cuda"))) == []
    assert len(list(convolution.cases(CPU))) == len(LAYERS) * 4
