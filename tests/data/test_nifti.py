"""nnU-Net's raw layout: which channel, which label, and what is refused."""

import gzip
import json
import re

import nibabel
import numpy as np
import pytest

from fastliver.data.intensity import IntensityRule
from fastliver.data.masks import read_mask
from fastliver.data.nifti import read_case
from fastliver.data.sources import Source
from fastliver.data.store_builder import build_store
from fastliver.errors import InputError

REMEDY = re.compile(r"\b(remove|add|copy|leave|repair|name|check|agree|convert|export|needs)\b")
VOXELS = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
MARKS = (VOXELS % 4).astype(np.uint8)
V2 = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "spleen": 2}, "file_ending": ".nii.gz"}


@pytest.fixture
def dataset(tmp_path, write_nifti):
    """Write a data set of two cases; gives its folder."""

    def write(description=V2, ending=".nii.gz", channels=1):
        for case in ("a_001", "a_002"):
            for channel in range(channels):
                path = tmp_path / "imagesTr" / f"{case}_{channel:04d}{ending}"
                write_nifti(path, (VOXELS + 1000 * channel).astype(np.int16))
            write_nifti(tmp_path / "labelsTr" / f"{case}{ending}", MARKS)
        if description is not None:
            (tmp_path / "dataset.json").write_text(json.dumps(description))
        return tmp_path

    return write


def liver_of(folder, **options) -> list[int]:
    """The voxel values that the source takes for liver."""
    label = Source(folder, "CT", **options).studies()[0].read().label
    shown = MARKS[::-1, ::-1].transpose(2, 1, 0)  # an identity affine is RAS: x and y run against the picture
    assert set(shown[label == 0]) | set(shown[label == 1]) == {0, 1, 2, 3}
    return sorted({int(value) for value in shown[label == 1]} - {int(value) for value in shown[label == 0]})


@pytest.mark.parametrize(
    ("labels", "option", "values"),
    [
        ({"background": 0, "liver": 1}, None, [1]),
        ({"background": 0, "Liver": 2}, None, [2]),
        ({"background": 0, "whole": [1, 2, 3], "liver": [2, 3]}, None, [2, 3]),
        ({"0": "background", "1": "spleen", "2": "liver"}, None, [2]),
        ({"background": 0, "Leber": 3}, "leber", [3]),
        ({"background": 0, "organ": 1, "liver": 2}, "1", [1]),
        ({"0": "background", "3": "foie"}, "3", [3]),
        ({"background": 0, "both": [1, 2]}, "2", [2]),
    ],
    ids=["v2", "upper case", "list", "v1", "name", "number", "v1 number", "number in a list"],
)
def test_the_liver_is_found_by_name_or_number(dataset, labels, option, values):
    assert liver_of(dataset({**V2, "labels": labels}), liver_label=option) == values


@pytest.mark.parametrize("option", [None, "pancreas", "7"])
def test_a_label_that_is_not_there_lists_those_that_are(dataset, option):
    folder = dataset({**V2, "labels": {"background": 0, "spleen": 2}})
    with pytest.raises(InputError) as error:
        Source(folder, "CT", liver_label=option).studies()
    text = f"{folder / 'dataset.json'}: labels has background, spleen, no {option or 'liver'}"
    assert str(error.value) == text + "; name the liver with --liver-label"


def test_another_liver_label_is_another_store(dataset, tmp_path):
    folder, rule = dataset(), IntensityRule("CT", 0, 100)
    liver, spleen = (
        build_store(Source(folder, "CT", liver_label=name).studies(), rule, 32, tmp_path / "stores").labels.copy()
        for name in ("liver", "spleen")
    )
    assert liver.any()
    assert not np.array_equal(liver, spleen)


def test_patients_and_series_are_named_by_the_files(dataset):
    studies = Source(dataset(), "CT").studies()
    assert [(s.patient, s.series) for s in studies] == [
        ("a_001", "a_001_0000.nii.gz"),
        ("a_002", "a_002_0000.nii.gz"),
    ]
    assert [path.name for path in studies[0].paths] == ["a_001_0000.nii.gz", "a_001.nii.gz"]


@pytest.mark.parametrize(("channels", "modality", "offset"), [
    ({"0": "CT"}, "CT", 0), ({"0": "T2", "1": "CT"}, "CT", 1), ({"0": "CT", "1": "T2"}, "MR", 1), ({"0": "x"}, "MR", 0),
])  # fmt: skip
def test_the_channel_of_the_modality_is_read(dataset, channels, modality, offset):
    (first, _) = Source(dataset({**V2, "channel_names": channels}, channels=2), modality).studies()
    assert sorted(first.read().image.ravel()) == sorted(VOXELS.ravel() + 1000.0 * offset)


def test_version_1_names_its_channels_modality_and_other_endings_are_read(dataset):
    description = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver"}, "file_ending": ".nii"}
    assert len(Source(dataset(description, ending=".nii"), "CT").studies()) == 2


@pytest.mark.parametrize(("channels", "modality"), [({"0": "MRI"}, "CT"), ({"0": "CT"}, "MR")])
def test_a_data_set_of_the_other_modality_is_refused(dataset, channels, modality):
    folder = dataset({**V2, "channel_names": channels})
    with pytest.raises(InputError) as error:
        Source(folder, modality).studies()
    assert str(error.value).startswith(f"{folder / 'dataset.json'}: channel_names is {channels}")
    assert f"{modality} belongs here; name another data set" in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "missing"),
        ("{", "not valid JSON"),
        ("[1]", "holds list"),
        ('{"labels": {"liver": 1}}', "channel_names is None"),
        ('{"channel_names": {"first": "CT"}, "labels": {"liver": 1}}', "channel_names"),
        ('{"channel_names": {"0": "CT"}}', "labels has nothing"),
        ('{"channel_names": {"0": "CT"}, "labels": ["liver"]}', "labels"),
        ('{"channel_names": {"0": "CT"}, "labels": {"liver": "one"}}', "labels"),
    ],
)
def test_a_description_that_can_not_be_used_is_named(dataset, text, words):
    folder = dataset()
    (folder / "dataset.json").unlink() if text is None else (folder / "dataset.json").write_text(text)
    with pytest.raises(InputError, match=words) as error:
        Source(folder, "CT").studies()
    assert str(folder / "dataset.json") in str(error.value)


def test_a_data_set_without_labels_or_without_images(dataset):
    folder = dataset()
    (folder / "labelsTr").rename(folder / "elsewhere")
    studies = Source(folder, "CT").studies()
    assert [study.labelled for study in studies] == [False, False]
    assert studies[0].read().label is None
    (folder / "imagesTr").rename(folder / "images")
    with pytest.raises(InputError, match=r"imagesTr: no files called \*_0000\.nii\.gz; check"):
        Source(folder, "CT").studies()


def test_files_left_by_a_mac_are_no_cases(dataset):
    folder = dataset()
    (folder / "imagesTr/._a_001_0000.nii.gz").write_bytes(b"left by a Mac")
    assert [study.patient for study in Source(folder, "CT").studies()] == ["a_001", "a_002"]


def test_an_image_of_one_frame_in_four_dimensions_is_read(dataset, write_nifti):
    folder = dataset()
    write_nifti(folder / "imagesTr/a_001_0000.nii.gz", VOXELS[..., None])
    volume = Source(folder, "CT").studies()[0].read()
    np.testing.assert_array_equal(volume.image, VOXELS[::-1, ::-1].transpose(2, 1, 0))


def test_scaled_integers_become_their_values(dataset):
    folder = dataset()
    image = nibabel.Nifti1Image(VOXELS, np.eye(4))
    image.header.set_slope_inter(2, -1000)
    nibabel.save(image, folder / "imagesTr/a_001_0000.nii.gz")
    volume = Source(folder, "CT").studies()[0].read()
    assert (volume.image.min(), volume.image.max()) == (-1000, 2 * 119 - 1000)


def spoil(folder, write_nifti, what):
    """Spoil case a_001; gives the file that the message must name and what it must say."""
    image, label = folder / "imagesTr/a_001_0000.nii.gz", folder / "labelsTr/a_001.nii.gz"
    if what == "cut image":
        image.write_bytes(image.read_bytes()[:-40])
    elif what == "cut label":
        label.write_bytes(label.read_bytes()[:-20])
    elif what == "text":
        image.write_text("no image")
    elif what == "empty":
        image.write_bytes(b"")
    elif what == "four frames":
        write_nifti(image, np.stack([VOXELS] * 4, -1))
    elif what == "not finite":
        write_nifti(image, np.where(VOXELS == 7, np.nan, VOXELS).astype(np.float32))
    elif what == "no orientation":
        for path in (image, label):
            header = bytearray(gzip.decompress(path.read_bytes()))
            header[312:328] = bytes(16)  # srow_z: the third row of the affine
            path.write_bytes(gzip.compress(bytes(header)))
        assert np.linalg.det(nibabel.load(image).affine[:3, :3]) == 0
    elif what == "shape":
        write_nifti(label, MARKS[:-1])
    elif what == "place":
        write_nifti(label, MARKS, np.diag([1, 1, 1, 1]) + np.array([[0, 0, 0, 0]] * 2 + [[0, 0, 0, 9], [0, 0, 0, 0]]))
    elif what == "spacing":
        write_nifti(label, MARKS, np.diag([1, 1, 3, 1]))
    elif what == "no label":
        label.unlink()
    about_label = what in ("cut label", "shape", "place", "spacing", "no label")
    words = {"shape": r"\(6, 5, 3\)", "place": "9.0 mm", "spacing": "mm from", "no label": "missing",
             "four frames": r"\(4, 5, 6, 4\)", "not finite": "not finite", "no orientation": "orientation"}  # fmt: skip
    return (label if about_label else image), words.get(what, "can't be read")


SPOILED = ["cut image", "cut label", "text", "empty", "four frames", "not finite", "no orientation", "shape", "place",
           "spacing", "no label"]  # fmt: skip


@pytest.mark.parametrize("what", SPOILED)
def test_a_bad_case_is_named_and_with_skip_bad_left_out_alone(dataset, write_nifti, tmp_path, what):
    folder = dataset()
    path, words = spoil(folder, write_nifti, what)
    studies = Source(folder, "CT").studies()
    with pytest.raises(InputError, match=words) as error:
        studies[0].read()
    assert str(path) in str(error.value)
    store = build_store(studies, IntensityRule("CT", 0, 100), 32, tmp_path / "stores", skip_bad=True)
    assert store.patients == ["a_002"]
    assert [str(path) in line for line in store.meta["skipped"]] == [True]


@pytest.mark.parametrize("what", SPOILED)
def test_the_message_says_what_to_do(dataset, write_nifti, what):
    folder = dataset()
    spoil(folder, write_nifti, what)
    with pytest.raises(InputError) as error:
        Source(folder, "CT").studies()[0].read()
    assert REMEDY.search(str(error.value).replace(str(folder), ""))


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0), (0, 2, 1)])
def test_a_label_with_its_axes_in_another_order_lies_where_its_affine_says(tmp_path, write_nifti, order):
    """A cube: neither its shape nor the corners of the grid tell that axes were swapped."""
    voxels = np.arange(125, dtype=np.int16).reshape(5, 5, 5)
    image = write_nifti(tmp_path / "image.nii.gz", voxels)
    affine = np.eye(4)[:, [*order, 3]]
    label = write_nifti(tmp_path / "label.nii.gz", (voxels % 7 == 0).astype(np.uint8).transpose(order), affine)
    volume = read_case(image, label, (1,))
    np.testing.assert_array_equal(volume.label, volume.image % 7 == 0)
    write_nifti(label, (voxels % 7 == 0).astype(np.uint8), affine)
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(read_case(image, label, (1,)).label, volume.label)


def write_header(path, **fields):
    """An image whose header says something else than it should."""
    nibabel.save(nibabel.Nifti1Image(VOXELS, np.eye(4)), path)
    header = nibabel.load(path).header
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.binaryblock + path.read_bytes()[348:])


COLOURS = np.zeros(VOXELS.shape, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: nibabel.save(nibabel.Nifti1Image(COLOURS, np.eye(4)), path), "colours or complex"),
        (lambda path: nibabel.save(nibabel.Nifti1Image(VOXELS * 1j, np.eye(4)), path), "colours or complex"),
        (lambda path: write_header(path, datatype=1, bitpix=1), "can't be read as NIfTI"),
        (lambda path: write_header(path, datatype=777), "can't be read as NIfTI"),
        (lambda path: write_header(path, vox_offset=16), "can't be read as NIfTI"),
        (lambda path: write_header(path, dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]), "can't be read as NIfTI"),
        (lambda path: write_header(path, dim=[3, -4, 5, 6, 1, 1, 1, 1]), "can't be read as NIfTI"),
    ],
    ids=["colours", "complex", "binary", "unknown type", "offset", "too large", "negative"],
)
def test_headers_that_nibabel_stumbles_over_are_named(tmp_path, spoil, words):
    path = tmp_path / "image.nii"
    spoil(path)
    for read in (lambda: read_case(path, None, ()), lambda: read_mask(path, 1)):
        with pytest.raises(InputError, match=words) as error:
            read()
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)


def test_slices_to_be_ignored_are_not_learned_from(dataset, write_nifti, tmp_path):
    folder = dataset({**V2, "labels": {"background": 0, "liver": 1, "ignore": 2}})
    marks = np.ones(VOXELS.shape, np.uint8)
    marks[..., 2], marks[1, 1, 4] = 2, 2
    write_nifti(folder / "labelsTr/a_001.nii.gz", marks)
    write_nifti(folder / "labelsTr/a_002.nii.gz", np.ones(VOXELS.shape, np.uint8))
    first, second = Source(folder, "CT").studies()
    assert (first.may_ignore, first.read().ignored, second.read().ignored) == (True, (2, 4), ())
    assert len(first.read().image) == 6  # who only looks at the image misses nothing
    store = build_store([first, second], IntensityRule("CT", 0, 100), 8, tmp_path / "stores")
    assert [(entry.patient, entry.slice) for entry in store.entries] == [
        *(("a_001", number) for number in (0, 1, 3, 5)), *(("a_002", number) for number in range(6))
    ]  # fmt: skip
    assert [entry.z for entry in store.entries[:4]] == [0, 1, 3, 5]
    whole = store.images[[4, 5, 7, 9]]  # the other patient's image is the same
    np.testing.assert_array_equal(store.images[:4], whole)
    assert (store.labels == store.labels[4]).all()
    assert "2 of 6 slices" in store.meta["notes"][0]
    write_nifti(folder / "labelsTr/a_001.nii.gz", np.full(VOXELS.shape, 2, np.uint8))
    with pytest.raises(InputError, match=r"a_001_0000.nii.gz: all its slices are"):
        build_store(Source(folder, "CT").studies(), IntensityRule("CT", 0, 100), 8, tmp_path / "stores")


def test_a_file_that_does_not_say_how_it_lies_is_noted(tmp_path, write_nifti):
    silent = tmp_path / "silent.nii"
    image = nibabel.Nifti1Image(VOXELS, None)
    assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (0, 0)
    nibabel.save(image, silent)
    (note,) = read_case(silent, None, ()).notes
    assert note.startswith(f"{silent}: qform and sform say nothing")
    # To the left, the front and the head, as the note says: x is right already, rows run the other way.
    np.testing.assert_array_equal(read_case(silent, None, ()).image, VOXELS[:, ::-1].transpose(2, 1, 0))
    assert read_case(write_nifti(tmp_path / "clear.nii", VOXELS), None, ()).notes == ()


def test_a_pattern_names_the_patient_of_several_cases(dataset, write_nifti):
    folder = dataset()
    for case in ("b_001", "b_002"):
        write_nifti(folder / "imagesTr" / f"{case}_0000.nii.gz", VOXELS.astype(np.int16))
        write_nifti(folder / "labelsTr" / f"{case}.nii.gz", MARKS)
    found = Source(folder, "CT", patient_pattern="^[^_]+").studies()
    assert [(study.patient, study.series) for study in found] == [
        (case[0], f"{case}_0000.nii.gz") for case in ("a_001", "a_002", "b_001", "b_002")
    ]
    with pytest.raises(InputError, match=r"a_001_0000\.nii\.gz: --patient-pattern=b finds no patient in .* a_001;"):
        Source(folder, "CT", patient_pattern="b").studies()


def test_cases_of_one_patient_stand_on_one_side(dataset, tmp_path):
    rule = IntensityRule("CT", -160, 240)
    store = build_store(Source(dataset(), "CT", patient_pattern="[0-9]+").studies(), rule, 32, tmp_path / "stores")
    assert store.patients == ["001", "002"]
    whole = build_store(Source(dataset(), "CT", patient_pattern="^a").studies(), rule, 32, tmp_path / "stores")
    assert whole.patients == ["a"]
    assert len(whole) == len(store)


def test_grey_values_that_are_no_hounsfield_units_are_noted(dataset, write_nifti):
    folder = dataset()
    write_nifti(folder / "imagesTr" / "a_002_0000.nii.gz", (VOXELS - 1000).astype(np.int16))
    shifted, right = (study.read().notes for study in Source(folder, "CT").studies())
    assert "hardly the Hounsfield units of a CT" in shifted[0]
    assert "a_001" in shifted[0]
    assert right == ()


def test_a_store_that_another_run_builds_meanwhile_is_taken(dataset, tmp_path):
    studies, rule = Source(dataset(), "CT").studies(), IntensityRule("CT", 0, 100)
    others = []

    def meanwhile(done, total, slices):
        if not others:
            others.append(build_store(studies, rule, 8, tmp_path / "stores"))

    store = build_store(studies, rule, 8, tmp_path / "stores", on_study=meanwhile)
    assert store.path == others[0].path
    assert [path.name for path in (tmp_path / "stores").iterdir()] == [store.path.name]


@pytest.mark.parametrize(("empty", "named"), [(1, "a_001"), (12, ", ".join(f"c_{n:02d}" for n in range(10)) + ", ...")])
def test_patients_whose_label_lacks_the_liver_are_noted(dataset, write_nifti, tmp_path, empty, named):
    folder = dataset({**V2, "labels": {"background": 0, "liver": 6, "spleen": 2}})
    write_nifti(folder / "labelsTr/a_002.nii.gz", np.full(VOXELS.shape, 6, np.uint8))
    if empty > 1:
        (folder / "imagesTr/a_001_0000.nii.gz").unlink()
        for number in range(empty):
            write_nifti(folder / "imagesTr" / f"c_{number:02d}_0000.nii.gz", VOXELS)
            write_nifti(folder / "labelsTr" / f"c_{number:02d}.nii.gz", np.zeros(VOXELS.shape, np.uint8))
    store = build_store(Source(folder, "CT").studies(), IntensityRule("CT", 0, 100), 8, tmp_path / "stores")
    (note,) = (note for note in store.meta["notes"] if "without liver" in note)
    assert note.startswith(f"{empty} of {empty + 1} labelled patients without liver in the label: {named}; nothing is")
    assert note.endswith("check the labels, where liver is the value 6 unless --liver-label says another")


def test_a_patient_who_shows_liver_in_one_series_is_not_noted(dataset, write_nifti, tmp_path):
    folder = dataset()
    write_nifti(folder / "labelsTr/a_002.nii.gz", np.zeros(VOXELS.shape, np.uint8))
    studies = Source(folder, "CT", patient_pattern="^a").studies()
    notes = build_store(studies, IntensityRule("CT", 0, 100), 8, tmp_path / "stores").meta["notes"]
    assert not any("without liver" in note for note in notes)
