"""Image files: their header, their pixels against pydicom's, and several frames in one file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from fastliver.data.pixels import PixelFormat, codestreams, decode, grey, raw_pixels, read_image_file
from fastliver.data.series import plan_series, read_series
from fastliver.errors import InputError

ROADS = {
    ImplicitVRLittleEndian: "raw",
    ExplicitVRLittleEndian: "raw",
    ExplicitVRBigEndian: "raw",
    DeflatedExplicitVRLittleEndian: "pydicom",
    RLELossless: "pydicom",
    JPEGLSLossless: "pydicom",
    JPEG2000Lossless: "codestream",
}


def pixel_format(dtype: str, stored: int, high_bit: int | None = None, big_endian: bool = False) -> PixelFormat:
    """Of a file with one row of two pixels."""
    kind = np.dtype(dtype)
    high = stored - 1 if high_bit is None else high_bit
    return PixelFormat(1, 2, 1, 8 * kind.itemsize, stored, high, kind.kind == "i", big_endian, False)


@pytest.mark.parametrize(
    ("content", "found", "values"),
    [
        ("3412 ffff", pixel_format("u2", 16), [0x1234, 0xFFFF]),
        ("1234 ffff", pixel_format("u2", 16, big_endian=True), [0x1234, 0xFFFF]),
        ("3412 ffff", pixel_format("i2", 16), [0x1234, -1]),
        ("ff0f 0008", pixel_format("i2", 12), [-1, -2048]),
        ("ff17 00f8", pixel_format("i2", 12), [2047, -2048]),  # bits 12 to 15 belong to an overlay
        ("ff1f 00f8", pixel_format("u2", 12), [4095, 2048]),
        ("f0ff 1f00", pixel_format("u2", 12, high_bit=15), [4095, 1]),
        ("f0ff 1f00", pixel_format("i2", 12, high_bit=15), [-1, 1]),
        ("fcdf 0860", pixel_format("u2", 12, high_bit=13), [0b011111111111, 0b100000000010]),
        ("80ff", pixel_format("u1", 8), [128, 255]),
        ("80ff", pixel_format("i1", 8), [-128, -1]),
        ("ff80", pixel_format("u1", 7), [127, 0]),
        ("00000080 01000000", pixel_format("u4", 32), [1 << 31, 1]),
        ("00000080 01000000", pixel_format("i4", 32), [-(1 << 31), 1]),
        ("80000000 00000001", pixel_format("i4", 32, big_endian=True), [-(1 << 31), 1]),
    ],
)
def test_raw_bytes_become_the_stored_bits(content, found, values):
    pixels = raw_pixels(bytes.fromhex(content), found)
    assert pixels.tolist() == [[values]]
    assert pixels.dtype == found.dtype
    assert pixels.dtype.isnative


def written_as(path: Path, syntax: str, **fields: Any) -> Path:
    """The file written anew in a transfer syntax."""
    dataset = pydicom.dcmread(path)
    for name, value in fields.items():
        setattr(dataset, name, value)
    if syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        dataset.compress(syntax, generate_instance_uid=False)
    elif syntax == ExplicitVRBigEndian:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = syntax
    pydicom.dcmwrite(path, dataset, implicit_vr=syntax == ImplicitVRLittleEndian,
                     little_endian=syntax != ExplicitVRBigEndian)  # fmt: skip
    return path


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("syntax", ROADS, ids=lambda syntax: syntax.name)
def test_every_road_gives_the_integers_that_were_written(tmp_path, write_slice, syntax, signed):
    rng = np.random.default_rng(0)
    pixels = rng.integers(-2000 if signed else 0, 2047, (40, 48)).astype(np.int16 if signed else np.uint16)
    path = write_slice(tmp_path / "a.dcm", pixels, BitsStored=12, HighBit=11)
    image = read_image_file(written_as(path, syntax), "CT")
    assert (image.transfer_syntax, image.road) == (syntax, ROADS[syntax])
    decoded = decode(image)
    np.testing.assert_array_equal(decoded[0], pixels)
    assert decoded.dtype == pixels.dtype
    assert np.array_equal(pydicom.dcmread(path).pixel_array, pixels), "pydicom agrees"


def test_the_place_of_raw_pixels_is_that_of_their_bytes(tmp_path, write_slice):
    pixels = np.arange(35, dtype=np.uint16).reshape(5, 7)
    image = read_image_file(write_slice(tmp_path / "a.dcm", pixels), "CT")
    assert image.length == 70
    assert image.path.read_bytes()[image.offset :][:70] == pixels.tobytes()


def test_the_codestreams_of_a_file_are_what_pydicom_finds(tmp_path, write_slice):
    path = write_slice(tmp_path / "a.dcm", np.arange(1600, dtype=np.uint16).reshape(40, 40))
    image = read_image_file(written_as(path, JPEG2000Lossless), "CT")
    (stream,) = codestreams(image)
    assert stream[:4] == bytes.fromhex("ff4fff51")  # SOC and SIZ, ISO 15444-1 A.4
    assert list(pydicom.encaps.generate_frames(pydicom.dcmread(path).PixelData)) == [stream]


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_monochrome1_is_inverted_over_its_stored_bits(tmp_path, write_slice, bits, signed):
    """The brightest value becomes the darkest one, before slope and intercept."""
    pixels = np.array([[5, 700]], np.int16 if signed else np.uint16)
    path = write_slice(tmp_path / "a.dcm", pixels, PhotometricInterpretation="MONOCHROME1", BitsStored=bits,
                       HighBit=bits - 1, RescaleSlope=2, RescaleIntercept=-1000)  # fmt: skip
    image = read_image_file(path, "CT")
    assert decode(image)[0].tolist() == [[5, 700]]
    top = -1 if signed else 2**bits - 1
    expected = [[(top - 5) * 2 - 1000, (top - 700) * 2 - 1000]]
    assert grey(decode(image)[0], image.format, image.frames[0]).tolist() == expected
    volume = read_series([path], "CT", None, range(0), False)
    assert volume.image[0].tolist() == expected
    assert "1 slice of MONOCHROME1" in volume.notes[0]


def test_a_frame_has_what_its_header_says(tmp_path, write_slice):
    path = write_slice(
        tmp_path / "a.dcm", np.zeros((4, 4), np.uint16), (1.5, -2, 3e1), PixelSpacing=[0.5, 0.75], RescaleSlope="1.25",
        RescaleIntercept="-7",
    )  # fmt: skip
    (frame,) = read_image_file(path, "CT").frames
    assert frame.position == (1.5, -2, 30)
    assert frame.orientation == (1, 0, 0, 0, 1, 0)
    assert (frame.spacing, frame.thickness) == ((0.5, 0.75), 3.2)
    assert (frame.slope, frame.intercept) == (1.25, -7)


def item(**fields: Any) -> Dataset:
    made = Dataset()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


@pytest.fixture
def write_enhanced(tmp_path, write_slice) -> Callable[..., Path]:
    """An enhanced CT of four frames of 32x40, in the file from head to feet; frame k is k, with slope 10 and intercept
    k. Their order in the file is that of `heights`."""

    def write(heights=(30.0, 20.0, 10.0, 0.0), syntax: str = ExplicitVRLittleEndian, **fields: Any) -> Path:
        frames = np.stack([np.full((32, 40), number, np.uint16) for number in range(len(heights))])
        shared = item(
            PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
            PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.75], SliceThickness=10)],
        )
        own = [
            item(
                PlanePositionSequence=[item(ImagePositionPatient=[-3, -4, height])],
                PixelValueTransformationSequence=[item(RescaleSlope=10, RescaleIntercept=number, RescaleType="HU")],
            )
            for number, height in enumerate(heights)
        ]
        gone = dict.fromkeys(["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"])
        fields = {"NumberOfFrames": len(heights), "FrameOfReferenceUID": "1.2.3"} | fields
        groups = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": own}
        path = write_slice(
            tmp_path / "enhanced.dcm",
            frames[0],
            SOPClassUID=EnhancedCTImageStorage,
            PixelData=frames.tobytes(),
            **{**gone, **groups, **fields},
        )
        return written_as(path, syntax)

    return write


@pytest.mark.parametrize("syntax", ROADS, ids=lambda syntax: syntax.name)
def test_an_enhanced_file_is_a_series_of_its_own(write_enhanced, syntax):
    path = write_enhanced(syntax=syntax)
    volume = read_series([path], "CT", None, range(0), False)
    assert volume.image.shape == (4, 32, 40)
    assert volume.image[:, 0, 0].tolist() == [33, 22, 11, 0], "each frame has its own slope and intercept"
    assert (volume.image == volume.image[:, :1, :1]).all()
    assert volume.heights.tolist() == [0, 10, 20, 30]
    assert volume.spacing == pytest.approx((10, 0.5, 0.75))
    assert (volume.affine @ [0, 0, 0, 1]).tolist() == [-3, -4, 0, 1]
    assert volume.sources == (path,) * 4


def test_highdicom_agrees_on_the_geometry_of_an_enhanced_file(write_enhanced):
    import highdicom

    path = write_enhanced()
    theirs = highdicom.image.imread(path).get_volume().to_patient_orientation("HPL")  # array axes: up, back, left
    ours = read_series([path], "CT", None, range(0), False)
    np.testing.assert_array_equal(theirs.array, ours.image)
    np.testing.assert_allclose(theirs.affine[:3, [2, 1, 0, 3]], ours.affine[:3], atol=1e-9)


def test_two_enhanced_files_stack_into_one_series(write_enhanced, tmp_path):
    first = write_enhanced().rename(tmp_path / "upper.dcm")
    second = write_enhanced(heights=(-10.0, -20.0))
    volume = read_series([first, second], "CT", None, range(0), False)
    assert volume.heights.tolist() == [-20, -10, 0, 10, 20, 30]
    assert [source.name for source in volume.sources] == ["enhanced.dcm"] * 2 + ["upper.dcm"] * 4


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"heights": (0.0, 10.0, 10.0)}, r"enhanced\.dcm: ImagePositionPatient is that of enhanced.dcm \(frame 2\)"),
        ({"NumberOfFrames": 3}, r"PerFrameFunctionalGroupsSequence has 4 items, but NumberOfFrames is 3"),
        ({"SharedFunctionalGroupsSequence": []}, r"PixelSpacing is None, expected 2 numbers"),
        ({"PerFrameFunctionalGroupsSequence": None}, r"PerFrameFunctionalGroupsSequence has 0 items.*is 4"),
    ],
)
def test_what_is_wrong_with_an_enhanced_file_is_named(write_enhanced, fields, words):
    with pytest.raises(InputError, match=words):
        plan_series([write_enhanced(**fields)], "CT", None, range(0), False)


def test_an_enhanced_file_cannot_share_one_png_mask(write_enhanced, tmp_path):
    mask = tmp_path / "mask.png"
    mask.touch()
    path = write_enhanced()
    with pytest.raises(InputError, match="NumberOfFrames is 4, but it has one mask, .*mask.png"):
        plan_series([path], "CT", {path: mask}, range(1), False)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"Rows": 65535, "Columns": 65535, "NumberOfFrames": 12}, r"Rows 65535, Columns 65535 .* ask for 103\.1 GB"),
        ({"NumberOfFrames": 2_000_000_000}, r"NumberOfFrames 2e\+09 ask for"),
        ({"Rows": 21}, r"PixelData can't be decoded \(it has 800 of the 840 bytes"),
        ({"Rows": 0}, r"Rows is 0, expected at least 1"),
        ({"BitsAllocated": None}, r"BitsAllocated is None"),
        ({"BitsAllocated": 12}, r"BitsAllocated is 12 and BitsStored 16"),
        ({"BitsStored": 17}, r"BitsAllocated is 16 and BitsStored 17"),
        ({"PixelRepresentation": None}, r"PixelRepresentation is None"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, r"SamplesPerPixel is 3 .* RGB, a colour image"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, r"PALETTE COLOR, a colour image"),
        ({"ModalityLUTSequence": [Dataset()]}, r"ModalityLUTSequence .* RescaleSlope and RescaleIntercept"),
        ({"RescaleSlope": None, "RescaleIntercept": "1e400"}, r"RescaleIntercept is inf"),
        ({"PixelData": None, "FloatPixelData": bytes(1600)}, r"holds FloatPixelData, but only integers"),
        ({"PixelData": None}, r"holds no image \(CT Image Storage\)"),
    ],
)
def test_a_header_that_cannot_be_true_is_named_by_field(tmp_path, write_slice, fields, words):
    path = write_slice(tmp_path / "a.dcm", np.zeros((20, 20), np.uint16), **fields)
    with pytest.raises(InputError, match=words) as error:
        read_image_file(path, "CT")
    assert str(error.value).startswith(f"{path}: ")
    assert "--skip-bad" not in str(error.value), "not every caller has the option"


def test_more_pixels_than_the_header_says_are_left_alone(tmp_path, write_slice):
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 4)
    path = write_slice(tmp_path / "a.dcm", pixels, PixelData=pixels.tobytes() * 2 + b"\0\0")
    np.testing.assert_array_equal(decode(read_image_file(path, "CT")), pixels[None])


@pytest.mark.parametrize("high_bit", [None, 3, 16], ids=["missing", "too low", "too high"])
def test_a_high_bit_that_cannot_be_is_that_of_nearly_all_files(tmp_path, write_slice, high_bit):
    pixels = np.array([[1, 4095]], np.uint16)
    path = write_slice(tmp_path / "a.dcm", pixels, BitsStored=12, HighBit=high_bit)
    np.testing.assert_array_equal(decode(read_image_file(path, "CT"))[0], pixels)


def test_a_file_cut_after_its_header_was_read_is_named(tmp_path, write_slice):
    path = write_slice(tmp_path / "a.dcm", np.zeros((20, 20), np.uint16))
    image = read_image_file(path, "CT")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"a\.dcm: PixelData can't be read .*copy the file again"):
        decode(image)
    path.unlink()
    with pytest.raises(InputError, match=r"a\.dcm: PixelData can't be read .*No such file"):
        decode(image)
