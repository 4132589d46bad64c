"""Values and gradients of instance_norm_act against the reference in float64."""

import pytest
import torch
from torch import Tensor

from fastliver.kernels import InstanceNormAct, geometry, instance_norm_act, instance_norm_act_shared, reference

SHAPES = [(1, 3, 5, 7), (2, 2, 8, 8), (1, 1, 31, 31), (3, 1, 3, 1), (2, 2, 1, 5), (1, 70, 9, 6)]
FORMATS = ["contiguous", "channels_last"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def _options(**given):
    """The operator and its reference with the same options; a second tensor is the residual."""

    def operator(x: Tensor, residual: Tensor | None = None):
        return instance_norm_act(x, residual=residual, **given)

    def definition(x: Tensor, residual: Tensor | None = None):
        return reference.instance_norm_act(x, residual=residual, **given)

    return operator, definition


def _shared(**given):
    def definition(x: Tensor, residual: Tensor | None = None):
        y = reference.instance_norm_act(x, residual=residual, **given)
        pad = given["pad"]
        return y, y[:, :, pad : y.shape[2] - pad, pad : y.shape[3] - pad]

    return lambda x, residual=None: instance_norm_act_shared(x, residual=residual, **given), definition


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_formats_and_dtypes(compare, noise, shape, form, dtype):
    if shape[1] == 70 and form == "contiguous":
        shape = (1, 2, 9, 6)  # two blocks of channels are a matter of channels_last; here each channel is a program
    x = noise(*shape, dtype=dtype, channels_last=form == "channels_last")
    residual = noise(*shape, dtype=dtype, channels_last=form == "channels_last", seed=1)
    pad = min(1, min(shape[2:]) - 1)
    (y,), _ = compare(*_options(activation="relu", pad=pad), x, residual)
    assert y.dtype == dtype


def test_a_plane_of_two_pixels(agree, noise):
    # dx is what eps leaves of two numbers that cancel: of the size of eps, not of the numbers.
    x, dy = noise(3, 1, 2, 1).requires_grad_(), noise(3, 1, 2, 1, seed=1)
    exact = x.detach().double().requires_grad_()
    y, expected = instance_norm_act(x, "none"), reference.instance_norm_act(exact, "none")
    agree(y.detach(), expected.detach())
    y.backward(dy)
    expected.backward(dy.double())
    agree(x.grad, exact.grad, tolerance=1e-3)


@pytest.mark.parametrize("residual", [None, "contiguous", "channels_last", "interior"])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "none"])
@pytest.mark.parametrize("pad", [0, 1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", FORMATS)
def test_options_in_every_combination(compare, noise, form, pad, activation, residual):
    shape = (1, 2, 4, 5) if form == "channels_last" else (2, 1, 4, 5)
    inputs = [noise(*shape, channels_last=form == "channels_last")]
    if residual == "interior":
        inputs.append(noise(*shape[:2], 6, 7, channels_last=form == "channels_last", seed=1)[:, :, 1:-1, 1:-1])
    elif residual:
        inputs.append(noise(*shape, channels_last=residual == "channels_last", seed=1))
    compare(*_options(activation=activation, slope=0.3, pad=pad), *inputs)


@pytest.mark.parametrize("used", ["both", "padded", "inside"])
@pytest.mark.parametrize("pad", [0, 1, 2])
@pytest.mark.parametrize("form", FORMATS)
def test_shared_results_bring_both_gradients_back(compare, noise, form, pad, used):
    x = noise(2, 3, 4, 5, channels_last=form == "channels_last")
    residual = noise(2, 3, 4, 5, channels_last=form == "channels_last", seed=1)
    padded, inside = noise(2, 3, 4 + 2 * pad, 5 + 2 * pad, seed=2), noise(2, 3, 4, 5, seed=3)
    incoming = [padded if used != "inside" else None, inside if used != "padded" else None]
    (y, view), _ = compare(*_shared(activation="relu", pad=pad), x, residual, incoming=incoming)
    assert view.untyped_storage().data_ptr() == y.untyped_storage().data_ptr()


@pytest.mark.parametrize("form", FORMATS)
def test_shared_results_without_a_residual(compare, noise, form):
    compare(*_shared(activation="leaky_relu", pad=1), noise(1, 3, 6, 4, channels_last=form == "channels_last"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_shared_results_in_half_precision(compare, noise, dtype):
    x, residual = (noise(1, 2, 5, 6, dtype=dtype, channels_last=True, seed=seed) for seed in (0, 1))
    compare(*_shared(activation="none", pad=1), x, residual)


@pytest.mark.parametrize("wanted", ["x", "residual"])
@pytest.mark.parametrize("pad", [0, 1])
def test_only_the_gradient_that_is_wanted(agree, noise, wanted, pad):
    x, residual, dy = noise(1, 2, 4, 5), noise(1, 2, 4, 5, seed=1), noise(1, 2, 4 + 2 * pad, 5 + 2 * pad, seed=2)
    leaf = (x if wanted == "x" else residual).requires_grad_()
    instance_norm_act(x, residual=residual, pad=pad).backward(dy)
    got, leaf.grad = leaf.grad, None
    reference.instance_norm_act(x.double(), residual=residual.double(), pad=pad).backward(dy.double())
    agree(got, leaf.grad)
    assert (residual if wanted == "x" else x).grad is None


class _WithoutGradient(torch.autograd.Function):
    """A copy that has no gradient to hand back."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return None


def test_no_incoming_gradient_gives_none(noise):
    x, residual = noise(1, 2, 4, 5).requires_grad_(), noise(1, 2, 4, 5, seed=1).requires_grad_()
    padded, inside = instance_norm_act_shared(x, residual=residual)
    (_WithoutGradient.apply(padded).sum() + _WithoutGradient.apply(inside).sum()).backward()
    assert x.grad is None
    assert residual.grad is None


def test_without_gradients_nothing_is_recorded(agree, noise):
    x = noise(1, 2, 4, 5).requires_grad_()
    with torch.no_grad():
        y = instance_norm_act(x, pad=1)
    assert not y.requires_grad
    agree(y, reference.instance_norm_act(x.detach().double(), pad=1))


def test_the_module_is_the_operator_with_fixed_options(noise):
    x, residual = noise(1, 2, 4, 5), noise(1, 2, 4, 5, seed=1)
    module = InstanceNormAct("leaky_relu", slope=0.4, pad=2, eps=1e-2)
    assert torch.equal(module(x, residual), instance_norm_act(x, "leaky_relu", 0.4, residual, 2, 1e-2))
    assert not list(module.parameters())
    assert "leaky_relu, slope=0.4, pad=2, eps=0.01" in repr(module)


def test_arguments_without_meaning_raise_before_a_kernel_runs(noise):
    for pad in (-1, 4):
        with pytest.raises(ValueError, match=f"pad={pad}"):
            instance_norm_act(noise(1, 2, 4, 5), pad=pad)
    # As PyTorch: "Expected more than 1 spatial element when training".
    with pytest.raises(ValueError, match=r"\(1, 2, 1, 1\).*one element"):
        instance_norm_act(noise(1, 2, 1, 1))
    with pytest.raises(ValueError, match="activation='gelu'"):
        instance_norm_act(noise(1, 2, 4, 5), "gelu")
    with pytest.raises(ValueError, match="residual"):
        instance_norm_act_shared(noise(1, 2, 4, 5), residual=noise(1, 2, 5, 4))


# Planes of more than one tile


@pytest.mark.parametrize("pad", [0, pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize(("shape", "form"), [((1, 3, 5, 7), "channels_last"), ((2, 1, 6, 8), "contiguous")], ids=str)
def test_several_tiles_are_merged(compare, noise, small_tiles, shape, form, pad):
    x, residual = (noise(*shape, channels_last=form == "channels_last", seed=seed) for seed in (0, 1))
    compare(*_shared(activation="relu", pad=pad), 3 + 2 * x, residual)


@pytest.mark.slow
def test_more_tiles_than_one_merge_takes(compare, noise, small_tiles, monkeypatch):
    monkeypatch.setattr(geometry, "MERGED_TILES", 32)
    compare(*_options(activation="none"), noise(1, 1, 36, 31))  # 70 tiles, 32 at a time


@pytest.mark.parametrize("form", FORMATS)
def test_a_plane_too_large_for_registers(compare, noise, form):
    compare(
        *_options(activation="relu", pad=1),
        noise(1, 1 if form == "contiguous" else 2, 150, 120, channels_last=form == "channels_last"),
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("shape", [(1, 65, 31, 33), (1, 2, 257, 129), (4, 5, 17, 3), (2, 4, 64, 64)], ids=str)
def test_large_shapes(compare, noise, shape, form, dtype):
    x, residual = (noise(*shape, dtype=dtype, channels_last=form == "channels_last", seed=seed) for seed in (0, 1))
    compare(*_shared(activation="leaky_relu", pad=2), x, residual)
