"""The progress bar says all that fits, and nothing of it is cut."""

import io
import re

import pytest
from rich.console import Console

from fastliver.training.progress import bar

PACE = "41.2 images/s, 0.0486 s/step, 1.23 GiB"


@pytest.mark.parametrize(("width", "pace", "drawn"), [(66, False, False), (80, False, True), (120, True, True)])
def test_what_a_terminal_of_some_width_shows(width: int, pace: bool, drawn: bool) -> None:
    console = Console(width=width, force_terminal=True, file=io.StringIO(), color_system=None, legacy_windows=False)
    with bar(console, "unet-essnet-714-seed0", 53200) as progress:
        progress.pace = PACE
        progress.update(12355, "epoch 23/300, loss 0.1234")
    assert isinstance(console.file, io.StringIO)
    last = [line for line in re.split(r"[\r\n]", console.file.getvalue()) if "23/300" in line][-1]
    assert re.search(r"unet-essnet-714-seed0 .*12355/53200 epoch 23/300, loss 0\.1234 (--|\d\d):(--|\d\d)", last)
    assert (PACE in last) == pace
    assert ("━" in last) == drawn
