"""pixel_cross_entropy against the reference in float64."""

import pytest
import torch

from fastliver.kernels import pixel_cross_entropy, reference

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture
def labels(device):
    """Makes random label maps."""

    def make(*shape: int, classes: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randint(0, classes, shape, generator=generator).to(device, dtype)

    return make


def _both(y):
    return lambda x: pixel_cross_entropy(x, y), lambda x: reference.pixel_cross_entropy(x, y)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "shape", [(1, 2, 1, 1), (2, 2, 5, 7), (1, 3, 31, 31), (3, 5, 4, 4), (1, 2, 64, 65), (1, 17, 3, 2)], ids=str
)
def test_values_and_gradients(compare, noise, labels, shape, channels_last, dtype):
    n, k, h, w = shape
    (value,), (gradient,) = compare(
        *_both(labels(n, h, w, classes=k)), 3 * noise(*shape, dtype=dtype, channels_last=channels_last)
    )
    assert value.dtype == torch.float32
    assert value.shape == ()
    assert gradient.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64], ids=str)
def test_labels_of_any_integer_dtype(compare, noise, labels, dtype):
    compare(*_both(labels(2, 4, 5, classes=2, dtype=dtype)), noise(2, 2, 4, 5))


@pytest.mark.parametrize("tile", [16, 64])
def test_several_tiles_of_a_sample(compare, noise, labels, monkeypatch, tile):
    monkeypatch.setattr("fastliver.kernels.cross_entropy.TILE", tile)
    compare(*_both(labels(2, 7, 9, classes=3)), noise(2, 3, 7, 9))


def test_labels_and_logits_of_any_strides(compare, noise, labels):
    y = labels(2, 6, 8, classes=3, dtype=torch.int64)
    compare(*_both(y.transpose(1, 2)), noise(2, 3, 8, 6))
    compare(*_both(y[:, ::2, 1:]), noise(2, 3, 3, 7, channels_last=True))
    compare(*_both(y[:1].expand(2, 6, 8)), noise(2, 6, 3, 8).transpose(1, 2))
    compare(*_both(y), noise(2, 3, 8, 10)[:, :, 1:-1, 1:-1])


def test_the_gradient_of_one_column_stays_within_its_memory(compare, noise, labels):
    x = noise(1, 2, 1, 64).transpose(2, 3)  # the stride along a side of one element, 64 here, says nothing
    assert x.is_contiguous()
    _, (gradient,) = compare(*_both(labels(1, 64, 1, classes=2)), x)
    assert gradient.stride() == (128, 64, 1, 1)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("size", [100.0, 1e4, -1e4])
def test_extreme_logits(device, label, size):
    x = torch.tensor([size, 0.0], device=device).reshape(1, 2, 1, 1).expand(1, 2, 3, 3).requires_grad_()
    exact = x.detach().double().requires_grad_()
    y = torch.full((1, 3, 3), label, device=device)
    value, expected = pixel_cross_entropy(x, y), reference.pixel_cross_entropy(exact, y)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)
    got, right = torch.autograd.grad(value, x)[0], torch.autograd.grad(expected, exact)[0]
    torch.testing.assert_close(got.double(), right, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("label", [-1, -100, 2, 3, 255, 2**32, 2**32 + 1])
def test_a_label_out_of_range_makes_the_loss_nan(noise, labels, label):
    y = labels(1, 4, 5, classes=2, dtype=torch.int64)
    assert pixel_cross_entropy(noise(1, 2, 4, 5), y).isfinite()
    y[0, 2, 3] = label
    assert pixel_cross_entropy(noise(1, 2, 4, 5), y).isnan()


def test_a_label_of_the_padding_class_is_out_of_range(noise, labels):
    y = labels(1, 4, 5, classes=3)
    y[0, 0, 0] = 3  # three classes take four columns of the tile
    assert pixel_cross_entropy(noise(1, 3, 4, 5), y).isnan()


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 1])
def test_nan_and_infinite_logits_make_the_loss_nan_as_the_reference_does(noise, labels, value, place):
    x = noise(1, 2, 3, 3)
    x[0, place, 1, 1] = value
    y = torch.full_like(labels(1, 3, 3, classes=2), 0)
    assert reference.pixel_cross_entropy(x, y).isnan()
    x.requires_grad_()
    loss = pixel_cross_entropy(x, y)
    loss.backward()
    assert loss.isnan()
    assert x.grad[0, :, 1, 1].isnan().any()
    assert int(x.grad.isnan().sum()) <= 2


def test_minus_infinity_rules_a_class_out_as_in_the_reference(compare, noise, labels):
    x = noise(1, 3, 4, 5)
    x[0, 2] = float("-inf")
    leaf, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    y = labels(1, 4, 5, classes=2)
    value, expected = pixel_cross_entropy(leaf, y), reference.pixel_cross_entropy(exact, y)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    value.backward()
    expected.backward()
    torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=1e-5, atol=1e-7)


def test_a_scaled_half_precision_gradient_is_rounded_once(device):
    x = torch.linspace(-4, 4, 2 * 65_536, device=device).half().reshape(1, 2, 256, 256).requires_grad_()
    exact = x.detach().double().requires_grad_()
    y = torch.zeros(1, 256, 256, dtype=torch.uint8, device=device)
    (pixel_cross_entropy(x, y) * 65_536).backward()
    (reference.pixel_cross_entropy(exact, y) * 65_536).backward()
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=2**-10, atol=2e-7)


def test_the_same_bits_on_every_run_and_no_second_derivative(noise, labels):
    x, y = noise(1, 2, 64, 65).requires_grad_(), labels(1, 64, 65, classes=2)
    first, second = ([pixel_cross_entropy(x, y), *torch.autograd.grad(pixel_cross_entropy(x, y), x)] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    (gradient,) = torch.autograd.grad(pixel_cross_entropy(x, y).square(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice.*once_differentiable"):
        gradient.sum().backward()


def test_the_fp32_gradient_is_all_that_is_saved(noise, labels):
    saved = []
    x = noise(1, 3, 4, 5, dtype=torch.float16).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda tensor: tensor):
        pixel_cross_entropy(x, labels(1, 4, 5, classes=3))
    assert [(tensor.dtype, tensor.shape) for tensor in saved] == [(torch.float32, x.shape)]


def test_shapes_that_do_not_fit_raise(noise, labels):
    with pytest.raises(ValueError, match=r"\(1, 4, 5\).*\(1, 5, 4\)"):
        pixel_cross_entropy(noise(1, 2, 4, 5), labels(1, 5, 4, classes=2))
