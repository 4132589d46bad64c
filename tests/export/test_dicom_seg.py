"""Liver as DICOM SEG, read back through highdicom frame by frame and through this package as a volume."""

import highdicom
import numpy as np
import pydicom
import pytest

from fastliver.data.masks import read_mask
from fastliver.data.orientation import to_display
from fastliver.errors import InputError
from fastliver.export.dicom_mr import MadeBy, write_mr_series
from fastliver.export.dicom_seg import encode_carried_label, encode_mask, encode_probability

BY = MadeBy("liver-run/unet-essnet-714-seed0", "0.1.0+abcdef")


def read(content, tmp_path):
    path = tmp_path / "liver.dcm"
    path.write_bytes(content)
    return highdicom.seg.segread(path), path


def test_mask_lies_on_the_pixels_of_each_source(ct_volume, tmp_path) -> None:
    seg, path = read(encode_mask((ct_volume.image > 300).astype(np.uint8), ct_volume, BY), tmp_path)
    sources = [pydicom.dcmread(source) for source in ct_volume.sources]
    frames = seg.get_pixels_by_source_instance([s.SOPInstanceUID for s in sources], segment_numbers=[1])[..., 0]
    for source, frame in zip(sources, frames, strict=True):
        np.testing.assert_array_equal(frame, source.pixel_array > 300)
    mask = read_mask(path, None)
    (turned,), affine = to_display([mask.voxels], mask.affine)
    np.testing.assert_array_equal(turned, ct_volume.image > 300)
    np.testing.assert_allclose(affine, ct_volume.affine, atol=1e-6)


def test_says_what_it_is(make_ct, tmp_path) -> None:
    volume = make_ct()
    seg, _ = read(encode_mask((volume.image > 0).astype(np.uint8), volume, BY), tmp_path)
    source = pydicom.dcmread(volume.sources[0])
    assert seg.SegmentationType == "BINARY"
    (segment,) = seg.SegmentSequence
    kind = segment.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("10200004", "SCT")
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (BY.name, BY.version)
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    referenced = seg.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == source.SeriesInstanceUID
    uids = {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence}
    assert uids == {pydicom.dcmread(path).SOPInstanceUID for path in volume.sources}
    assert (seg.PatientID, seg.StudyInstanceUID) == (source.PatientID, source.StudyInstanceUID)
    assert seg.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert seg.SeriesInstanceUID != source.SeriesInstanceUID


def test_probability_is_fractional_in_255_steps(make_ct, tmp_path) -> None:
    volume = make_ct()
    probability = np.clip(volume.image / 1000, 0, 1)
    seg, _ = read(encode_probability(probability, volume, BY), tmp_path)
    assert (seg.SegmentationType, seg.SegmentationFractionalType) == ("FRACTIONAL", "PROBABILITY")
    uids = [pydicom.dcmread(path).SOPInstanceUID for path in volume.sources]
    frames = seg.get_pixels_by_source_instance(uids, segment_numbers=[1])[..., 0]
    np.testing.assert_allclose(frames, probability, atol=0.5 / 255 + 1e-6)


def test_an_empty_mask_is_written_too(make_ct, tmp_path, caplog) -> None:
    volume = make_ct()
    _, path = read(encode_mask(np.zeros(volume.image.shape, np.uint8), volume, BY), tmp_path)
    assert not read_mask(path, None).voxels.any()
    assert not caplog.records


def test_carried_label_refers_to_the_synthetic_images(ct_volume, tmp_path) -> None:
    label = (ct_volume.image > 500).astype(np.uint8)
    images = write_mr_series(tmp_path / "mr", ct_volume.image / 1000, ct_volume, [0, 1, 3], BY)
    seg, _ = read(encode_carried_label(label, ct_volume, images, [0, 1, 3]), tmp_path)
    assert seg.SegmentSequence[0].SegmentAlgorithmType == "MANUAL"
    frames = seg.get_pixels_by_source_instance([i.SOPInstanceUID for i in images], segment_numbers=[1])[..., 0]
    by_uid = {header.SOPInstanceUID: header for header in map(pydicom.dcmread, ct_volume.sources)}
    for image, frame in zip(images, frames, strict=True):
        source = by_uid[image.SourceImageSequence[0].ReferencedSOPInstanceUID]
        np.testing.assert_array_equal(frame, source.pixel_array > 500)


def test_a_source_that_nothing_can_refer_to_is_refused(make_ct) -> None:
    volume = make_ct(SOPInstanceUID=None)
    with pytest.raises(InputError, match="SOPInstanceUID is missing"):
        encode_mask(np.ones(volume.image.shape, np.uint8), volume, BY)


JAPANESE = "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce"


@pytest.mark.parametrize(
    ("names", "patient"),
    [
        (["", "ISO 2022 IR 87"], JAPANESE),
        (["ISO_IR 13", "ISO 2022 IR 87"], JAPANESE),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=\u6d2a^\u5409\u6d1e"),
        ("ISO_IR 100", "M\u00fcller^J\u00f6rg"),
        ("ISO 2022 IR 100", "M\u00fcller^J\u00f6rg"),
        ("ISO_IR 6", "Doe^Jane"),
        ("", "Doe^Jane"),
        ("ISO_IR 192", JAPANESE),
    ],
)
def test_names_in_any_character_set_are_kept(make_ct, tmp_path, names, patient) -> None:
    volume = make_ct(SpecificCharacterSet=names, PatientName=patient)
    seg, _ = read(encode_mask((volume.image > 0).astype(np.uint8), volume, BY), tmp_path)
    assert str(seg.PatientName) == patient
    images = write_mr_series(tmp_path / "mr", volume.image / 1000, volume, range(5), BY)
    label, _ = read(encode_carried_label((volume.image > 0).astype(np.uint8), volume, images, range(5)), tmp_path)
    assert str(label.PatientName) == patient
    assert str(pydicom.dcmread(tmp_path / "mr" / "0001.dcm").PatientName) == patient


@pytest.mark.parametrize(
    ("field", "value"), [("StudyDate", "2020-01-02"), ("StudyTime", "25:00"), ("PatientBirthDate", "1900")]
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_dates_that_are_none_are_left_empty(make_ct, tmp_path, field, value) -> None:
    volume = make_ct(**{field: value})
    seg, _ = read(encode_mask((volume.image > 0).astype(np.uint8), volume, BY), tmp_path)
    assert not seg.get(field)
    assert read_mask(tmp_path / "liver.dcm", None).voxels.sum() == (volume.image > 0).sum()


@pytest.mark.parametrize("thickness", ["empty", 0, None])
def test_an_unknown_thickness_is_the_distance_between_slices(make_ct, tmp_path, thickness) -> None:
    """In SEG it may not be missing (PS3.3 C.7.6.16.2.1); in MR it may be empty (C.7.6.2), and must not be made up."""
    volume = make_ct(SliceThickness=thickness if thickness != "empty" else "")
    images = write_mr_series(tmp_path / "mr", volume.image / 1000, volume, range(5), BY)
    mask = (volume.image > 0).astype(np.uint8)
    for content in (encode_mask(mask, volume, BY), encode_carried_label(mask, volume, images, range(5))):
        seg, path = read(content, tmp_path)
        shared = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert (shared.SliceThickness, shared.SpacingBetweenSlices) == (3, 3)
        assert read_mask(path, None).voxels.sum() == mask.sum()
    written = pydicom.dcmread(tmp_path / "mr" / "0001.dcm")
    assert "SliceThickness" in written
    assert written.SliceThickness is None
