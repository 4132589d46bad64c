"""Headers that are laid out in ways that a scanner could stumble over; tests/data/test_pacs_files.py has real ones."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from fastliver.data import header
from fastliver.data.header import WINDOW, NotDicomError, read_header
from fastliver.errors import InputError

PIXELS = np.arange(12, dtype=np.uint16).reshape(3, 4)


@pytest.fixture
def write(tmp_path, write_slice):
    """A file in a transfer syntax whose data set was changed by a function."""

    def make(change: Any, syntax: str = ExplicitVRLittleEndian) -> Path:
        path = write_slice(tmp_path / "a.dcm", PIXELS, (1, 2, 3))
        dataset = pydicom.dcmread(path)
        change(dataset)
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = PIXELS.astype(">u2").tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(path, dataset, implicit_vr=syntax == ImplicitVRLittleEndian,
                         little_endian=syntax != ExplicitVRBigEndian)  # fmt: skip
        return path

    return make


@pytest.fixture
def alone(monkeypatch):
    """The scanner must do without pydicom."""
    monkeypatch.setattr(header, "_read_unusual", lambda path, file: pytest.fail("it was left to pydicom"))


def check(path: Path) -> None:
    found = read_header(path)
    assert found.numbers("ImagePositionPatient", 3) == (1, 2, 3)
    assert (found.integer("Rows"), found.integer("Columns")) == (3, 4)
    assert found.text("Modality") == "CT"
    assert (found.pixels, found.length) == ("PixelData", 24)
    pixels = np.frombuffer(path.read_bytes()[found.offset :][:24], ">u2" if found.big_endian else "<u2")
    assert pixels.tolist() == PIXELS.ravel().tolist()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_elements_lie_anywhere_about_the_end_of_what_was_read(write, alone, syntax):
    """A private element pushes the others, byte by byte in pairs, over the end of the first window."""
    order = "big" if syntax == ExplicitVRBigEndian else "little"
    path = write(lambda dataset: dataset.add_new(0x00091010, "OB", b""), syntax)
    content = path.read_bytes()
    tag = (0x0009).to_bytes(2, order) + (0x1010).to_bytes(2, order)
    at = content.index(tag) + (4 if syntax == ImplicitVRLittleEndian else 8)
    for length in range(WINDOW - len(content), WINDOW, 2):
        path.write_bytes(content[:at] + length.to_bytes(4, order) + bytes(length) + content[at + 4 :])
        check(path)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_sequences_are_passed_over_with_all_that_is_in_them(write, alone, syntax):
    def change(dataset: Dataset) -> None:
        icon = Dataset()
        icon.Rows, icon.Columns, icon.Modality, icon.ImagePositionPatient = 64, 65, "MR", [7, 8, 9]
        inner = Dataset()
        inner.ReferencedImageSequence = [icon, Dataset(), icon]
        inner["ReferencedImageSequence"].is_undefined_length = True
        icon.is_undefined_length_sequence_item = True
        for keyword, undefined in (("ReferencedStudySequence", True), ("SourceImageSequence", False)):
            setattr(dataset, keyword, [inner, Dataset()])
            dataset[keyword].is_undefined_length = undefined
        dataset.ModalityLUTSequence = [icon]

    path = write(change, syntax)
    check(path)
    assert "ModalityLUTSequence" in read_header(path)


def test_an_icon_in_a_sequence_of_unknown_length_has_not_the_pixels(write):
    def change(dataset: Dataset) -> None:
        icon = Dataset()
        icon.Rows, icon.PixelData = 2, bytes(8)
        icon["PixelData"].VR = "OW"
        dataset.IconImageSequence = [icon]
        dataset["IconImageSequence"].is_undefined_length = True

    check(write(change))


def test_an_explicit_file_may_be_written_without_vrs(write):
    """Declared as explicit, written as implicit; pydicom warns and reads it, and so is it read here."""
    path = write(lambda dataset: None, ImplicitVRLittleEndian)
    content = path.read_bytes()
    old, new = (
        b"UI" + len(uid).to_bytes(2, "little") + uid for uid in (b"1.2.840.10008.1.2\0", b"1.2.840.10008.1.2.1\0")
    )
    group = content.index(b"\x02\0\0\0UL\x04\0") + 8
    longer = (int.from_bytes(content[group : group + 4], "little") + 2).to_bytes(4, "little")
    path.write_bytes(content[:group] + longer + content[group + 4 :].replace(old, new))
    with pytest.warns(UserWarning, match="found implicit VR"):
        check(path)


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller^Jürgen"),
        ("ISO_IR 192", "王^小東"),
        ("GB18030", "王^小东"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("no such set", "Smith"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_names_are_read_in_their_character_set(write, charset, name):
    def change(dataset: Dataset) -> None:
        dataset.SpecificCharacterSet = charset
        dataset.PatientName = name

    assert read_header(write(change)).text("PatientName") == name


def test_a_deflated_file_is_unpacked_no_further_than_a_header_needs(write):
    """A file of 60 kB that unpacks to 64 MB before its pixels."""
    path = write(lambda dataset: dataset.add_new(0x00091010, "OB", bytes(1 << 26)), DeflatedExplicitVRLittleEndian)
    assert path.stat().st_size < 1 << 17
    tracemalloc.start()
    with pytest.raises(InputError, match=r"a\.dcm: can't be read as DICOM \(its deflated elements are damaged\)"):
        read_header(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 26
    tracemalloc.stop()


def test_a_deflated_file_that_is_damaged_is_named(write):
    path = write(lambda dataset: None, DeflatedExplicitVRLittleEndian)
    check_pixels = read_header(path)
    assert check_pixels.integer("Rows") == 3
    content = bytearray(path.read_bytes())
    content[-60:] = b"\xff" * 60
    path.write_bytes(content)
    with pytest.raises(InputError, match="can't be read as DICOM"):
        read_header(path)


def test_what_a_file_holds_is_shown_on_one_short_line(write):
    def change(dataset: Dataset) -> None:
        dataset.add_new("Modality", "LO", "line\nbreak\0\x01" + "x" * 5000)

    with pytest.warns(UserWarning):
        path = write(change)
    shown = read_header(path).shown("Modality")
    assert shown.startswith("line?break??xxx")
    assert len(shown) < 100


@pytest.mark.parametrize("content", [b"", b"DICM", bytes(128) + b"DIC", bytes(200), b"\x89PNG" + bytes(300)])
def test_other_files_are_told_apart(tmp_path, content):
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.raises(NotDicomError, match=r"a: not a DICOM file; remove it$"):
        read_header(path)


def test_a_file_that_is_gone_or_a_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"a: can't be read as DICOM \(No such file or directory\)"):
        read_header(tmp_path / "a")
    with pytest.raises(InputError, match=r"can't be read as DICOM \(Is a directory\)"):
        read_header(tmp_path)
