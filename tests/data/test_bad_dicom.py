"""What is wrong with a file is said by file, field and remedy; with `skip_bad` that slice alone is left out."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from fastliver.data.dicom import grid_of
from fastliver.data.intensity import IntensityRule
from fastliver.data.sources import Source
from fastliver.data.store_builder import build_store
from fastliver.errors import InputError

REMEDY = re.compile(r"\b(remove|add|copy|export|leave|complete|name|repair|put|move|check|take)\b")
BAD = 2  # the slice that is spoiled


def change(path: Path, **fields: object) -> None:
    header = pydicom.dcmread(path)
    for name, value in fields.items():
        if value is None:
            delattr(header, name)
        else:
            setattr(header, name, value)
    header.save_as(path)


def set_raw(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert content.count(old) == 1
    assert len(old) == len(new)
    path.write_bytes(content.replace(old, new))


def nest(path: Path, depth: int) -> None:
    """Put a sequence in a sequence in a sequence before the rows, with one item that ends nowhere."""
    content = path.read_bytes()
    at = content.index(b"\x28\0\x02\0US")
    begins = b"\x20\0\x11\x91SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\xff"
    path.write_bytes(content[:at] + begins * depth + content[at:])


@dataclass(frozen=True)
class Case:
    """A way to spoil the slice's image or mask, and what the message must hold."""

    spoil: Callable[[Path, Path], object]
    words: str
    about_mask: bool = False


CASES = {
    "cut in the pixels": Case(lambda i, m: i.write_bytes(i.read_bytes()[:-100]), "PixelData|read as DICOM"),
    "cut in the header": Case(lambda i, m: i.write_bytes(i.read_bytes()[:400]), "holds no image|read as DICOM"),
    "cut after the preamble": Case(lambda i, m: i.write_bytes(i.read_bytes()[:140]), "no image|DICOM"),
    "empty": Case(lambda i, m: i.write_bytes(b""), "DICOM"),
    "text": Case(lambda i, m: i.write_text("no image at all"), "not a DICOM file"),
    "no pixels": Case(lambda i, m: change(i, Rows=None, Columns=None, PixelData=None), "holds no image"),
    "no position": Case(lambda i, m: change(i, ImagePositionPatient=None), "ImagePositionPatient"),
    "two coordinates": Case(lambda i, m: set_raw(i, b"0.0\\0.0\\10.0", b"000.0\\0010.0"), "ImagePositionPatient"),
    "letters for a position": Case(
        lambda i, m: set_raw(i, b"0.0\\0.0\\10.0", b"0.0\\abc\\10.0"), "ImagePositionPatient"
    ),
    "letters for a thickness": Case(lambda i, m: set_raw(i, b"3.2 ", b"abc "), "SliceThickness|read as DICOM"),
    "no orientation": Case(lambda i, m: change(i, ImageOrientationPatient=None), "ImageOrientationPatient"),
    "no spacing": Case(lambda i, m: change(i, PixelSpacing=None), "PixelSpacing"),
    "zero spacing": Case(lambda i, m: change(i, PixelSpacing=[0, 1]), "PixelSpacing"),
    "another modality": Case(lambda i, m: change(i, Modality="MR"), "Modality is MR, expected CT"),
    "two frames": Case(
        lambda i, m: change(i, NumberOfFrames=2, PixelData=bytes(2 * 2 * 24 * 32)), "NumberOfFrames is 2"
    ),
    "absurd size": Case(lambda i, m: change(i, Rows=65535, Columns=65535, NumberOfFrames=12), "103.1 GB"),
    "fewer pixels than rows": Case(lambda i, m: change(i, Rows=2400), "PixelData can't be decoded .it has 1536 of"),
    "colour": Case(lambda i, m: change(i, SamplesPerPixel=3, PhotometricInterpretation="RGB"), "a colour image"),
    "deep nesting": Case(lambda i, m: nest(i, 5000), "no image|read as DICOM|PixelData"),
    "no transfer syntax": Case(
        lambda i, m: set_raw(i, b"UI\x14\0001.2.840.10008.1.2.1\0", b"UI\x14\0" + bytes(20)),
        "TransferSyntaxUID is missing",
    ),
    "unknown transfer syntax": Case(
        lambda i, m: set_raw(i, b"UI\x14\0001.2.840.10008.1.2.1\0", b"UI\x14\0001.2.3.4.5.6.7.8.9.10"),
        "PixelData can't be decoded",
    ),
    "mask of another size": Case(lambda i, m: Image.new("1", (32, 25)).save(m), "25x32", about_mask=True),
    "mask cut": Case(lambda i, m: m.write_bytes(m.read_bytes()[:40]), "mask", about_mask=True),
    "mask of text": Case(lambda i, m: m.write_text("no mask"), "mask", about_mask=True),
}


@pytest.fixture(params=CASES)
def spoiled(request, ct_tree) -> tuple[Path, Path, Case]:
    case = CASES[request.param]
    image, mask = (sorted((ct_tree / "CT/7" / name).iterdir())[BAD] for name in ("DICOM_anon", "Ground"))
    case.spoil(image, mask)
    return ct_tree, mask if case.about_mask else image, case


def test_the_message_names_file_and_field(spoiled):
    tree, path, case = spoiled
    (study,) = Source(tree, "CT").studies()
    with pytest.raises(InputError) as error:
        study.read()
    assert str(path) in str(error.value)
    assert re.search(case.words, str(error.value))
    assert "\n" not in str(error.value)
    assert "np.float64(" not in str(error.value), "numbers are written for a reader"


def test_the_message_says_what_to_do(spoiled):
    (study,) = Source(spoiled[0], "CT").studies()
    with pytest.raises(InputError) as error:
        study.read()
    assert REMEDY.search(str(error.value).replace(str(spoiled[0]), ""))


def test_skip_bad_leaves_out_that_slice_and_its_mask_alone(spoiled):
    tree, path, _ = spoiled
    volume = Source(tree, "CT", skip_bad=True).studies()[0].read()
    kept = [number for number in range(6) if number != BAD]
    assert volume.image[:, 0, 0].tolist() == kept
    assert volume.label.sum((1, 2)).tolist() == [24 * (number + 1) for number in kept]
    assert [path.name for path in volume.sources] == [f"i{number:04d},0000b.dcm" for number in kept]
    assert [str(path) in line for line in volume.skipped] == [True]


def test_the_slices_after_a_skipped_one_keep_their_height(ct_tree, tmp_path):
    sorted((ct_tree / "CT/7/DICOM_anon").iterdir())[BAD].write_text("no image at all")
    studies = Source(ct_tree, "CT", skip_bad=True).studies()
    assert "from 5.00 to 10.00 mm" in studies[0].read().notes[0]
    store = build_store(studies, IntensityRule("CT", -160, 240), 32, tmp_path / "stores", skip_bad=True)
    heights = [pydicom.dcmread(entry.source).ImagePositionPatient[2] for entry in store.entries]
    assert heights == [0, 5, 15, 20, 25]
    assert [entry.z for entry in store.entries] == pytest.approx(heights, abs=0.01)


def test_a_stray_report_without_a_mask_shifts_no_mask(ct_tree, write_slice):
    """It has no pixels and no mask, and its name sorts first."""
    empty = dict.fromkeys(["Rows", "Columns", "PixelData"])
    stray = ct_tree / "CT/7/DICOM_anon/a_report.dcm"
    write_slice(stray, np.zeros((2, 2), np.uint16), Modality="SR", **empty)
    with pytest.raises(InputError, match=r"a_report\.dcm: holds no image .*remove it or add --skip-bad"):
        Source(ct_tree, "CT").studies()[0].read()
    volume = Source(ct_tree, "CT", skip_bad=True).studies()[0].read()
    assert volume.image[:, 0, 0].tolist() == list(range(6))
    assert volume.label.sum((1, 2)).tolist() == [24 * (number + 1) for number in range(6)]
    assert len(volume.skipped) == 1


@pytest.mark.parametrize("part", ["DICOM_anon", "Ground"])
def test_unequal_numbers_of_ct_images_and_masks_are_refused(ct_tree, part):
    sorted((ct_tree / "CT/7" / part).iterdir())[BAD].unlink()
    masks, images = (5, 6) if part == "Ground" else (6, 5)
    with pytest.raises(InputError, match=rf"CT/7/Ground: {masks} masks for {images} images.*complete the folder"):
        Source(ct_tree, "CT").studies()


def test_a_missing_mr_mask_is_named_and_skipped_with_its_image(mr_tree):
    mask = mr_tree / "MR/4/T2SPIR/Ground/IMG-0004-00002.png"
    mask.unlink()
    with pytest.raises(InputError) as error:
        Source(mr_tree, "MR").studies()[0].read()
    image = mr_tree / "MR/4/T2SPIR/DICOM_anon/IMG-0004-00002.dcm"
    assert f"{mask}: missing, the mask of {image}; add it" in str(error.value)
    volume = Source(mr_tree, "MR", skip_bad=True).studies()[0].read()
    assert volume.image[:, 0, 0].tolist() == [0, 200, 300]
    assert volume.label.sum((1, 2)).tolist() == [24, 72, 96]
    assert len(volume.skipped) == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"PixelSpacing": [1.0, 1.2]}, r"PixelSpacing is \(1\.0, 1\.2\), but \(1\.0, 1\.0\) in i0000"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0.98, 0.199]}, "ImageOrientationPatient"),
        ({"ImagePositionPatient": [0, 0, 15]}, r"ImagePositionPatient is that of i000[23]"),
        ({"Rows": 12, "PixelData": bytes(2 * 12 * 32)}, "Rows and Columns|12x32"),
    ],
    ids=["spacing", "orientation", "position", "size"],
)
def test_slices_that_do_not_belong_together_are_refused(ct_tree, fields, words):
    image, mask = (sorted((ct_tree / "CT/7" / name).iterdir())[BAD] for name in ("DICOM_anon", "Ground"))
    change(image, **fields)
    if "Rows" in fields:
        Image.new("1", (32, 12)).save(mask)
    with pytest.raises(InputError) as error:
        Source(ct_tree, "CT").studies()[0].read()
    assert re.search(words, str(error.value))
    assert str(ct_tree / "CT/7/DICOM_anon") in str(error.value)
    assert REMEDY.search(str(error.value).replace(str(ct_tree), "")), "the message says what to do"


def test_nothing_readable_is_an_error_even_with_skip_bad(ct_tree):
    for image in (ct_tree / "CT/7/DICOM_anon").iterdir():
        image.write_text("no image at all")
    with pytest.raises(InputError, match=r"DICOM_anon: none of its 6 files could be read; the first: .*i0000"):
        Source(ct_tree, "CT", skip_bad=True).studies()[0].read()


def test_a_header_alone_advises_nothing_that_only_some_callers_offer(ct_tree):
    """`grid_of` serves commands without --skip-bad too."""
    images = sorted((ct_tree / "CT/7/DICOM_anon").iterdir())
    change(images[BAD], ImagePositionPatient=None)
    for content in (images[BAD].read_bytes(), b"no image at all", images[0].read_bytes()[:200]):
        images[BAD].write_bytes(content)
        with pytest.raises(InputError) as error:
            grid_of(images)
        assert str(images[BAD]) in str(error.value)
        assert "--skip-bad" not in str(error.value)
        assert REMEDY.search(str(error.value).replace(str(ct_tree), ""))


@pytest.mark.parametrize("depth", [100, 5000])
def test_deep_nesting_that_ends_is_read(tmp_path, write_slice, depth):
    path = write_slice(tmp_path / "a.dcm", np.full((4, 4), 7, np.uint16))
    content = path.read_bytes()
    at = content.index(b"\x28\0\x02\0US")
    begins = b"\x20\0\x11\x91SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\xff"
    ends = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    path.write_bytes(content[:at] + begins * depth + ends * depth + content[at:])
    assert (Source(tmp_path, "CT").studies()[0].read().image == 7).all()


def test_a_file_that_never_was_an_image_takes_no_mask(ct_tree):
    """Thumbs.db in the place of a slice that was lost: the numbers agree, and every mask would be another slice's."""
    images = sorted((ct_tree / "CT/7/DICOM_anon").iterdir())
    images[4].unlink()
    (images[0].parent / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(600))
    for skip_bad in (False, True):
        with pytest.raises(InputError, match=r"6 masks for 5 images .* shifts all that follow"):
            Source(ct_tree, "CT", skip_bad=skip_bad).studies()
    next((ct_tree / "CT/7/Ground").glob("*004.png")).unlink()
    volume = Source(ct_tree, "CT", skip_bad=True).studies()[0].read()
    assert volume.image[:, 0, 0].tolist() == [0, 1, 2, 3, 5]
    assert volume.label.sum((1, 2)).tolist() == [24, 48, 72, 96, 144]


def test_a_patient_with_masks_alone_is_named(ct_tree, tmp_path):
    shutil.copytree(ct_tree / "CT/7", ct_tree / "CT/8")
    for image in (ct_tree / "CT/8/DICOM_anon").iterdir():
        image.unlink()
    studies = Source(ct_tree, "CT", skip_bad=True).studies()
    assert [(study.patient, study.labelled) for study in studies] == [("CT_7", True), ("CT_8", True)]
    words = "8/DICOM_anon: no images, but masks in .*8/Ground; complete the folder or remove the patient"
    with pytest.raises(InputError, match=words):
        studies[1].read()
    rule = IntensityRule("CT", -160, 240)
    with pytest.raises(InputError, match=words):
        build_store(studies, rule, 32, tmp_path / "stores")
    store = build_store(studies, rule, 32, tmp_path / "stores", skip_bad=True)
    assert (store.patients, len(store.meta["skipped"])) == (["CT_7"], 1)
