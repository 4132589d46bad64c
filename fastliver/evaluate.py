"""`python -m fastliver.evaluate`: liver masks against the truth, with the metrics of the CHAOS challenge.

Where one mask is empty and the other isn't, ASSD, MSSD and (without true liver) RAVD are infinite: `inf` in the table
and in the CSV, null in JSON, which has no infinity. Mean, standard deviation and interval are those of the other
patients; how many were left out stands below the table and as `infinite` in the JSON's summary. DICE, IoU and the
score, which is 0 there, count every patient.
"""

import csv
import io
import json
import math
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from fastliver.cli import run_command
from fastliver.columns import Printed, print_columns
from fastliver.data.chaos import Sequence as MrSequence
from fastliver.data.masks import find_masks, pair, read_mask
from fastliver.errors import InputError
from fastliver.files import write_file
from fastliver.interval import estimate
from fastliver.metrics.chaos import VolumeScores, volume_scores
from fastliver.metrics.components import fill_holes, largest_component
from fastliver.parser import CommandParser
from fastliver.training.progress import bar

MODALITY = re.compile(r"(CT|MR)_")
COLUMNS = {"dice": "DICE", "iou": "IoU", "ravd": "RAVD %", "assd": "ASSD mm", "mssd": "MSSD mm", "score": "score"}


def build_parser() -> CommandParser:
    """The command's options."""
    parser = CommandParser(
        prog="python -m fastliver.evaluate",
        description="Compare liver masks with the truth: NIfTI, DICOM SEG or folders of CHAOS PNG.",
        epilog="example: python -m fastliver.evaluate --pred results --truth Dataset101/labelsTr --csv scores.csv",
    )
    parser.add_argument("--pred", type=str, required=True, help="a mask, or a folder of masks named by case")
    parser.add_argument("--truth", type=str, required=True, help="alike; cases are matched by name")
    parser.add_argument("--label", type=int | None, default=None, help="the value (SEG: segment) that is liver in both")
    parser.add_argument("--pred-label", type=int | None, default=None, help="the same, in --pred alone")
    parser.add_argument("--truth-label", type=int | None, default=None, help="the same, in --truth alone")
    parser.add_argument(
        "--mr-sequence",
        type=MrSequence | None,
        default=None,
        help="which of the MR sequences of a CHAOS tree, on both sides",
    )
    parser.add_argument(
        "--spacing",
        type=str | None,
        default=None,
        help="slice,row,column in mm, such as 5,1.2,1.2, where neither side says (PNG without its DICOM)",
    )
    parser.add_argument("--largest-component", action="store_true", help="keep the prediction's largest part alone")
    parser.add_argument("--fill-holes", action="store_true", help="fill the prediction's cavities")
    parser.add_argument("--csv", type=str | None, default=None, help="write the table there, in full precision")
    parser.add_argument("--json", type=str | None, default=None, help="write scores and summary there")
    return parser


def parse_spacing(text: str | None) -> tuple[float, float, float] | None:
    """The spacing of `--spacing slice,row,column`; raises InputError for what isn't three numbers."""
    if text is None:
        return None
    try:
        slice_, row, column = map(float, text.strip(" []()").split(","))
    except ValueError:
        raise InputError(
            f"--spacing={text}: expected three numbers in mm with commas between, slice,row,column, such as 5,1.2,1.2"
        ) from None
    return slice_, row, column


def match(predicted: dict[str, Path], true: dict[str, Path]) -> list[tuple[str, Path, Path]]:
    """Cases of both sides by name; two single ones belong together whatever they are called.

    Where one side says CT_ or MR_ before each name and the other never does, as `segment` and a CHAOS folder of one
    modality do, that doesn't count.

    Raises:
        InputError: when a case stands on one side only.
    """
    if len(predicted) == len(true) == 1:
        (name, truth), (prediction,) = next(iter(true.items())), predicted.values()
        return [(name, prediction, truth)]
    predicted, true = _without_modality(predicted, true), _without_modality(true, predicted)
    for here, there, side in ((true, predicted, "--pred"), (predicted, true, "--truth")):
        missing = sorted(here.keys() - there.keys())
        if missing:
            raise InputError(
                f"{here[missing[0]]}: {len(missing)} of {len(here)} cases have no {side}: "
                f"{', '.join(missing[:5])}; add them"
            )
    return [(name, predicted[name], true[name]) for name in sorted(true)]


def _without_modality(cases: dict[str, Path], others: dict[str, Path]) -> dict[str, Path]:
    """The cases without the modality before their names, where all of them have the same and none of the others has."""
    for modality in ("CT_", "MR_"):
        if all(name.startswith(modality) for name in cases) and not any(MODALITY.match(name) for name in others):
            return {name.removeprefix(modality): path for name, path in cases.items()}
    return cases


def as_row(scores: VolumeScores) -> dict[str, float]:
    """The scores by the names of the columns."""
    return {**asdict(scores), "score": scores.score}


def summarize(rows: Sequence[dict[str, float]]) -> dict[str, dict[str, float | None]]:
    """Mean, standard deviation and 95 % interval of each column over the patients with a finite value.

    None where too few of those are left; `infinite` counts the others.
    """
    summary: dict[str, dict[str, float | None]] = {}
    for name in COLUMNS:
        values = [row[name] for row in rows if math.isfinite(row[name])]
        found = estimate(values)
        summary[name] = {
            "mean": found.mean if found else None,
            "sd": statistics.stdev(values) if len(values) > 1 else None,
            "low": found.low if found else None,
            "high": found.high if found else None,
            "infinite": len(rows) - len(values),
        }
    return summary


def print_table(rows: dict[str, dict[str, float]], console: Console) -> None:
    """A line for each patient, then mean, spread and interval, and below the table whom those leave out."""
    digits = {name: 4 if name in ("dice", "iou") else 3 for name in COLUMNS}
    summary = summarize(list(rows.values())) if len(rows) > 1 else {}
    statistics_of = {"mean": "mean", "sd": "standard deviation", "low": "95 % from", "high": "95 % to"}
    columns = [Printed("patient", [*rows, *(statistics_of.values() if summary else ())], numeric=False)]
    for name, label in COLUMNS.items():
        values = [*(row[name] for row in rows.values()), *(summary[name][key] for key in statistics_of if summary)]
        cells = ["-" if value is None else f"{value:.{digits[name]}f}" for value in values]
        columns.append(Printed(label, cells))
    print_columns(columns, console, sections=[len(rows)])
    for name, column in summary.items():
        if count := column["infinite"]:
            console.print(
                f"{COLUMNS[name]}: infinite for {count} of {len(rows)} patients (one of the masks is empty); mean, "
                "standard deviation and interval leave them out"
            )


def as_csv(rows: dict[str, dict[str, float]]) -> str:
    """The rows as CSV, in full precision."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["patient", *COLUMNS])
    writer.writerows([case, *(row[name] for name in COLUMNS)] for case, row in rows.items())
    return file.getvalue()


def as_json(rows: dict[str, dict[str, float]]) -> str:
    """The rows and their summary as JSON; infinite distances, which JSON lacks, become null."""
    patients = {
        case: {name: value if math.isfinite(value) else None for name, value in row.items()}
        for case, row in rows.items()
    }
    content = {"patients": patients, "summary": summarize(list(rows.values()))}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    console = Console(markup=False, emoji=False, highlight=False)
    options = build_parser().parse_args(list(arguments))
    spacing = parse_spacing(options.spacing)
    cases = match(*(find_masks(Path(options[side]), options.mr_sequence) for side in ("pred", "truth")))
    labels = [options[name] if options[name] is not None else options.label for name in ("pred_label", "truth_label")]
    rows: dict[str, dict[str, float]] = {}
    found = [False, False]
    with bar(console, "comparing", len(cases)) as progress:
        for case, prediction, truth in cases:
            predicted = read_mask(prediction, labels[0], options.mr_sequence)
            true = read_mask(truth, labels[1], options.mr_sequence)
            found = [known or bool(mask.voxels.any()) for known, mask in zip(found, (predicted, true), strict=True)]
            both = pair(predicted, true, spacing)
            mask = both.predicted
            if options.largest_component:
                mask = largest_component(mask)
            if options.fill_holes:
                mask = fill_holes(mask)
            rows[case] = as_row(volume_scores(mask, both.true, both.spacing))
            progress.update(len(rows), case)
    for side, label, there in zip(("pred", "truth"), labels, found, strict=True):
        if label is not None and not there:
            raise InputError(f"{options[side]}: no mask holds label {label}; correct --label, or --{side}-label")
    print_table(rows, console)
    if options.csv is not None:
        write_file(Path(options.csv), as_csv(rows))
    if options.json is not None:
        write_file(Path(options.json), as_json(rows))


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
