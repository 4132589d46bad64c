"""The registered operators: PyTorch's own checks of schemas and fake kernels, and compilation of what is public."""

import pytest
import torch
from torch import Tensor

from fastliver import kernels
from fastliver.kernels.dispatch import LIBRARY, triton

OPTIONS = ("leaky_relu", 0.2)


def _cases(make) -> dict[str, list[tuple]]:
    """Arguments of each operator; `make` makes tensors."""
    x, residual, dy = make(2, 3, 4, 5), make(2, 3, 4, 5, seed=1), make(2, 3, 6, 7, seed=2)
    wide, inside = (make(2, 3, 6, 7, channels_last=True, seed=seed) for seed in (3, 4))
    mean, rstd = make(2, 3, seed=5), make(2, 3, seed=6).abs()
    logits, target, labels = make(2, 1, 4, 5), make(2, 1, 4, 5, seed=1), (make(2, 4, 5) > 0).to(torch.uint8)
    return {
        "instance_norm_act_forward": [
            (x, None, "relu", 0.2, 0, 1e-5),
            (x, residual, *OPTIONS, 1, 1e-5),
            (wide, inside, *OPTIONS, 2, 1e-5),
            (wide[:, :, 1:-1, 1:-1], residual, "none", 0.2, 1, 1e-3),
        ],
        "instance_norm_act_backward": [
            (residual, None, x, mean, rstd, *OPTIONS, 0, False),
            (dy, residual, x, mean, rstd, *OPTIONS, 1, True),
            (dy, None, wide[:, :, 1:-1, 1:-1], mean, rstd, *OPTIONS, 1, True),
        ],
        "reflect_pad_forward": [(x, 1), (wide, 3)],
        "reflect_pad_backward": [(dy, 1), (wide, 2)],
        "pointwise_loss": [
            (logits, None, 1.0, "bce"),
            (logits, None, 0.0, "lsgan"),
            (logits, target, 0.0, "l1"),
            (wide.half(), inside, 0.0, "l1"),
        ],
        "pair_loss": [(logits, target, "bce"), (logits.half(), target.half(), "lsgan")],
        "scaled_gradient": [(x, torch.tensor(2.0, device=x.device), torch.float16), (wide, mean[0, 0], wide.dtype)],
        "pixel_cross_entropy": [
            (x, labels),
            (make(2, 3, 4, 5, channels_last=True).half(), labels.long()),
            (make(2, 3, 1, 4).transpose(2, 3), labels[:, :, :1]),
        ],
    }


NAMES = [
    "instance_norm_act_forward",
    "instance_norm_act_backward",
    "reflect_pad_forward",
    "reflect_pad_backward",
    "pointwise_loss",
    "pair_loss",
    "scaled_gradient",
    "pixel_cross_entropy",
]


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(noise, name):
    torch.use_deterministic_algorithms(False)  # opcheck compares memory that no operator promises to write
    for arguments in _cases(noise)[name]:
        torch.library.opcheck(getattr(torch.ops.fastliver, name).default, arguments)


@pytest.mark.parametrize("name", NAMES)
def test_fake_kernels_give_the_shapes_dtypes_and_strides_of_real_ones(noise, name):
    operator = getattr(torch.ops.fastliver, name)
    for arguments in _cases(noise)[name]:
        with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fake = operator(*(mode.from_tensor(a) if isinstance(a, Tensor) else a for a in arguments))
        real = operator(*arguments)
        for f, r in zip(*((o if isinstance(o, tuple) else (o,)) for o in (fake, real)), strict=True):
            assert (f.shape, f.dtype, f.stride(), f.device) == (r.shape, r.dtype, r.stride(), r.device)


@pytest.mark.parametrize("name", NAMES)
def test_kernels_launch_on_the_device_of_their_tensors(noise, monkeypatch, name):
    """Which needn't be the current one."""
    entered = []

    class Guard(torch.cuda.device_of):
        def __init__(self, x):
            entered.append(x)
            super().__init__(x)

    monkeypatch.setattr(torch.cuda, "device_of", Guard)
    for arguments in _cases(noise)[name]:
        getattr(torch.ops.fastliver, name)(*arguments)
        assert entered.pop().data_ptr() == arguments[0].data_ptr()
        assert not entered


@pytest.mark.parametrize("name", NAMES)
def test_every_launch_says_that_products_and_sums_are_fused(noise, monkeypatch, name):
    """Triton 3.9 warns where nobody does, and later ones don't fuse."""
    launches = []
    getitem = triton.runtime.KernelInterface.__getitem__

    def record(kernel, grid):
        def launch(*args, **options):
            launches.append(options)
            return getitem(kernel, grid)(*args, **options)

        return launch

    monkeypatch.setattr(triton.runtime.KernelInterface, "__getitem__", record)
    for arguments in _cases(noise)[name]:
        getattr(torch.ops.fastliver, name)(*arguments)
    assert launches
    assert all(options["enable_fp_fusion"] for options in launches)


def test_every_operator_is_among_those_checked():
    registered = {definition.split("::")[-1] for definition in LIBRARY._op_defs}
    assert registered == set(NAMES)


def _public(labels: Tensor) -> dict:
    """Functions of two tensors that use the public operators."""

    def shared(a, b):
        padded, inside = kernels.instance_norm_act_shared(a, "relu", residual=b, pad=1)
        return padded.square().mean() + inside.pow(3).mean()

    return {
        "norm": lambda a, b: kernels.instance_norm_act(a, "leaky_relu", residual=b, pad=1).square().mean(),
        "norm without padding": lambda a, b: (kernels.instance_norm_act(a, "none") * b).mean(),
        "shared": shared,
        "pad": lambda a, b: (kernels.reflect_pad(a, 2) * kernels.reflect_pad(b, 2)).mean(),
        "adversarial": lambda a, b: kernels.patch_adversarial_loss(a, True) * b.mean(),
        "discriminator": lambda a, b: kernels.patch_discriminator_loss(a, b, "lsgan"),
        "l1": kernels.cycle_l1_loss,
        "unet": lambda a, b: kernels.binary_cross_entropy_with_logits((a * b)[:, :1], labels),
        "cross-entropy": lambda a, b: kernels.pixel_cross_entropy(a * b, labels),
        "padded and inside as they are": lambda a, b: kernels.instance_norm_act_shared(a, "relu", residual=b, pad=1),
    }


@pytest.mark.parametrize("channels_last", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", list(_public(torch.empty(0))))
def test_compiled_functions_give_what_eager_ones_give(noise, agree, name, channels_last):
    torch.use_deterministic_algorithms(False)
    function = _public((noise(2, 4, 5, seed=7) > 0).long())[name]
    results = []
    for run in (function, torch.compile(function, backend="aot_eager", fullgraph=True)):
        torch._dynamo.reset()
        leaves = [noise(2, 3, 4, 5, channels_last=channels_last, seed=seed).requires_grad_() for seed in (0, 1)]
        outputs = run(*leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        gradients = torch.autograd.grad([(o * o).sum() for o in outputs], leaves)
        results.append([*(o.detach() for o in outputs), *gradients])
    for eager, compiled in zip(*results, strict=True):
        assert compiled.stride() == eager.stride()
        agree(compiled, eager)
