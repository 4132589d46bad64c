"""How kernels find their elements: tiles of a plane, reflected borders, and sums over what was reflected.

Every kernel works on tiles of (pixels, channels) and takes all strides, so one kernel serves contiguous and
channels_last tensors, padded ones and views of their interior.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastliver.kernels.dispatch import LAUNCH, tl, triton, within_reach

TILE = 8192
"""Elements of a tile: 32 fp32 registers a thread at 256 threads, so that nothing spills."""

ONE_PASS = 16384
"""Planes up to this many elements stay in registers between the statistics and the result."""

WIDE_CHANNELS = 64
"""Channels of a channels_last tile: 16-byte loads for 2-byte types with 8 threads a pixel."""


def is_channels_last(x: Tensor) -> bool:
    """Whether neighbouring channels are neighbours in memory: the tiles are then wide in channels."""
    return x.stride(1) == 1 and x.shape[1] > 1 and not x.is_contiguous()


def is_dense(x: Tensor) -> bool:
    """Whether the rows of a plane follow each other without a gap."""
    return x.stride(2) == x.shape[3] * x.stride(3)


def gapless(x: Tensor) -> Tensor:
    """`x` (N, C, H, W) itself if its elements lie without gaps, contiguous or in channels_last, else a copy."""
    dense = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
    return x if dense else x.contiguous()


def reachable(x: Tensor) -> Tensor:
    """`x` itself, or a copy where the elements of a sample lie too far apart for kernels."""
    return x if within_reach(x) else x.contiguous()


def empty(x: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised dense tensor of this shape on the device and in the format (channels_last or contiguous) of `x`.

    Unlike empty_like it takes no stride from a side of one element of `x`, where any number may stand.

    Args:
        dtype: None for that of `x`.
    """
    memory_format = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    return torch.empty(shape, dtype=dtype or x.dtype, device=x.device, memory_format=memory_format)


MERGED_TILES = 32
"""Tiles whose partial results are merged at a time; 64 spill."""

PLANE_TILE = 2048
"""Elements of a contiguous tile that is one of several: with borders to gather, 4096 spill."""


@dataclass(frozen=True)
class Tiling:
    """How planes of `pixels` are cut: tiles of `block_p` pixels by `block_c` channels, `num_warps` each."""

    block_p: int
    block_c: int
    num_warps: int

    @staticmethod
    def split(x: Tensor, pixels: int) -> "Tiling":
        """Tiles of at most TILE (contiguous: PLANE_TILE) elements for planes that take more than one."""
        block_c, elements = 1, PLANE_TILE
        if is_channels_last(x):
            block_c, elements = min(WIDE_CHANNELS, triton.next_power_of_2(x.shape[1])), TILE
        block_p = min(max(elements // block_c, 16), triton.next_power_of_2(pixels))
        return Tiling(block_p, block_c, 8 if block_p * block_c >= 2048 else 4)

    @staticmethod
    def whole_plane(pixels: int) -> "Tiling":
        """One tile that holds a plane of one channel."""
        block_p = triton.next_power_of_2(pixels)
        return Tiling(block_p, 1, 16 if block_p > 2048 else 8 if block_p >= 1024 else 4)

    @staticmethod
    def merge(channels: int) -> "Tiling":
        """Tiles of partial results (rows instead of pixels), for the kernels that merge them."""
        return Tiling(MERGED_TILES, min(WIDE_CHANNELS, triton.next_power_of_2(channels)), 4)

    def options(self) -> dict[str, int]:
        """What every launch with this tiling passes on."""
        return {"BLOCK_P": self.block_p, "BLOCK_C": self.block_c, "num_warps": self.num_warps, **LAUNCH}

    def grid(self, pixels: int, channels: int, batch: int) -> tuple[int, int, int]:
        """Programs along pixels, channels and samples."""
        return triton.cdiv(pixels, self.block_p), triton.cdiv(channels, self.block_c), batch


@triton.jit
def tile(BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """This program's pixels (BLOCK_P, 1), channels (1, BLOCK_C) and sample (int64, so that offsets don't overflow)."""
    pixels = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)[:, None]
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    return pixels, channels, tl.program_id(2).to(tl.int64)


@triton.jit
def plane_offsets(pixels, W: tl.constexpr, strides, DENSE: tl.constexpr):
    """Offsets of pixels in a plane; DENSE says rows follow each other without a gap, which keeps loads wide."""
    if DENSE:
        return pixels * strides[3]
    return (pixels // W) * strides[2] + (pixels % W) * strides[3]


@triton.jit
def reflect(i, N: tl.constexpr):
    """The index in 0..N-1 that a padded index (already less the padding) mirrors, without repeating the border."""
    i = tl.abs(i)
    return (N - 1) - tl.abs((N - 1) - i)


@triton.jit
def padded_source(pixels, H: tl.constexpr, W: tl.constexpr, PAD: tl.constexpr):
    """Row and column in an (H, W) plane of pixels numbered in the plane padded by PAD."""
    if PAD == 0:
        return pixels // W, pixels % W
    row = reflect(pixels // (W + 2 * PAD) - PAD, H)
    column = reflect(pixels % (W + 2 * PAD) - PAD, W)
    return row, column


@triton.jit
def mirrored(i, N: tl.constexpr, PAD: tl.constexpr, COPY: tl.constexpr):
    """Where copy COPY (0: itself, 1: before the start, 2: past the end) of index i lies when padded, and if it is."""
    if COPY == 0:
        return i + PAD, i >= 0
    elif COPY == 1:
        return PAD - i, (i >= 1) & (i <= PAD)
    else:
        return PAD + 2 * (N - 1) - i, (i >= N - 1 - PAD) & (i <= N - 2)


@triton.jit
def load_folded(
    base, strides, pixels, channels, mask, H: tl.constexpr, W: tl.constexpr, PAD: tl.constexpr, DENSE: tl.constexpr
):
    """Padding's gradient: the fp32 sum, in a fixed order, of a padded tensor over the up to nine copies of a pixel."""
    if PAD == 0:
        offsets = plane_offsets(pixels, W, strides, DENSE) + channels * strides[1]
        return tl.load(base + offsets, mask=mask, other=0.0).to(tl.float32)
    row, column = pixels // W, pixels % W
    total = tl.zeros(mask.shape, tl.float32)
    for i in tl.static_range(3):
        padded_row, row_is_there = mirrored(row, H, PAD, i)
        for j in tl.static_range(3):
            padded_column, column_is_there = mirrored(column, W, PAD, j)
            offsets = padded_row * strides[2] + padded_column * strides[3] + channels * strides[1]
            total += tl.load(base + offsets, mask=mask & row_is_there & column_is_there, other=0.0).to(tl.float32)
    return total
