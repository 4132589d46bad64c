"""`python -m fastliver.evaluate` from outside: its table, its files, which masks it finds, and what it refuses."""

import csv
import errno
import json
import math
import statistics
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from fastliver.cli import run_command
from fastliver.data.masks import find_masks
from fastliver.errors import InputError

COLUMNS = ["dice", "iou", "ravd", "assd", "mssd", "score"]
SPACING = (5.0, 2.0, 1.0)


@pytest.fixture
def evaluate(train):
    """Runs the command on --pred and --truth."""

    def run(predicted, true, *arguments):
        return train(f"--pred={predicted}", f"--truth={true}", *arguments, module="fastliver.evaluate", small=False)

    return run


def write(path: Path, mask: np.ndarray, shift: float = 0) -> Path:
    """A mask (slices, rows, columns) as NIfTI, or as a folder of PNG where the name has no ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix:
        affine = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1])
        affine[0, 3] = shift
        nibabel.save(nibabel.Nifti1Image(mask.transpose(2, 1, 0).astype(np.uint8), affine), path)
        return path
    path.mkdir()
    for number, values in enumerate(mask):
        Image.fromarray(values.astype(np.uint8) * 63).save(path / f"{number:03d}.png")
    return path


def slab(start: int, stop: int) -> np.ndarray:
    """Slices start to stop of eight, whole but for a margin of one voxel."""
    mask = np.zeros((8, 6, 6), bool)
    mask[start:stop, 1:-1, 1:-1] = True
    return mask


SCORES = {  # of slices 2 to 5 against as many, three and one: Dice and IoU by counting, distances along the slices
    "a": (1, 1, 0, 0, 0, 100),
    "b": (6 / 7, 3 / 4, 100 / 3, None, 5, None),
    "c": (1 / 2, 1 / 3, 200, None, 10, None),
}


@pytest.fixture
def cases(tmp_path) -> tuple[Path, Path]:
    """Folders of predictions and truths of the cases a, b and c."""
    for name, true in (("a", slab(2, 5)), ("b", slab(2, 5)), ("c", slab(4, 5))):
        write(tmp_path / "predicted" / f"{name}.nii.gz", slab(2, 6) if name == "b" else slab(2, 5))
        write(tmp_path / "true" / f"{name}.nii", true)
    return tmp_path / "predicted", tmp_path / "true"


def test_the_organisers_numbers_for_their_sample(evaluate, real_data, tmp_path):
    home, path = real_data / "chaos", tmp_path / "scores.json"
    out = evaluate(home / "sample_segmentation_CT_3", home / "Train_Sets/CT/3/Ground", f"--json={path}").succeeded()
    row = json.loads(path.read_text())["patients"]["3"]
    assert [f"{row[name]:.3f}" for name in ("dice", "ravd", "assd", "mssd")] == ["0.978", "0.665", "0.734", "14.000"]
    assert out.splitlines()[-2].replace("│", "").split()[::3] == ["3", "0.665", "89.081"]
    assert "0.734" in out
    assert "14.000" in out


def test_two_single_files_belong_together_whatever_their_names(evaluate, tmp_path):
    out = evaluate(
        write(tmp_path / "result.nii.gz", slab(2, 6)), write(tmp_path / "case_7.nii", slab(2, 5))
    ).succeeded()
    assert "case_7" in out
    assert f"{6 / 7:.4f}" in out
    assert "mean" not in out


def test_what_segment_calls_mr_7_is_patient_7_of_a_chaos_folder(evaluate, tmp_path):
    for name, mask in {"7": slab(2, 5), "10": slab(2, 6)}.items():
        write(tmp_path / "masks" / f"MR_{name}.nii", slab(2, 6))
        write(tmp_path / "Train_Sets" / "MR" / name / "T2SPIR" / "Ground", mask)
    evaluate(tmp_path / "masks", tmp_path / "Train_Sets" / "MR", f"--csv={tmp_path / 'scores.csv'}").succeeded()
    lines = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    assert {line["patient"]: float(line["dice"]) for line in lines} == pytest.approx({"10": 1, "7": 6 / 7})
    # A CT isn't its MR namesake.
    for name in ("7", "10"):
        write(tmp_path / "ct" / f"CT_{name}.nii", slab(2, 6))
    evaluate(tmp_path / "masks", tmp_path / "ct").refused("2 of 2 cases have no --pred: CT_10, CT_7")


def test_folders_are_matched_by_name_and_written_in_full(evaluate, cases, tmp_path):
    paths = tmp_path / "new" / "scores.csv", tmp_path / "scores.json"
    out = evaluate(*cases, f"--csv={paths[0]}", f"--json={paths[1]}").succeeded()
    written, (header, *lines) = json.loads(paths[1].read_text()), csv.reader(paths[0].read_text().splitlines())
    assert header == ["patient", *COLUMNS]
    assert [line[0] for line in lines] == list(written["patients"]) == ["a", "b", "c"]
    for name, *values in lines:
        row = written["patients"][name]
        assert [row[column] for column in COLUMNS] == [float(value) for value in values]
        known = {column: score for column, score in zip(COLUMNS, SCORES[name], strict=True) if score is not None}
        assert {column: row[column] for column in known} == pytest.approx(known, abs=1e-12)
        assert name in out
    for column in COLUMNS:
        values = [row[column] for row in written["patients"].values()]
        mean, sd = statistics.mean(values), statistics.stdev(values)
        half = 4.3026527 * sd / math.sqrt(3)
        expected = {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half}
        assert written["summary"][column] == pytest.approx({**expected, "infinite": 0})
        digits = 4 if column in ("dice", "iou") else 3
        assert all(f"{value:.{digits}f}" in out for value in expected.values())
    assert written["summary"]["dice"]["mean"] == pytest.approx((1 + 6 / 7 + 1 / 2) / 3)


def summary_of(values: list[float], infinite: int) -> dict[str, float]:
    """What belongs into the summary of two patients, and how many others there are."""
    mean, sd = statistics.mean(values), statistics.stdev(values)
    half = 12.7062047 * sd / math.sqrt(2)  # the t-interval of two values
    return pytest.approx({"mean": mean, "sd": sd, "low": mean - half, "high": mean + half, "infinite": infinite})


def test_infinite_values_are_counted_and_left_out_of_the_mean(evaluate, cases, tmp_path):
    write(cases[0] / "a.nii.gz", slab(0, 0))
    paths = tmp_path / "scores.csv", tmp_path / "scores.json"
    out = evaluate(*cases, f"--csv={paths[0]}", f"--json={paths[1]}").succeeded()
    written = json.loads(paths[1].read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert written["patients"]["a"] == {"dice": 0, "iou": 0, "ravd": 100, "assd": None, "mssd": None, "score": 0}
    assert list(csv.reader(paths[0].read_text().splitlines()))[1] == ["a", "0.0", "0.0", "100.0", "inf", "inf", "0.0"]
    assert written["summary"]["mssd"] == summary_of([5, 10], infinite=1)
    assert written["summary"]["dice"]["mean"] == pytest.approx((0 + 6 / 7 + 1 / 2) / 3)
    assert written["summary"]["dice"]["infinite"] == written["summary"]["ravd"]["infinite"] == 0
    lines = [line.replace("│", " ").split() for line in out.splitlines()]
    assert next(line for line in lines if line[:1] == ["a"])[1:] == [
        "0.0000",
        "0.0000",
        "100.000",
        "inf",
        "inf",
        "0.000",
    ]
    mean, sd = (next(line for line in lines if line[:1] == [name]) for name in ("mean", "standard"))
    assert (mean[-2], sd[-2]) == ("7.500", f"{statistics.stdev([5, 10]):.3f}")
    assert "nan" not in out
    assert [line.split(":")[0] for line in out.splitlines() if "infinite for 1 of 3" in line] == ["ASSD mm", "MSSD mm"]


def test_columns_without_a_finite_value_have_no_mean(evaluate, cases, tmp_path):
    for name in "abc":
        write(cases[1] / f"{name}.nii", slab(0, 0))
    path = tmp_path / "scores.json"
    out = evaluate(*cases, f"--json={path}").succeeded()
    nothing = {**dict.fromkeys(("mean", "sd", "low", "high")), "infinite": 3}
    summary = json.loads(path.read_text())["summary"]
    assert summary["ravd"] == summary["assd"] == summary["mssd"] == nothing
    assert summary["score"] == {"mean": 0, "sd": 0, "low": 0, "high": 0, "infinite": 0}
    assert "RAVD %: infinite for 3 of 3 patients" in out


@pytest.mark.parametrize("again", ["run the command again", "--resume goes on"])
@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (OSError(errno.ENOSPC, "No space left", "scores.csv"), 1, "disk is full while writing scores.csv"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_command_advises_its_own_way_to_go_on(capsys, error, code, text, again):
    def main() -> None:
        raise error

    assert run_command(main, lambda: again) == code
    message = capsys.readouterr().err
    assert text in message
    assert message.rstrip().endswith(f"; {again}")


def test_the_largest_component_and_filled_holes_of_the_prediction_alone(evaluate, tmp_path):
    clean, path = slab(1, 7), tmp_path / "scores.json"
    dirty = clean.copy()
    dirty[3, 3, 3], dirty[0, 0, 0] = False, True
    count = clean.sum()
    files = write(tmp_path / "dirty.nii", dirty), write(tmp_path / "clean.nii", clean)

    def dice(first, second, *options) -> float:
        evaluate(first, second, f"--json={path}", *options).succeeded()
        return next(iter(json.loads(path.read_text())["patients"].values()))["dice"]

    options = ("--largest-component", "--fill-holes")
    assert dice(*files) == pytest.approx(2 * (count - 1) / (2 * count))
    assert dice(*files, options[0]) == pytest.approx(2 * (count - 1) / (2 * count - 1))
    assert dice(*files, options[1]) == pytest.approx(2 * count / (2 * count + 1))
    assert dice(*files, *options) == 1
    assert dice(*files[::-1], *options) == pytest.approx(2 * (count - 1) / (2 * count))


def test_labels_and_spacing_are_given_for_both_or_for_one_side(evaluate, tmp_path):
    organs, folder = np.where(slab(2, 5), 2, 7), write(tmp_path / "masks", slab(2, 5))
    several = write(tmp_path / "organs.nii", organs)
    evaluate(several, folder).refused(several, "2, 7", "--label")
    for options in (["--pred-label=2"], ["--label=63", "--pred-label=2"], ["--pred-label=2", "--truth-label=63"]):
        assert "1.0000" in evaluate(several, folder, *options).succeeded()
    assert "1.0000" in evaluate(several, several, "--label=7").succeeded()
    evaluate(several, several, "--label=3").refused(several, "no mask holds label 3", "--pred-label")
    evaluate(several, several, "--label=7", "--truth-label=4").refused("no mask holds label 4", "--truth-label")
    evaluate(folder, folder).refused(folder, "--spacing")
    out = evaluate(folder, write(tmp_path / "others", slab(2, 6)), "--spacing=[7.5,1,1]").succeeded()
    assert out == evaluate(folder, tmp_path / "others", "--spacing", "7.5, 1,1").succeeded()
    assert "7.500" in out  # the distance from slice 4 to slice 5
    for wrong in ("[0,1,1]", "[-1,1,1]", "[1,2]", "[1,1,nan]"):
        evaluate(folder, folder, f"--spacing={wrong}").refused("spacing")


def test_cases_on_one_side_only_are_named(evaluate, cases):
    (cases[0] / "b.nii.gz").unlink()
    evaluate(*cases).refused(cases[1] / "b.nii", "--pred", ": b")
    (cases[1] / "b.nii").unlink()
    (cases[1] / "a.nii").unlink()
    evaluate(*cases).refused(cases[0] / "a.nii.gz", "--truth", ": a")


def test_what_cannot_be_compared_is_refused_and_nothing_is_written(evaluate, cases, tmp_path):
    path, a = tmp_path / "scores.csv", (cases[0] / "a.nii.gz", cases[1] / "a.nii")
    evaluate(cases[0], tmp_path / "nowhere", f"--csv={path}").refused(tmp_path / "nowhere", "does not exist")
    (tmp_path / "empty").mkdir()
    evaluate(tmp_path / "empty", cases[1], f"--csv={path}").refused(tmp_path / "empty", "no masks")
    write(a[0], slab(2, 5), shift=3)
    evaluate(*cases, f"--csv={path}").refused(*a, "3.00 mm")
    write(a[0], slab(2, 5)[1:])
    evaluate(*cases, f"--csv={path}").refused(*a, "(7, 6, 6)", "(8, 6, 6)")
    a[0].write_bytes(b"no mask")
    evaluate(*cases, f"--csv={path}").refused(a[0])
    assert not path.exists()


def test_a_pipe_gets_the_whole_table_however_narrow_the_terminal_was(train, tmp_path):
    name = "a_patient_with_a_name_of_more_than_forty_letters"
    for case in (name, "b"):
        write(tmp_path / "predicted" / f"{case}.nii", slab(2, 6))
        write(tmp_path / "true" / f"{case}.nii", slab(2, 5))
    sides = (f"--pred={tmp_path / 'predicted'}", f"--truth={tmp_path / 'true'}")
    options = {"module": "fastliver.evaluate", "small": False, "environment": {"COLUMNS": "40"}}
    lines = train(*sides, **options).succeeded().splitlines()
    row = next(line for line in lines if name in line).strip("│").split("│")
    assert [cell.strip() for cell in row[:4]] == [name, f"{6 / 7:.4f}", "0.7500", "33.333"]
    assert len(row) == 7


def test_a_probability_map_is_no_mask(evaluate, tmp_path):
    true = write(tmp_path / "true.nii", slab(2, 5))
    image = nibabel.load(true)
    path = tmp_path / "p.nii.gz"
    probability = np.where(image.get_fdata() > 0, 0.375, 0).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(probability, image.affine), path)
    for option in ((), ("--label=1",)):
        evaluate(path, true, *option).refused(f"{path}: holds values such as 0.375", "above 0.5")
    # Whole numbers are labels, whatever they are stored as.
    nibabel.save(nibabel.Nifti1Image(image.get_fdata().astype(np.float32), image.affine), path)
    assert "1.0000" in evaluate(path, true).succeeded()


@pytest.mark.parametrize("spacing", ["5", "5,1", "5,1,1,1", "a,b,c", "5;1;1", ""])
def test_a_spacing_of_another_form_says_which_is_expected(evaluate, cases, spacing):
    text = f"--spacing={spacing}: expected three numbers in mm with commas between, slice,row,column, such as 5,1.2,1.2"
    evaluate(*cases, f"--spacing={spacing}").refused(text)


def test_wrong_options_are_refused(evaluate, train, cases, tmp_path):
    evaluate(*cases, "--label=liver").refused("label")
    train("--pred=x", module="fastliver.evaluate", small=False).refused("truth")
    evaluate(*cases, f"--csv={tmp_path}").refused(tmp_path, code=1)


def test_help_shows_an_example(train):
    assert "example: python" in train("--help", module="fastliver.evaluate", small=False).succeeded()


def found_in(root: Path, *names: str, below: str = "") -> dict[str, str]:
    """Which of these files, or of the folders that hold them, are found as masks of which cases below the root."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return {case: str(path.relative_to(root)) for case, path in find_masks(root / below).items()}


def test_a_file_or_a_folder_of_png_is_one_case(tmp_path):
    assert found_in(tmp_path, "case.7.nii.gz", below="case.7.nii.gz") == {"case.7": "case.7.nii.gz"}
    assert found_in(tmp_path, "results/1.png", "results/2.PNG", below="results") == {"results": "results"}
    for below in ("9", "9/Ground"):
        assert found_in(tmp_path, "9/Ground/1.png", "9/DICOM_anon/1.dcm", below=below) == {"9": "9/Ground"}


def test_a_folder_of_files_has_a_case_for_each(tmp_path):
    names = {"a_1": "a_1.nii.gz", "b.2": "b.2.nii", "c": "c.dcm"}
    assert found_in(tmp_path, *names.values(), ".hidden.nii", "notes.txt", "more/d.nii") == names


def test_a_chaos_tree_has_a_case_for_each_patient(tmp_path):
    ct = [f"CT/{name}/{part}" for name in (7, 10) for part in ("Ground/1.png", "DICOM_anon/1.dcm")]
    mr = [f"MR/{name}/T2SPIR/{part}" for name in (4, 5) for part in ("Ground/1.png", "DICOM_anon/1.dcm")]
    assert found_in(tmp_path, *ct, below="CT") == {"7": "CT/7/Ground", "10": "CT/10/Ground"}
    assert found_in(tmp_path, *mr, below="MR") == {"4": "MR/4/T2SPIR/Ground", "5": "MR/5/T2SPIR/Ground"}
    with pytest.raises(InputError, match=r"MR/4/T2SPIR/Ground: .*MR/4/T1DUAL/Ground"):
        found_in(tmp_path, "MR/4/T1DUAL/Ground/1.png", below="MR")


def test_a_tree_of_both_modalities_has_a_case_for_each_patient_of_each(tmp_path):
    ct = [f"Train_Sets/CT/{name}/{part}" for name in (7, 10) for part in ("Ground/1.png", "DICOM_anon/1.dcm")]
    folders = {f"CT_{name}": f"Train_Sets/CT/{name}/Ground" for name in (7, 10)}
    one = {name.removeprefix("CT_"): folder for name, folder in folders.items()}
    assert found_in(tmp_path, *ct, below="Train_Sets") == one
    assert found_in(tmp_path, *ct, below="Train_Sets/CT") == one
    mr = [f"Train_Sets/MR/{name}/T2SPIR/Ground/1.png" for name in (7, 8)]
    folders |= {f"MR_{name}": f"Train_Sets/MR/{name}/T2SPIR/Ground" for name in (7, 8)}
    assert found_in(tmp_path, *mr, below="Train_Sets") == folders
    assert found_in(tmp_path) == folders


def test_one_of_several_mr_sequences_is_chosen(tmp_path):
    spir, dual = "MR/4/T2SPIR/Ground", "MR/4/T1DUAL/Ground"
    (tmp_path / "CT/3/Ground").mkdir(parents=True)
    (tmp_path / "CT/3/Ground/1.png").touch()
    with pytest.raises(InputError, match=r"T2SPIR/Ground: .*T1DUAL/Ground; choose --mr-sequence: t2-spir, t1-in, t1-"):
        found_in(tmp_path, f"{spir}/1.png", f"{dual}/1.png", below="MR")
    for sequence, folder in (("t2-spir", spir), ("t1-in", dual), ("t1-out", dual)):
        for top in ("MR", "MR/4", folder):
            assert find_masks(tmp_path / top, sequence) == {"4": tmp_path / folder}
        assert find_masks(tmp_path, sequence) == {"CT_3": tmp_path / "CT/3/Ground", "MR_4": tmp_path / folder}
        assert find_masks(tmp_path / "CT", sequence) == {"3": tmp_path / "CT/3/Ground"}
    with pytest.raises(InputError, match=r"T2SPIR/Ground: no masks in a folder T1DUAL; choose another --mr-sequence"):
        find_masks(tmp_path / spir, "t1-in")


def test_a_chaos_tree_is_compared_with_itself_by_sequence(evaluate, phantom):
    (tree,) = phantom.rglob("Train_Sets")
    rows = evaluate(tree, tree, "--mr-sequence=t2-spir").succeeded()
    cases = [f"{half}_{item.name}" for half in ("CT", "MR") for item in (tree / half).iterdir()]
    assert len(cases) == 5
    assert all(f" {case} " in rows for case in cases)
    evaluate(tree, tree, "--mr-sequence=t3").refused("--mr-sequence=t3: expected one of t2-spir, t1-in, t1-out")


def test_two_files_of_one_case_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"a.nii.*a.nii"):
        found_in(tmp_path, "a.nii", "a.nii.gz")
