"""`python -m fastliver.segment` from outside: masks on the input's voxels, its options, and what it refuses."""

import shutil
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest

import fastliver
from fastliver.data.masks import read_mask
from fastliver.data.orientation import to_display
from fastliver.data.sources import Source
from fastliver.errors import InputError
from fastliver.metrics.components import largest_component


@pytest.fixture(scope="module")
def run(write_run, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture
def segment(train, run):
    """Runs the command on --run."""

    def call(*arguments, **options):
        given = [f"--run={options.pop('run', run)}", "--device=cpu", *arguments]
        return train(*given, module="fastliver.segment", small=False, **options)

    return call


@pytest.fixture(scope="module")
def patient(phantom):
    """Folder of one MR series in DICOM, and its volume."""
    study = Source(phantom, "MR").studies()[0]
    return study.paths[0].parent, study.read()


@pytest.fixture(scope="module")
def expected(run, patient):
    """What Python says of it: a probability in display orientation."""
    return fastliver.load(run, "cpu").probability(patient[1].image, patient[1].spacing)


def oblique(path: Path) -> tuple[Path, np.ndarray]:
    """An MR stored from the feet's end backwards, turned and oblique."""
    voxels = np.random.default_rng(0).gamma(2, 100, (5, 24, 20)).astype(np.float32)
    affine = np.array([[0, 1.5, 0, -10], [0, 0.3, -2, 30], [-4, 0, 0.1, 800], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path, voxels


def test_dicom_seg_of_one_series(segment, patient, expected, tmp_path) -> None:
    folder, volume = patient
    out = segment(f"--mr={folder}", f"--out={tmp_path / 'liver.dcm'}").succeeded()
    assert "slices/s" in out
    assert " ml in " in out
    seg = highdicom.seg.segread(tmp_path / "liver.dcm")
    assert seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == (
        "tiny/unet-essnet-714-seed0"
    )
    mask = read_mask(tmp_path / "liver.dcm", None)
    (turned,), affine = to_display([mask.voxels], mask.affine)
    assert turned.sum() == (expected > 0.5).sum()
    placed = np.argwhere(turned)[:, ::-1] @ affine[:3, :3].T + affine[:3, 3]
    wanted = np.argwhere(expected > 0.5)[:, ::-1] @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    np.testing.assert_allclose(placed, wanted, atol=1e-3)


def test_a_probability_map_is_read_back_as_no_mask(segment, patient, tmp_path) -> None:
    places = (f"--out={tmp_path / 'liver.dcm'}", f"--probability={tmp_path / 'p.dcm'}")
    segment(f"--mr={patient[0]}", *places).succeeded()
    with pytest.raises(InputError, match=r"p\.dcm: SegmentationType is FRACTIONAL, a probability map; name its mask"):
        read_mask(tmp_path / "p.dcm", None)


def test_dicom_seg_of_an_enhanced_file_refers_to_its_frames(segment, patient, expected, as_enhanced, tmp_path) -> None:
    folder, volume = patient
    enhanced = as_enhanced([*folder.iterdir()], tmp_path / "mr")
    segment(f"--mr={enhanced}", f"--out={tmp_path / 'liver.dcm'}").succeeded()
    (source,) = (pydicom.dcmread(path) for path in enhanced.iterdir())
    heights = [frame.PlanePositionSequence[0].ImagePositionPatient[2]
               for frame in source.PerFrameFunctionalGroupsSequence]  # fmt: skip
    seg = highdicom.seg.segread(tmp_path / "liver.dcm")
    numbers = list(range(1, len(heights) + 1))
    found = seg.get_pixels_by_source_frame(source.SOPInstanceUID, numbers, segment_numbers=[1],
                                           assert_missing_frames_are_empty=True)[..., 0]  # fmt: skip
    for frame, height in zip(found, heights, strict=True):
        np.testing.assert_array_equal(frame, expected[np.argmin(np.abs(volume.heights - height))] > 0.5)
    assert found.any()


def test_nifti_overlays_an_oblique_input(segment, run, tmp_path) -> None:
    path, voxels = oblique(tmp_path / "mr.nii.gz")
    arguments = (f"--mr={path}", f"--out={tmp_path / 'liver.nii.gz'}", f"--probability={tmp_path / 'p.nii.gz'}")
    segment(*arguments).succeeded()
    made, likely, source = (nibabel.load(tmp_path / name) for name in ("liver.nii.gz", "p.nii.gz", "mr.nii.gz"))
    np.testing.assert_array_equal(made.affine, source.affine)
    np.testing.assert_array_equal(likely.affine, source.affine)
    # Rows of the patient run along the file's last axis backwards, columns along its second backwards, slices along
    # its first backwards: by hand from the affine above.
    seen = voxels[::-1].transpose(0, 2, 1)[:, ::1, ::-1]
    spacing = tuple(np.linalg.norm(source.affine[:3, :3], axis=0)[[0, 2, 1]])
    probability = fastliver.load(run, "cpu").probability(seen.copy(), spacing)
    back = probability[:, ::1, ::-1].transpose(0, 2, 1)[::-1]
    np.testing.assert_allclose(np.asarray(likely.dataobj), back, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(made.dataobj), np.asarray(likely.dataobj) > 0.5)


def test_many_patients_to_a_folder_and_again(segment, phantom, tmp_path) -> None:
    arguments = (f"--mr={phantom}", f"--out={tmp_path / 'a'}", f"--probability={tmp_path / 'p'}", "--format=nifti")
    segment(*arguments).succeeded()
    names = {f"{study.patient}.nii.gz" for study in Source(phantom, "MR").studies()}
    for folder in ("a", "p"):
        assert {path.name for path in (tmp_path / folder).glob("*.nii.gz")} == names
    assert "finished before: 3 of 3 " in segment(*arguments).succeeded()
    segment(*arguments, "--ensemble").refused("made with model tiny/unet-essnet-714-seed0", "--force")


def test_another_sequence_is_not_taken_for_finished(segment, patient, tmp_path) -> None:
    arguments = (f"--mr={patient[0]}", f"--out={tmp_path / 'a'}")
    segment(*arguments).succeeded()
    segment(*arguments, "--mr-sequence=t1-in").refused("made with mr_sequence t2-spir, not t1-in", "--force")


def test_ensemble_flips_and_largest_component(segment, run, patient, tmp_path) -> None:
    folder, volume = patient
    model = fastliver.load(run, "cpu")
    out = tmp_path / "liver.nii.gz"
    segment(f"--mr={folder}", f"--out={out}", "--ensemble", "--tta", "--largest-component").succeeded()
    probability = model.probability(volume.image, volume.spacing, ensemble=True, flips=True)
    stored = np.asarray(nibabel.load(out).dataobj).transpose(2, 1, 0)
    np.testing.assert_array_equal(stored, largest_component(probability > 0.5))


def test_essnets_segmentor_needs_no_unet(segment, write_run, patient, tmp_path) -> None:
    bare = write_run(tmp_path / "bare", unets=())
    out = tmp_path / "liver.nii.gz"
    segment(f"--mr={patient[0]}", f"--out={out}", run=bare).refused("--stage unet", "--with essnet")
    segment(f"--mr={patient[0]}", f"--out={out}", "--with=essnet", run=bare).succeeded()
    assert out.exists()


def test_never_overwrites_without_force(segment, patient, tmp_path) -> None:
    out = tmp_path / "liver.nii.gz"
    out.write_text("mine")
    segment(f"--mr={patient[0]}", f"--out={out}").refused("exists already", "--force")
    assert out.read_text() == "mine"
    segment(f"--mr={patient[0]}", f"--out={out}", "--force").succeeded()
    assert nibabel.load(out).shape == patient[1].image.shape[::-1]


def test_a_bad_dicom_file_costs_its_own_series_alone(segment, phantom, tmp_path) -> None:
    for study in Source(phantom, "MR").studies()[:2]:
        shutil.copytree(study.paths[0].parent, tmp_path / "pacs" / study.patient)
    first, second = sorted((tmp_path / "pacs").iterdir())
    (second / "zz.dcm").write_bytes(bytes(128) + b"DICM and no more")
    told = segment(f"--mr={tmp_path / 'pacs'}", f"--out={tmp_path / 'out'}").refused("zz.dcm", "1 of 2", code=3)
    assert "add --skip-bad" in told
    (made,) = (tmp_path / "out").glob("*.dcm")
    read = highdicom.seg.segread(made).ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert len(read) == len([*first.iterdir()])


def test_a_bad_patient_is_left_out_and_listed(segment, tmp_path) -> None:
    oblique(tmp_path / "in_a.nii.gz")
    folder = tmp_path / "in"
    folder.mkdir()
    oblique(folder / "a.nii.gz")
    (folder / "b.nii.gz").write_bytes(b"rubbish")
    oblique(folder / "c.nii.gz")
    message = segment(f"--mr={folder}", f"--out={tmp_path / 'out'}").refused("1 of 3", "b.nii.gz", code=3)
    assert "a.nii.gz" not in message
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == {"a.nii.gz", "c.nii.gz"}


def test_a_folder_may_have_a_point_in_its_name(segment, tmp_path) -> None:
    oblique(tmp_path / "a.nii.gz")
    segment(f"--mr={tmp_path / 'a.nii.gz'}", f"--out={tmp_path / 'model.v2'}").succeeded()
    assert (tmp_path / "model.v2" / "a.nii.gz").is_file()


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--mr={phantom}/Train_Sets/CT", "--out={tmp}/o"], ["CT", "but MR belongs here"]),
        (["--mr={phantom}", "--out={tmp}/x.dcm"], ["holds 3 series", "name a folder"]),
        (["--mr={nifti}", "--out={tmp}/x.dcm"], ["is NIfTI", "--out liver.nii.gz"]),
        (["--mr={hu}", "--out={tmp}/x.nii"], ["Hounsfield", "MR belongs here"]),
        (["--mr={nifti}", "--out={tmp}/x.nii", "--format=dicom"], ["--format=dicom"]),
        (["--mr={nifti}", "--out={tmp}/x.nii", "--probability={tmp}/p"], ["--probability"]),
        (["--mr={nifti}", "--out={tmp}/x.nii", "--probability={tmp}/x.nii"], ["is --out"]),
        (["--mr={nifti}", "--out={tmp}/x.nii", "--arrangement=9"], ["--arrangement=9", "0, 714"]),
        (["--mr={nifti}", "--out={tmp}/x.nii", "--with=essnet", "--ensemble"], ["leave --arrangement"]),
        (["--mr={nifti}", "--out={nifti}", "--force"], ["replaced by its own result"]),
        (["--mr={nifti}", "--out={tmp}/x.png"], ["x.png: is called like a .png file", ".dcm, .nii or .nii.gz"]),
        (["--mr={nifti}", "--out={tmp}/x.NII.GZ"], ["x.NII.GZ: is called like a .GZ file", "small letters"]),
    ],
)
def test_refusals(segment, phantom, tmp_path, arguments, texts) -> None:
    nifti, _ = oblique(tmp_path / "in.nii.gz")
    image = nibabel.load(nifti)
    nibabel.save(nibabel.Nifti1Image(image.get_fdata() - 1000, image.affine), tmp_path / "hu.nii.gz")
    before = set(tmp_path.iterdir())
    places = {"phantom": phantom, "tmp": tmp_path, "nifti": nifti, "hu": tmp_path / "hu.nii.gz"}
    segment(*(argument.format(**places) for argument in arguments)).refused(*texts)
    assert set(tmp_path.iterdir()) == before
