"""The reference operators against numbers worked out by hand, or in numpy from the definitions."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from fastliver.kernels.reference import (
    binary_cross_entropy_with_logits,
    cycle_l1_loss,
    instance_norm_act,
    patch_adversarial_loss,
    pixel_cross_entropy,
    reflect_pad,
)


def _plane(rows: list[list[float]]) -> Tensor:
    return torch.tensor([[rows]], dtype=torch.float64)


def _normed(x: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    mean = x.mean((2, 3), keepdims=True)
    variance = ((x - mean) ** 2).mean((2, 3), keepdims=True)
    return (x - mean) / np.sqrt(variance + eps)


def _noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


# Reflection padding


def test_reflection_mirrors_about_the_edge_pixel_without_repeating_it():
    x = _plane([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    assert reflect_pad(x, 1)[0, 0].tolist() == [
        [5, 4, 5, 6, 5],
        [2, 1, 2, 3, 2],
        [5, 4, 5, 6, 5],
        [8, 7, 8, 9, 8],
        [5, 4, 5, 6, 5],
    ]
    assert reflect_pad(x, 2)[0, 0, 0].tolist() == [9, 8, 7, 8, 9, 8, 7]
    assert torch.equal(reflect_pad(x, 0), x)


def test_reflection_of_the_gradient_adds_up_what_was_copied():
    x = torch.zeros(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    reflect_pad(x, 1).sum().backward()
    # In a row of three the middle one is copied to both sides.
    assert x.grad[0, 0].tolist() == [[1, 3, 1], [3, 9, 3], [1, 3, 1]]


def test_reflection_wider_than_the_plane_raises():
    with pytest.raises(RuntimeError):
        reflect_pad(torch.zeros(1, 1, 3, 3), 3)


# Instance norm


def test_instance_norm_by_hand():
    # Mean 2.5, variance (2.25 + 0.25 + 0.25 + 2.25) / 4 = 1.25, to which 0.19 makes 1.44 = 1.2 squared.
    x = _plane([[1, 2], [3, 4]])
    assert_close(instance_norm_act(x, "none", eps=0.19), _plane([[-1.25, -5 / 12], [5 / 12, 1.25]]))
    assert_close(instance_norm_act(x, "relu", eps=0.19), _plane([[0, 0], [5 / 12, 1.25]]))
    leaky = instance_norm_act(x, "leaky_relu", slope=0.2, eps=0.19)
    assert_close(leaky, _plane([[-0.25, -1 / 12], [5 / 12, 1.25]]))
    assert_close(instance_norm_act(x, "leaky_relu", slope=0.5, eps=0.19)[0, 0, 0, 0].item(), -0.625)


def test_instance_norm_is_for_each_plane_of_each_image_with_eps_1e_5():
    x = _noise(2, 3, 4, 5) * np.array([1e-3, 1.0, 50.0])[:, None, None] + np.arange(6).reshape(2, 3, 1, 1)
    assert_close(instance_norm_act(torch.from_numpy(x), "none"), torch.from_numpy(_normed(x)))
    relu = torch.from_numpy(np.maximum(_normed(x), 0))
    assert_close(instance_norm_act(torch.from_numpy(x)), relu)  # ReLU is the default


def test_the_residual_is_added_after_norm_and_activation_and_padding_comes_last():
    x, residual = _noise(2, 3, 4, 4), _noise(2, 3, 4, 4, seed=1)
    for name, function in (("none", lambda y: y), ("relu", lambda y: np.maximum(y, 0))):
        expected = np.pad(function(_normed(x)) + residual, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")
        got = instance_norm_act(torch.from_numpy(x), name, residual=torch.from_numpy(residual), pad=2)
        assert_close(got, torch.from_numpy(expected))
        assert (got < 0).any()


def test_a_plane_without_contrast_gives_zeros_and_finite_gradients():
    x = torch.full((1, 2, 3, 3), 4.0, requires_grad=True)
    y = instance_norm_act(x, "leaky_relu")
    assert not y.any()
    y.square().sum().backward()
    assert x.grad.isfinite().all()


def test_a_large_mean_does_not_drown_the_variance_in_float32():
    x = (1000 + 0.1 * _noise(1, 2, 16, 16)).astype(np.float32)
    expected = torch.from_numpy(_normed(x.astype(np.float64)))
    assert_close(instance_norm_act(torch.from_numpy(x), "none").double(), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_instance_norm_keeps_dtype_and_shape(dtype):
    x = torch.rand(2, 3, 8, 6).to(dtype)
    y = instance_norm_act(x, residual=x, pad=1)
    assert y.dtype == dtype
    assert y.shape == (2, 3, 10, 8)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "none"])
@pytest.mark.parametrize("pad", [0, 1])
def test_gradients_equal_finite_differences(activation, pad):
    x, residual = torch.from_numpy(_noise(1, 2, 3, 4)), torch.from_numpy(_noise(1, 2, 3, 4, seed=1))

    def function(a: Tensor, b: Tensor) -> Tensor:
        return instance_norm_act(a, activation, residual=b, pad=pad)

    assert torch.autograd.gradcheck(function, (x.requires_grad_(), residual.requires_grad_()), fast_mode=True)


def test_arguments_without_meaning_raise_and_say_what_was_expected():
    x = torch.zeros(2, 3, 4, 5)
    with pytest.raises(ValueError, match="activation='gelu'.*relu, leaky_relu, none"):
        instance_norm_act(x, "gelu")
    with pytest.raises(ValueError, match=r"\(2, 3, 1, 1\)"):
        instance_norm_act(torch.zeros(2, 3, 1, 1))
    with pytest.raises(ValueError, match=r"\(3, 4, 5\)"):
        instance_norm_act(x[0])
    with pytest.raises(ValueError, match=r"residual.*\(2, 3, 5, 4\).*\(2, 3, 4, 5\)"):
        instance_norm_act(x, residual=x.transpose(2, 3))
    for pad in (-1, 4):
        with pytest.raises(ValueError, match=f"pad={pad}"):
            instance_norm_act(x, pad=pad)


def test_a_plane_of_two_pixels_is_normed():
    assert_close(instance_norm_act(_plane([[0, 1]]), "none", eps=0.0), _plane([[-1, 1]]))


# Losses


def _map(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, 1, -1)


def test_adversarial_cross_entropy_by_hand():
    # A sigmoid of 0 is 1/2 and of ln 3 is 3/4.
    logits = _map(0.0, math.log(3))
    assert patch_adversarial_loss(logits, True, "bce").item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    assert patch_adversarial_loss(logits, False, "bce").item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert patch_adversarial_loss(logits, True).item() == patch_adversarial_loss(logits, True, "bce").item()


def test_adversarial_least_squares_by_hand():
    logits = _map(0.5, -1.0)
    assert patch_adversarial_loss(logits, True, "lsgan").item() == (0.25 + 4.0) / 2
    assert patch_adversarial_loss(logits, False, "lsgan").item() == (0.25 + 1.0) / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [100.0, 10_000.0])
@pytest.mark.parametrize(("sign", "real"), [(1, True), (-1, True), (1, False), (-1, False)])
def test_extreme_logits_give_finite_losses_and_gradients(dtype, size, sign, real):
    logits = torch.full((1, 1, 2, 2), sign * size, dtype=dtype, requires_grad=True)
    right = (sign > 0) is real
    value = patch_adversarial_loss(logits, real, "bce")
    value.backward()
    assert value.item() == pytest.approx(0 if right else size, abs=1e-6)
    # The slope is sigmoid - target, over the four pixels.
    assert_close(logits.grad, torch.full_like(logits, 0.0 if right else 0.25 * sign))
    labels = torch.full((1, 2, 2), int(real))
    assert binary_cross_entropy_with_logits(logits, labels).item() == pytest.approx(0 if right else size, abs=1e-6)


def test_adversarial_gradient_pulls_towards_the_target():
    logits = _map(0.0, math.log(3)).requires_grad_()
    patch_adversarial_loss(logits, True, "bce").backward()
    assert_close(logits.grad, _map(-0.25, -0.125))


def test_an_unknown_adversarial_mode_raises():
    with pytest.raises(ValueError, match="mode='wgan'.*bce, lsgan"):
        patch_adversarial_loss(_map(0.0), True, "wgan")


def test_cycle_loss_is_the_mean_absolute_difference():
    a, b = _map(1.0, -2.0, 0.5).requires_grad_(), _map(0.0, 2.0, 0.5)
    loss = cycle_l1_loss(a, b)
    loss.backward()
    assert loss.item() == pytest.approx(5 / 3)
    assert_close(a.grad, _map(1 / 3, -1 / 3, 0.0))


def _classes(*pixels: list[float]) -> Tensor:
    """(1, K, 1, pixels) of the logarithms of odds."""
    return torch.tensor(pixels, dtype=torch.float64).log().T.reshape(1, -1, 1, len(pixels))


def test_pixel_cross_entropy_of_two_classes_by_hand():
    logits = _classes([1, 3], [1, 3], [1, 1])
    labels = torch.tensor([[[0, 1, 1]]], dtype=torch.uint8)
    expected = (math.log(4) + math.log(4 / 3) + math.log(2)) / 3
    assert pixel_cross_entropy(logits, labels).item() == pytest.approx(expected)


def test_pixel_cross_entropy_of_three_classes_by_hand():
    logits = _classes([1, 2, 5], [1, 2, 5], [1, 2, 5], [1, 1, 1]).requires_grad_()
    loss = pixel_cross_entropy(logits, torch.tensor([[[0, 1, 2, 1]]]))
    loss.backward()
    assert loss.item() == pytest.approx((math.log(8) + math.log(4) + math.log(8 / 5) + math.log(3)) / 4)
    assert_close(logits.grad[0, :, 0, 0] * 4, torch.tensor([1 / 8 - 1, 2 / 8, 5 / 8], dtype=torch.float64))


def test_pixel_cross_entropy_is_finite_for_extreme_logits():
    logits = torch.tensor([100.0, -100.0]).reshape(1, 2, 1, 1)
    assert pixel_cross_entropy(logits, torch.tensor([[[1]]])).item() == pytest.approx(200)
    assert pixel_cross_entropy(logits, torch.tensor([[[0]]])).item() == pytest.approx(0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.float32])
def test_binary_cross_entropy_by_hand_for_labels_of_any_dtype(dtype):
    logits = _map(0.0, math.log(3), math.log(3)).requires_grad_()
    loss = binary_cross_entropy_with_logits(logits, torch.tensor([[[1, 1, 0]]]).to(dtype))
    loss.backward()
    assert loss.item() == pytest.approx((math.log(2) + math.log(4 / 3) + math.log(4)) / 3)
    assert_close(logits.grad, _map(-0.5 / 3, -0.25 / 3, 0.75 / 3))
