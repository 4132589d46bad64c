"""The phantom seen from outside: what a reader of CHAOS finds on disk, and that it is an abdomen."""

import json
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage
from scipy.ndimage import label

from fastliver.data.phantom import Abdomen, PhantomSpec, Tissue, write_phantom

SPEC = PhantomSpec(ct_patients=2, mr_patients=2, ct_slices=12, mr_slices=10, ct_size=128, mr_size=128, seed=3)
TINY = PhantomSpec(ct_patients=1, mr_patients=1, ct_slices=4, mr_slices=4, ct_size=32, mr_size=32)
MR_VALUES = {0, 63, 126, 189, 252}


@pytest.fixture(scope="module")
def train(tmp_path_factory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("phantom"), SPEC)  # an empty folder is as good as none


def folders(train: Path) -> list[Path]:
    return sorted(train.glob("CT/*")) + sorted(train.glob("MR/*/T2SPIR"))


def slices(folder: Path) -> list[tuple[pydicom.Dataset, np.ndarray]]:
    """Headers and masks, paired by rank of the sorted names, from the feet up."""
    images, masks = sorted((folder / "DICOM_anon").iterdir()), sorted((folder / "Ground").iterdir())
    pairs = [(pydicom.dcmread(i), np.asarray(Image.open(m))) for i, m in zip(images, masks, strict=True)]
    return sorted(pairs, key=lambda pair: pair[0].ImagePositionPatient[2])


def liver(mask: np.ndarray) -> np.ndarray:
    return mask if mask.dtype == bool else mask == 63


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_layout_and_counts(train):
    assert sorted(p.name for p in (train / "CT").iterdir()) == ["1", "2"]
    assert sorted(p.name for p in (train / "MR").iterdir()) == ["1", "2"]
    for folder in folders(train):
        expected = SPEC.ct_slices if "CT" in folder.parts else SPEC.mr_slices
        assert len(list((folder / "DICOM_anon").glob("*.dcm"))) == expected
        assert len(list((folder / "Ground").glob("*.png"))) == expected


def test_file_names(train):
    first, second = (sorted(p.name for p in (train / "CT" / n / "DICOM_anon").iterdir()) for n in "12")
    assert first[:2] == ["i0000,0000b.dcm", "i0001,0000b.dcm"]
    assert second[0].startswith("IMG-") and second[0].endswith("-00001.dcm")
    assert sorted(p.name for p in (train / "CT/1/Ground").iterdir())[-1] == "liver_GT_011.png"
    for folder in train.glob("MR/*/T2SPIR"):
        stems = [sorted(p.stem for p in (folder / part).iterdir()) for part in ("DICOM_anon", "Ground")]
        assert stems[0] == stems[1]


def test_headers(train):
    uids = set()
    for folder in folders(train):
        ct = "CT" in folder.parts
        for header, mask in slices(folder):
            assert header.Modality == ("CT" if ct else "MR")
            assert header.SOPClassUID == (CTImageStorage if ct else MRImageStorage)
            assert header.file_meta.TransferSyntaxUID == (ImplicitVRLittleEndian if ct else ExplicitVRLittleEndian)
            assert header.file_meta.MediaStorageSOPInstanceUID == header.SOPInstanceUID
            assert header.SOPInstanceUID.is_valid
            assert header.pixel_array.shape == mask.shape == (128, 128)
            assert (header.BitsStored, header.PixelRepresentation) == (16, 0)
            assert header.StudyDate == "" and header.PatientID == ""
            assert str(header.PatientName).startswith(f"CHAOS^{header.Modality}_SET_")
            assert ("RescaleSlope" in header) == ct
            uids.add(header.SOPInstanceUID)
        if ct:
            assert header.ProtocolName == "T2SPIR" and header.WindowCenter == [50, 50]
    assert len(uids) == 2 * SPEC.ct_slices + 2 * SPEC.mr_slices


def test_spacing_comes_from_positions(train):
    for folder in folders(train):
        headers = [header for header, _ in slices(folder)]
        steps = np.diff([header.ImagePositionPatient[2] for header in headers])
        assert np.allclose(steps, steps[0], atol=2e-3)
        assert abs(headers[0].SliceThickness - steps[0]) > 0.1 * steps[0]
        assert len({tuple(header.ImagePositionPatient[:2]) for header in headers}) == 1


def test_files_of_one_patient_run_downwards_and_of_another_upwards(tmp_path):
    train = write_phantom(tmp_path / "p", PhantomSpec(3, 0, 4, 4, 32, 32))
    first, third = (
        [pydicom.dcmread(p).ImagePositionPatient[2] for p in sorted((train / "CT" / n / "DICOM_anon").iterdir())]
        for n in ("1", "5")
    )
    assert first == sorted(first, reverse=True) and third == sorted(third)


def test_ct_is_in_hounsfield_units(train):
    for folder in train.glob("CT/*"):
        pairs = slices(folder)
        hu = np.stack([h.pixel_array * float(h.RescaleSlope) + float(h.RescaleIntercept) for h, _ in pairs])
        mask = np.stack([m for _, m in pairs])
        assert mask.dtype == bool
        assert 95 < np.median(hu[mask]) < 130
        assert hu[:, :6, :6].mean() < -950
        assert (hu > 300).any() and ((hu > -140) & (hu < -60)).mean() > 0.05


def test_mr_is_dark_in_liver_and_bright_in_spleen_and_kidneys(train):
    for folder in train.glob("MR/*/T2SPIR"):
        pairs = slices(folder)
        signal, mask = np.stack([h.pixel_array for h, _ in pairs]).astype(float), np.stack([m for _, m in pairs])
        assert set(np.unique(mask)) == MR_VALUES
        median = {value: np.median(signal[mask == value]) for value in MR_VALUES}
        assert 150 < median[63] < 450
        assert all(median[value] > 1.4 * median[63] for value in (126, 189, 252))
        assert signal[:, :6, :6].mean() > 3  # Rician noise has a positive mean where there is nothing


def test_kidneys_and_spleen_lie_on_their_sides(train):
    for folder in train.glob("MR/*/T2SPIR"):
        mask = np.stack([m for _, m in slices(folder)])
        column = {value: np.argwhere(mask == value)[:, 2].mean() for value in MR_VALUES}
        assert column[63] < 64 and column[126] < 64 < column[189] and column[252] > 64


def test_liver_is_one_continuous_organ_on_the_patients_right(train):
    for folder in folders(train):
        mask = np.stack([liver(m) for _, m in slices(folder)])
        area = mask.sum(axis=(1, 2))
        assert area[0] == area[-1] == 0
        assert (area > 0).sum() >= 0.5 * len(area)
        parts, _ = label(mask)
        assert np.bincount(parts[parts > 0]).max() > 0.95 * mask.sum()
        assert np.argwhere(mask)[:, 2].mean() < 0.45 * mask.shape[2]


@pytest.mark.parametrize("variation", [1.0, 1.6])
def test_neighbouring_slices_overlap(variation):
    for seed in range(4):
        abdomen = Abdomen.sample(np.random.default_rng(seed), variation)
        stack = [abdomen.tissues(z, 96, 420) for z in np.arange(-10, 30, 4.0)]
        masks = [np.isin(t, (Tissue.LIVER, Tissue.LIVER_VESSEL)) for t in stack]
        for below, above in pairwise(masks):
            assert 2 * (below & above).sum() / (below.sum() + above.sum()) > 0.88


def test_a_section_does_not_depend_on_the_others_and_shows_every_part():
    abdomen = Abdomen.sample(np.random.default_rng(1))
    low, high = abdomen.extent
    stack = np.stack([abdomen.tissues(z, 128, 400) for z in np.linspace(low, high, 25)])
    assert stack.dtype == np.uint8
    assert set(np.unique(stack)) == set(Tissue)
    assert np.array_equal(stack[7], abdomen.tissues(np.linspace(low, high, 25)[7], 128, 400))
    assert (stack[-1] == Tissue.LUNG).mean() > 0.05 and not (stack[0] == Tissue.LUNG).any()
    volume = np.isin(stack, (Tissue.LIVER, Tissue.LIVER_VESSEL)).sum() * (400 / 128) ** 2 * (high - low) / 24 / 1000
    assert 900 < volume < 2800  # ml


def test_patients_differ_and_modalities_are_unpaired(train):
    masks = [np.stack([liver(m) for _, m in slices(f)])[:10] for f in folders(train)]
    assert all(not np.array_equal(a, b) for i, a in enumerate(masks) for b in masks[:i])


def test_same_spec_gives_the_same_bytes(tmp_path):
    a, b = write_phantom(tmp_path / "a", TINY), write_phantom(tmp_path / "b", TINY)
    assert contents(a) == contents(b)
    other = write_phantom(tmp_path / "c", PhantomSpec(1, 1, 4, 4, 32, 32, seed=1))
    assert contents(other) != contents(a)


def test_a_patient_does_not_depend_on_how_many_there_are(tmp_path):
    one = write_phantom(tmp_path / "one", TINY)
    two = write_phantom(tmp_path / "two", PhantomSpec(2, 2, 4, 4, 32, 32))
    for folder in ("CT/1/DICOM_anon", "MR/1/T2SPIR/DICOM_anon"):
        for a, b in zip(sorted((one / folder).iterdir()), sorted((two / folder).iterdir()), strict=True):
            assert np.array_equal(pydicom.dcmread(a).pixel_array, pydicom.dcmread(b).pixel_array)


def test_ids_continue_beyond_those_of_chaos(tmp_path):
    train = write_phantom(tmp_path / "p", PhantomSpec(22, 0, 4, 4, 32, 32))
    assert sorted(int(p.name) for p in (train / "CT").iterdir())[-3:] == [30, 31, 32]


def test_progress_and_reuse(tmp_path):
    seen = []
    root = tmp_path / "p"
    train = write_phantom(root, TINY, lambda done, total: seen.append((done, total)))
    assert train == root / "Train_Sets"
    assert seen == [(i, 8) for i in range(1, 9)]
    assert json.loads((root / "phantom.json").read_text())["spec"]["seed"] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["p"]
    assert write_phantom(root, TINY, lambda done, total: pytest.fail("written twice")) == train


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    write_phantom(tmp_path / "p", TINY)
    with pytest.raises(FileExistsError, match="another spec.*phantom.json.*another folder"):
        write_phantom(tmp_path / "p", PhantomSpec(seed=9))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    (tmp_path / "file").write_text("keep")
    for name in ("mine", "file"):
        with pytest.raises(FileExistsError, match=f"{name} exists and is not a phantom.*another folder"):
            write_phantom(tmp_path / name, TINY)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


KILLED = """
import os, signal, sys
from pathlib import Path
from fastliver.data.phantom import PhantomSpec, write_phantom

spec = PhantomSpec(ct_patients=1, mr_patients=1, ct_slices=4, mr_slices=4, ct_size=32, mr_size=32)
write_phantom(Path(sys.argv[1]), spec, lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done == 5 else None)
"""


def test_a_killed_run_leaves_nothing_that_looks_complete(tmp_path):
    root = tmp_path / "p"
    assert subprocess.run([sys.executable, "-c", KILLED, root], timeout=60).returncode == -signal.SIGKILL
    assert not root.exists() and list(tmp_path.iterdir())  # only leftovers under other names
    write_phantom(root, TINY)
    assert contents(root) == contents(write_phantom(tmp_path / "fresh", TINY).parent)


@pytest.mark.parametrize("wrong", [{"ct_size": 16}, {"mr_slices": 3}, {"ct_patients": -1}, {"seed": -1}])
def test_impossible_specs_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PhantomSpec(**wrong)


def test_a_phantom_that_another_run_writes_meanwhile_is_kept(tmp_path):
    times = []

    def meanwhile(done, total):
        if done == 1:
            root = write_phantom(tmp_path / "phantom", TINY)
            times.extend((path, path.stat().st_mtime_ns) for path in root.rglob("*.dcm"))

    root = write_phantom(tmp_path / "phantom", TINY, meanwhile)
    assert times
    assert [(path, path.stat().st_mtime_ns) for path in root.rglob("*.dcm")] == times
