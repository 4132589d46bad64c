"""`python -m fastliver.export`: the networks of a trained run as ONNX."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from fastliver import __version__
from fastliver.cli import run_command
from fastliver.errors import InputError
from fastliver.export.onnx import export_generator, export_segmenter
from fastliver.inference.model import Model, load
from fastliver.inference.trained import Trained
from fastliver.models import EssNet
from fastliver.parser import CommandParser
from fastliver.weights import DamagedCheckpoint

NETWORKS = ("generator", "unet", "segmentor")


def build_parser() -> CommandParser:
    """The command's options."""
    parser = CommandParser(
        prog="python -m fastliver.export",
        description="Write a trained run's networks for programs without PyTorch.",
        epilog="example: python -m fastliver.export --run runs/x --format onnx --out models",
    )
    parser.add_argument("--run", type=str, required=True, help="folder of a trained run")
    parser.add_argument("--format", choices=("onnx",), default="onnx", help="what to write")
    parser.add_argument("--out", type=str, required=True, help="folder; gets generator.onnx, unet.onnx, segmentor.onnx")
    parser.add_argument(
        "--network", choices=("all", *NETWORKS), default="all", help="generator: CT to MR; unet, segmentor: MR to liver"
    )
    parser.add_argument(
        "--arrangement",
        type=int | None,
        default=None,
        help="which U-Net, by the paper's number of synthetic images; without it, the one with the most",
    )
    parser.add_argument("--force", action="store_true", help="replace what is there")
    return parser


def available(model: Model, arrangement: int | None, wanted: str) -> dict[str, Trained]:
    """The networks to write by name; with "all" those that the run has.

    Raises:
        InputError: when the run lacks what was asked for by name, or everything.
    """
    find = {
        "generator": lambda: model.generator,
        "unet": lambda: model.liver_networks("unet", arrangement)[0],
        "segmentor": lambda: model.liver_networks("essnet")[0],
    }
    if wanted != "all":
        return {wanted: find[wanted]()}
    found, missing = {}, []
    for name in NETWORKS:
        try:
            found[name] = find[name]()
        except DamagedCheckpoint:
            raise
        except InputError as error:
            missing.append(error)
    if not found or (arrangement is not None and "unet" not in found):
        raise missing[0]
    return found


def metadata(model: Model, trained: Trained) -> dict[str, str]:
    """What a file says of itself."""
    rules = {name: trained.meta[name] for name in ("ct_intensity", "mr_intensity") if name in trained.meta}
    return {
        "model": f"{model.name}/{trained.job}",
        "version": f"{__version__}+{trained.version}",
        "image_size": str(trained.image_size),
        "intensity": json.dumps(rules),
        "orientation": "axial, row 0 anterior, column 0 the patient's right; longer side in mm fills the square",
        "intended_use": "research, not a medical device",
    }


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    console = Console(markup=False, emoji=False, highlight=False)
    options = build_parser().parse_args(list(arguments))
    model = load(options.run, "cpu")
    networks = available(model, options.arrangement, options.network)
    paths = {name: Path(options.out) / f"{name}.onnx" for name in networks}
    for path in paths.values():
        if path.exists() and not options.force:
            raise InputError(f"{path}: exists already; choose another --out, or replace it with --force")
    for name, trained in networks.items():
        network, about = trained.network, metadata(model, trained)
        if name == "generator":
            assert isinstance(network, EssNet)
            export_generator(network.g1, trained.image_size, paths[name], about)
        else:
            segmenter = network.s if isinstance(network, EssNet) else network
            assert segmenter is not None
            export_segmenter(segmenter, trained.image_size, paths[name], about)
        console.print(f"{paths[name]}: {trained.job}, {paths[name].stat().st_size / 1e6:.1f} MB", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
