"""`python -m fastliver.report`: rebuild a run's tables, figures and page from its folder."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from fastliver.cli import read_settings, run_command
from fastliver.config import TrainConfig, flatten, unflatten
from fastliver.data.store import SliceStore
from fastliver.errors import InputError
from fastliver.inference.features import FeatureNetwork
from fastliver.metrics.realism import frechet_distance, kernel_distance
from fastliver.parser import CommandParser
from fastliver.reporting import build_report, print_tables
from fastliver.run_folder import RunFolder
from fastliver.training.prepare import MR, split_mr
from fastliver.training.progress import bar


def build_parser() -> CommandParser:
    """The command's options."""
    parser = CommandParser(
        prog="python -m fastliver.report",
        description="Rebuild a run's tables, figures and report.html from its folder.",
        epilog="example: python -m fastliver.report runs/quick-20260101-120000",
    )
    parser.add_argument("run", type=str, help="folder of a run")
    parser.add_argument(
        "--feature-network",
        type=str | None,
        default=None,
        help="ONNX file of a network that gives features: adds FID and KID of the synthetic images",
    )
    parser.add_argument(
        "--mr-store",
        type=str | None,
        default=None,
        help="slice store of the real MR, if it isn't in stores/ beside the run",
    )
    return parser


def open_mr_store(run: RunFolder, given: str | None) -> SliceStore:
    """The store of the run's real MR: the one that is named, or the one beside the run that it was trained on.

    Raises:
        InputError: when there is none, or the one named isn't it.
    """
    data = run.read_result("data")
    if data is None:
        raise InputError(f"{run.root}: no images yet; train first")
    # Beside the run, and where it really lies if this is a link.
    beside = [*run.stores.glob("mr-*"), *run.root.resolve().parent.glob("stores/mr-*")]
    for place in [Path(given)] if given is not None else beside:
        with nullcontext() if given is not None else suppress(InputError):  # another run's may be damaged
            store = SliceStore.open(place)
            if store.modality == "MR" and store.meta["content"] == data["fingerprint"][MR]:
                return store
    raise InputError(
        f"{given or run.stores}: not the MR store that {run.root} was trained on; name that one with --mr-store"
    )


def measure_features(run: RunFolder, network: FeatureNetwork, mr: SliceStore, console: Console) -> None:
    """Write FID and KID of each set of synthetic images against the real MR slices that the run learned from.

    Raises:
        InputError: when the run has no synthetic images.
    """
    jobs = [job for job in ("essnet", "cyclegan") if run.synthetic(job).exists()]
    if not jobs:
        raise InputError(
            f"{run.root}: no synthetic images yet; make them with python -m fastliver.train --resume {run.root} "
            "--stage synthesize"
        )

    def features(store: SliceStore, slices: NDArray[np.intp], title: str) -> np.ndarray:
        images = store.images[slices]
        with bar(console, title, len(images)) as progress:
            return network(images, progress.update)

    # A run of an earlier version lacks settings that say nothing of the split.
    config = unflatten({**flatten(TrainConfig()), **read_settings(run.config)})
    real = features(mr, split_mr(config.experiment, mr).train, "features of real MR")
    for job in jobs:
        store = SliceStore.open(run.synthetic(job))
        synthetic = features(store, store.liver_slices(), f"features of {job}'s MR")
        if min(len(real), len(synthetic)) < 2:
            raise InputError(f"{mr.path}: FID and KID need two slices or more of each kind")
        kid, deviation = kernel_distance(synthetic, real)
        run.write_result(
            f"features-{job}",
            {
                "job": job,
                "network": network.path.name,
                "dimensions": real.shape[1],
                "real": len(real),
                "synthetic": len(synthetic),
                "fid": frechet_distance(synthetic, real),
                "kid": kid,
                "kid_deviation": deviation,
            },
        )


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    console = Console(markup=False, emoji=False, highlight=False)
    options = build_parser().parse_args(list(arguments))
    run = RunFolder.open(Path(options.run))
    if options.feature_network is not None:
        network = FeatureNetwork(Path(options.feature_network))
        measure_features(run, network, open_mr_store(run, options.mr_store), console)
    report = build_report(run)
    print_tables(run, console)
    console.print(f"Report: {report}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
