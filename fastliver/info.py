"""`python -m fastliver.info`: the networks with their parameter counts, and what this machine offers them."""

import sys

import torch
from rich.console import Console

from fastliver import __version__
from fastliver.cli import run_command
from fastliver.columns import Printed, print_columns
from fastliver.compiled import MISSING
from fastliver.environment import versions
from fastliver.kernels.winograd import DTYPES as WINOGRAD
from fastliver.metrics.extension import has_kernel
from fastliver.models import EssNet, UNet, count_parameters
from fastliver.parser import CommandParser
from fastliver.training.stages import device_name


def parameters() -> list[tuple[str, int]]:
    """The networks at the paper's size with their numbers of trainable parameters."""
    essnet, unet = EssNet(), UNet()
    assert essnet.s is not None
    return [
        ("generator G1, G2 (each)", count_parameters(essnet.g1)),
        ("segmentor S", count_parameters(essnet.s)),
        ("discriminator D1, D2 (each)", count_parameters(essnet.d1)),
        ("EssNet as the paper counts it (2 G + 2 D)", count_parameters(essnet.g1, essnet.g2, essnet.d1, essnet.d2)),
        ("EssNet whole (with S)", count_parameters(essnet)),
        ("U-Net", count_parameters(unet)),
    ]


def extension() -> list[tuple[str, str]]:
    """What the compiled extension does here, or what is missing, and what does it instead."""
    if MISSING:
        return [("C++ extension", f"{MISSING}; PyTorch's operators, which are slower, do its work")]
    winograd = " and ".join(str(dtype).removeprefix("torch.") for dtype in WINOGRAD)
    return [
        ("C++ extension", "built"),
        ("Winograd convolutions", winograd or "none: this CPU lacks AVX-512, PyTorch's convolutions serve"),
        ("overlap counts with CUDA", "built" if has_kernel("cuda") else "not built (no nvcc at installation?)"),
    ]


def main(arguments: list[str]) -> None:
    """Print the tables."""
    CommandParser(
        prog="python -m fastliver.info",
        description="Networks with their parameter counts, and this machine.",
    ).parse_args(arguments)
    console = Console(markup=False, emoji=False, highlight=False)
    names, counts = zip(*parameters(), strict=True)
    networks = [Printed("network", names, numeric=False), Printed("parameters", [f"{count:,}" for count in counts])]
    print_columns(networks, console, title=f"fastliver {__version__}")
    device = device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    names, found = zip(("device", device), *extension(), *versions().items(), strict=True)
    print_columns([Printed("this machine", names, numeric=False), Printed("", found, numeric=False)], console)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
