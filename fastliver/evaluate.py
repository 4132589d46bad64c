"""`python -m fastliver.evaluate`: liver masks against the truth, with the metrics of the CHAOS challenge."""

import csv
import io
import json
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from fastliver.cli import run_command
from fastliver.data.masks import find_masks, pair, read_mask
from fastliver.errors import InputError
from fastliver.files import write_file
from fastliver.interval import estimate
from fastliver.metrics.chaos import VolumeScores, volume_scores
from fastliver.metrics.components import fill_holes, largest_component
from fastliver.training.progress import bar

COLUMNS = {"dice": "DICE", "iou": "IoU", "ravd": "RAVD %", "assd": "ASSD mm", "mssd": "MSSD mm", "score": "score"}


def build_parser() -> ArgumentParser:
    """The command's options."""
    parser = ArgumentParser(
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
        "--spacing",
        type=tuple[float, float, float] | None,
        default=None,
        help="[slice,row,column] in mm where neither side says (PNG without its DICOM)",
    )
    parser.add_argument("--largest-component", action="store_true", help="keep the prediction's largest part alone")
    parser.add_argument("--fill-holes", action="store_true", help="fill the prediction's cavities")
    parser.add_argument("--csv", type=str | None, default=None, help="write the table there, in full precision")
    parser.add_argument("--json", type=str | None, default=None, help="write scores and summary there")
    return parser


def match(predicted: dict[str, Path], true: dict[str, Path]) -> list[tuple[str, Path, Path]]:
    """Cases of both sides by name; two single ones belong together whatever they are called.

    Raises:
        InputError: when a case stands on one side only.
    """
    if len(predicted) == len(true) == 1:
        (name, truth), (prediction,) = next(iter(true.items())), predicted.values()
        return [(name, prediction, truth)]
    for here, there, side in ((true, predicted, "--pred"), (predicted, true, "--truth")):
        missing = sorted(here.keys() - there.keys())
        if missing:
            raise InputError(
                f"{here[missing[0]]}: {len(missing)} cases have no {side}: {', '.join(missing[:5])}; add them"
            )
    return [(name, predicted[name], true[name]) for name in sorted(true)]


def as_row(scores: VolumeScores) -> dict[str, float]:
    """The scores by the names of the columns."""
    return {**asdict(scores), "score": scores.score}


def summarize(rows: Sequence[dict[str, float]]) -> dict[str, dict[str, float | None]]:
    """Mean, standard deviation and 95 % interval of each column over the patients."""
    summary: dict[str, dict[str, float | None]] = {}
    for name in COLUMNS:
        values = [row[name] for row in rows]
        found = estimate(values)
        assert found is not None
        spread = statistics.stdev(values) if len(values) > 1 and math.isfinite(found.mean) else None
        summary[name] = {"mean": found.mean, "sd": spread, "low": found.low, "high": found.high}
    return summary


def print_table(rows: dict[str, dict[str, float]], console: Console) -> None:
    """A line for each patient, then mean, spread and interval."""
    table = Table("patient", *COLUMNS.values())
    digits = {name: 4 if name in ("dice", "iou") else 3 for name in COLUMNS}
    for case, row in rows.items():
        table.add_row(case, *(f"{row[name]:.{digits[name]}f}" for name in COLUMNS))
    if len(rows) > 1:
        table.add_section()
        summary = summarize(list(rows.values()))
        for label, key in (("mean", "mean"), ("standard deviation", "sd"), ("95 % from", "low"), ("95 % to", "high")):
            values = (summary[name][key] for name in COLUMNS)
            cells = (
                "-" if value is None else f"{value:.{digits[name]}f}"
                for name, value in zip(COLUMNS, values, strict=True)
            )
            table.add_row(label, *cells)
    console.print(table)


def as_csv(rows: dict[str, dict[str, float]]) -> str:
    """The rows as CSV, in full precision."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["patient", *COLUMNS])
    writer.writerows([case, *(row[name] for name in COLUMNS)] for case, row in rows.items())
    return file.getvalue()


def as_json(rows: dict[str, dict[str, float]]) -> str:
    """The rows and their summary as JSON; infinite distances, which JSON lacks, become null."""

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: finite(part) for name, part in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite({"patients": rows, "summary": summarize(list(rows.values()))}), indent=1) + "\n"


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    console = Console(markup=False, highlight=False)
    options = build_parser().parse_args(list(arguments))
    cases = match(find_masks(Path(options.pred)), find_masks(Path(options.truth)))
    labels = [options[name] if options[name] is not None else options.label for name in ("pred_label", "truth_label")]
    rows: dict[str, dict[str, float]] = {}
    with bar(console, "comparing", len(cases)) as progress:
        for case, prediction, truth in cases:
            both = pair(read_mask(prediction, labels[0]), read_mask(truth, labels[1]), options.spacing)
            mask = both.predicted
            if options.largest_component:
                mask = largest_component(mask)
            if options.fill_holes:
                mask = fill_holes(mask)
            rows[case] = as_row(volume_scores(mask, both.true, both.spacing))
            progress.update(len(rows), case)
    print_table(rows, console)
    if options.csv is not None:
        write_file(Path(options.csv), as_csv(rows))
    if options.json is not None:
        write_file(Path(options.json), as_json(rows))


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
