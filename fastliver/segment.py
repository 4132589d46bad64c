"""`python -m fastliver.segment`: the liver in MR, as DICOM SEG or NIfTI in the input's own geometry."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import Namespace
from numpy.typing import NDArray
from rich.console import Console

from fastliver import __version__
from fastliver.cli import run_command
from fastliver.data.cases import Case, find_cases
from fastliver.data.sources import Source
from fastliver.data.study import Volume
from fastliver.errors import InputError
from fastliver.files import write_file
from fastliver.inference.model import Model, as_mask, load
from fastliver.parser import CommandParser
from fastliver.patients import (
    Shard,
    Work,
    add_options,
    check_batch,
    check_folder_name,
    check_results,
    claim,
    device_name,
    go_on_with_patients,
    work_through,
)

ENDINGS = {".dcm": "dicom", ".nii.gz": "nifti", ".nii": "nifti"}


def build_parser() -> CommandParser:
    """The command's options."""
    parser = CommandParser(
        prog="python -m fastliver.segment",
        description="Segment the liver in MR with a trained run.",
        epilog="example: python -m fastliver.segment --run runs/x --mr T2SPIR/DICOM_anon --out liver.dcm",
    )
    parser.add_argument("--run", type=str, required=True, help="folder of a trained run")
    parser.add_argument("--mr", type=str, required=True, help="NIfTI, or a folder: NIfTI, DICOM, CHAOS, nnU-Net raw")
    parser.add_argument(
        "--out", type=str, required=True, help="liver.dcm or liver.nii.gz; for many patients a folder, with a file each"
    )
    parser.add_argument(
        "--format",
        choices=("dicom", "nifti"),
        default=None,
        help="of the files in a folder: DICOM SEG or NIfTI; without it, what the input is",
    )
    parser.add_argument(
        "--with",
        dest="method",
        choices=("unet", "essnet"),
        default="unet",
        help="the U-Net, or EssNet's own segmentor, which no labelled MR was needed for",
    )
    parser.add_argument(
        "--arrangement",
        type=int | None,
        default=None,
        help="which U-Net, by the paper's number of synthetic images it learned from, 0 for real ones alone; without "
        "it, the one with the most",
    )
    parser.add_argument("--ensemble", action="store_true", help="average the U-Nets of all seeds of the arrangement")
    parser.add_argument("--tta", action="store_true", help="test-time flips: average with the mirrored slices")
    parser.add_argument("--largest-component", action="store_true", help="keep the mask's largest part alone")
    parser.add_argument(
        "--probability", type=str | None, default=None, help="write the probability map there too; named like --out"
    )
    parser.add_argument("--mr-sequence", choices=("t2-spir", "t1-in", "t1-out"), default="t2-spir",
                        help="of a CHAOS tree")  # fmt: skip
    add_options(parser)
    return parser


def ending_of(path: Path) -> str | None:
    """The ending that makes a path a file of results rather than a folder of them."""
    return next((ending for ending in ENDINGS if path.name.endswith(ending)), None)


class Segmenter:
    """MR volumes to liver masks."""

    def __init__(self, model: Model, options: Namespace) -> None:
        self.model, self.options = model, options
        self.out = Path(options.out)
        self.probability = None if options.probability is None else Path(options.probability)
        self.networks = model.liver_networks(options.method, options.arrangement, options.ensemble)
        first = self.networks[0].job
        self.name = f"{model.name}/{first}" + (f" and {len(self.networks) - 1} more" if len(self.networks) > 1 else "")
        self.version = f"{__version__}+{'+'.join(trained.version for trained in self.networks)}"

    @property
    def made_with(self) -> dict[str, Any]:
        """What decides how the results look."""
        return {
            "command": "segment",
            "model": self.name,
            "version": self.version,
            "mr_sequence": self.options.mr_sequence,
            "tta": self.options.tta,
            "largest_component": self.options.largest_component,
        }

    def finished(self, case: Case) -> bool:
        """Whether a case's results are there."""
        wanted = [self.result(case, self.out)]
        if self.probability is not None:
            wanted.append(self.result(case, self.probability))
        return not self.options.force and all(path.exists() for path in wanted)

    def result(self, case: Case, out: Path) -> Path:
        """Where a case's mask, or probability, goes."""
        if ending_of(out) is not None:
            return out
        kind = self.options.format or case.format
        return out / f"{case.name}{'.dcm' if kind == 'dicom' else '.nii.gz'}"

    def __call__(self, work: Work) -> str:
        """Segment one patient; returns what to tell the user."""
        volume, path = work.volume, self.result(work.case, self.out)
        for written in filter(None, (path, self.probability)):
            if ending_of(written) == ".dcm" and work.case.format != "dicom":
                raise InputError(
                    f"{volume.sources[0]}: is NIfTI, which a DICOM SEG can't refer to; write NIfTI: --out liver.nii.gz"
                )
        probability = self.model.probability(
            volume.image,
            volume.spacing,
            method=self.options.method,
            arrangement=self.options.arrangement,
            ensemble=self.options.ensemble,
            flips=self.options.tta,
            on_slice=work.on_slice,
        )
        mask = as_mask(probability, self.options.largest_component)
        # The mask is written last: where it is, all is.
        if self.probability is not None:
            self.write(self.result(work.case, self.probability), probability, volume)
        self.write(path, mask, volume)
        slice_, row, column = volume.spacing
        return f"liver {int(mask.sum()) * slice_ * row * column / 1000:.0f} ml in {path}"

    def write(self, path: Path, array: NDArray[Any], volume: Volume) -> None:
        """A mask (uint8) or a probability (float32) in the format that the name says."""
        if ending_of(path) == ".dcm":
            from fastliver.export.dicom_mr import MadeBy
            from fastliver.export.dicom_seg import encode_mask, encode_probability

            encode = encode_mask if array.dtype == np.uint8 else encode_probability
            write_file(path, encode(array, volume, MadeBy(self.name, self.version)))
        else:
            from fastliver.export.nifti import write_nifti

            write_nifti(path, array, volume, f"liver, fastliver {self.version}")


def check(options: Namespace) -> None:
    """Raise InputError for options that don't go together."""
    check_batch(options.batch)
    out, probability = Path(options.out), None if options.probability is None else Path(options.probability)
    ending = ending_of(out)
    if ending is not None and options.format not in (None, ENDINGS[ending]):
        raise InputError(f"--format={options.format}: but --out={out} is {ENDINGS[ending]}; leave one of them out")
    if ending is None and out.exists() and not out.is_dir():
        raise InputError(f"--out={out}: is a file; name a folder, or a file called .dcm, .nii or .nii.gz")
    if ending is None:
        check_folder_name(out, "a file called .dcm, .nii or .nii.gz (in small letters), or a folder")
    if probability is not None and (ending is None) != (ending_of(probability) is None):
        raise InputError(f"--probability={probability}: name a file where --out is one, a folder where it is a folder")
    if probability is not None and probability.resolve() == out.resolve():
        raise InputError(f"--probability={probability}: is --out; choose another name")
    for path in filter(None, (out, probability)):
        if ending_of(path) is not None and path.exists() and not options.force:
            raise InputError(f"{path}: exists already; choose another name, or replace it with --force")
    if options.method == "essnet" and (options.arrangement is not None or options.ensemble):
        raise InputError("--with essnet: has no arrangements or seeds; leave --arrangement and --ensemble out")


def check_one(cases: Sequence[Case], options: Namespace) -> None:
    """Raise InputError where several cases would go into one file."""
    if ending_of(Path(options.out)) is not None and len(cases) > 1:
        names = ", ".join(case.name for case in cases[:5])
        raise InputError(
            f"{options.mr}: holds {len(cases)} series ({names}), but --out={options.out} is one file; name a folder "
            "for --out, or the folder of one series"
        )


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    console = Console(markup=False, emoji=False, highlight=False)
    options = build_parser().parse_args(list(arguments))
    check(options)
    shard = Shard.parse(options.shard)
    model = load(options.run, device_name(options.device), options.batch)
    segmenter = Segmenter(model, options)
    cases = find_cases(Source(Path(options.mr), "MR", options.mr_sequence, skip_bad=options.skip_bad))
    check_one(cases, options)
    if options.format == "dicom" and all(case.format == "nifti" for case in cases):
        raise InputError(f"{options.mr}: is NIfTI, which a DICOM SEG can't refer to; leave --format dicom out")
    for folder in filter(None, (segmenter.out, segmenter.probability)):
        check_results(Path(options.mr), folder, cases, partial(segmenter.result, out=folder))
        if ending_of(folder) is None:
            claim(
                folder, segmenter.made_with, [(case, [segmenter.result(case, folder)]) for case in cases], options.force
            )
    passes = len(segmenter.networks)
    work_through(shard.part(cases), segmenter.finished, segmenter, console, passes)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:]), go_on_with_patients))
