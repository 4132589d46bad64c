"""The reference itself in channels_last, where PyTorch's instance norm on a CPU goes wrong for a batch of one."""

import pytest
import torch

from fastliver.kernels import reference


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("options", [{}, {"pad": 1}, {"activation": "leaky_relu"}], ids=str)
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
            results.append(torch.autograd.grad(y, leaves, dy.contiguous(memory_format=dy_form)))
    for other in results[1:]:
        for expected, got in zip(results[0], other, strict=True):
            torch.testing.assert_close(got, expected)
