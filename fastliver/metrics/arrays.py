"""NumPy and SciPy for arrays in main memory, CuPy for arrays on a GPU."""

import sys
from types import ModuleType
from typing import Any

import numpy as np


def _is_cupy(array: Any) -> bool:
    # A CuPy array can't exist before somebody has imported cupy: looking costs no import.
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(array, cupy.ndarray)


def array_module(array: Any) -> ModuleType:
    """numpy or cupy."""
    return sys.modules["cupy"] if _is_cupy(array) else np


def image_module(array: Any) -> ModuleType:
    """scipy.ndimage or its CuPy twin."""
    if _is_cupy(array):
        import cupyx.scipy.ndimage

        return cupyx.scipy.ndimage
    import scipy.ndimage

    return scipy.ndimage
