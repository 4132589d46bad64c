"""The reference itself in channels_last, where PyTorch's instance norm on a CPU goes wrong for a batch of one, and in
reduced precision."""

import pytest
import torch
import torch.nn.functional as F

from fastliver.kernels import reference


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    "options", [{}, {"pad": 1}, {"activation": "leaky_relu"}, {"activation": "none", "pad": 1}], ids=str
)
def test_gradients_do_not_depend_on_the_format(batch, options):
    generator = torch.Generator().manual_seed(0)
    x, residual = (torch.randn(batch, 3, 5, 7, dtype=torch.float64, generator=generator) for _ in range(2))
    pad = options.get("pad", 0)
    dy = torch.randn(batch, 3, 5 + 2 * pad, 7 + 2 * pad, dtype=torch.float64, generator=generator)
    results = []
    for form in (torch.contiguous_format, torch.channels_last):
        for dy_form in (torch.contiguous_format, torch.channels_last):
            leaves = [t.contiguous(memory_format=form).requires_grad_() for t in (x, residual)]
            y = reference.instance_norm_act(leaves[0], residual=leaves[1], **options)
            assert y.is_contiguous(memory_format=form)
            results.append((y, *torch.autograd.grad(y, leaves, dy.contiguous(memory_format=dy_form))))
    for other in results[1:]:
        for expected, got in zip(results[0], other, strict=True):
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_a_block_in_channels_last_gives_channels_last(batch, activation):
    """Its shortcut is the inside of a padded tensor; what comes out is what the next convolution reads."""
    x = torch.randn(batch, 4, 5, 7).to(memory_format=torch.channels_last).requires_grad_()
    inside = torch.randn(batch, 4, 7, 9).to(memory_format=torch.channels_last)[:, :, 1:-1, 1:-1]
    y = reference.instance_norm_act(x, activation, residual=inside, pad=1)
    assert y.stride() == (4 * 7 * 9, 1, 4 * 9, 4)


def test_autocast_leaves_the_padding_in_the_reduced_format():
    x = torch.randn(1, 3, 5, 7, dtype=torch.bfloat16)
    expected = reference.reflect_pad(x, 2)
    with torch.autocast("cpu", torch.bfloat16):
        padded = reference.reflect_pad(x, 2)
        assert torch.is_autocast_enabled("cpu")
    assert padded.dtype == torch.bfloat16
    assert torch.equal(padded, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_of_reduced_predictions_are_fp32(dtype):
    """4,096 terms near 0.7: a sum or mean in the reduced format would be off in the third digit."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1, 64, 64, generator=generator).to(dtype)
    labels = (torch.rand(1, 64, 64, generator=generator) > 0.5).to(torch.uint8)
    pairs = torch.cat((logits, -logits), 1)
    for loss in (
        lambda x, y: reference.patch_adversarial_loss(x, True),
        lambda x, y: reference.patch_discriminator_loss(x, -x, "lsgan"),
        lambda x, y: reference.cycle_l1_loss(x, torch.zeros_like(x)),
        lambda x, y: reference.binary_cross_entropy_with_logits(x, labels),
        lambda x, y: reference.pixel_cross_entropy(y, labels),
    ):
        got, exact = loss(logits, pairs), loss(logits.double(), pairs.double())
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), exact, rtol=1e-6, atol=0)


TRANSFORMS = {
    "grad": lambda f, x: torch.func.grad(lambda x: f(x).pow(3).sum())(x),
    "vmap": lambda f, x: torch.func.vmap(lambda image: f(image[None])[0])(x),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x.square(),))[1],
    "vmap of grad": lambda f, x: torch.func.vmap(torch.func.grad(lambda image: f(image[None]).pow(3).sum()))(x),
}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_torch_func_transforms_an_instance_norm(name, channels_last):
    form = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64).contiguous(memory_format=form)
    got = TRANSFORMS[name](reference.instance_norm_act, x)
    expected = TRANSFORMS[name](lambda x: F.relu(F.instance_norm(x)), x.contiguous())
    torch.testing.assert_close(got, expected)
