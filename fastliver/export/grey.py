"""Grey values of synthetic MR in files: twelve bits, since MR has no unit and files hold whole numbers."""

import numpy as np
from numpy.typing import NDArray

WHITE = 4095
"""The brightest stored value: twelve bits."""


def to_stored(image: NDArray[np.floating]) -> NDArray[np.uint16]:
    """Synthetic MR of any shape in [-1, 1] as 0 (no signal) to 4095 (the brightest); what is outside is clipped."""
    return np.round((np.clip(image, -1.0, 1.0) + 1.0) * (WHITE / 2)).astype(np.uint16)
