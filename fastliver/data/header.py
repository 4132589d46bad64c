"""A DICOM file's header, read without its pixels (DICOM PS3.5 chapter 7, PS3.10 chapter 7).

A training set has thousands of headers, and pydicom takes longer over one than over reading the pixels. So the wanted
elements are picked from the file by `_scan`, a loop over the top level; whatever is unusual is left to pydicom.
"""

import math
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.dataelem import RawDataElement
from pydicom.multival import MultiValue
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from fastliver.errors import InputError

FIELDS = {
    0x00080005: "SpecificCharacterSet",
    0x00080008: "ImageType",
    0x00080016: "SOPClassUID",
    0x00080060: "Modality",
    0x0008103E: "SeriesDescription",
    0x00100010: "PatientName",
    0x00100020: "PatientID",
    0x00180050: "SliceThickness",
    0x00180088: "SpacingBetweenSlices",
    0x0020000D: "StudyInstanceUID",
    0x0020000E: "SeriesInstanceUID",
    0x00200032: "ImagePositionPatient",
    0x00200037: "ImageOrientationPatient",
    0x00280002: "SamplesPerPixel",
    0x00280004: "PhotometricInterpretation",
    0x00280008: "NumberOfFrames",
    0x00280010: "Rows",
    0x00280011: "Columns",
    0x00280030: "PixelSpacing",
    0x00280100: "BitsAllocated",
    0x00280101: "BitsStored",
    0x00280102: "HighBit",
    0x00280103: "PixelRepresentation",
    0x00281052: "RescaleIntercept",
    0x00281053: "RescaleSlope",
}
"""The elements that a header keeps."""

SEQUENCES = {
    0x00283000: "ModalityLUTSequence",
    0x52009229: "SharedFunctionalGroupsSequence",
    0x52009230: "PerFrameFunctionalGroupsSequence",
}
"""Sequences of which a header only says that they are there."""

PIXELS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
WANTED = {**FIELDS, **SEQUENCES}

UNDEFINED = 0xFFFFFFFF
LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
SHORT_VRS = frozenset((
    b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS",
    b"ST", b"TM", b"UI", b"UL", b"US",
))  # fmt: skip
WINDOW = 1 << 14
"""Bytes read at a time; most headers are shorter."""

DEFLATED_HEADER_LIMIT = 1 << 24
"""Bytes that a deflated file may unpack to before its pixels."""


class NotDicomError(InputError):
    """The file is of another kind altogether."""


class _Unusual(Exception):
    """The file isn't laid out as nearly all files are: pydicom has to say what it holds."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a file says.

    Attributes:
        path: the file.
        transfer_syntax: UID of how the file is written; empty where the file doesn't say.
        values: the bytes of the elements in `FIELDS` that the file has, and nothing (b"") for `SEQUENCES`.
        big_endian: byte order of those that are binary numbers.
        size: of the file in bytes.
        pixels: keyword of the element that holds the pixels, or empty.
        offset: where its value starts in the file (in a deflated one: after unpacking).
        length: its length in bytes, or None where it is undefined (encapsulated pixels).
    """

    path: Path
    transfer_syntax: str
    values: dict[str, bytes]
    big_endian: bool = False
    size: int = 0
    pixels: str = ""
    offset: int = 0
    length: int | None = None

    def __contains__(self, field: str) -> bool:
        return field in self.values

    def text(self, field: str) -> str:
        """An element as text, several values parted by a backslash; empty where it is missing."""
        value = self.values.get(field, b"")
        if value.isascii() and b"\x1b" not in value:
            return value.decode("ascii").strip(" \0")
        codes = self.values.get("SpecificCharacterSet", b"").decode("ascii", "replace").split("\\")
        try:
            encodings = convert_encodings([code.strip(" \0") for code in codes])
            return decode_bytes(value, encodings, {ord(mark) for mark in "\\^="}).strip(" \0")
        except (LookupError, UnicodeError, ValueError):
            return value.decode("latin-1").strip(" \0")

    def shown(self, field: str) -> str:
        """An element as a message shows it: on one line, and no more than a line of it."""
        return brief(self.text(field)) if field in self.values else "None"

    def integer(self, field: str) -> int | None:
        """A binary number (VR US); None where the element is missing or empty."""
        value = self.values.get(field, b"")
        if len(value) not in (0, 2, 4):
            raise InputError(f"{self.path}: {field} has {len(value)} bytes, expected 2; export the file again")
        return int.from_bytes(value, "big" if self.big_endian else "little") if value else None

    def number(self, field: str, default: float) -> float:
        """A decimal string (VR DS or IS) with one value; `default` where the element is missing or empty.

        Raises:
            InputError: for text, several numbers, or one that isn't finite.
        """
        value = self.values.get(field)
        if not value:
            return default
        try:
            number = float(value.strip(b" \0") or default)
        except ValueError:
            raise InputError(f"{self.path}: {field} is '{self.shown(field)}', no number; correct it") from None
        if not math.isfinite(number):
            raise InputError(f"{self.path}: {field} is {number}; correct it")
        return number

    def numbers(self, field: str, count: int) -> tuple[float, ...]:
        """A decimal string with `count` values.

        Raises:
            InputError: where the element is missing, or holds anything but that many finite numbers.
        """
        value = self.values.get(field)
        try:
            numbers = tuple(map(float, value.strip(b" \0").split(b"\\"))) if value else ()
        except ValueError:
            numbers = ()
        if len(numbers) != count or not all(map(math.isfinite, numbers)):
            raise InputError(
                f"{self.path}: {field} is {self.shown(field)}, expected {count} numbers; a slice without it has no "
                "place in the patient: export the series again"
            )
        return numbers

    @property
    def sop_class(self) -> str:
        """The name of the kind of object that the file holds, such as "CT Image Storage"; empty where it is missing."""
        return UID(self.text("SOPClassUID")[:64]).name

    @property
    def may_be_image(self) -> bool:
        """Whether the file, be it cut short, may have been an image; a class that is cut has no name of its own."""
        kind = self.sop_class
        return kind in ("", self.text("SOPClassUID")) or kind.endswith("Image Storage")


def brief(text: str, length: int = 80) -> str:
    """Text from a file as a message can show it: what can't be printed is a question mark, what is long is cut."""
    shown = "".join(mark if mark.isprintable() else "?" for mark in text[: length + 1])
    return shown if len(text) <= length else f"{shown[:length]}..."


def read_header(path: Path) -> Header:
    """The header of a file, in 0.05 ms where it is laid out as usual.

    Raises:
        InputError: for what can't be read; NotDicomError where nothing says that it is DICOM.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            head = file.read(WINDOW)
            if head[128:132] != b"DICM":
                raise NotDicomError(f"{path}: not a DICOM file; remove it")
            try:
                return _read_usual(path, file, head)
            except (_Unusual, struct.error):
                file.seek(0)
                return _read_unusual(path, file)
    except InputError:
        raise
    except Exception as error:  # pydicom raises whatever a malformed element makes it stumble over
        reason = error.strerror if isinstance(error, OSError) else brief(str(error).partition("\n")[0])
        raise InputError(f"{path}: can't be read as DICOM ({reason}); remove it") from error


def _transfer_syntax(head: bytes) -> tuple[str, int]:
    """The transfer syntax in the file meta information, and where that ends."""
    position, syntax = 132, ""
    while True:
        group, element, vr, length = struct.unpack_from("<HH2sH", head, position)
        if group != 2:
            return syntax, position
        position += 8
        if vr in LONG_VRS:
            (length,) = struct.unpack_from("<L", head, position)
            position += 4
        elif vr not in SHORT_VRS:
            raise _Unusual
        if element == 0x0010:
            syntax = head[position : position + length].decode("ascii", "replace").strip(" \0")
        position += length


def _read_usual(path: Path, file: BinaryIO, head: bytes) -> Header:
    syntax, position = _transfer_syntax(head)
    if not syntax:
        raise _Unusual
    if syntax == DeflatedExplicitVRLittleEndian:
        file.seek(position)
        # Deflate packs up to a thousandfold: what a header can't need isn't unpacked.
        head = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), DEFLATED_HEADER_LIMIT)
        file, position, size = BytesIO(head), 0, len(head)
    else:
        size = file.seek(0, 2)
    values: dict[str, bytes] = {}
    big_endian = syntax == ExplicitVRBigEndian
    try:
        place = _scan(file, head, size, position, syntax == ImplicitVRLittleEndian, big_endian, values)
    except (_Unusual, struct.error):
        if syntax == DeflatedExplicitVRLittleEndian:
            raise ValueError("its deflated elements are damaged") from None
        raise
    return Header(path, syntax, values, big_endian, size, *place)


def _scan(
    file: BinaryIO, window: bytes, size: int, position: int, implicit: bool, big_endian: bool, values: dict[str, bytes]
) -> tuple[str, int, int | None]:
    """Put the wanted elements of the top level into `values`, up to the pixels.

    Args:
        file: to read further windows from.
        window: the first bytes of the file.
        size: of the file in bytes.
        position: where the data set starts.
        implicit: whether elements carry no VR.
        big_endian: byte order.
        values: filled by keyword.

    Returns:
        Keyword of the pixels or "", where their value starts and its length (None: undefined).
    """
    order = ">" if big_endian else "<"
    explicit_element, implicit_element = struct.Struct(order + "HH2sH"), struct.Struct(order + "HHL")
    long_length = struct.Struct(order + "L")
    start = 0  # of the window in the file
    depth = 0  # how many sequences and items of undefined length are open
    while position < size:
        at = position - start
        if at + 12 > len(window) and start + len(window) < size:
            file.seek(position)
            window, start, at = file.read(WINDOW), position, 0
        group, element, length = implicit_element.unpack_from(window, at)
        value, vr = at + 8, b""
        if not implicit and group != 0xFFFE:
            _, _, vr, length = explicit_element.unpack_from(window, at)
            if vr in LONG_VRS:
                (length,) = long_length.unpack_from(window, value)
                value += 4
            elif vr not in SHORT_VRS:
                raise _Unusual
        tag = group << 16 | element
        if tag in PIXELS:
            if depth:
                raise _Unusual
            return PIXELS[tag], start + value, None if length == UNDEFINED else length
        if group == 0xFFFE and element != 0xE000:  # the end of an item or of a sequence
            depth -= 1
            if depth < 0:
                raise _Unusual
        elif length == UNDEFINED:
            if vr == b"UN" or (group == 0xFFFE and depth == 0):
                raise _Unusual
            if depth == 0 and tag in WANTED:
                values[WANTED[tag]] = b""
            depth += 1
            length = 0
        elif depth == 0 and tag in WANTED:
            if value + length > len(window):
                if length > WINDOW - 12:
                    if tag in FIELDS:
                        raise _Unusual
                else:
                    file.seek(start + at)
                    window, start, value = file.read(WINDOW), start + at, value - at
            values[WANTED[tag]] = window[value : value + length] if tag in FIELDS else b""
        position = start + value + length
    if position > size or depth:
        raise _Unusual
    return "", 0, None


def _read_unusual(path: Path, file: BinaryIO) -> Header:
    """The header as pydicom finds it."""
    dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(WANTED))
    implicit, little_endian = dataset.original_encoding
    values = {keyword: raw_bytes(dataset.get_item(tag)) for tag, keyword in FIELDS.items() if tag in dataset}
    values |= {keyword: b"" for tag, keyword in SEQUENCES.items() if tag in dataset}
    syntax = str(dataset.file_meta.get("TransferSyntaxUID") or "")
    position = file.tell()  # at the pixels or at the end
    # A file may be written without VRs where it says that it has some.
    implicit = implicit or file.read(12)[4:6] not in LONG_VRS
    size = file.seek(0, 2)
    try:
        place = _scan(file, b"", size, position, bool(implicit), not little_endian, {})
    except (_Unusual, struct.error):
        place = "", 0, None
    return Header(path, syntax, values, not little_endian, size, *place)


def raw_bytes(element: Any) -> bytes:
    """A text element's bytes, whether pydicom has looked at it before or not."""
    if isinstance(element, RawDataElement):
        return element.value or b""
    values = element.value if isinstance(element.value, MultiValue) else [element.value or ""]
    return "\\".join(str(value) for value in values).encode()
