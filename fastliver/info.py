"""`python -m fastliver.info`: the networks with their parameter counts, and what this machine offers them."""

import sys

import torch
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from fastliver import __version__
from fastliver.cli import run_command
from fastliver.environment import versions
from fastliver.models import EssNet, UNet, count_parameters
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


def main(arguments: list[str]) -> None:
    """Print the tables."""
    ArgumentParser(
        prog="python -m fastliver.info",
        allow_abbrev=False,
        description="Networks with their parameter counts, and this machine.",
    ).parse_args(arguments)
    console = Console()
    networks = Table("network", "parameters", title=f"fastliver {__version__}")
    for name, count in parameters():
        networks.add_row(name, f"{count:,}")
    console.print(networks)
    machine = Table("this machine", "")
    machine.add_row("device", device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu")))
    for name, version in versions().items():
        machine.add_row(name, version)
    console.print(machine)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
