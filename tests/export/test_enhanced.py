"""Exports of a series in files of several frames, which highdicom made from single-frame files."""

import shutil
import subprocess
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest

from fastliver.data.dicom import read_series
from fastliver.data.masks import read_mask
from fastliver.data.orientation import to_display
from fastliver.export.dicom_mr import MadeBy, write_mr_series
from fastliver.export.dicom_seg import encode_mask, encode_probability

BY = MadeBy("liver-run/essnet", "0.1.0+abcdef")
FILES = {"one file": [[3, 0, 4, 1, 2]], "two files": [[1, 4], [3, 0, 2]], "a file each": [[0], [1], [2], [3], [4]]}
"""Which slices are the frames of each file."""


@pytest.fixture(params=FILES.values(), ids=FILES)
def series(request, write_enhanced):
    """The single-frame files, and the volume of those of several frames, for a modality."""

    def make(modality):
        single, enhanced = write_enhanced(modality, request.param)
        return single, read_series(enhanced, modality, None, range(0), False)

    return make


def frame_of(reference) -> tuple[str, int]:
    return reference.ReferencedSOPInstanceUID, int(reference.get("ReferencedFrameNumber", 1))


def frames(volume) -> dict[tuple[str, int], np.ndarray]:
    """The pixels of each frame by its file's UID and its number, as pydicom has them."""
    found = {}
    for path in set(volume.sources):
        file = pydicom.dcmread(path)
        pixels = file.pixel_array.reshape(-1, file.Rows, file.Columns)
        found |= {(file.SOPInstanceUID, number): frame for number, frame in enumerate(pixels, 1)}
    return found


def test_synthetic_mr_is_a_classic_series_on_the_same_voxels(series, tmp_path) -> None:
    SimpleITK = pytest.importorskip("SimpleITK")
    single, volume = series("CT")
    write_mr_series(tmp_path / "mr", volume.image / 1000, volume, range(len(volume.image)), BY)
    written = sorted((tmp_path / "mr").iterdir())
    # SimpleITK, against the single-frame CT
    made, ct = (SimpleITK.ReadImage([str(path) for path in paths]) for paths in (written, single))
    np.testing.assert_allclose(made.GetOrigin(), ct.GetOrigin(), atol=1e-6)
    np.testing.assert_allclose(made.GetDirection(), ct.GetDirection(), atol=1e-6)
    np.testing.assert_allclose(made.GetSpacing(), ct.GetSpacing(), atol=1e-6)
    expected = (np.clip(SimpleITK.GetArrayFromImage(ct) / 1000, -1, 1) + 1) / 2 * 4095
    assert np.abs(SimpleITK.GetArrayFromImage(made) - expected).max() <= 0.5001
    # pydicom, image by image against the single-frame CT and the frame that it refers to
    pixels = frames(volume)
    for path, source in zip(written, map(pydicom.dcmread, single), strict=True):
        image = pydicom.dcmread(path)
        for field in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID",
                      "SliceThickness", "PatientPosition", "StudyInstanceUID", "PatientName", "PatientID"):  # fmt: skip
            assert image[field].value == source[field].value, field
        assert "SharedFunctionalGroupsSequence" not in image
        assert "NumberOfFrames" not in image
        (reference,) = image.SourceImageSequence
        np.testing.assert_array_equal(pixels.pop(frame_of(reference)), source.pixel_array)
    assert not pixels


def test_segmentation_refers_to_the_frames(series, tmp_path) -> None:
    single, volume = series("MR")
    (tmp_path / "seg.dcm").write_bytes(encode_mask((volume.image > 300).astype(np.uint8), volume, BY))
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    pixels = frames(volume)
    counts = {uid: sum(other == uid for other, _ in pixels) for uid, _ in pixels}
    for uid, count in counts.items():
        if count > 1:
            numbers = list(range(1, count + 1))
            found = seg.get_pixels_by_source_frame(uid, numbers, segment_numbers=[1])[..., 0]
        else:
            numbers = [1]
            found = seg.get_pixels_by_source_instance([uid], segment_numbers=[1])[..., 0]
        for number, frame in zip(numbers, found, strict=True):
            np.testing.assert_array_equal(frame, pixels[uid, number] > 300)
    # Where no frame is meant, the files, once each (PS3.3 C.12.2)
    (referred,) = seg.ReferencedSeriesSequence
    for references in (seg.SourceImageSequence, referred.ReferencedInstanceSequence):
        assert sorted(item.ReferencedSOPInstanceUID for item in references) == sorted(counts)
        assert not any("ReferencedFrameNumber" in item for item in references)
    source = pydicom.dcmread(volume.sources[0])
    assert {item.ReferencedSOPClassUID for item in seg.SourceImageSequence} == {source.SOPClassUID}
    assert referred.SeriesInstanceUID == source.SeriesInstanceUID
    assert seg.PatientName == pydicom.dcmread(single[0]).PatientName
    # And its frames lie where the single-frame images lie.
    mask = read_mask(tmp_path / "seg.dcm", None)
    (turned,), affine = to_display([mask.voxels], mask.affine)
    before = read_series(single, "MR", None, range(0), False)
    np.testing.assert_array_equal(turned, before.image > 300)
    np.testing.assert_allclose(affine, before.affine, atol=1e-6)


def test_a_file_of_several_frames_is_referred_to_as_highdicom_does(write_enhanced, tmp_path) -> None:
    """highdicom takes one such file by itself, with its frames in the file's order."""
    _, (path,) = write_enhanced("MR", FILES["one file"])
    volume, source = read_series([path], "MR", None, range(0), False), pydicom.dcmread(path)
    (tmp_path / "seg.dcm").write_bytes(encode_mask((volume.image > 0).astype(np.uint8), volume, BY))
    ours = pydicom.dcmread(tmp_path / "seg.dcm")
    theirs = highdicom.seg.Segmentation(
        [source], source.pixel_array > 0, "BINARY", ours_described(ours), "1.2.9", 1, "1.2.10", 1, "m", "n", "1", "s"
    )

    def said(seg):
        return {
            frame_of(item.DerivationImageSequence[0].SourceImageSequence[0]): (
                item.DerivationImageSequence[0].SourceImageSequence[0].to_json_dict(),
                list(item.PlanePositionSequence[0].ImagePositionPatient),
            )
            for item in seg.PerFrameFunctionalGroupsSequence
        }

    assert said(ours) == said(theirs)
    assert ours.SourceImageSequence == theirs.SourceImageSequence
    assert ours.ReferencedSeriesSequence == theirs.ReferencedSeriesSequence


def ours_described(seg) -> list:
    """The segments of a segmentation as highdicom takes them."""
    return [highdicom.seg.SegmentDescription.from_dataset(item) for item in seg.SegmentSequence]


@pytest.mark.slow
def test_dciodvfy_finds_no_error(series, tmp_path) -> None:
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is not on PATH (Debian: dicom3tools)")
    _, volume = series("CT")
    write_mr_series(tmp_path / "mr", volume.image / 1000, volume, range(len(volume.image)), BY)
    probability = np.clip(volume.image / 1000, 0, 1)
    (tmp_path / "mask.dcm").write_bytes(encode_mask((volume.image > 300).astype(np.uint8), volume, BY))
    (tmp_path / "probability.dcm").write_bytes(encode_probability(probability, volume, BY))
    for path in (tmp_path / "mr" / "0001.dcm", tmp_path / "mask.dcm", tmp_path / "probability.dcm"):
        assert complaints(program, path) == []


def complaints(program: str, path: Path) -> list[str]:
    """What dciodvfy holds against a file."""
    done = subprocess.run([program, path], capture_output=True, text=True)
    said = (done.stdout + done.stderr).splitlines()
    assert any(line in ("MRImage", "Segmentation") for line in said), said
    return [line for line in said if line.startswith(("Error", "Abort", "Warning"))]
