"""Adversarial, discriminator, cycle and U-Net losses against the reference in float64."""

import pytest
import torch
from torch import Tensor

from fastliver.kernels import (
    binary_cross_entropy_with_logits,
    cycle_l1_loss,
    patch_adversarial_loss,
    patch_discriminator_loss,
    reference,
)

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(1, 1, 1, 1), (1, 1, 5, 7), (2, 1, 30, 30), (1, 1, 64, 65)]  # 4,160 elements are three tiles
MODES = ["bce", "lsgan"]
INFINITE = float("inf")


def _losses(labels: Tensor | None = None):
    """Each loss and its reference, as functions of one or two maps."""
    return {
        **{
            f"{mode} {real}": (
                1,
                lambda x, real=real, mode=mode: patch_adversarial_loss(x, real, mode),
                lambda x, real=real, mode=mode: reference.patch_adversarial_loss(x, real, mode),
            )
            for mode in MODES
            for real in (True, False)
        },
        **{
            f"discriminator {mode}": (
                2,
                lambda x, y, mode=mode: patch_discriminator_loss(x, y, mode),
                lambda x, y, mode=mode: reference.patch_discriminator_loss(x, y, mode),
            )
            for mode in MODES
        },
        "l1": (2, cycle_l1_loss, reference.cycle_l1_loss),
        "unet": (
            1,
            lambda x: binary_cross_entropy_with_logits(x, labels),
            lambda x: reference.binary_cross_entropy_with_logits(x, labels),
        ),
    }


NAMES = list(_losses())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(compare, noise, shape, dtype, name):
    labels = (noise(*shape, seed=5) > 0).to(torch.uint8)[:, 0]
    count, loss, definition = _losses(labels)[name]
    (value,), _ = compare(loss, definition, *(3 * noise(*shape, dtype=dtype, seed=i) for i in range(count)))
    assert value.dtype == torch.float32
    assert value.shape == ()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("view", ["channels_last", "transposed", "sliced", "expanded"])
def test_any_strides(compare, noise, name, view):
    def make(seed: int) -> Tensor:
        x = noise(2, 1, 6, 8, seed=seed)
        return {
            "channels_last": x.contiguous(memory_format=torch.channels_last),
            "transposed": x.transpose(2, 3),
            "sliced": x[:, :, ::2, 1:],
            "expanded": x[:1].expand(2, 1, 6, 8),
        }[view]

    labels = (make(5) > 0)[:, 0]
    count, loss, definition = _losses(labels)[name]
    compare(loss, definition, *(make(seed) for seed in range(count)))


@pytest.mark.parametrize("swapped", [False, True])
def test_cycle_loss_of_tensors_in_two_formats(compare, noise, swapped):
    a, b = noise(2, 3, 4, 5), noise(2, 3, 4, 5, channels_last=True, seed=1)
    compare(cycle_l1_loss, reference.cycle_l1_loss, *((b, a) if swapped else (a, b)))


@pytest.mark.parametrize("channels_last", [False, True])
def test_cycle_loss_against_an_image_of_another_dtype_is_the_kernels(noise, channels_last, monkeypatch):
    a, image = noise(2, 3, 4, 5, dtype=torch.bfloat16, channels_last=channels_last), noise(2, 3, 4, 5, seed=1)
    exact = a.double().requires_grad_()
    expected = reference.cycle_l1_loss(exact, image.double())
    expected.backward()
    monkeypatch.setattr(reference, "cycle_l1_loss", None)
    a.requires_grad_()
    loss = cycle_l1_loss(a, image)
    loss.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(a.grad.double(), exact.grad, rtol=2**-7, atol=0)


def test_cycle_loss_gives_each_side_its_gradient_and_equal_elements_none(noise):
    a, b = noise(1, 1, 2, 2), noise(1, 1, 2, 2, seed=1)
    b[0, 0, 0, 0] = a[0, 0, 0, 0]
    for first, second in ((True, True), (True, False), (False, True)):
        x, y = a.clone().requires_grad_(first), b.clone().requires_grad_(second)
        cycle_l1_loss(x, y).backward()
        expected = (a - b).sign() / 4
        assert expected[0, 0, 0, 0] == 0
        assert torch.equal(x.grad, expected) if first else x.grad is None
        assert torch.equal(y.grad, -expected) if second else y.grad is None


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.float16], ids=str)
def test_unet_labels_of_any_dtype_and_strides(compare, noise, dtype):
    labels = (noise(2, 8, 5, seed=3) > 0).to(dtype).transpose(1, 2)
    _, loss, definition = _losses(labels)["unet"]
    compare(loss, definition, noise(2, 1, 5, 8))


@pytest.mark.parametrize("name", NAMES)
def test_a_scaled_half_precision_gradient_is_rounded_once(device, name):
    # 1 / 65,536 is subnormal in fp16 and its products with a slope vanish, unless the scale comes first.
    x = torch.linspace(-4, 4, 65_536, device=device).half().reshape(1, 1, 256, 256)
    labels = torch.zeros(1, 256, 256, dtype=torch.uint8, device=device)
    count, loss, definition = _losses(labels)[name]
    inputs = [x, x.flip(3) / 2][:count]
    leaves, exact = ([t.detach().to(d).requires_grad_() for t in inputs] for d in (torch.float16, torch.float64))
    (loss(*leaves) * 65_536).backward()
    (definition(*exact) * 65_536).backward()
    for leaf, expected in zip(leaves, exact, strict=True):
        torch.testing.assert_close(leaf.grad.double(), expected.grad, rtol=2**-10, atol=2e-7)


@pytest.mark.parametrize("size", [20.0, 100.0, 1e4])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", [name for name in NAMES if "lsgan" not in name])
def test_extreme_logits(device, name, sign, size):
    count, loss, definition = _losses(torch.ones(1, 2, 3, device=device))[name]
    leaves = [torch.full((1, 1, 2, 3), sign * size * s, device=device) for s in (1, -1)][:count]
    exact = [x.double().requires_grad_() for x in leaves]
    leaves = [x.requires_grad_() for x in leaves]
    value, expected = loss(*leaves), definition(*exact)
    # Where a logit is right by far, loss and slope are what is left of 1: good to the rounding of 1 in fp32.
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1.2e-7)
    for got, right in zip(torch.autograd.grad(value, leaves), torch.autograd.grad(expected, exact), strict=True):
        torch.testing.assert_close(got.double(), right, rtol=1e-5, atol=1.2e-7)


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("value", [INFINITE, -INFINITE])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("l1", "unet")])
def test_infinite_logits_give_what_the_reference_gives(device, name, value):
    count, loss, definition = _losses()[name]
    for place in range(count):
        inputs = [torch.tensor([0.5, -1.0, 2.0, 0.0], device=device).reshape(1, 1, 2, 2) for _ in range(count)]
        inputs[place][0, 0, 0, 1] = value
        leaves, exact = ([x.detach().to(d).requires_grad_() for x in inputs] for d in (torch.float32, torch.float64))
        got, expected = loss(*leaves), definition(*exact)
        torch.testing.assert_close(got.double(), expected)
        for g, e in zip(torch.autograd.grad(got, leaves), torch.autograd.grad(expected, exact), strict=True):
            torch.testing.assert_close(g.double(), e)


@pytest.mark.parametrize("name", NAMES)
def test_nan_is_passed_on(device, name):
    labels = torch.zeros(1, 2, 2, device=device)
    count, loss, _ = _losses(labels)[name]
    for place in range(count):
        leaves = [torch.ones(1, 1, 2, 2, device=device) for _ in range(count)]
        leaves[place][0, 0, 1, 0] = float("nan")
        value = loss(*(x.requires_grad_() for x in leaves))
        assert value.isnan()
        value.backward()
        if place == 0 or name != "l1":
            assert leaves[place].grad.isnan().tolist() == [[[[False, False], [True, False]]]]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits_on_every_run_and_no_second_derivative(noise, name):
    labels = (noise(1, 64, 65, seed=5) > 0).float()
    count, loss, _ = _losses(labels)[name]
    leaves = [noise(1, 1, 64, 65, seed=i).requires_grad_() for i in range(count)]
    first, second = ([loss(*leaves), *torch.autograd.grad(loss(*leaves), leaves)] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    gradients = torch.autograd.grad(loss(*leaves).square(), leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice.*once_differentiable"):
        gradients[0].sum().backward()


@pytest.mark.parametrize("name", NAMES)
def test_the_fp32_gradients_are_all_that_is_saved(noise, name):
    saved = []
    count, loss, _ = _losses(torch.ones(2, 4, 5, device=noise(1).device))[name]
    leaves = [noise(2, 1, 4, 5, dtype=torch.float16, seed=seed).requires_grad_() for seed in range(count)]
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda tensor: tensor):
        loss(*leaves)
    assert [(tensor.dtype, tensor.shape) for tensor in saved] == [(torch.float32, (2, 1, 4, 5))] * (
        2 if "discriminator" in name else 1
    )


def test_labels_that_require_a_gradient_are_refused(noise):
    labels = noise(1, 4, 5).sigmoid().requires_grad_()
    with pytest.raises(ValueError, match="labels require a gradient"):
        binary_cross_entropy_with_logits(noise(1, 1, 4, 5), labels)
    binary_cross_entropy_with_logits(noise(1, 1, 4, 5), labels.detach())


def test_arguments_without_meaning_raise(noise):
    x = noise(1, 1, 4, 5)
    for loss in (patch_adversarial_loss, patch_discriminator_loss):
        with pytest.raises(ValueError, match="mode='wgan'"):
            loss(x, x, "wgan")
    for loss in (patch_discriminator_loss, cycle_l1_loss):
        with pytest.raises(ValueError, match=r"\(1, 1, 4, 5\).*\(1, 1, 5, 4\)"):
            loss(x, x.transpose(2, 3))
    with pytest.raises(ValueError, match=r"\(1, 4, 5\).*\(1, 5, 4\)"):
        binary_cross_entropy_with_logits(x, x[:, 0].transpose(1, 2))
    with pytest.raises(ValueError):  # two channels for one label map: the kernel would read past the labels
        binary_cross_entropy_with_logits(noise(1, 2, 4, 5), x[:, 0])
