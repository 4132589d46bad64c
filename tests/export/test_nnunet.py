"""nnU-Net data sets: layout, labels, and this package's own reader; nnU-Net's check stands in test_foreign_tools.py."""

import json

import nibabel
import numpy as np
import pytest

from fastliver.data.sources import Source
from fastliver.errors import InputError
from fastliver.export import nnunet


def test_a_data_set_is_read_again(ct_volume, tmp_path) -> None:
    folder = tmp_path / "Dataset501_Synthetic"
    label = (ct_volume.image > 0).astype(np.uint8)
    image = np.clip(ct_volume.image, 0, None).astype(np.int16)
    nnunet.write_case(folder, "synthetic_a", image, label, ct_volume, "x", dropped=[1, 3])
    nnunet.write_description(folder, True, "x")
    described = json.loads((folder / "dataset.json").read_text())
    assert described["channel_names"] == {"0": "MR"}
    assert described["labels"] == {"background": 0, "liver": 1, "ignore": 2}
    assert (described["numTraining"], described["file_ending"]) == (1, ".nii.gz")
    (study,) = Source(folder, "MR").studies()
    volume = study.read()
    np.testing.assert_array_equal(volume.image, image)
    kept = [0, 2, 4]
    np.testing.assert_array_equal(volume.label[kept], label[kept])
    stored = np.asarray(nibabel.load(folder / "labelsTr" / "synthetic_a.nii.gz").dataobj).transpose(2, 1, 0)
    assert (stored[[1, 3]] == 2).all()
    assert label.max() == 1


def test_no_ignore_without_a_filter(ct_volume, tmp_path) -> None:
    nnunet.write_description(tmp_path, False, "x")
    described = json.loads((tmp_path / "dataset.json").read_text())
    assert described["labels"] == {"background": 0, "liver": 1}
    assert described["numTraining"] == 0


@pytest.mark.parametrize("name", ["synthetic", "Dataset1_x", "Dataset501"])
def test_refuses_a_name_that_nnunet_would_not_find(tmp_path, name) -> None:
    with pytest.raises(InputError, match="DatasetNNN_Name"):
        nnunet.check_folder(tmp_path / name, "record.json")
    nnunet.check_folder(tmp_path / "Dataset501_x", "record.json")
