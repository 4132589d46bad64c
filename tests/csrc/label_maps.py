"""Label maps and what counting them gives by definition."""

import numpy as np
import torch
from torch import Tensor


def plain(pred: np.ndarray, true: np.ndarray, classes: int) -> list[list[list[int]]]:
    """The definition, in NumPy."""
    return [
        [[int(((a == c) & (b == c)).sum()), int((a == c).sum()), int((b == c).sum())] for c in range(classes)]
        for a, b in zip(pred, true, strict=True)
    ]


def label_map(shape: tuple[int, ...], classes: int, dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    highest = {torch.bool: 2, torch.uint8: min(classes, 256)}.get(dtype, classes)
    return torch.randint(0, min(highest, classes), shape, generator=generator).to(dtype)
