"""How DALI's graph reads bytes; the whole road is in test_pipeline.py."""

import numpy as np
import pytest
import torch

from fastliver.data.dali import DaliGraphs, Encoding, Sample
from fastliver.data.intensity import StoredWindow
from fastliver.data.pixels import PixelFormat, raw_pixels
from fastliver.data.resize import Fit

pytest.importorskip("nvidia.dali")

HALF = 2.0**-11
"""Half a step of half precision just below 1."""


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("allocated", "stored", "high_bit"), [(8, 8, 7), (8, 6, 6), (16, 16, 15), (16, 12, 11),
    (16, 12, 15), (16, 9, 13), (32, 32, 31), (32, 20, 24)])  # fmt: skip
def test_dali_finds_the_stored_bits_in_any_bytes(allocated, stored, high_bit, signed, big_endian):
    """A window as wide as the stored bits shows them; `raw_pixels` has its values by hand in test_pixels.py."""
    rows, columns = 6, 8
    written = PixelFormat(rows, columns, 1, allocated, stored, high_bit, signed, big_endian, False)
    content = np.random.default_rng(0).integers(0, 256, written.frame_bytes).astype(np.uint8)
    low, high = written.value_range
    window = StoredWindow.of((low, high), 1, 0, (low, high))
    fit = Fit(8, (rows, columns), (rows, columns), (1, 0))
    sample = Sample(content, Encoding.of(written), (rows, columns), window, False, (False, False), fit)
    ((image, _),) = DaliGraphs(8, 0 if torch.cuda.is_available() else None).run(iter([sample]))
    pixels = raw_pixels(content.tobytes(), written)[0].astype(float)
    np.testing.assert_allclose(image[1:7], (pixels - low) / (high - low) * 2 - 1, atol=HALF + 1e-5)
    assert (image[[0, 7]] == -1).all()
