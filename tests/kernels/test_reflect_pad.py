"""reflect_pad against the reference in float64; padding copies, so its values are exact."""

import pytest
import torch
from torch.nn.functional import pad as stock_pad

from fastliver.kernels import reference, reflect_pad


def _both(pad):
    return lambda x: reflect_pad(x, pad), lambda x: reference.reflect_pad(x, pad)


@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.float16, marks=pytest.mark.slow), torch.bfloat16], ids=str
)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("shape", "pad"), [((1, 1, 5, 7), 3), ((2, 3, 4, 4), 1), ((1, 2, 31, 31), 3), ((1, 2, 4, 6), 3), ((3, 1, 2, 3), 1)]
)
def test_values_and_gradients(compare, noise, shape, pad, channels_last, dtype):
    x = noise(*shape, dtype=dtype, channels_last=channels_last)
    (y,), (dx,) = compare(*_both(pad), x)
    assert torch.equal(y.detach(), stock_pad(x, (pad,) * 4, mode="reflect"))
    form = torch.channels_last if channels_last else torch.contiguous_format
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=form)
    assert dx.is_contiguous() or channels_last


@pytest.mark.parametrize("channels_last", [False, True])
def test_more_channels_than_a_block(compare, noise, channels_last):
    compare(*_both(1), noise(1, 70 if channels_last else 3, 4, 3, channels_last=channels_last))


@pytest.mark.parametrize("channels_last", [False, True])
def test_several_tiles(compare, noise, small_tiles, channels_last):
    compare(*_both(2), noise(1, 3, 5, 7, channels_last=channels_last))


def test_a_plane_of_several_whole_tiles(compare, noise):
    compare(*_both(3), noise(1, 1, 120, 100))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, :, 1:-1, 2:-2],
        lambda x: x.transpose(2, 3),
        lambda x: x[:, ::2, ::2],
        lambda x: x[:, :1].expand(2, 3, -1, -1),
        lambda x: x.to(memory_format=torch.channels_last)[:, :, 1:-1, 1:-1],
    ],
)
def test_any_strides_of_input_and_gradient(compare, noise, view):
    x = view(noise(2, 4, 8, 9))
    compare(*_both(2), x)
    n, c, h, w = x.shape
    compare(*_both(1), noise(n, c, h - 2, w - 2, seed=1), incoming=[x])


def test_gradient_of_a_sum_counts_the_copies(noise):
    x = noise(1, 1, 3, 3).requires_grad_()
    reflect_pad(x, 1).sum().backward()
    assert x.grad[0, 0].tolist() == [[1, 3, 1], [3, 9, 3], [1, 3, 1]]


def test_infinities_and_nan_are_copied_like_numbers(noise):
    x = noise(1, 1, 3, 4)
    x[0, 0, 0, :3] = torch.tensor([float("inf"), float("-inf"), float("nan")])
    expected = stock_pad(x, (2,) * 4, mode="reflect")
    assert torch.equal(reflect_pad(x, 2).nan_to_num(7.0, 8.0, 9.0), expected.nan_to_num(7.0, 8.0, 9.0))


def test_the_same_bits_on_every_run(noise):
    x = noise(1, 2, 9, 7).requires_grad_()
    dy = noise(1, 2, 15, 13, seed=1)
    first, second = (torch.autograd.grad(reflect_pad(x, 3), x, dy)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_no_padding_is_the_tensor_itself(noise):
    x = noise(1, 1, 3, 3)
    assert reflect_pad(x, 0) is x


def test_padding_as_wide_as_the_plane_raises(noise):
    for pad in (-1, 3):
        with pytest.raises(ValueError, match=f"pad={pad}.*3x5"):
            reflect_pad(noise(1, 1, 3, 5), pad)


def test_a_second_derivative_raises(noise):
    x = noise(1, 1, 4, 5).requires_grad_()
    (dx,) = torch.autograd.grad(reflect_pad(x, 1).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice.*once_differentiable"):
        dx.sum().backward()
