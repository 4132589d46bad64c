"""The overlap counts of the extension `fastliver._C`, described to torch, and what serves where it is missing.

The operators give int64 counts (N, classes, 3): pixels in both maps, in the predicted and in the true one. On a CPU a
class id out of range raises. On a GPU, where that would mean waiting, it is counted in no class: a map's counts add up
to its pixels less those out of range, exactly and for each map of each sample by itself, so nothing is lost by not
handing them out. `overlap.py` puts them in a slot of their own and raises when it reads the counts.
"""

import functools
import warnings

import torch
from torch import Tensor

from fastliver.compiled import LIBRARY, MISSING

LABELS = (torch.bool, torch.uint8, torch.int32, torch.int64)
LOGITS = (torch.float32, torch.float16, torch.bfloat16)
MAX_CLASSES = 1 << 16


def _fake_counts(pred: Tensor, target: Tensor, num_classes: int) -> Tensor:
    return pred.new_empty((pred.shape[0], num_classes, 3), dtype=torch.int64)


def _fake_counts_from_logits(logits: Tensor, target: Tensor, threshold: float) -> Tensor:
    classes = 2 if logits.shape[1] == 1 else logits.shape[1]
    return logits.new_empty((logits.shape[0], classes, 3), dtype=torch.int64)


if not MISSING:
    torch.library.register_fake("fastliver::overlap_counts", _fake_counts)
    torch.library.register_fake("fastliver::overlap_counts_from_logits", _fake_counts_from_logits)


@functools.cache
def has_kernel(device: str) -> bool:
    """Whether the extension was compiled with a kernel that counts on a device, "cpu" or "cuda"."""
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(device)
    return key is not None and torch._C._dispatch_has_kernel_for_dispatch_key("fastliver::overlap_counts", key)


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(f"overlap counts use PyTorch's operators, which are slower: {reason}", RuntimeWarning, stacklevel=4)


@functools.cache
def _fault(device: torch.device) -> str:
    """What keeps the kernel from counting one pixel on a GPU, such as code for others alone; empty where it counts."""
    try:
        pixel = torch.zeros((1, 1), dtype=torch.uint8, device=device)
        torch.ops.fastliver.overlap_counts(pixel, pixel, 2)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch without CUDA
        return f"the extension's kernel does not run on {device} ({error})"
    return ""


def _obstacle(device: torch.device) -> str:
    """Why the extension doesn't count there; empty where it does."""
    if MISSING:
        return MISSING
    if not has_kernel(device.type):
        return f"the extension was built without a kernel for {device.type}"
    return _fault(device) if device.type == "cuda" else ""


def serves(device: torch.device) -> bool:
    """Whether the extension counts there; elsewhere PyTorch's operators do."""
    return not _obstacle(device)


def _serves(x: Tensor) -> bool:
    """Whether the extension counts on this tensor's device; says once why not, and what to do."""
    reason = _obstacle(x.device)
    if not reason:
        return True
    build = {"cpu": "with a C++ compiler:", "cuda": "with CUDA's nvcc: FASTLIVER_CUDA=1"}.get(x.device.type)
    _warn_once(reason + (f"; install again {build} pip install --no-build-isolation -e ." if build else ""))
    return False


def count(pred: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Counts (N, num_classes, 3) of label maps (N, ...) of bool (not zero is class 1), uint8, int32 or int64.

    Raises:
        ValueError: for arguments that can't be counted, by name; on a CPU for class ids out of range too.
    """
    if _serves(pred):
        return torch.ops.fastliver.overlap_counts(pred, target, num_classes)
    return reference_counts(pred, target, num_classes)


def count_from_logits(logits: Tensor, target: Tensor, threshold: float) -> Tensor:
    """Counts of a network's output (N, C, ...): one channel against a threshold, or the greatest of several.

    Raises:
        ValueError: as `count`.
    """
    if _serves(logits):
        return torch.ops.fastliver.overlap_counts_from_logits(logits, target, threshold)
    return reference_counts_from_logits(logits, target, threshold)


def reference_counts(pred: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """What `fastliver::overlap_counts` is defined to give, in PyTorch's operators and as free of waiting on a GPU."""
    if not 1 <= num_classes <= MAX_CLASSES:
        raise ValueError(f"num_classes is {num_classes}: expected 1 to {MAX_CLASSES}")
    for name, x in (("pred", pred), ("target", target)):
        _check_dtype(name, x, LABELS)
    if pred.ndim < 2:
        raise ValueError(f"pred has shape {tuple(pred.shape)}: expected (N, H, W) or (N, D, H, W)")
    if pred.numel() == 0:
        raise ValueError(f"pred has shape {tuple(pred.shape)}: it is empty")
    if pred.shape != target.shape:
        raise ValueError(f"target has shape {tuple(target.shape)}, pred {tuple(pred.shape)}: they must be equal")
    _check_device("pred", pred, target)
    a, b = _classes("pred", pred, num_classes), _classes("target", target, num_classes)
    both = torch.where(a == b, a, num_classes)
    samples = len(pred)
    counts = torch.zeros((3, samples, num_classes + 1), dtype=torch.int64, device=pred.device)  # a slot for the rest
    for row, codes in zip(counts, (both, a, b), strict=True):
        row.scatter_add_(1, codes, torch.ones((1, 1), dtype=torch.int64, device=pred.device).expand_as(codes))
    return counts[:, :, :num_classes].permute(1, 2, 0).contiguous()


def reference_counts_from_logits(logits: Tensor, target: Tensor, threshold: float) -> Tensor:
    """What `fastliver::overlap_counts_from_logits` is defined to give; logits are compared as float32."""
    _check_dtype("logits", logits, LOGITS)
    _check_dtype("target", target, LABELS)
    if logits.ndim < 3:
        raise ValueError(f"logits has shape {tuple(logits.shape)}: expected (N, C, H, W) or (N, C, D, H, W)")
    if logits.numel() == 0:
        raise ValueError(f"logits has shape {tuple(logits.shape)}: it is empty")
    if target.shape != logits.shape[:1] + logits.shape[2:]:
        raise ValueError(
            f"target has shape {tuple(target.shape)}, logits {tuple(logits.shape)}: it must be equal without the "
            "channels"
        )
    if logits.shape[1] > MAX_CLASSES:
        raise ValueError(f"logits has {logits.shape[1]} channels: expected 1 to {MAX_CLASSES}")
    _check_device("logits", logits, target)
    if logits.shape[1] == 1:
        return reference_counts(logits[:, 0].float() > threshold, target, 2)
    return reference_counts(logits.argmax(1), target, logits.shape[1])


def _check_dtype(name: str, x: Tensor, expected: tuple[torch.dtype, ...]) -> None:
    if x.dtype not in expected:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in expected)
        raise ValueError(f"{name} has dtype {str(x.dtype).removeprefix('torch.')}: expected {names}")


def _check_device(name: str, x: Tensor, target: Tensor) -> None:
    if x.device != target.device:
        raise ValueError(f"target is on {target.device}, {name} on {x.device}: they must be on one device")


def _classes(name: str, x: Tensor, num_classes: int) -> Tensor:
    """(N, pixels) int64, `num_classes` for what is out of range."""
    # A mask seen as bool may hold bytes beyond 1, which only a comparison of bytes treats alike everywhere.
    labels = (x.view(torch.uint8) != 0 if x.dtype == torch.bool else x).reshape(len(x), -1).to(torch.int64)
    wrong = (labels < 0) | (labels >= num_classes)
    if x.device.type == "cpu" and bool(wrong.any()):
        sample, pixel = (int(i) for i in wrong.nonzero()[0])
        raise ValueError(
            f"{name} holds {int(labels[sample, pixel])} at pixel {pixel} of sample {sample}: expected class ids 0 to "
            f"{num_classes - 1}"
        )
    return torch.where(wrong, num_classes, labels)


def describe() -> str:
    """One line on what counts here."""
    if MISSING:
        return f"extension: {MISSING}; overlap counts use PyTorch's operators"
    devices = " and ".join(key for key in ("cpu", "cuda") if has_kernel(key))
    return f"extension: {LIBRARY.name}, kernels for {devices}"
