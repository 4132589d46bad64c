"""`python -m fastliver.synthesize`: CT to synthetic MR with the CT's liver label, as DICOM, NIfTI, nnU-Net or store."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
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
from fastliver.data.store import study_records
from fastliver.data.store_builder import inputs_hash
from fastliver.data.store_parts import StoreParts
from fastliver.errors import InputError, SomeFailed
from fastliver.export import nnunet
from fastliver.export.grey import to_stored
from fastliver.files import new_folder, write_file
from fastliver.inference.model import Model, load
from fastliver.inference.segmentation import THRESHOLD
from fastliver.inference.squares import Squares
from fastliver.metrics import dice, overlap_counts
from fastliver.parser import CommandParser
from fastliver.patients import (
    RECORD,
    Shard,
    Work,
    add_options,
    all_of,
    check_batch,
    check_folder_name,
    check_results,
    claim,
    device_name,
    go_on_with_patients,
    work_through,
)
from fastliver.words import counted

FORMATS = ("dicom", "nifti", "nnunet", "store")
FLAT = 2 / 255
"""Values that span less than a step of 8-bit grey show nothing: what a generator that has collapsed makes."""


def build_parser() -> CommandParser:
    """The command's options."""
    parser = CommandParser(
        prog="python -m fastliver.synthesize",
        description="Turn CT into synthetic MR with a trained run; a liver label that the CT has is carried along.",
        epilog="example: python -m fastliver.synthesize --run runs/x --ct CHAOS/Train_Sets/CT --out synthetic "
        "--format dicom --qa",
    )
    parser.add_argument("--run", type=str, required=True, help="folder of a trained run")
    parser.add_argument("--ct", type=str, required=True, help="NIfTI, or a folder: NIfTI, DICOM, CHAOS, nnU-Net raw")
    parser.add_argument("--out", type=str, required=True, help="folder for the results")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="dicom",
        help="dicom: an MR series in the CT's study, its label as DICOM SEG; nifti: images and labels on the CT's "
        "voxels; nnunet: a data set that nnUNetv2_plan_and_preprocess takes; store: slices to train on",
    )
    parser.add_argument(
        "--min-dice",
        type=float | None,
        default=None,
        help="drop slices where the liver that S finds in the synthetic MR and the CT's label agree less (Dice); in "
        "NIfTI and nnU-Net volumes such a slice stays, with label 2 (ignore)",
    )
    parser.add_argument(
        "--qa", action="store_true", help="write a picture of each patient to <out>/qa (beside a store: <out>.qa)"
    )
    parser.add_argument(
        "--with-real", type=str | None, default=None, help="labelled MR to put into the nnU-Net data set beside it"
    )
    parser.add_argument("--mr-sequence", choices=("t2-spir", "t1-in", "t1-out"), default="t2-spir",
                        help="of a CHAOS tree given to --with-real")  # fmt: skip
    parser.add_argument("--liver-label", type=str | None, default=None,
                        help="name or number of the liver in dataset.json, if it isn't called liver")  # fmt: skip
    add_options(parser)
    return parser


@dataclass(frozen=True)
class Synthesis:
    """One patient's synthetic MR.

    Attributes:
        work: whose.
        squares: the CT as the generator saw it.
        synthetic: (D, size, size) in [-1, 1].
        label: (D, size, size), the CT's label in the square, or None.
        found: (D, size, size), liver that S finds in the synthetic MR, or None where nobody asked.
        dice: (D,), how label and found agree, or None.
        dropped: slices that the filter drops, and those that the CT's label says to ignore.
    """

    work: Work
    squares: Squares
    synthetic: NDArray[np.float16]
    label: NDArray[np.uint8] | None
    found: NDArray[np.bool_] | None
    dice: NDArray[np.float64] | None
    dropped: tuple[int, ...]

    @property
    def kept(self) -> list[int]:
        """The slices that are left."""
        return [index for index in range(len(self.synthetic)) if index not in self.dropped]

    def restored(self) -> NDArray[np.float32]:
        """(D, H, W) in [-1, 1] on the CT's grid."""
        return self.squares.restore(self.synthetic)


class Synthesizer:
    """CT volumes to synthetic MR in one of the formats."""

    def __init__(self, model: Model, options: Namespace, console: Console) -> None:
        self.model, self.options, self.console = model, options, console
        self.out = Path(options.out)
        trained = model.generator
        self.name = f"{model.name}/{trained.job}"
        self.version = f"{__version__}+{trained.version}"
        self.description = f"SYNTHETIC MR from CT, fastliver {self.version}"
        self.parts: StoreParts | None = None

    @property
    def made_with(self) -> dict[str, Any]:
        """What decides how the results look."""
        return {"command": "synthesize", "model": self.name, "version": self.version, "format": self.options.format,
                "min_dice": self.options.min_dice, "liver_label": self.options.liver_label}  # fmt: skip

    def finished(self, case: Case) -> bool:
        """Whether what is asked for of a case is there."""
        has_sheet = not self.options.qa or self.sheet(case).exists()
        return not self.options.force and self.result(case).exists() and has_sheet

    def result(self, case: Case) -> Path:
        """What is written last of a case."""
        return self.results(case)[-1]

    def results(self, case: Case) -> list[Path]:
        """What is written of a case, in this order, besides its QA sheet."""
        return {
            "dicom": [self.out / case.name],
            "nifti": [self.out / f"{case.name}_label.nii.gz", self.out / f"{case.name}.nii.gz"],
            "nnunet": nnunet.case_paths(self.out, f"synthetic_{case.name}"),
            "store": [self.out],
        }[self.options.format]

    def sheet(self, case: Case) -> Path:
        """Where a case's QA sheet goes; a store is a folder of its own and takes nothing else in."""
        folder = self.out.parent / f"{self.out.name}.qa" if self.options.format == "store" else self.out / "qa"
        return folder / f"{case.name}.png"

    def __call__(self, work: Work) -> str:
        """Synthesize one patient; returns what to tell the user."""
        if self.options.format == "dicom" and work.case.format != "dicom":
            raise InputError(
                f"{work.volume.sources[0]}: is NIfTI, which has no study for a DICOM series to belong to; choose "
                "--format nifti"
            )
        if work.volume.label is None and self.options.format == "nnunet":
            raise InputError(
                f"{work.volume.sources[0]}: this series has no label, which nnU-Net learns from; name a CHAOS or "
                "nnU-Net folder that holds labels too, or choose another --format"
            )
        if work.volume.label is None and self.options.min_dice is not None:
            raise InputError(
                f"{work.volume.sources[0]}: this series has no label that --min-dice could hold the synthetic MR "
                "against; name a CHAOS or nnU-Net folder that holds labels too, or leave out --min-dice"
            )
        result = self.synthesis(work)
        if not np.ptp(result.synthetic) > FLAT:
            raise InputError(
                f"{work.volume.sources[0]}: all of its synthetic MR has one grey value, {result.synthetic.flat[0]:.2f} "
                f"of -1 to 1, so {self.name} shows nothing; see the losses in the run's report.html, and train again"
            )
        if not result.kept:
            raise InputError(
                f"{work.volume.sources[0]}: no slice of this series "
                + ("is without labels to be ignored; leave it out" if self.options.min_dice is None
                   else f"reaches --min-dice {self.options.min_dice:g}; lower it")
            )  # fmt: skip
        if self.options.qa:
            write_file(self.sheet(work.case), self.qa(result))
            if not self.options.force and self.result(work.case).exists():
                return f"was finished before; QA sheet to {self.sheet(work.case)}"
        where = {"dicom": self.dicom, "nifti": self.nifti, "nnunet": self.nnunet, "store": self.store}
        told = f"{counted(len(result.kept), 'slice')} to {where[self.options.format](result)}"
        if self.options.min_dice is not None:
            told += f"; dropped {len(result.dropped)} of {len(result.synthetic)} below Dice {self.options.min_dice:g}"
            told += " or to be ignored" if work.volume.ignored else ""
        if result.dice is not None and result.label is not None and result.label.any():
            with_liver = result.dice[result.label.any(axis=(1, 2))]
            told += f"; S agrees with the label to Dice {with_liver.mean():.3f} (mean of slices with liver)"
        return told

    def synthesis(self, work: Work) -> Synthesis:
        """The networks' part."""
        volume = work.volume
        squares = self.model.ct_squares(volume.image, volume.spacing)
        synthetic = self.model.synthesize_squares(squares.images, work.on_slice)
        label = None if volume.label is None else squares.fit.label(volume.label)
        found = agreement = None
        if self.options.min_dice is not None or (self.options.qa and self.model.has_segmentor):
            found = self.model.segmentor_squares(synthetic) > THRESHOLD
            agreement = None if label is None else dice(overlap_counts(found, label))
        low = self.options.min_dice
        below = () if low is None or agreement is None else map(int, np.flatnonzero(agreement < low))
        dropped = tuple(sorted({*below, *volume.ignored}))
        return Synthesis(work, squares, synthetic, label, found, agreement, dropped)

    def qa(self, result: Synthesis) -> bytes:
        """The QA sheet as PNG."""
        from fastliver.reporting.qa import qa_sheet

        title = f"{result.work.case.name}: synthetic MR by {self.name} ({self.version})"
        images = (result.squares.images, result.synthetic)
        return qa_sheet(title, *images, result.label, result.found, result.dice, set(result.dropped))

    def dicom(self, result: Synthesis) -> Path:
        """A folder with the series in `mr` and, where the CT has a label, `liver.dcm`."""
        from fastliver.export.dicom_mr import MadeBy, write_mr_series
        from fastliver.export.dicom_seg import encode_carried_label

        volume, path = result.work.volume, self.result(result.work.case)
        made_by = MadeBy(self.name, self.version)
        with new_folder(path) as temporary:
            images = write_mr_series(temporary / "mr", result.restored(), volume, result.kept, made_by)
            if volume.label is not None:
                seg = encode_carried_label(volume.label, volume, images, result.kept)
                write_file(temporary / "liver.dcm", seg)
        return path

    def nifti(self, result: Synthesis) -> Path:
        """<case>.nii.gz, and <case>_label.nii.gz where the CT has a label."""
        from fastliver.export.nifti import write_nifti

        volume, (label_path, path) = result.work.volume, self.results(result.work.case)
        if volume.label is not None:
            label = nnunet.ignoring(volume.label, result.dropped)
            write_nifti(label_path, label, volume, "liver label of the CT")
        write_nifti(path, to_stored(result.restored()).astype(np.int16), volume, self.description)
        return path

    def nnunet(self, result: Synthesis) -> Path:
        """A training case called synthetic_<case>."""
        volume = result.work.volume
        assert volume.label is not None
        image = to_stored(result.restored()).astype(np.int16)
        name = f"synthetic_{result.work.case.name}"
        return nnunet.write_case(self.out, name, image, volume.label, volume, self.description, result.dropped)

    def store(self, result: Synthesis) -> Path:
        """The patient's part of one slice store."""
        assert self.parts is not None
        volume, case, kept = result.work.volume, result.work.case, result.kept
        label = np.zeros(result.synthetic.shape, np.uint8) if result.label is None else result.label
        records = study_records(case.study, volume, volume.image.shape, result.squares.fit, kept)
        with self.parts.write(case.name, result.label is not None) as writer:
            writer.add(result.synthetic[kept], label[kept], *records)
        return self.parts.part(case.name)


def check(options: Namespace) -> None:
    """Raise InputError for options that don't go together."""
    check_batch(options.batch)
    out = Path(options.out)
    if options.min_dice is not None and not 0 <= options.min_dice <= 1:
        raise InputError(f"--min-dice={options.min_dice:g}: must lie between 0 and 1")
    if options.with_real is not None and options.format != "nnunet":
        raise InputError(f"--with-real={options.with_real}: goes with --format nnunet alone")
    if options.format == "nnunet":
        nnunet.check_folder(out, RECORD)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out={out}: is a file; name a folder")
    check_folder_name(out, "a folder")
    if options.format == "store" and options.force and Shard.parse(options.shard).count > 1:
        raise InputError(
            "--force: of a shared store no process knows which parts the others have made again; leave it out, and "
            f"delete {out} and {out}.parts where they are there"
        )


def check_cases(cases: Sequence[Case], options: Namespace) -> None:
    """Raise InputError for options that no case can meet, before anything is read or written."""
    if options.format == "dicom" and all(case.format == "nifti" for case in cases):
        raise InputError(
            f"{options.ct}: is NIfTI, which has no study for a DICOM series to belong to; choose --format nifti"
        )
    wants_label = "--format nnunet" if options.format == "nnunet" else "--min-dice"
    needed = options.format == "nnunet" or options.min_dice is not None
    if needed and not any(case.study.labelled for case in cases):
        raise InputError(
            f"{options.ct}: has no labels, which {wants_label} needs; name a CHAOS or nnU-Net folder that holds labels "
            "too, or leave the option out"
        )


def real_name(case: Case) -> str:
    """What a real MR is called in an nnU-Net data set."""
    return f"real_{case.name}"


def add_real(cases: Sequence[Case], out: Path, force: bool, console: Console) -> None:
    """Put labelled real MR into an nnU-Net data set, as cases called real_<case>."""

    def copy(work: Work) -> str:
        volume = work.volume
        if volume.label is None:
            raise InputError(
                f"{volume.sources[0]}: this series has no label, which nnU-Net learns from; name labelled MR with "
                "--with-real, or leave it out"
            )
        case = nnunet.write_case(
            out, real_name(work.case), volume.image, volume.label, volume, "real MR", volume.ignored
        )
        return f"real MR to {case}"

    work_through(cases, lambda case: not force and nnunet.case_paths(out, real_name(case))[-1].exists(), copy, console)


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    console = Console(markup=False, emoji=False, highlight=False)
    options = build_parser().parse_args(list(arguments))
    check(options)
    out, shard = Path(options.out), Shard.parse(options.shard)
    model = load(options.run, device_name(options.device), options.batch)
    synthesizer = Synthesizer(model, options, console)
    if options.min_dice is not None:
        model.liver_networks("essnet")  # before anything is done, not after
    cases = find_cases(Source(Path(options.ct), "CT", liver_label=options.liver_label, skip_bad=options.skip_bad))
    real: list[Case] = []
    if options.with_real is not None:
        real = find_cases(
            Source(Path(options.with_real), "MR", options.mr_sequence, options.liver_label, options.skip_bad)
        )
    check_cases(cases, options)
    check_results(Path(options.ct), out, cases, synthesizer.result)
    if options.format == "store":
        write_store(synthesizer, cases, shard, console)
        return
    results = [(case, [synthesizer.sheet(case), *synthesizer.results(case)]) for case in cases]
    results += [(case, nnunet.case_paths(out, real_name(case))) for case in real]
    claim(out, synthesizer.made_with, results, options.force)
    try:
        all_of(
            lambda: work_through(shard.part(cases), synthesizer.finished, synthesizer, console),
            lambda: add_real(real if shard.index == 0 else [], out, options.force, console),
        )
    finally:
        if options.format == "nnunet":
            ignores = options.min_dice is not None or any(case.study.may_ignore for case in (*cases, *real))
            nnunet.write_description(out, ignores, synthesizer.description)


def write_store(synthesizer: Synthesizer, cases: Sequence[Case], shard: Shard, console: Console) -> None:
    """A slice store of this process's patients and the others'; who finishes last puts it together."""
    out, model, options = synthesizer.out, synthesizer.model, synthesizer.options
    if out.exists() and not (out / "store.json").exists():
        raise InputError(f"{out}: holds something else than a slice store, which is not replaced; choose another --out")
    rule, size = model.generator.rule("MR"), model.generator.image_size
    made_with = {
        "synthetic_by": synthesizer.name,
        "version": synthesizer.version,
        "min_dice": options.min_dice,
        "hash": inputs_hash([case.study for case in cases], rule, size, options.skip_bad),
    }
    parts = synthesizer.parts = StoreParts(out, [case.name for case in cases], size, rule, made_with)
    if options.force:
        parts.discard()
    elif (before := parts.joined()) is not None:
        parts.discard()
        console.print(f"{out}: was finished before (--force makes it again)", soft_wrap=True)
        if before.meta["skipped"]:
            raise SomeFailed("\n  ".join([f"{out}: lacks patients that could not be done:", *before.meta["skipped"]]))
        return
    mine = shard.part(cases)
    parts.begin([case.name for case in mine])
    failed: InputError | None = None
    try:
        work_through(
            mine,
            lambda case: parts.part(case.name).exists(),
            synthesizer,
            console,
            on_failed=lambda case, error: parts.fail(case.name, str(error)),
        )
    except InputError as error:  # of patients; the others' part is done
        failed = error
    missing = parts.missing()
    if missing and not out.exists():
        console.print(f"left to other processes: {len(missing)} of {len(cases)} patients; the last makes {out}",
                      soft_wrap=True)  # fmt: skip
    elif parts.join(replace=options.force):
        console.print(f"Slice store: {out}", soft_wrap=True)
    if failed is not None:
        raise failed


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:]), go_on_with_patients))
