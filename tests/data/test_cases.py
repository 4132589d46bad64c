"""What commands find under a path: files, folders and data sets, and one bad patient among good ones."""

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fastliver.data.cases import find_cases
from fastliver.data.sources import Source
from fastliver.errors import InputError


def write_nifti(path: Path, low: float = -1000, high: float = 300) -> Path:
    voxels = np.linspace(low, high, 4 * 5 * 6).reshape(4, 5, 6).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.0, -1, 3, 1])), path)
    return path


def test_one_file(tmp_path) -> None:
    (case,) = find_cases(Source(write_nifti(tmp_path / "ct_7_0000.nii.gz"), "CT"))
    assert (case.name, case.format) == ("ct_7", "nifti")
    assert case.study.read().image.shape == (6, 5, 4)


def test_folder_of_files_takes_each_case_once(tmp_path) -> None:
    for name in ("b_0000.nii.gz", "b_0001.nii.gz", "a.nii", ".hidden.nii"):
        write_nifti(tmp_path / name)
    assert [case.name for case in find_cases(Source(tmp_path, "CT"))] == ["a", "b"]


def test_numbers_of_patients_are_not_taken_for_channels(tmp_path) -> None:
    """AMOS and WORD call patients so; without a file _0000 there are no channels."""
    files = [write_nifti(tmp_path / f"amos_{number}.nii.gz") for number in ("0001", "0004", "0410")]
    names = ["amos_0001", "amos_0004", "amos_0410"]
    assert [case.name for case in find_cases(Source(tmp_path, "CT"))] == names
    assert [find_cases(Source(file, "CT"))[0].name for file in files] == names


def test_the_same_name_with_two_endings_is_two_cases(tmp_path) -> None:
    for name in ("a.nii", "a.nii.gz"):
        write_nifti(tmp_path / name)
    assert [case.name for case in find_cases(Source(tmp_path, "CT"))] == ["a_a.nii", "a_a.nii.gz"]


@pytest.mark.parametrize(("modality", "low"), [("MR", -1000), ("MR", -125), ("CT", 0)])
def test_grey_values_tell_the_other_modality(tmp_path, modality, low) -> None:
    (case,) = find_cases(Source(write_nifti(tmp_path / "x.nii", low), modality))
    with pytest.raises(InputError, match=r"x.nii: grey values from .* Hounsfield units"):
        case.study.read()


def test_chaos_tree(phantom) -> None:
    cases = find_cases(Source(phantom, "CT"))
    assert len(cases) == 2
    assert all(case.format == "dicom" and case.study.labelled for case in cases)


def test_a_bad_patient_fails_alone(phantom, tmp_path) -> None:
    tree = Path(shutil.copytree(phantom, tmp_path / "tree"))
    bad, good = (case.study.paths[0].parents[1] for case in find_cases(Source(tree, "CT")))
    next((bad / "Ground").iterdir()).unlink()
    cases = find_cases(Source(tree, "CT"))
    assert [case.name for case in cases] == [bad.name, f"CT_{good.name}"]
    with pytest.raises(InputError, match=f"{bad.name}/Ground: .* masks for"):
        cases[0].study.read()
    assert cases[1].study.read().label is not None


@pytest.fixture
def disc(tmp_path, write_slice) -> Path:
    """A PACS's disc: patient P1's six slices lie in two folders, P2's four in a third, P3's two beside the folders."""
    for patient, folder, heights in (("P1", "D0", (0, 5, 10)), ("P1", "D1", (15, 20, 25)), ("P2", "D2", (0, 5, 10, 15)),
                                     ("P3", ".", (0, 5))):  # fmt: skip
        for height in heights:
            path = tmp_path / "disc" / folder / f"{patient}-{height}.dcm"
            pixels = np.full((16, 16), height, np.uint16)
            fields = {"Modality": "MR", "PatientID": patient, "SeriesInstanceUID": f"1.2.{patient[1]}"}
            write_slice(path, pixels, (0, 0, height), **fields)
    return tmp_path / "disc"


def read_each(folder: Path) -> dict[str, int | str]:
    """Of each case its number of slices, or why it can't be read."""
    found: dict[str, int | str] = {}
    for case in find_cases(Source(folder, "MR")):
        try:
            found[case.name] = len(case.study.read().image)
        except InputError as error:
            found[case.name] = str(error)
    return found


@pytest.mark.parametrize("place", ["D3", "D1", "D2", "."])
def test_a_bad_file_ends_the_series_beside_it_and_no_other(disc, place) -> None:
    """Any of them may lack it; a series must never be taken for whole, nor be lost, because of another's file."""
    whole = {"P1": 6, "P2": 4, "P3": 2}
    assert read_each(disc) == whole
    bad = disc / place / "x.dcm"
    bad.parent.mkdir(exist_ok=True)
    bad.write_bytes(bytes(128) + b"DICMrubbish")
    found = read_each(disc)
    hit = {"D1": "P1", "D2": "P2", ".": "P3"}.get(place, "D3")
    reason = found.pop(hit)
    assert reason.startswith(f"{bad}: ")
    assert "add --skip-bad" in reason
    assert ("may be a slice of this series" in reason) == (place != "D3")
    assert found == {name: count for name, count in whole.items() if name != hit}


def test_what_macos_leaves_is_no_bad_file(disc) -> None:
    (disc / "D1" / "._P1-20.dcm").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(200))
    (disc / "__MACOSX").mkdir()
    (disc / "__MACOSX" / "a.dcm").write_bytes(b"more of it")
    assert read_each(disc) == {"P1": 6, "P2": 4, "P3": 2}


def test_a_case_that_can_not_be_read_has_a_format(disc) -> None:
    (disc / "D2" / "x.dcm").write_bytes(bytes(128) + b"DICMrubbish")
    assert [case.format for case in find_cases(Source(disc, "MR"))] == ["dicom"] * 3


def test_one_patient_is_not_taken_apart(phantom, tmp_path) -> None:
    """Its images alone would be read as a series without labels."""
    first = find_cases(Source(phantom, "CT"))[0].study.paths[0].parents[1]
    patient = Path(shutil.copytree(first, tmp_path / "patient"))
    next((patient / "Ground").iterdir()).unlink()
    with pytest.raises(InputError, match=r"patient/Ground: .* masks for"):
        find_cases(Source(patient, "CT"))


def test_patients_with_and_without_labels_side_by_side(phantom, tmp_path) -> None:
    tree = Path(shutil.copytree(phantom, tmp_path / "tree"))
    first = find_cases(Source(tree, "CT"))[0].study.paths[0].parents[1]
    shutil.rmtree(first / "Ground")
    assert [case.study.labelled for case in find_cases(Source(tree, "CT"))] == [False, True]


def test_series_of_one_patient_get_names_of_their_own(phantom, tmp_path) -> None:
    folder = next(iter(sorted((phantom / "CT").iterdir()))) / "DICOM_anon"
    import pydicom

    for number, path in enumerate(sorted(folder.iterdir())):
        header = pydicom.dcmread(path)
        header.PatientID, header.SeriesInstanceUID = "a/b c", f"1.2.{number % 2}"
        header.SeriesDescription = "portal"
        header.save_as(tmp_path / f"{number}.dcm")
    assert [case.name for case in find_cases(Source(tmp_path, "CT"))] == ["a_b_c_portal", "a_b_c_portal_2"]


@pytest.mark.parametrize("what", ["missing", "text file", "empty folder"])
def test_refuses_what_holds_nothing(tmp_path, what) -> None:
    path = tmp_path / "x"
    if what == "text file":
        path.write_text("hello")
    elif what == "empty folder":
        path.mkdir()
    with pytest.raises(InputError, match=r"x: "):
        find_cases(Source(path, "CT"))
