"""What instance_norm_act reads and writes: any strides in, its input's format out, no copies, few saved tensors."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastliver.kernels import instance_norm_act, instance_norm_act_shared, reference
from fastliver.kernels.geometry import is_channels_last


class Recorder(TorchDispatchMode):
    """Names of the operators that run, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view:
            self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def _pair(**given):
    return (
        lambda x, r=None: instance_norm_act(x, residual=r, **given),
        lambda x, r=None: reference.instance_norm_act(x, residual=r, **given),
    )


VIEWS = {
    "interior": lambda make: make(1, 3, 8, 9)[:, :, 2:-2, 1:-1],
    "interior of channels_last": lambda make: make(1, 3, 8, 9, channels_last=True)[:, :, 2:-2, 1:-1],
    "every second": lambda make: make(1, 4, 8, 10)[:, 1::2, ::2, ::2],
    "every second of channels_last": lambda make: make(1, 4, 8, 10, channels_last=True)[:, 1::2, ::2, ::2],
    "transposed": lambda make: make(1, 2, 7, 4).transpose(2, 3),
    "samples and channels swapped": lambda make: make(2, 1, 4, 5).transpose(0, 1),
    "a sample of a batch": lambda make: make(3, 2, 4, 5)[1:2],
    "expanded": lambda make: make(1, 1, 4, 5).expand(1, 2, 4, 5),
}


@pytest.mark.parametrize("view", list(VIEWS))
def test_input_with_any_strides(compare, noise, view):
    x = VIEWS[view](noise)
    (y,), (dx,) = compare(*_pair(activation="relu", pad=1), x)
    for result in (y, dx):
        assert result.is_contiguous(
            memory_format=torch.channels_last if is_channels_last(x) else torch.contiguous_format
        )


@pytest.mark.parametrize("view", list(VIEWS))
def test_residual_with_any_strides(compare, noise, view):
    residual = VIEWS[view](noise)
    compare(*_pair(activation="none", pad=1), noise(*residual.shape, seed=1), residual)


@pytest.mark.parametrize("view", list(VIEWS))
@pytest.mark.parametrize("pad", [0, 1])
def test_incoming_gradient_with_any_strides(compare, noise, view, pad):
    dy = VIEWS[view](noise)
    n, c, h, w = dy.shape
    shape = (n, c, h - 2 * pad, w - 2 * pad)
    for form in ("contiguous", "channels_last") if pad else ("channels_last",):
        x, residual = (noise(*shape, channels_last=form == "channels_last", seed=seed) for seed in (1, 2))
        compare(*_pair(activation="leaky_relu", pad=pad), x, residual, incoming=[dy])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("pad", [0, 2])
def test_the_gradient_of_a_sum_has_no_strides_at_all(agree, noise, pad, channels_last):
    x = noise(1, 2, 4, 5, channels_last=channels_last).requires_grad_()
    exact = x.detach().double().requires_grad_()
    seen = []
    y = instance_norm_act(x, pad=pad)
    y.register_hook(lambda dy: seen.append(dy.stride()))
    y.sum().backward()
    assert seen == [(0, 0, 0, 0)]
    reference.instance_norm_act(exact, pad=pad).sum().backward()
    agree(x.grad, exact.grad)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("residual_channels_last", [False, True])
def test_format_and_dtype_out_are_those_of_x(noise, channels_last, residual_channels_last):
    form = torch.channels_last if channels_last else torch.contiguous_format
    x = noise(2, 3, 4, 5, dtype=torch.bfloat16, channels_last=channels_last).requires_grad_()
    residual = noise(2, 3, 4, 5, dtype=torch.bfloat16, channels_last=residual_channels_last).requires_grad_()
    y, inside = instance_norm_act_shared(x, residual=residual, pad=1)
    assert y.is_contiguous(memory_format=form)
    assert y.dtype == inside.dtype == torch.bfloat16
    dx, dr = torch.autograd.grad([y.float().square().sum(), inside.float().sum()], [x, residual])
    assert dx.is_contiguous(memory_format=form)
    assert dr.is_contiguous(memory_format=form)


@pytest.mark.parametrize("view", list(VIEWS))
def test_nothing_is_copied(noise, view):
    x = VIEWS[view](noise).requires_grad_()
    residual = VIEWS[view](noise).requires_grad_()
    with Recorder() as recorder:
        y, inside = instance_norm_act_shared(x, residual=residual, pad=1)
        torch.autograd.grad([y, inside], [x, residual], [y.detach(), inside.detach()])
    assert recorder.names == ["fastliver::instance_norm_act_forward", "fastliver::instance_norm_act_backward"]


def test_without_padding_the_residuals_gradient_is_the_incoming_one(noise):
    x, residual = noise(1, 2, 4, 5).requires_grad_(), noise(1, 2, 4, 5, seed=1).requires_grad_()
    dy = noise(1, 2, 4, 5, seed=2)
    dr = torch.autograd.grad(instance_norm_act(x, residual=residual), residual, dy)[0]
    assert dr.data_ptr() == dy.data_ptr()


@pytest.mark.parametrize("channels_last", [False, True])
def test_x_mean_and_rstd_are_all_that_is_saved(agree, noise, channels_last):
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    x = noise(2, 3, 4, 5, channels_last=channels_last).requires_grad_()
    residual = noise(2, 3, 4, 5, seed=1).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        instance_norm_act(x, residual=residual, pad=1)
    kept_x, mean, rstd = saved
    assert kept_x.data_ptr() == x.data_ptr()
    assert kept_x.stride() == x.stride()
    exact = x.detach().double()
    agree(mean, exact.mean((2, 3)))
    agree(rstd, (exact.var((2, 3), correction=0) + 1e-5).rsqrt())
