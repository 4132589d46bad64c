"""Sizes of memory as people write them: "6GiB", "5.5 GB"."""

import re

from fastliver.errors import InputError

GIB = 2**30
MIB = 2**20
UNITS = {"GiB": GIB, "MiB": MIB, "GB": 10**9, "MB": 10**6}


def parse_bytes(text: str, option: str) -> int:
    """Bytes of "6GiB", "5.5 GiB", "6144MiB", "6GB" or "6000 MB"; GiB and MiB are powers of 2, GB and MB of 10.

    Args:
        text: a positive number and its unit, in any case, with or without a space.
        option: what the message calls it.

    Raises:
        InputError: for anything else.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", str(text), re.IGNORECASE)
    units = {name.lower(): size for name, size in UNITS.items()}
    if found is None or found[2].lower() not in units or float(found[1]) == 0:
        raise InputError(f"{option}={text}: expected a size above 0 such as 6GiB, 5.5GiB, 6144MiB or 6GB")
    return round(float(found[1]) * units[found[2].lower()])


def format_bytes(size: float) -> str:
    """As GiB with two decimals, below a tenth of one as MiB."""
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / MIB:.0f} MiB"
