"""Which road an operator takes, and what is said where the one that was asked for is closed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fastliver import kernels
from fastliver.kernels import (
    instance_norm_act,
    instance_norm_act_shared,
    patch_adversarial_loss,
    reference,
    reflect_pad,
)
from fastliver.kernels.dispatch import use_triton
from fastliver.kernels.geometry import reachable

ROOT = Path(__file__).parents[2]

USE_EVERYTHING = """
import torch
from fastliver import kernels
from fastliver.models import EssNet, UNet
x = torch.randn(1, 2, 8, 8, requires_grad=True)
labels = torch.ones(1, 8, 8, dtype=torch.uint8)
y, inside = kernels.instance_norm_act_shared(kernels.reflect_pad(x, 1)[:, :, 1:-1, 1:-1], residual=x)
loss = kernels.pixel_cross_entropy(inside, labels) + kernels.cycle_l1_loss(y, y * 2)
loss = loss + kernels.patch_adversarial_loss(x[:, :1], True) + kernels.patch_discriminator_loss(x[:, :1], x[:, 1:])
loss = loss + kernels.binary_cross_entropy_with_logits(x[:, :1], labels)
loss.backward()
assert x.grad.isfinite().all()
EssNet(2, 1).g1(torch.zeros(1, 1, 16, 16))
print("served")
"""

WITHOUT_TRITON = "import sys\nsys.modules['triton'] = sys.modules['triton.language'] = None\n"


def _python(code: str, **environment: str) -> subprocess.CompletedProcess:
    kept = {k: v for k, v in os.environ.items() if k not in ("FASTLIVER_KERNELS", "TRITON_INTERPRET")}
    variables = {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment}
    return subprocess.run([sys.executable, "-c", code], env=variables, cwd=ROOT, capture_output=True, text=True)


def _runs_kernels(x: torch.Tensor) -> bool:
    """Whether the result was made by a Triton kernel: only the reference's graph has PyTorch's own functions."""
    return "InstanceNormActFunction" in type(instance_norm_act(x).grad_fn).__name__


def test_the_cpu_runs_the_reference_unless_triton_is_asked_for(monkeypatch):
    x = torch.randn(1, 2, 4, 5).requires_grad_()
    monkeypatch.delenv("FASTLIVER_KERNELS", raising=False)
    assert not use_triton(x)
    assert not _runs_kernels(x)
    assert torch.equal(instance_norm_act(x), reference.instance_norm_act(x))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("FASTLIVER_KERNELS", "triton")
    assert use_triton(x)
    monkeypatch.setenv("FASTLIVER_KERNELS", "torch")
    assert not use_triton(x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_runs_triton_unless_torch_is_asked_for(monkeypatch):
    x = torch.randn(1, 2, 4, 5, device="cuda").requires_grad_()
    monkeypatch.delenv("FASTLIVER_KERNELS", raising=False)
    assert _runs_kernels(x)
    monkeypatch.setenv("FASTLIVER_KERNELS", "torch")
    assert not _runs_kernels(x)


def test_what_was_asked_for_runs(device, monkeypatch):
    x = torch.randn(1, 2, 4, 5, device=device).requires_grad_()
    assert _runs_kernels(x)
    monkeypatch.setenv("FASTLIVER_KERNELS", "torch")
    assert not _runs_kernels(x)
    _, inside = instance_norm_act_shared(x, pad=1)
    assert inside.shape == x.shape


class Launched(TorchDispatchMode):
    """The operators with kernels that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "fastliver":
            self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def _both(name: str, *args) -> tuple[list, list[str]]:
    """What an operator and its reference give or raise, and the kernels that the former ran."""
    results = []
    with Launched() as launched:
        for module in (kernels, reference):
            try:
                results.append(getattr(module, name)(*args))
            except Exception as error:
                results.append(type(error))
    return results, launched.names


X, LABELS = torch.linspace(-2, 2, 32).reshape(1, 2, 4, 4), torch.ones(1, 4, 4, dtype=torch.uint8)
UNSERVED = {
    "norm of float64": ("instance_norm_act", X.double()),
    "norm of integers": ("instance_norm_act", X.long()),
    "norm of nothing": ("instance_norm_act", X[:0]),
    "norm and a residual of another dtype": ("instance_norm_act", X.bfloat16(), "none", 0.2, X),
    "padded float64": ("reflect_pad", X.double(), 1),
    "padded integers": ("reflect_pad", X.long(), 1),
    "one padded plane": ("reflect_pad", X[0], 1),
    "L1 of float64": ("cycle_l1_loss", X.double(), X.double() + 1),
    "L1 of two dtypes, a gradient for both": ("cycle_l1_loss", X, X.half().requires_grad_()),
    "L1 of nothing": ("cycle_l1_loss", X[:0], X[:0]),
    "L1 on two devices": ("cycle_l1_loss", X, X.to("meta")),
    "adversarial of float64": ("patch_adversarial_loss", X.double(), True),
    "discriminator of two dtypes": ("patch_discriminator_loss", X, X.half()),
    "classes of a row": ("pixel_cross_entropy", X[0, :, :2][None, 0], LABELS[:, 0]),
    "classes of float64": ("pixel_cross_entropy", X.double(), LABELS),
    "classes of nothing": ("pixel_cross_entropy", X[:0], LABELS[:0]),
    "labels on another device": ("pixel_cross_entropy", X, LABELS.to("meta")),
    "U-Net of float64": ("binary_cross_entropy_with_logits", X[:, :1].double(), LABELS),
}


@pytest.mark.parametrize("case", UNSERVED)
def test_what_kernels_do_not_serve_is_the_references(monkeypatch, case):
    monkeypatch.setenv("FASTLIVER_KERNELS", "triton")
    (got, expected), launched = _both(*UNSERVED[case])
    assert launched == []
    if isinstance(expected, Tensor):
        assert got.dtype == expected.dtype
        assert torch.equal(got.nan_to_num(7.0), expected.nan_to_num(7.0))
    else:
        assert got == expected


def test_a_gradient_in_float64_is_computed_in_float64(monkeypatch):
    monkeypatch.setenv("FASTLIVER_KERNELS", "triton")
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: instance_norm_act(x, "none", pad=1), x)


def test_samples_beyond_the_reach_of_32_bit_offsets_are_the_references(monkeypatch):
    monkeypatch.setenv("FASTLIVER_KERNELS", "triton")
    with FakeTensorMode():
        for channels, serves in ((2, True), (3, False)):
            x = torch.empty_strided((1, channels, 4, 4), (0, 2**30, 4, 1), requires_grad=True)
            labels = torch.empty_strided((1, channels, 4), (0, 2**30, 1), dtype=torch.uint8)
            assert use_triton(x) == serves
            assert use_triton(x[:, :1], x) == serves
            assert use_triton(torch.empty(1, 1, channels, 4), target=labels) == serves
            assert _runs_kernels(x) == serves
            assert (reflect_pad(x, 1).grad_fn.name() == "ReflectPadFunctionBackward") == serves
            assert (reachable(x) is x) == serves
        rows = torch.empty(1, 1, 2**15, 2**15)
        assert use_triton(rows)
        assert not use_triton(rows, pad=2**14)  # the padded result is the larger one


@pytest.mark.parametrize("value", ["cuda", "Triton", "1"])
def test_an_unknown_choice_raises_and_names_the_choices(monkeypatch, value):
    monkeypatch.setenv("FASTLIVER_KERNELS", value)
    for run in (lambda x: instance_norm_act(x), lambda x: reflect_pad(x, 1), lambda x: patch_adversarial_loss(x, True)):
        with pytest.raises(ValueError, match=f"FASTLIVER_KERNELS={value}.*torch, triton"):
            run(torch.zeros(1, 1, 4, 4))


def test_triton_on_a_cpu_without_the_interpreter_raises_and_says_why():
    code = "import torch\nfrom fastliver.kernels import reflect_pad\nreflect_pad(torch.zeros(1, 1, 4, 4), 1)"
    result = _python(code, FASTLIVER_KERNELS="triton")
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1] == (
        "RuntimeError: FASTLIVER_KERNELS=triton: a tensor on cpu can only run in Triton's interpreter; set "
        "TRITON_INTERPRET=1 before the first import, or leave FASTLIVER_KERNELS unset"
    )


@pytest.mark.parametrize("choice", ["", "torch"])
def test_without_triton_the_reference_serves(choice):
    result = _python(WITHOUT_TRITON + USE_EVERYTHING, FASTLIVER_KERNELS=choice)
    assert (result.stdout, result.returncode) == ("served\n", 0), result.stderr


def test_without_triton_asking_for_it_raises_and_says_why():
    result = _python(WITHOUT_TRITON + USE_EVERYTHING, FASTLIVER_KERNELS="triton", TRITON_INTERPRET="1")
    assert result.returncode == 1
    assert "RuntimeError: FASTLIVER_KERNELS=triton needs the package triton" in result.stderr


def test_importing_the_kernels_needs_torch_triton_and_numpy_alone():
    code = """
import sys, torch, triton, numpy
before = set(sys.modules)
import fastliver.kernels, fastliver.models
new = {name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
new -= {name.split(".")[0] for name in before}
print(sorted(new))
"""
    result = _python(code)
    assert result.stdout == "['fastliver']\n", result.stderr


def test_fake_tensors_pass_without_computing(device):
    with FakeTensorMode():
        x = torch.randn(2, 3, 4, 5, device=device).to(memory_format=torch.channels_last).requires_grad_()
        y, inside = instance_norm_act_shared(x, residual=x, pad=1)
        assert y.shape == (2, 3, 6, 7)
        assert y.stride() == (126, 1, 21, 3)
        assert inside.shape == x.shape
        (gradient,) = torch.autograd.grad(y.sum() + inside.sum(), x)
        assert gradient.stride() == x.stride()
        loss = patch_adversarial_loss(x[:, :1], True)
        assert loss.shape == ()
        assert torch.autograd.grad(loss, x)[0].shape == x.shape
