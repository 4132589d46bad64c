"""Synthetic MR series: pixels at their places, what is said of them, and what isn't."""

import numpy as np
import pydicom
import pytest
from pydicom.uid import MRImageStorage

from fastliver.data.dicom import read_series
from fastliver.errors import InputError
from fastliver.export.dicom_mr import MadeBy, write_mr_series

BY = MadeBy("liver-run/essnet", "0.1.0+abcdef")


def write(volume, folder, slices=None):
    """The CT's own grey values as if they were synthetic: each pixel tells where it came from."""
    slices = range(len(volume.image)) if slices is None else slices
    write_mr_series(folder, volume.image / 1000, volume, slices, BY)
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


def test_each_pixel_lies_where_its_source_lies(ct_volume, tmp_path) -> None:
    images = write(ct_volume, tmp_path / "mr")
    sources = {header.SOPInstanceUID: header for header in map(pydicom.dcmread, ct_volume.sources)}
    assert len(images) == len(sources) == 5
    for image in images:
        source = sources.pop(image.SourceImageSequence[0].ReferencedSOPInstanceUID)
        for field in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns",
                      "FrameOfReferenceUID", "SliceThickness", "PatientPosition"):  # fmt: skip
            assert image[field].value == source[field].value
        expected = (np.clip(source.pixel_array / 1000, -1, 1) + 1) / 2 * 4095
        assert np.abs(image.pixel_array - expected).max() <= 0.5001


def test_this_package_reads_it_at_the_same_coordinates(ct_volume, tmp_path) -> None:
    write(ct_volume, tmp_path / "mr")
    again = read_series(sorted((tmp_path / "mr").iterdir()), "MR", None, range(0), False)
    np.testing.assert_allclose(again.affine, ct_volume.affine, atol=1e-9)
    np.testing.assert_allclose(again.heights, ct_volume.heights)
    np.testing.assert_allclose(again.image / 4095 * 2 - 1, np.clip(ct_volume.image / 1000, -1, 1), atol=2.5e-4)


def test_says_what_it_is(make_ct, tmp_path) -> None:
    volume = make_ct()
    images = write(volume, tmp_path / "mr")
    source = pydicom.dcmread(volume.sources[0])
    for number, image in enumerate(images, 1):
        assert image.SOPClassUID == image.file_meta.MediaStorageSOPClassUID == MRImageStorage
        assert image.SOPInstanceUID == image.file_meta.MediaStorageSOPInstanceUID
        assert list(image.ImageType)[:2] == ["DERIVED", "SECONDARY"]
        assert (image.Modality, image.InstanceNumber, image.ScanningSequence) == ("MR", number, "RM")
        assert "SYNTHETIC" in image.DerivationDescription
        assert BY.name in image.DerivationDescription
        assert BY.version in image.DerivationDescription
        assert image.ContentQualification == "RESEARCH"
        assert image.Manufacturer == "fastliver"
        for field in ("PatientID", "PatientName", "StudyInstanceUID", "StudyDate", "AccessionNumber"):
            assert image[field].value == source[field].value
        for field in ("AcquisitionDate", "AcquisitionTime", "KVP", "RescaleSlope"):
            assert field not in image
        for field in ("RepetitionTime", "EchoTime"):
            assert image[field].value is None
    assert len({image.SOPInstanceUID for image in images}) == len(images)
    (series,) = {image.SeriesInstanceUID for image in images}
    assert series != source.SeriesInstanceUID
    assert all(uid.startswith("2.25.") for uid in (series, images[0].SOPInstanceUID))


def test_slices_that_were_dropped_are_left_out(make_ct, tmp_path) -> None:
    volume = make_ct()
    images = write(volume, tmp_path / "mr", [1, 2, 4])
    assert [image.ImagePositionPatient[2] for image in images] == [volume.heights[index] for index in (1, 2, 4)]
    assert [image.InstanceNumber for image in images] == [1, 2, 3]


def test_lossy_compression_of_the_source_is_remembered(make_ct, tmp_path) -> None:
    (image, *_) = write(make_ct(LossyImageCompression="01", LossyImageCompressionRatio=8.0), tmp_path / "mr")
    assert (image.LossyImageCompression, image.LossyImageCompressionRatio) == ("01", 8.0)


def test_a_series_without_frame_of_reference_gets_one_for_all(make_ct, tmp_path) -> None:
    images = write(make_ct(FrameOfReferenceUID=None), tmp_path / "mr")
    assert len({image.FrameOfReferenceUID for image in images}) == 1


def test_a_source_that_nothing_can_refer_to_is_refused(make_ct, tmp_path) -> None:
    with pytest.raises(InputError, match=r"dcm: StudyInstanceUID is missing.*NIfTI"):
        write(make_ct(StudyInstanceUID=None), tmp_path / "mr")
