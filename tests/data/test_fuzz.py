"""Mutated files end in pixels or in a named error: no crash, no hang, no flood of memory.

`make test` takes 200 cases, `make test-full` 2,000. A case is found again by its file and its number.
"""

import random
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from fastliver.data.decoding import SECONDS
from fastliver.data.pixels import LARGEST, read_image_file
from fastliver.data.series import read_series
from fastliver.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")

SHIPPED = {
    "CT_small.dcm": "CT",
    "MR_small_implicit.dcm": "MR",
    "MR_small_bigendian.dcm": "MR",
    "MR_small_RLE.dcm": "MR",
    "MR_small_jp2klossless.dcm": "MR",
    "MR_small_jpeg_ls_lossless.dcm": "MR",
    "693_J2KI.dcm": "CT",
}
MADE = {"enhanced": None, "JPEG 2000": JPEG2000Lossless, "JPEG-LS": JPEGLSLossless}
FILES = [*SHIPPED, *MADE]
HANG = 5.0
"""Seconds that a file may take."""

MEMORY = 256 << 20
"""Bytes that this process may grow by; the decoding process has a limit of its own."""


@pytest.fixture
def good_file(request, tmp_path, write_slice) -> tuple[Path, str]:
    """A file that can be read, and its modality."""
    name = request.param
    if name in SHIPPED:
        return Path(str(get_testdata_file(name, download=False))), SHIPPED[name]
    pixels = np.random.default_rng(0).integers(0, 4000, (4, 32, 32)).cumsum(2).astype(np.uint16)
    path = tmp_path / "good.dcm"
    if name == "enhanced":
        groups = [Dataset() for _ in pixels]
        for number, group in enumerate(groups):
            place = Dataset()
            place.ImagePositionPatient = [0, 0, number]
            group.PlanePositionSequence = [place]
        write_slice(path, pixels[0], PixelData=pixels.tobytes(), NumberOfFrames=4,
                    PerFrameFunctionalGroupsSequence=groups, SharedFunctionalGroupsSequence=[Dataset()])  # fmt: skip
        return path, "CT"
    write_slice(path, pixels[0], BitsStored=16)
    dataset = pydicom.dcmread(path)
    dataset.compress(MADE[name], generate_instance_uid=False)
    dataset.save_as(path)
    return path, "CT"


def mutate(content: bytes, chance: random.Random, pixels_at: int) -> bytes:
    """The file with one to four faults, most of them in the header or at the start of the pixels."""
    spoiled = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        end = chance.choice((pixels_at, min(pixels_at + 200, len(spoiled)), len(spoiled)))
        place = chance.randrange(128, max(end, 129))
        kind = chance.randrange(7)
        if kind == 0:
            spoiled[place : place + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            spoiled[place : place + 1] = bytes([(spoiled[place : place + 1] or b"\0")[0] ^ 1 << chance.randrange(8)])
        elif kind == 2:
            spoiled[place : place + 4] = chance.choice((b"\xff" * 4, b"\0" * 4, b"\xfe\xff\xff\x7f", b"\0\0\0\x80"))
        elif kind == 3:
            del spoiled[place:]
        elif kind == 4:
            del spoiled[place : place + chance.randrange(1, 40)]
        elif kind == 5:
            spoiled[place:place] = chance.randbytes(chance.randrange(1, 40))
        else:
            other = chance.randrange(128, len(spoiled)) if len(spoiled) > 129 else 128
            spoiled[place:place] = spoiled[other : other + chance.randrange(2, 200)]
    return bytes(spoiled)


def high_water() -> int:
    """Bytes of memory that this process has had at most; 0 where that can't be known."""
    if not sys.platform.startswith("linux"):
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def check(good: Path, modality: str, folder: Path, seeds: range) -> Counter[str]:
    """Read mutations of a file; counts how they ended."""
    content = good.read_bytes()
    pixels_at = read_image_file(good, modality).offset
    assert read_series([good], modality, None, range(0), False).image.size > 0
    path = folder / "mutated.dcm"
    ends: Counter[str] = Counter()
    before = high_water()
    for seed in seeds:
        path.write_bytes(mutate(content, random.Random(f"{good.name} {seed}"), pixels_at))
        began = time.monotonic()
        try:
            volume = read_series([path], modality, None, range(0), False)
        except InputError as error:
            assert str(path) in str(error), seed
            assert "\n" not in str(error), seed
            ends["refused"] += 1
        else:
            assert volume.image.dtype == np.float32, seed
            assert volume.image.nbytes < LARGEST, seed
            ends["read"] += 1
        # Starting the next decoder after one was killed isn't the file's time; nor is what a busy machine adds.
        assert time.monotonic() - began < 2 * HANG, seed
        assert high_water() - before < MEMORY, seed
    return ends


@pytest.mark.parametrize("good_file", FILES, indirect=True)
def test_mutated_files_end_in_pixels_or_a_named_error(good_file, tmp_path):
    ends = check(*good_file, tmp_path, range(20))
    assert set(ends) == {"read", "refused"}, "neither too mild nor too harsh"


@pytest.mark.slow
@pytest.mark.parametrize("good_file", FILES, indirect=True)
def test_many_more_mutated_files_do_too(good_file, tmp_path):
    ends = check(*good_file, tmp_path, range(20, 220))
    assert min(ends["read"], ends["refused"]) >= 10


def test_the_decoder_is_stopped_before_it_counts_as_a_hang():
    assert SECONDS < HANG
