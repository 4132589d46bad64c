"""Folders above, within or beside what is meant: the message names the folder to give instead."""

import shutil

import numpy as np
import pytest

from fastliver.data.cases import find_cases
from fastliver.data.sources import Source
from fastliver.errors import InputError


def refusal(path, modality) -> str:
    """What training says of a folder."""
    with pytest.raises(InputError) as error:
        Source(path, modality).studies()
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize("find", [lambda source: source.studies(), find_cases], ids=["train", "segment"])
def test_above_a_chaos_tree_its_series_are_not_taken_for_plain_dicom(ct_tree, mr_tree, tmp_path, find):
    disc = tmp_path / "disc"
    (disc / "CHAOS").mkdir(parents=True)
    ct_tree.rename(disc / "CHAOS" / "Train_Sets")
    for modality in ("CT", "MR"):
        with pytest.raises(InputError) as error:
            find(Source(disc, modality))
        assert str(error.value) == f"{disc}: holds a CHAOS tree further down; name that: {disc / 'CHAOS'}"
        assert len(Source(disc / "CHAOS", modality).studies()) == 1  # the advice can be followed


def test_one_sequence_of_a_patient_is_told_whose_it_is(mr_tree):
    folder = mr_tree / "MR" / "4" / "T1DUAL"
    told = refusal(folder, "MR")
    assert f"name the patient, {folder.parent}, and the sequence with --mr-sequence" in told
    assert told.endswith(f"{folder / 'DICOM_anon/InPhase'} or {folder / 'DICOM_anon/OutPhase'}")
    with pytest.raises(InputError, match="one sequence of a CHAOS patient"):
        find_cases(Source(folder, "MR"))
    assert len(Source(folder.parent, "MR", "t1-in").studies()) == 1
    assert len(find_cases(Source(folder / "DICOM_anon" / "InPhase", "MR"))) == 1


def test_a_folder_that_is_only_called_like_a_sequence_is_dicom(mr_tree, tmp_path):
    shutil.copytree(mr_tree / "MR" / "4" / "T2SPIR" / "DICOM_anon", tmp_path / "own" / "T2SPIR")
    (study,) = Source(tmp_path / "own" / "T2SPIR", "MR").studies()
    assert (study.patient, len(study.paths)) == ("someone", 4)


@pytest.mark.parametrize("masks", ["CT/7/Ground", "MR/4/T2SPIR/Ground"])
def test_masks_alone_are_told_where_their_images_are(ct_tree, mr_tree, masks):
    folder = ct_tree / masks
    patient = ct_tree / "/".join(masks.split("/")[:2])
    assert refusal(folder, masks[:2]) == f"no {masks[:2]} images found, but masks; name a folder with both: {patient}"


def test_the_other_half_of_a_tree_is_named(ct_tree, mr_tree):
    for folder in (ct_tree / "MR", ct_tree / "MR" / "4"):
        told = refusal(folder, "CT")
        assert told.startswith("a CHAOS folder of MR, but CT belongs here; its CT is in ")
        assert told.endswith(f"{ct_tree / 'CT'}, and --data takes the folder of both, {ct_tree}")


def test_loose_nifti_files_are_told_apart_from_an_empty_folder(write_nifti, tmp_path):
    folder = tmp_path / "loose"
    for case in ("a", "b"):
        write_nifti(folder / f"{case}.nii.gz", np.zeros((2, 2, 2), np.int16))
    told = refusal(folder, "CT")
    assert told.startswith("holds 2 NIfTI files, but not as an nnU-Net data set")
    assert "imagesTr/<case>_0000.nii.gz" in told
    assert "dataset.json" in told


def test_dicom_with_a_nifti_file_beside_it_is_still_read(ct_tree, write_nifti):
    folder = ct_tree / "CT" / "7" / "DICOM_anon"
    write_nifti(folder / "mine.nii.gz", np.zeros((2, 2, 2), np.int16))
    assert len(Source(folder, "CT").studies()) == 1


def test_a_part_of_a_data_set_and_a_folder_of_data_sets_name_the_data_set(write_nifti, tmp_path):
    raw = tmp_path / "nnUNet_raw"
    for number in (1, 2):
        write_nifti(raw / f"Dataset00{number}" / "imagesTr" / "a_0000.nii.gz", np.zeros((2, 2, 2), np.int16))
    part = raw / "Dataset001" / "imagesTr"
    assert refusal(part, "CT") == f"is a part of an nnU-Net data set; name the data set: {part.parent}"
    listed = f"{raw / 'Dataset001'} or {raw / 'Dataset002'}"
    assert refusal(raw, "CT") == f"holds nnU-Net data sets further down; name one: {listed}"
    with pytest.raises(InputError, match=r"name one: .*Dataset001 or "):
        find_cases(Source(raw, "MR"))
