"""Freed memory that stays with the process while it trains on a CPU.

Every step frees its activations and gradients and asks for as many again. glibc hands large blocks back to the kernel
at once, which clears each page that comes anew: 42,000 faults in a step of EssNet at 64x64, a sixth of its time.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

MMAP_MAX, TRIM_THRESHOLD = -4, -1
"""M_MMAP_MAX and M_TRIM_THRESHOLD of glibc's <malloc.h>."""
USUAL_MMAPS = 65536
"""glibc's own number of blocks that lie in mappings of their own."""
USUAL_TRIM = 64 << 20
"""Bytes free at the heap's end from which it shrinks: what glibc's own threshold grows to with such blocks."""
NEVER = -1


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Around steps on a CPU: what they free is kept for the next one, and goes back to the kernel afterwards.

    It sets the process's allocator, glibc's; with another C library (musl, macOS), or a device that has its own
    allocator, nothing happens. The most memory that a process holds stayed the same (steps at 64x64 and 256x256).
    """
    libc = ctypes.CDLL(None)
    if device.type != "cpu" or not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(MMAP_MAX, 0)
    libc.mallopt(TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        libc.mallopt(MMAP_MAX, USUAL_MMAPS)
        libc.mallopt(TRIM_THRESHOLD, USUAL_TRIM)
        libc.malloc_trim(0)
