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


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, which takes CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def use_triton(x: Tensor) -> bool:
    """Whether operators on `x` run Triton kernels.

    Raises:
        RuntimeError: when `FASTLIVER_KERNELS` asks for what can't run here, or a GPU has no Triton: never slower in
            silence.
        ValueError: for an unknown `FASTLIVER_KERNELS`.
    """
    choice = os.environ.get("FASTLIVER_KERNELS", "")
    if choice not in CHOICES:
        raise ValueError(f"FASTLIVER_KERNELS={choice}: expected torch, triton or nothing")
    if choice == "torch" or (choice == "" and not x.is_cuda):
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
