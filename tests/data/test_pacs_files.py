"""Whatever a PACS sends: every file of pydicom's own test data decodes to pydicom's pixels, or is refused by name.

The larger ones are in the package pydicom-data; they are read where it is installed.
"""

import importlib.util
from contextlib import suppress
from fnmatch import fnmatch
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from fastliver.data.header import FIELDS, PIXELS, SEQUENCES, read_header
from fastliver.data.pixels import decode, read_image_file
from fastliver.data.sources import Source
from fastliver.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom's, of what is wrong with these files


def test_files(package: str, folder: str) -> list[Path]:
    """The files that an installed package has in a folder."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return []
    root = Path(found.origin).parent / folder
    return sorted(path for path in root.rglob("*") if path.is_file())


test_files.__test__ = False
FILES = [*test_files("pydicom", "data/test_files"), *test_files("data_store", "data")]

COLOUR, NO_IMAGE, NOT_DICOM = "a colour image", "holds no image", "not a DICOM file"
REFUSED = {
    "ExplVR_*NoMeta.dcm": NOT_DICOM,  # neither preamble nor file meta information
    "no_meta.dcm": NOT_DICOM,
    "rtstruct.dcm": NOT_DICOM,
    "OT-PAL-8-face.dcm": NOT_DICOM,
    "*README*": NOT_DICOM,
    "*.dump": NOT_DICOM,
    "*.json": NOT_DICOM,
    "*.icc": NOT_DICOM,
    "*.gz": NOT_DICOM,
    "DICOMDIR*": NO_IMAGE,
    "IM0000*": NO_IMAGE,
    "UN_sequence.dcm": NO_IMAGE,
    "empty_charset_LEI.dcm": NO_IMAGE,
    "meta_missing_tsyntax.dcm": NO_IMAGE,
    "nested_priv_SQ.dcm": NO_IMAGE,
    "no_meta_group_length.dcm": NO_IMAGE,
    "priv_SQ.dcm": NO_IMAGE,
    "reportsi*.dcm": NO_IMAGE,
    "rtplan*.dcm": NO_IMAGE,
    "test-SR.dcm": NO_IMAGE,
    "waveform_ecg.dcm": NO_IMAGE,
    "ExplVR_BigEnd.dcm": COLOUR,
    "GDCMJ2K_TextGBR.dcm": COLOUR,
    "OBXXXX1A*.dcm": COLOUR,
    "SC_rgb_jpeg.dcm": "Modality is OT",  # written otherwise than it says: pydicom can't write it again
    "SC_*.dcm": COLOUR,
    "US1_*.dcm": COLOUR,
    "color*.dcm": COLOUR,
    "examples_jpeg2k.dcm": COLOUR,
    "examples_palette.dcm": COLOUR,
    "examples_rgb_color.dcm": COLOUR,
    "examples_ybr_color.dcm": COLOUR,
    "gdcm-US-ALOKA-16*.dcm": COLOUR,
    "badVR.dcm": "Modality is RTDOSE",  # its NumberOfFrames is 1A, which pydicom refuses
    "MR_truncated.dcm": "it has 8130 of the 8192 bytes",
    # pydicom can't read these either.
    "JPEG-lossy.dcm": "PixelData can't be decoded",  # JPEG with 12 bits: only a library under the GPL reads it
    "JPGExtended.dcm": "PixelData can't be decoded",
    "JPEG2000-embedded-sequence-delimiter.dcm": "PixelData can't be decoded",
    "emri_small_jpeg_2k_lossless_too_short.dcm": "Modality is MR",  # pydicom gives up its header too
    "mlut_18.dcm": "ModalityLUTSequence",
}


def expected(path: Path) -> str | None:
    """Why a file is refused; None where it isn't."""
    return next((words for pattern, words in REFUSED.items() if fnmatch(path.name, pattern)), None)


def placed(path: Path, folder: Path) -> Path:
    """A copy of an image as a CT, with a place in the patient for each frame; a file that pydicom can't change is
    copied as it is."""
    copy = folder / "copy.dcm"
    copy.write_bytes(path.read_bytes())
    try:
        dataset = pydicom.dcmread(path)
        frames = int(dataset.get("NumberOfFrames") or 1)
    except (pydicom.errors.InvalidDicomError, ValueError):
        return copy
    if "PixelData" not in dataset or "Rows" not in dataset:
        return copy
    dataset.Modality = "CT"
    dataset.PixelSpacing, dataset.ImagePositionPatient = [1, 1], [0, 0, 0]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    if "SharedFunctionalGroupsSequence" in dataset:
        del dataset.SharedFunctionalGroupsSequence
    dataset.PerFrameFunctionalGroupsSequence = [Dataset() for _ in range(frames)]
    changed = BytesIO()
    with suppress(TypeError):  # SC_rgb_jpeg.dcm
        dataset.save_as(changed)
        copy.write_bytes(changed.getvalue())
    return copy


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_decodes_to_pydicoms_pixels_or_is_refused_by_name(path, tmp_path):
    copy = placed(path, tmp_path)
    words = expected(path)
    if words is None:
        pixels = decode(read_image_file(copy, "CT"))
        theirs = pydicom.dcmread(path).pixel_array
        np.testing.assert_array_equal(pixels, theirs.reshape(-1, *theirs.shape[-2:]))
        assert pixels.dtype == theirs.dtype.newbyteorder("=")
    else:
        with pytest.raises(InputError) as error:
            decode(read_image_file(copy, "CT"))
        assert str(error.value).startswith(f"{copy}: ")
        assert words in str(error.value)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_header_says_what_pydicom_says(path):
    try:
        theirs = pydicom.dcmread(path)
    except pydicom.errors.InvalidDicomError:
        with pytest.raises(InputError, match=NOT_DICOM):
            read_header(path)
        return
    if path.name == "emri_small_jpeg_2k_lossless_too_short.dcm":
        return  # pydicom stumbles over its pixels and gives up the header too
    ours = read_header(path)
    assert ours.pixels == next((keyword for keyword in PIXELS.values() if keyword in theirs), "")
    assert ours.transfer_syntax == theirs.file_meta.get("TransferSyntaxUID", "")
    assert [keyword in ours for keyword in SEQUENCES.values()] == [keyword in theirs for keyword in SEQUENCES.values()]
    for keyword in FIELDS.values():
        value = None
        if keyword in theirs and keyword not in ours.values:
            pytest.fail(f"{keyword} is missing")
        try:
            value = theirs.get(keyword)
        except ValueError:
            continue  # badVR.dcm
        if isinstance(value, int) and not isinstance(value, pydicom.valuerep.IS):
            assert ours.integer(keyword) == value, keyword
        elif isinstance(value, float):
            assert ours.number(keyword, 0) == value, keyword
        elif value is not None and keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            assert ours.numbers(keyword, len(value)) == tuple(map(float, value)), keyword
        else:
            values = value if isinstance(value, pydicom.multival.MultiValue) else [value or ""]
            assert ours.text(keyword) == "\\".join(map(str, values)), keyword


def test_the_bytes_of_raw_pixels_are_found_where_pydicom_finds_them():
    compared = 0
    for path in FILES:
        if path.name == "emri_small_jpeg_2k_lossless_too_short.dcm" or expected(path) == NOT_DICOM:
            continue
        header, theirs = read_header(path), pydicom.dcmread(path)
        if header.length is not None and header.transfer_syntax != "1.2.840.10008.1.2.1.99" and "PixelData" in theirs:
            assert path.read_bytes()[header.offset :][: header.length] == theirs.PixelData, path
            compared += 1
    assert compared > 40


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_a_folder_of_all_of_them_gives_series_or_named_errors(modality, tmp_path, write_slice):
    for number in range(3):
        path = tmp_path / "0" / f"{number}.dcm"
        write_slice(path, np.full((4, 4), number, np.uint16), (0, 0, number), Modality=modality)
    for number, path in enumerate(FILES, start=1):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / path.name).symlink_to(path)
    studies = Source(tmp_path, modality, skip_bad=True).studies()
    first = studies[0].read()
    assert first.image[:, 0, 0].tolist() == [0, 1, 2]
    (note,) = studies[0].notes
    for kind in ("Modality SEG", "Modality RTPLAN", "Modality SR", "Modality RTDOSE", "Modality US", "Modality CR"):
        assert kind in note
    assert len(studies) > 5
    for study in studies:
        try:
            volume = study.read()
        except InputError as error:
            assert str(tmp_path) in str(error)
        else:
            assert np.isfinite(volume.image).all()
