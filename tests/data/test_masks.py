"""Masks that others wrote: however they are stored, the same voxels are liver; what can't be told is refused."""

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from fastliver.data.masks import pair, read_mask
from fastliver.data.orientation import LPS_FROM_RAS
from fastliver.errors import InputError

# Slices, rows and columns as a radiologist sees them: 3, 2 and 1.5 mm apart. No turn or flip leaves it as it is.
MASK = np.random.default_rng(0).random((5, 6, 7)) < 0.4
TO_LPS = np.array([[1.5, 0, 0, 10], [0, 2, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1]])
SPACING = (3, 2, 1.5)
GREYS = np.random.default_rng(1).integers(1, 256, MASK.shape)
LIVER, SPLEEN, KIDNEY = ("Liver", "10200004"), ("Spleen", "78961009"), ("Kidney", "64033007")
IDENTITY = {"StudyInstanceUID": "1.2.3", "FrameOfReferenceUID": "1.2.9", "SeriesNumber": 1, "PatientName": "some^one",
            **dict.fromkeys(("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
                             "AccessionNumber", "ReferringPhysicianName"), "")}  # fmt: skip


def compare(predicted: Path, true: Path, label=None, spacing=None):
    return pair(read_mask(predicted, label), read_mask(true, None), spacing)


def agree(predicted: Path, true: Path, mask=MASK, **options) -> None:
    """Check that both show the mask."""
    both = compare(predicted, true, **options)
    np.testing.assert_array_equal(both.true, mask)
    np.testing.assert_array_equal(both.predicted, mask)
    assert both.spacing == pytest.approx(SPACING)


def refused(function, *texts) -> None:
    with pytest.raises(InputError) as caught:
        function()
    for text in texts:
        assert str(text) in str(caught.value)


@pytest.fixture
def nifti(tmp_path, write_nifti):
    """Write a mask (slices, rows, columns) as NIfTI, its axes in any order and direction."""

    def write(name="truth.nii", mask=MASK, order=(0, 1, 2), flips=(False,) * 3, to_lps=TO_LPS) -> Path:
        array, affine = mask.transpose(2, 1, 0).astype(np.uint8).transpose(order), LPS_FROM_RAS @ to_lps
        affine[:, :3] = affine[:, list(order)]
        for axis in np.flatnonzero(flips):
            affine[:, 3] += affine[:, axis] * (array.shape[axis] - 1)
            affine[:, axis] *= -1
            array = np.flip(array, axis)
        return write_nifti(tmp_path / name, np.ascontiguousarray(array), affine)

    return write


@pytest.fixture
def seg(tmp_path, write_slice):
    """Write a mask as DICOM SEG of a CT series whose slices have this orientation and lie `step` mm apart, each moved
    to the back and to the head by its shifts."""

    def write(
        mask, segments=(LIVER,), step=3, orientation=(1, 0, 0, 0, 1, 0), omit_empty_frames=False, shifts=((0, 0),) * 5
    ) -> Path:
        highdicom = pytest.importorskip("highdicom")
        code, organ = pydicom.sr.coding.Code, pydicom.sr.codedict.codes.SCT.Organ
        headers = []
        for number in range(len(mask)):
            path, blank = tmp_path / "series" / f"{number}.dcm", np.zeros(mask.shape[1:3], np.uint16)
            fields = {"PixelSpacing": [2.0, 1.5], "ImageOrientationPatient": list(orientation), **IDENTITY}
            position = (10, 20 + shifts[number][0], 30 + step * number + shifts[number][1])
            write_slice(path, blank, position, InstanceNumber=number + 1, **fields)
            headers.append(pydicom.dcmread(path))
        described = [
            highdicom.seg.SegmentDescription(number, name, organ, code(value, "SCT", name), "MANUAL")
            for number, (name, value) in enumerate(segments, 1)
        ]
        series = (highdicom.UID(), 2, highdicom.UID(), 1, "us", "none", "1", "1")
        made = highdicom.seg.Segmentation(
            headers, mask.astype(np.uint8), "BINARY", described, *series, omit_empty_frames=omit_empty_frames
        )
        made.save_as(tmp_path / "prediction.dcm")
        return tmp_path / "prediction.dcm"

    return write


def write_png(folder: Path, slices: np.ndarray, ending: str = "png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, values in enumerate(slices):
        Image.fromarray(np.asarray(values, np.uint8)).save(folder / f"{number:03d}.{ending}")
    return folder


@pytest.fixture
def ground(tmp_path, write_slice):
    """A CHAOS patient of which the names of images and masks run along the slices or against them; gives `Ground`."""

    def write(slices=MASK * 255, home="CT/7", to_head=True, images="DICOM_anon", count=5) -> Path:
        for number in range(count):
            height = 30 + 3 * (number if to_head else count - 1 - number)
            fields = {"PixelSpacing": [2.0, 1.5], "Modality": home[:2]}
            path = tmp_path / home / images / f"i{number:04d},0000b.dcm"
            write_slice(path, np.zeros((6, 7), np.uint16), (10, 20, height), **fields)
        return write_png(tmp_path / home / "Ground", slices if to_head else slices[::-1])

    return write


WAYS = list(itertools.product(itertools.permutations(range(3)), itertools.product((False, True), repeat=3)))


@pytest.mark.parametrize(("order", "flips"), WAYS[::3])
def test_nifti_stored_any_way_is_the_same_mask(nifti, order, flips):
    agree(nifti("prediction.nii.gz", order=order, flips=flips), nifti())
    agree(nifti(), nifti("prediction.nii.gz", order=order, flips=flips))


def test_of_several_labels_the_livers_must_be_named(nifti, tmp_path, write_nifti):
    values = np.where(MASK, 2, 7).transpose(2, 1, 0).astype(np.int16)
    several = write_nifti(tmp_path / "organs.nii", values, LPS_FROM_RAS @ TO_LPS)
    refused(lambda: read_mask(several, None), several, "2, 7", "--label")
    agree(several, nifti(), label=2)
    np.testing.assert_array_equal(compare(several, nifti(), label=7).predicted, ~MASK)
    assert not read_mask(several, 3).voxels.any()


def test_a_number_that_is_none_is_no_liver(tmp_path, write_nifti):
    path = write_nifti(tmp_path / "nan.nii", np.full((2, 3, 4), np.nan, np.float32))
    refused(lambda: read_mask(path, None), path)


@pytest.mark.parametrize("to_head", [True, False])
@pytest.mark.parametrize("grey", [1, 255, GREYS], ids=["1", "255", "any"])
def test_any_grey_is_liver_in_ct_png_which_lie_where_their_images_lie(ground, nifti, to_head, grey):
    agree(ground(MASK * grey, to_head=to_head), nifti())


@pytest.mark.parametrize("to_head", [True, False])
@pytest.mark.parametrize(("sequence", "images"), [("T2SPIR", "DICOM_anon"), ("T1DUAL", "DICOM_anon/InPhase")])
def test_mr_png_show_the_liver_among_four_organs(ground, nifti, sequence, images, to_head):
    organs = np.random.default_rng(1).choice([0, 126, 189, 252, 55, 71], MASK.shape)
    values = np.where(MASK, np.random.default_rng(2).choice([56, 63, 70], MASK.shape), organs)
    agree(ground(values, f"MR/4/{sequence}", to_head, images), nifti())


@pytest.mark.parametrize(("to_head", "ending"), [(True, "png"), (False, "PNG")])
def test_png_alone_follow_the_names_of_chaos(ground, tmp_path, to_head, ending):
    agree(write_png(tmp_path / "results", (MASK if to_head else MASK[::-1]) * 63, ending), ground(to_head=to_head))


@pytest.mark.parametrize("flips", [(False, False, False), (True, True, False), (False, True, False)])
def test_png_alone_lie_on_the_grid_of_a_nifti(tmp_path, nifti, flips):
    agree(write_png(tmp_path / "results", MASK * 63), nifti(flips=flips))


def test_png_alone_lie_on_the_grid_of_a_dicom_seg(tmp_path, seg):
    agree(write_png(tmp_path / "results", MASK * 63), seg(MASK, omit_empty_frames=False))


def test_png_on_both_sides_need_a_spacing(tmp_path):
    folders = [write_png(tmp_path / name, MASK * 63) for name in ("predicted", "true")]
    refused(lambda: compare(*folders), *folders, "--spacing")
    agree(*folders, spacing=SPACING)


def test_masks_that_two_mr_sequences_share_lie_where_the_images_of_the_wanted_one_lie(ground, write_slice):
    path, heights = ground(MASK * 63, "MR/4/T1DUAL", images="DICOM_anon/InPhase"), []
    for number in range(5):
        name, fields = f"DICOM_anon/OutPhase/{number}.dcm", {"PixelSpacing": [2.0, 1.5], "Modality": "MR"}
        write_slice(path.parent / name, np.zeros((6, 7), np.uint16), (10, 20, 130 + 3 * number), **fields)
    for sequence in (None, "t1-in", "t2-spir", "t1-out"):
        mask = read_mask(path, None, sequence)
        heights.append(mask.affine[2, 3])
        np.testing.assert_array_equal(mask.voxels, MASK.transpose(2, 1, 0))
    assert heights == [30, 30, 30, 130]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"ImagePositionPatient": None}, "ImagePositionPatient is None"),
        ({"PixelSpacing": None}, "PixelSpacing is None"),
        ({"SliceThickness": "1e999"}, "SliceThickness"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "not an axial slice"),
        (None, "not a DICOM file"),
    ],
)
def test_broken_images_beside_the_masks_are_named_with_what_helps_here(ground, write_slice, fields, text):
    path = ground(count=1, slices=MASK[:1] * 255)
    image = path.parent / "DICOM_anon" / "i0000,0000b.dcm"
    if fields is None:
        image.write_bytes(b"no image" * 50)
    else:
        write_slice(image, np.zeros((6, 7), np.uint16), **fields)
    with pytest.raises(InputError) as caught:
        read_mask(path, None)
    message = str(caught.value)
    assert message.startswith(f"{image}: ")
    assert text in message
    assert f"the masks in {path} lie: mend it" in message
    assert "--skip-bad" not in message


def test_masks_and_images_of_unequal_number_are_refused(ground):
    refused(lambda: read_mask(ground(count=4), None), "Ground: 5 masks for 4 images")


PRONE, LYING = (-1, 0, 0, 0, -1, 0), (1, 0, 0, 0, 1, 0)


@pytest.mark.parametrize("orientation", [LYING, PRONE, (0, 1, 0, 1, 0, 0)])
@pytest.mark.parametrize("step", [3, -3])
def test_a_dicom_seg_is_the_nifti_voxel_for_voxel(seg, nifti, orientation, step):
    to_lps = np.eye(4)
    to_lps[:3, 0], to_lps[:3, 1] = np.multiply(orientation[:3], 1.5), np.multiply(orientation[3:], 2)
    to_lps[:3, 2], to_lps[:3, 3] = (0, 0, step), (10, 20, 30)
    both = compare(seg(MASK, orientation=orientation, step=step), nifti(to_lps=to_lps))
    np.testing.assert_array_equal(both.predicted, both.true)
    shown = {LYING: MASK, PRONE: MASK[:, ::-1, ::-1]}.get(orientation, MASK.transpose(0, 2, 1))
    np.testing.assert_array_equal(both.true, shown if step > 0 else shown[::-1])


@pytest.mark.parametrize("empty", [[2], [0], [4], [0, 1, 4], [0, 2, 3], [0, 1, 3, 4], range(5)])
def test_a_dicom_seg_without_its_empty_slices_is_the_same_mask(seg, nifti, empty):
    mask = MASK.copy()
    mask[list(empty)] = False
    agree(seg(mask, omit_empty_frames=True), nifti(mask=mask), mask)


def test_a_dicom_seg_that_is_no_straight_stack_says_what_is_the_matter(seg):
    for empty in ([], [0, 2]):
        mask = MASK.copy()
        mask[empty] = False
        path = seg(mask, shifts=[(y, 0) for y in range(5)], omit_empty_frames=True)
        refused(lambda path=path: read_mask(path, None), path, "by a tilted gantry", "; resample")
    path = seg(MASK, shifts=[(0, z) for z in (0, 0, 1.3, 0, 0)])
    refused(lambda: read_mask(path, None), path, "regular stack", "; resample")


def test_the_liver_among_segments_is_found_by_its_code(seg, nifti):
    path = seg(np.stack([~MASK, MASK], -1), [SPLEEN, ("Hepar", LIVER[1])])
    agree(path, nifti())
    np.testing.assert_array_equal(compare(path, nifti(), label=1).predicted, ~MASK)


def test_segments_without_liver_are_refused_unless_one_is_named(seg, nifti):
    path = seg(np.stack([~MASK, MASK], -1), [SPLEEN, KIDNEY])
    refused(lambda: read_mask(path, None), path, "1 Spleen", "2 Kidney", "--label")
    refused(lambda: read_mask(path, 3), path, "segment 3")
    agree(path, nifti(), label=2)


def test_damaged_and_wrong_files_are_named(nifti, seg, tmp_path, write_slice):
    paths = [nifti(), nifti("packed.nii.gz"), seg(MASK), write_png(tmp_path / "masks", MASK * 63) / "002.png"]
    for path in paths:
        content = path.read_bytes()
        for kept in (0, 20, len(content) // 2, len(content) - 40):
            path.write_bytes(content[:kept])
            refused(lambda path=path: read_mask(path.parent if path.suffix == ".png" else path, None), path)
    image = write_slice(tmp_path / "image.dcm", np.zeros((6, 7), np.uint16))
    refused(lambda: read_mask(image, None), image, "Segmentation")
    refused(lambda: read_mask(paths[-1], None), paths[-1], "neither NIfTI", "; name a mask, or the folder")
    Image.new("L", (3, 4)).save(paths[-1])
    refused(lambda: read_mask(paths[-1].parent, None), paths[-1], "000.png", "(4, 3)", "(6, 7)")


def test_nifti_of_other_dimensions_is_refused(tmp_path, write_nifti):
    path = write_nifti(tmp_path / "mask.nii", np.ones((5, 6, 7, 2), np.uint8))
    refused(lambda: read_mask(path, None), path, "(5, 6, 7, 2)")


def test_a_nifti_whose_axis_has_no_direction_is_refused(nifti, tmp_path):
    header = nibabel.load(nifti()).header
    header.set_sform(np.diag([1, 1, 0, 1]), 1)
    header["vox_offset"], path = 352, tmp_path / "flat.nii"
    path.write_bytes(header.binaryblock + bytes(4) + MASK.tobytes())
    refused(lambda: compare(path, path), path, "singular")


@pytest.mark.parametrize("field", [(0, 3), (2, 3), (0, 0), (2, 2)], ids=["column", "slice", "width", "thickness"])
def test_masks_that_lie_apart_are_refused(nifti, field):
    to_lps = TO_LPS.copy()
    to_lps[field] += 0.25
    paths = nifti("prediction.nii", to_lps=to_lps), nifti()
    refused(lambda: compare(*paths), *paths, "mm")


def test_grids_that_agree_at_two_opposite_corners_alone_are_refused(nifti):
    sheared, turned, angle = TO_LPS.copy(), TO_LPS.copy(), np.radians(4)
    sheared[0, 1] += 0.2
    sheared[0, 2] -= 0.2 * 6 / 5
    x, y, z = TO_LPS[:3, :3] @ (7, 6, 5) / np.linalg.norm(TO_LPS[:3, :3] @ (7, 6, 5))
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turned[:3, :3] = (np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross) @ TO_LPS[:3, :3]
    for to_lps in (sheared, turned):
        assert (to_lps - TO_LPS) @ (7, 6, 5, 1) == pytest.approx(0)
        paths = nifti("prediction.nii", to_lps=to_lps), nifti()
        refused(lambda paths=paths: compare(*paths), *paths, "mm")


@pytest.mark.parametrize("degrees", [(10, 0, 0), (20, -30, 15), (0, 0, 90.01)])
def test_an_oblique_grid_has_the_spacing_of_its_voxels(nifti, degrees):
    """Turned about the patient's axes, nothing changes but the slices that a radiologist would see."""
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    both = compare(nifti("prediction.nii", to_lps=turn @ TO_LPS), nifti(to_lps=turn @ TO_LPS))
    expected = SPACING if degrees[2] < 45 else (SPACING[0], SPACING[2], SPACING[1])
    assert both.spacing == pytest.approx(expected, rel=1e-5)
    assert both.true.sum() == MASK.sum()


def test_a_grid_that_a_tilted_gantry_sheared_is_refused(nifti, tmp_path, write_slice):
    sheared = TO_LPS.copy()
    sheared[1, 2] = 3 * np.tan(np.radians(20))
    path = nifti(to_lps=sheared)
    refused(lambda: compare(nifti("prediction.nii", to_lps=sheared), path), path, "20.0 degrees", "; resample")
    # CHAOS PNG, whose DICOM says it: slices upright in the gantry's frame, one above the other along the table
    ground = write_png(tmp_path / "7" / "Ground", MASK)
    tilt = np.radians(15)
    for number in range(5):
        write_slice(
            tmp_path / "7" / "DICOM_anon" / f"{number}.dcm", np.zeros((6, 7), np.uint16), (0, 0, 3 * number),
            ImageOrientationPatient=[1, 0, 0, 0, np.cos(tilt), np.sin(tilt)],
        )  # fmt: skip
    results = write_png(tmp_path / "results", MASK)
    refused(lambda: compare(results, ground), ground, "15.0 degrees", "; resample")


def test_masks_that_are_rounding_apart_are_compared(nifti):
    agree(nifti("prediction.nii", to_lps=TO_LPS + 0.005 * np.eye(4, k=3)), nifti())


def test_masks_of_unequal_sizes_are_refused(nifti, tmp_path):
    paths = nifti("prediction.nii", MASK[:-1]), nifti()
    refused(lambda: compare(*paths), *paths, "(4, 6, 7)", "(5, 6, 7)")
    folder = write_png(tmp_path / "results", MASK[:, :-1])
    refused(lambda: compare(folder, paths[1]), folder, paths[1])
