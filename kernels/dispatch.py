"""Which road an operator takes: Triton on a GPU, the PyTorch reference on a CPU, or what FASTLIVER_KERNELS says."""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _Absent:
    """Stands in for triton where it isn't installed, so that files with kernels import; `use_triton` runs none."""

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        return lambda decorated: decorated


try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = _Absent()

LIBRARY = torch.library.Library("fastliver", "FRAGMENT")
"""Where the operators are registered; csrc defines the namespace when it is loaded, this adds to it."""

CHOICES = ("", "torch", "triton")

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What kernels read and write; they compute in fp32."""

REACH = 2**31 - 2**16
"""Elements of a sample that its 32-bit offsets reach, less the end of the last tile."""

LAUNCH = {"enable_fp_fusion": True}
"""What every launch passes on: a * b + c is one instruction (Triton's own choice until 3.9, which warns of it)."""


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, which takes CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def within_reach(x: Tensor) -> bool:
    """Whether kernels reach every element of a sample of `x`."""
    return sum((size - 1) * stride for size, stride in zip(x.shape[1:], x.stride()[1:], strict=True)) < REACH


def _kernels_serve(x: Tensor, other: Tensor | None, target: Tensor | None, pad: int) -> bool:
    """Whether kernels compute what the reference does on these tensors; `use_triton` describes them."""
    beside = [tensor for tensor in (other, target) if tensor is not None]
    return (
        x.dim() == 4
        and x.numel() > 0
        and x.dtype in DTYPES
        and (other is None or other.dtype == x.dtype)
        and all(tensor.device == x.device for tensor in beside)
        and all(within_reach(tensor) for tensor in (x, *beside))
        and x.shape[1] * (x.shape[2] + 2 * pad) * (x.shape[3] + 2 * pad) < REACH
    )


def use_triton(x: Tensor, other: Tensor | None = None, target: Tensor | None = None, pad: int = 0) -> bool:
    """Whether an operator runs Triton kernels. Where they don't serve, the reference does on any device.

    Args:
        x: kernels take (N, C, H, W), not empty, of fp32, fp16 or bf16, and of a reach of 2^31 elements a sample.
        other: of the same shape, if there is one; kernels take it on the same device and of the same dtype.
        target: what has no gradient, such as labels (N, H, W) or an image, on the same device and of any dtype.
        pad: of the result.

    Raises:
        RuntimeError: when `FASTLIVER_KERNELS` asks for what can't run here, or a GPU has no Triton: never slower in
            silence.
        ValueError: for an unknown `FASTLIVER_KERNELS`.
    """
    choice = os.environ.get("FASTLIVER_KERNELS", "")
    if choice not in CHOICES:
        raise ValueError(f"FASTLIVER_KERNELS={choice}: expected torch, triton or nothing")
    if choice == "torch" or (choice == "" and not x.is_cuda) or not _kernels_serve(x, other, target, pad):
        return False
    if isinstance(triton, _Absent):
        asked = "FASTLIVER_KERNELS=triton" if choice else f"a tensor on {x.device}"
        raise RuntimeError(f"{asked} needs the package triton, which isn't there; FASTLIVER_KERNELS=torch does without")
    if not x.is_cuda and not interpreted() and not isinstance(x, torch._subclasses.FakeTensor):
        raise RuntimeError(
            f"FASTLIVER_KERNELS=triton: a tensor on {x.device} can only run in Triton's interpreter; set "
            "TRITON_INTERPRET=1 before the first import, or leave FASTLIVER_KERNELS unset"
        )
    return True


def register(schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Add an operator to torch.ops.fastliver for CUDA and CPU tensors (the latter under the interpreter).

    Args:
        schema: name, arguments and results, as torch.library has them.
        implementation: launches the kernels, on the device of its first argument.
        fake: gives results of the right shape, dtype and strides without computing, for torch.compile.
    """

    def on_its_device(x: Tensor, *others: Any) -> Any:
        with torch.cuda.device_of(x):  # Triton launches on the current GPU, whichever holds the tensors
            return implementation(x, *others)

    LIBRARY.define(schema)
    name = schema.split("(", 1)[0]
    for device in ("CUDA", "CPU"):
        LIBRARY.impl(name, on_its_device, device)
    torch.library.register_fake(f"fastliver::{name}", fake, lib=LIBRARY)
