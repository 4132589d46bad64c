"""Which road an operator takes, and what is said where the one that was asked for is closed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses import FakeTensorMode

from fastliver.kernels import (
    instance_norm_act,
    instance_norm_act_shared,
    patch_adversarial_loss,
    reference,
    reflect_pad,
)
from fastliver.kernels.dispatch import use_triton

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
