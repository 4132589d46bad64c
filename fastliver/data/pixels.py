"""From an image file's header to where its pixels are, how they are written and where each frame lies in the patient.

Nothing is decoded to find that out. `decode` and `grey` then give the pixels, as do the pipelines that read the same
bytes by other means.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.encaps import generate_frames
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
)

from fastliver.data.decoding import decode_isolated
from fastliver.data.header import Header, brief, raw_bytes, read_header
from fastliver.data.study import Modality
from fastliver.errors import InputError

Road = Literal["raw", "codestream", "pydicom"]
"""How pixels leave a file: "raw" bytes as they are; a "codestream" (JPEG 2000, HTJ2K, JPEG lossless) that a GPU can
decode; whatever else pydicom decodes (deflated, RLE, JPEG-LS, JPEG)."""

RAW = frozenset((ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian))
CODESTREAM = frozenset((
    JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K, JPEGLossless, JPEGLosslessSV1
))  # fmt: skip

FUNCTIONAL_GROUPS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SpacingBetweenSlices", "SliceThickness"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
}
"""Where an enhanced file keeps what a `Frame` says."""

LARGEST = 1 << 31
"""Bytes that the pixels of one file may decode to: 4,096 slices of 512x512. A header that asks for more is wrong."""


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How the pixels of a file are written (DICOM PS3.3 C.7.6.3.1, PS3.5 section 8).

    Attributes:
        rows, columns, frames: what the header says.
        bits_allocated: bits that a pixel takes in the file: 8, 16 or 32 on the raw road.
        bits_stored: bits that are the pixel's value.
        high_bit: the highest of these.
        signed: whether they are a two's complement.
        big_endian: byte order of the pixels.
        inverted: MONOCHROME1, the lowest value is white.
    """

    rows: int
    columns: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    big_endian: bool
    inverted: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the decoded integers, in this machine's byte order."""
        return np.dtype(f"{'i' if self.signed else 'u'}{max(self.bits_allocated // 8, 1)}")

    @property
    def frame_bytes(self) -> int:
        """Length of one frame, decoded or raw."""
        return self.rows * self.columns * self.dtype.itemsize

    @property
    def value_range(self) -> tuple[int, int]:
        """The lowest and the highest value that the stored bits can hold."""
        return (-(1 << self.bits_stored - 1), (1 << self.bits_stored - 1) - 1) if self.signed else (
            0, (1 << self.bits_stored) - 1)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame's place and units (DICOM PS3.3 C.7.6.2; C.7.6.16.2 for a multi-frame file).

    Attributes:
        position: ImagePositionPatient in mm, the centre of the first pixel.
        orientation: ImageOrientationPatient, where columns and where rows run to.
        spacing: PixelSpacing in mm, between rows and between columns.
        thickness: distance to a next slice in mm as the header has it.
        slope, intercept: stored values times slope plus intercept are HU or the scanner's units.
    """

    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    thickness: float
    slope: float
    intercept: float


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A grey image file of one modality, not yet decoded.

    Attributes:
        path: the file.
        modality: "CT" or "MR".
        transfer_syntax: UID of how it is written.
        road: how its pixels are to be read.
        format: how they are written.
        offset, length: where the bytes of the pixels are in the file (length is None where it is undefined); on the
            raw road exactly `format.frames * format.frame_bytes` bytes.
        frames: one for each frame of the file, in the file's order.
    """

    path: Path
    modality: str
    transfer_syntax: str
    road: Road
    format: PixelFormat
    offset: int
    length: int | None
    frames: tuple[Frame, ...]


def read_image_file(path: Path, modality: Modality) -> ImageFile:
    """What the header says of an image; the pixels aren't touched.

    Raises:
        InputError: names file and field, for what isn't a grey image of the modality, has no place in the patient, or
            whose pixels can't be what the header says.
    """
    header = read_header(path)
    if "Rows" not in header or not header.pixels:
        raise InputError(
            f"{path}: holds no image ({brief(header.sop_class) or 'an object of unknown kind'}); remove it"
        )
    if header.text("Modality") != modality:
        raise InputError(f"{path}: Modality is {header.shown('Modality')}, expected {modality}; remove the file")
    pixel_format = _format(header)
    return ImageFile(
        path=path,
        modality=modality,
        transfer_syntax=header.transfer_syntax,
        road=_road(header, pixel_format),
        format=pixel_format,
        offset=header.offset,
        length=_length(header, pixel_format),
        frames=_frames(header, pixel_format.frames),
    )


def is_colour(header: Header) -> bool:
    """Whether an image has colours: three samples a pixel, or a palette."""
    photometric = header.text("PhotometricInterpretation")
    return (header.integer("SamplesPerPixel") or 1) > 1 or not photometric.startswith("MONOCHROME")


def _format(header: Header) -> PixelFormat:
    path = header.path
    if header.pixels != "PixelData":
        raise InputError(f"{path}: holds {header.pixels}, but only integers can be read; export it with PixelData")
    if is_colour(header):
        raise InputError(
            f"{path}: SamplesPerPixel is {header.integer('SamplesPerPixel')} and PhotometricInterpretation "
            f"{header.shown('PhotometricInterpretation')}, a colour image; only MONOCHROME2 and MONOCHROME1 can "
            "be read: remove it"
        )
    rows, columns, allocated, stored = (_wanted(header, field) for field in (
        "Rows", "Columns", "BitsAllocated", "BitsStored"))  # fmt: skip
    frames = header.number("NumberOfFrames", 1)
    if frames != int(frames) or frames < 1:
        raise InputError(f"{path}: NumberOfFrames is {frames:g}, expected at least 1; export the file again")
    if not 1 <= stored <= allocated <= 64 or (allocated != 1 and allocated % 8):
        raise InputError(
            f"{path}: BitsAllocated is {allocated} and BitsStored {stored}; a pixel takes 8, 16 or 32 bits and "
            "stores no more than that: export the file again"
        )
    signed = _wanted(header, "PixelRepresentation", least=0)
    high_bit = header.integer("HighBit")
    if high_bit is None or not stored <= high_bit + 1 <= allocated:
        high_bit = stored - 1  # what isn't possible is a slip of the pen; nearly all files have this value
    found = PixelFormat(
        rows=rows,
        columns=columns,
        frames=int(frames),
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high_bit,
        signed=signed == 1,
        big_endian=header.big_endian,
        inverted=header.text("PhotometricInterpretation") == "MONOCHROME1",
    )
    if found.frames * found.frame_bytes > LARGEST:
        raise InputError(
            f"{path}: Rows {rows}, Columns {columns} and NumberOfFrames {frames:g} ask for "
            f"{found.frames * found.frame_bytes / 1e9:.1f} GB of pixels, more than the {LARGEST / 1e9:.1f} GB that one "
            "file may have; correct the header, or export the series as single-frame images"
        )
    return found


def _wanted(header: Header, field: str, least: int = 1) -> int:
    value = header.integer(field)
    if value is None or value < least:
        raise InputError(f"{header.path}: {field} is {value}, expected at least {least}; export the file again")
    return value


def _road(header: Header, pixel_format: PixelFormat) -> Road:
    if not header.transfer_syntax:
        raise InputError(
            f"{header.path}: TransferSyntaxUID is missing, so nothing says how PixelData is written; export it again"
        )
    if header.transfer_syntax in RAW and header.length is not None:
        eights = pixel_format.bits_allocated == 8
        # Bytes in big-endian words (OW) are swapped in pairs: too rare for a road of their own.
        return "raw" if pixel_format.bits_allocated in (16, 32) or (eights and not header.big_endian) else "pydicom"
    return "codestream" if header.transfer_syntax in CODESTREAM else "pydicom"


def _length(header: Header, pixel_format: PixelFormat) -> int | None:
    """The length of the pixels' bytes, which in a file without compression follows from the format."""
    needed = pixel_format.frames * pixel_format.rows * pixel_format.columns * pixel_format.bits_allocated // 8
    if header.transfer_syntax not in RAW or header.length is None:
        return header.length
    present = min(header.length, header.size - header.offset)
    if present < needed:
        raise InputError(
            f"{header.path}: PixelData can't be decoded (it has {present} of the {needed} bytes that "
            f"{pixel_format.frames} frames of {pixel_format.rows}x{pixel_format.columns} take); copy the file again"
        )
    return needed


def _frames(header: Header, count: int) -> tuple[Frame, ...]:
    if "ModalityLUTSequence" in header:
        raise InputError(
            f"{header.path}: ModalityLUTSequence says what the pixels mean, which can't be applied; export the series "
            "with RescaleSlope and RescaleIntercept"
        )
    if "SharedFunctionalGroupsSequence" in header or "PerFrameFunctionalGroupsSequence" in header:
        return tuple(_enhanced_frames(header, count))
    if count > 1:
        raise InputError(
            f"{header.path}: NumberOfFrames is {count}, but no PerFrameFunctionalGroupsSequence says where each frame "
            "lies; export the series as single-frame images"
        )
    return (read_frame(header),)


def read_frame(header: Header) -> Frame:
    """Where the one frame of a file lies.

    Raises:
        InputError: names the field that doesn't say it.
    """
    spacing = header.numbers("PixelSpacing", 2)
    if min(spacing) <= 0:
        raise InputError(f"{header.path}: PixelSpacing is {list(spacing)}, expected positive mm; correct it")
    return Frame(
        position=header.numbers("ImagePositionPatient", 3),
        orientation=header.numbers("ImageOrientationPatient", 6),
        spacing=spacing,
        thickness=header.number("SpacingBetweenSlices", 0) or header.number("SliceThickness", 0) or 1.0,
        slope=header.number("RescaleSlope", 1),
        intercept=header.number("RescaleIntercept", 0),
    )


def _enhanced_frames(header: Header, count: int) -> Iterator[Frame]:
    """The frames of an enhanced file, from what each has of its own and what they share (DICOM PS3.3 C.7.6.16)."""
    keywords = ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]
    try:
        dataset = pydicom.dcmread(header.path, stop_before_pixels=True, specific_tags=keywords)
        shared, own = (list(dataset.get(keyword) or ()) for keyword in keywords)
        common = {**header.values, **(_group_values(shared[0]) if shared else {})}
        each = [_group_values(groups) for groups in own] or [{}]
    except Exception as error:  # as in reading a header: whatever a malformed sequence leads to
        raise InputError(
            f"{header.path}: its functional groups can't be read ({brief(str(error))}); export it again"
        ) from error
    if len(each) != count:
        raise InputError(
            f"{header.path}: PerFrameFunctionalGroupsSequence has {len(own)} items, but NumberOfFrames is {count}; "
            "export the file again"
        )
    for values in each:
        yield read_frame(replace(header, values={**common, **values}))


def _group_values(groups: pydicom.Dataset) -> dict[str, bytes]:
    """The elements of one item of functional groups that place a frame and give its units, by keyword."""
    found = {}
    for sequence, keywords in FUNCTIONAL_GROUPS.items():
        for item in list(groups.get(sequence) or ())[:1]:
            found.update({keyword: raw_bytes(item.get_item(keyword)) for keyword in keywords if keyword in item})
    return found


def raw_pixels(content: bytes, pixel_format: PixelFormat) -> NDArray[Any]:
    """The integers in the bytes of a file on the raw road.

    Only the stored bits count (DICOM PS3.5 8.1.1): what a file keeps above and below them, such as an overlay, is
    shifted out, and the sign comes from the highest of them.

    Args:
        content: `frame_bytes` for each frame, of all frames or of some.
        pixel_format: how they are written.

    Returns:
        (frames, rows, columns) of `pixel_format.dtype`; a view of `content` where nothing had to be changed.
    """
    shape = (-1, pixel_format.rows, pixel_format.columns)
    written = pixel_format.dtype.newbyteorder(">" if pixel_format.big_endian else "<")
    pixels = np.frombuffer(content, written).reshape(shape).astype(pixel_format.dtype, copy=False)
    above = pixel_format.bits_allocated - 1 - pixel_format.high_bit
    unused = pixel_format.bits_allocated - pixel_format.bits_stored
    if not unused:
        return pixels
    shifted = np.left_shift(pixels, above)
    return np.right_shift(shifted, unused, out=shifted)


def decode(image: ImageFile) -> NDArray[Any]:
    """The stored values of a file, equal to pydicom's: MONOCHROME1 isn't inverted, slope and intercept aren't applied.

    A HighBit above BitsStored - 1 is the one exception: it is honoured here, where pydicom passes over it. Whatever
    isn't raw is decoded in a process of its own, see `fastliver.data.decoding`.

    Returns:
        (frames, rows, columns) integers of `image.format.dtype`.

    Raises:
        InputError: when the pixels can't be read or decoded.
    """
    found = image.format
    if image.road == "raw":
        assert image.length is not None
        try:
            with open(image.path, "rb", buffering=0) as file:
                file.seek(image.offset)
                return raw_pixels(file.read(image.length), found)
        except (OSError, ValueError) as error:
            raise InputError(f"{image.path}: PixelData can't be read ({error}); copy the file again") from error
    pixels = decode_isolated(image.path, found.frames * found.frame_bytes)
    shape = (found.frames, found.rows, found.columns)
    # pydicom gives one frame without its axis, and frames beyond NumberOfFrames where a file has more.
    pixels = pixels.reshape(-1, *pixels.shape[-2:])[: found.frames]
    if pixels.shape != shape:
        raise InputError(f"{image.path}: PixelData decodes to {pixels.shape}, expected {shape}; export the file again")
    return pixels.astype(found.dtype, copy=False)


def codestreams(image: ImageFile) -> list[bytes]:
    """The compressed bytes of each frame of a file on the codestream road, for a decoder of one's own.

    Raises:
        InputError: when they aren't there.
    """
    try:
        with open(image.path, "rb", buffering=0) as file:
            file.seek(image.offset)
            content = file.read() if image.length is None else file.read(image.length)
        found = list(generate_frames(content, number_of_frames=image.format.frames))
    except Exception as error:  # of any kind, from malformed fragments
        raise InputError(
            f"{image.path}: PixelData can't be decoded ({brief(str(error))}); copy the file again"
        ) from error
    if len(found) < image.format.frames:
        raise InputError(
            f"{image.path}: PixelData has {len(found)} frames, but NumberOfFrames is {image.format.frames}; copy the "
            "file again"
        )
    return found[: image.format.frames]


def grey(pixels: NDArray[Any], pixel_format: PixelFormat, frame: Frame) -> NDArray[np.float32]:
    """Stored values as HU or the scanner's units: MONOCHROME1 inverted, then slope and intercept applied.

    Args:
        pixels: (rows, columns) integers as decoded.
        pixel_format: of the file.
        frame: of these pixels.
    """
    values = pixels.astype(np.float32)
    if pixel_format.inverted:
        values = np.float32(sum(pixel_format.value_range)) - values
    return values * np.float32(frame.slope) + np.float32(frame.intercept)
