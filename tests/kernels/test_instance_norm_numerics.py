"""instance_norm_act on planes that break careless arithmetic, and the same bits on every run."""

import pytest
import torch

from fastliver.kernels import instance_norm_act, instance_norm_act_shared, reference

ROADS = ["one pass", "one wide tile", "several tiles"]
INFINITE = float("inf")


@pytest.fixture(params=ROADS)
def plane(request, noise):
    """Makes (1, C, H, W) planes on each of the three roads: contiguous, channels_last, and cut into tiles of 16."""
    if request.param == "several tiles":
        request.getfixturevalue("small_tiles")

    def make(height, width, **options):
        wide = request.param == "one wide tile"
        return noise(1, 2 if wide else 1, height, width, channels_last=wide, **options)

    return make


def _gradients(x, dy, activation="none"):
    leaf, exact = x.detach().requires_grad_(), x.detach().double().contiguous().requires_grad_()
    instance_norm_act(leaf, activation).backward(dy)
    reference.instance_norm_act(exact, activation).backward(dy.double().contiguous())
    return leaf.grad, exact.grad


def test_mean_1000_with_spread_a_tenth(agree, plane):
    x = 1000 + 0.1 * plane(7, 9)
    # The mean, kept in fp32, is good to half of 6e-5: 3e-4 of the spread.
    agree(instance_norm_act(x, "none"), reference.instance_norm_act(x.double(), "none"), tolerance=5e-4)
    got, expected = _gradients(x, plane(7, 9, seed=1))
    agree(got, expected, tolerance=1e-3)


@pytest.mark.parametrize("size", [(64, 64), (150, 120)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_mean_1000_with_spread_a_tenth_on_a_large_plane(agree, noise, channels_last, size):
    """150x120 pixels are several tiles in either format: merging squares of means instead of differences shows."""
    x = 1000 + 0.1 * noise(1, 2, *size, channels_last=channels_last)
    agree(instance_norm_act(x, "none"), reference.instance_norm_act(x.double(), "none"), tolerance=1e-3)


@pytest.mark.parametrize("value", [0.0, 7.0, 0.1, -1000.1, 12345.67, 1e30])
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_constant_planes_give_zero_and_finite_gradients(agree, plane, value, activation):
    x = torch.full_like(plane(7, 5), value)
    assert not instance_norm_act(x, activation).any()
    dy = plane(7, 5, seed=1)
    got, _ = _gradients(x, dy, activation)
    # x-hat is 0 and rstd 1 / sqrt(eps); ReLU passes nothing there.
    slope = {"none": 1.0, "relu": 0.0}[activation]
    agree(got, slope * (dy - dy.double().mean((2, 3), keepdim=True)) / 1e-5**0.5)


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e-4, 1e6, 1e18])
def test_tiny_and_huge_values(agree, plane, size):
    x = plane(5, 7) * size
    agree(instance_norm_act(x, "none"), reference.instance_norm_act(x.double(), "none"))
    got, expected = _gradients(x, plane(5, 7, seed=1))
    agree(got, expected, tolerance=1e-4)


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_a_variance_beyond_fp32_gives_zeros_as_pytorchs_fp32_does(plane):
    x = plane(5, 7) * 1e30
    assert not instance_norm_act(x, "none").any()
    assert not reference.instance_norm_act(x, "none").any()
    got, _ = _gradients(x, plane(5, 7, seed=1))
    assert not got.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_largest_numbers_of_half_precision(agree, plane, dtype):
    x = plane(5, 7, dtype=dtype).sign() * (65504 if dtype == torch.float16 else 1e18)
    x[0, :, 0, 0] = 0
    agree(instance_norm_act(x, "none"), reference.instance_norm_act(x.double(), "none"))


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("value", [INFINITE, -INFINITE, float("nan")])
@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu"])
def test_infinities_and_nan_make_their_plane_nan_and_no_other(noise, value, activation):
    for channels_last in (False, True):
        x = noise(2, 2, 4, 5, channels_last=channels_last)
        x[1, 0, 2, 3] = value
        leaf, stock = x.clone().requires_grad_(), x.contiguous().requires_grad_()
        y, expected = instance_norm_act(leaf, activation, pad=1), reference.instance_norm_act(stock, activation, pad=1)
        assert y[1, 0].isnan().all()
        assert torch.equal(y.isnan(), expected.isnan())
        y.backward(y.detach().nan_to_num(1.0))
        expected.backward(expected.detach().nan_to_num(1.0).contiguous())
        assert torch.equal(leaf.grad.isnan(), stock.grad.isnan())


@pytest.mark.parametrize("eps", [1e-12, 1e-3, 2.0])
def test_eps_is_added_to_the_variance(agree, plane, eps):
    x = 0.1 * plane(5, 7)
    agree(instance_norm_act(x, "none", eps=eps), reference.instance_norm_act(x.double(), "none", eps=eps))
    assert not torch.allclose(instance_norm_act(x, "none", eps=2 * eps + 1e-3), instance_norm_act(x, "none", eps=eps))


def test_the_same_bits_on_every_run(plane):
    results = []
    for _ in range(3):
        x, residual = plane(7, 9).requires_grad_(), plane(7, 9, seed=1).requires_grad_()
        y, inside = instance_norm_act_shared(x, residual=residual)
        gradients = torch.autograd.grad([y.square().sum(), inside.sum()], [x, residual])
        results.append([y.detach(), *gradients])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_second_derivative_raises(noise):
    x = noise(1, 2, 4, 5).requires_grad_()
    (dx,) = torch.autograd.grad(instance_norm_act(x, pad=1).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice.*once_differentiable"):
        dx.sum().backward()
