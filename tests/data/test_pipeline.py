"""Each road against squares that pydicom's pixels and a dense triangle matrix give, in double precision.

Where there is a GPU, the road over DALI takes it; nothing else changes.
"""

import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from fastliver.data import pipeline as pipeline_module
from fastliver.data.chaos import CT_LIVER
from fastliver.data.dali import DaliGraphs, Encoding, Sample
from fastliver.data.dicom import find_studies
from fastliver.data.intensity import IntensityRule, StoredWindow
from fastliver.data.pipeline import Pipeline, PreparedStudy
from fastliver.data.pixels import codestreams, read_image_file
from fastliver.data.resize import Fit, triangle_matrix
from fastliver.data.series import plan_series, read_series
from fastliver.data.study import Study
from fastliver.errors import InputError

CT, MR = IntensityRule("CT", -160, 240), IntensityRule("MR", 0.5, 99.5)
ROWS, COLUMNS, DEPTH, SIZE = 40, 52, 5, 24
HALF = 2.0**-11  # half a step of half precision just below 1


def has_dali() -> bool:
    return importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None


needs_dali = pytest.mark.skipif(not has_dali(), reason="DALI isn't installed")
ROADS = ["threads", pytest.param("dali", marks=needs_dali)]


def noise(dtype: str, low: int, high: int) -> list[np.ndarray]:
    return [np.random.default_rng(k).integers(low, high, (ROWS, COLUMNS)).astype(dtype) for k in range(DEPTH)]


def rewritten(syntax: Any, little: bool = True) -> Callable[[Path], None]:
    """Write a file anew in another transfer syntax."""

    def rewrite(path: Path) -> None:
        header = pydicom.dcmread(path)
        header.file_meta.TransferSyntaxUID = syntax
        if not little:
            header.PixelData = header.pixel_array.astype(header.pixel_array.dtype.newbyteorder(">")).tobytes()
            header["PixelData"].VR = "OW"
        pydicom.dcmwrite(path, header, little_endian=little, implicit_vr=syntax.is_implicit_VR, force_encoding=True)

    return rewrite


def compressed(syntax: Any) -> Callable[[Path], None]:
    def compress(path: Path) -> None:
        header = pydicom.dcmread(path)
        header.compress(syntax, generate_instance_uid=False)
        header.save_as(path)

    return compress


def nothing(path: Path) -> None:
    pass


TWELVE = {"BitsStored": 12, "HighBit": 11}
SERIES: dict[str, tuple[list[np.ndarray], dict[str, Any], Callable[[Path], None]]] = {
    "int16": (noise("int16", -1024, 2000), {}, nothing),
    "uint16": (noise("uint16", 0, 65536), {"RescaleIntercept": -1024}, nothing),
    "implicit": (noise("int16", -1024, 2000), {}, rewritten(ImplicitVRLittleEndian)),
    "big endian": (noise("int16", -1024, 2000), {}, rewritten(ExplicitVRBigEndian, little=False)),
    "twelve bits": (noise("uint16", 0, 4096), {**TWELVE, "RescaleIntercept": -1024}, nothing),
    "twelve bits, signed": (noise("int16", -2048, 2048), TWELVE, nothing),
    "eight bits": (noise("uint8", 0, 256), {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, nothing),
    "32 bits": (noise("int32", -9000, 9000), {"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31,
        "PixelRepresentation": 1}, nothing),
    "inverted": (noise("uint16", 0, 4096), {**TWELVE, "PhotometricInterpretation": "MONOCHROME1",
        "RescaleIntercept": -3000}, nothing),
    "broken slope": (noise("uint16", 0, 4096), {"RescaleSlope": "0.37", "RescaleIntercept": "-411.7"}, nothing),
    "falling slope": (noise("int16", -1024, 2000), {"RescaleSlope": -1}, nothing),
    "no slope": (noise("int16", -1024, 2000), {"RescaleSlope": 0, "RescaleIntercept": 140}, nothing),
    "constant": ([np.full((ROWS, COLUMNS), 40, np.int16)] * DEPTH, {}, nothing),
    "oblong pixels": (noise("int16", -1024, 2000), {"PixelSpacing": [2.5, 0.7]}, nothing),
    "upside down": (noise("int16", -1024, 2000), {"ImageOrientationPatient": [-1, 0, 0, 0, -1, 0]}, nothing),
    "on its side": (noise("int16", -1024, 2000), {"ImageOrientationPatient": [0, -1, 0, 1, 0, 0],
        "PixelSpacing": [0.9, 1.0]}, nothing),
    "deflated": (noise("int16", -1024, 2000), {}, rewritten(DeflatedExplicitVRLittleEndian)),
    "RLE": (noise("int16", -1024, 2000), {}, compressed(RLELossless)),
    "JPEG 2000": (noise("uint16", 0, 4096), {**TWELVE, "RescaleIntercept": -1024}, compressed(JPEG2000Lossless)),
    "JPEG 2000, signed": (noise("int16", -1024, 2000), {}, compressed(JPEG2000Lossless)),
}  # fmt: skip


@pytest.fixture
def make_study(tmp_path, write_slice) -> Callable[..., Study]:
    """A study of slices that lie 3 mm apart, the first at the feet; slice k's mask has k + 1 columns of liver."""

    def make(
        pixels: list[np.ndarray],
        rewrite: Callable[[Path], None] = nothing,
        name: str = "a",
        skip_bad: bool = False,
        masks: bool = True,
        **fields: Any,
    ) -> Study:
        paths, ground = [], {}
        for number, slice_ in enumerate(pixels):
            own = {key: value[number] if isinstance(value, tuple) else value for key, value in fields.items()}
            path = write_slice(tmp_path / name / f"{number}.dcm", slice_, (0, 0, 3 * number), **own)
            rewrite(path)
            mask = np.zeros(slice_.shape[:2], np.uint8)
            mask[3:, : number + 1] = 255
            ground[path] = path.with_suffix(".png")
            Image.fromarray(mask).save(ground[path])
            paths.append(path)
        modality = fields.get("Modality", "CT")
        arguments = (paths, modality, ground if masks else None, CT_LIVER, skip_bad)

        def read():
            raise AssertionError("the volume was read")

        files = (*paths, *ground.values())
        return Study(modality, name, name, files, masks, read, plan=lambda: plan_series(*arguments))

    return make


def expected(study: Study, rule: IntensityRule) -> tuple[np.ndarray, np.ndarray]:
    """The squares in double precision."""
    plan = study.plan()
    grey, labels = [], []
    for item in plan.slices:
        header = pydicom.dcmread(item.image.path)
        values = header.pixel_array.astype(float)
        if header.PhotometricInterpretation == "MONOCHROME1":
            values = 2**header.BitsStored - 1 - values
        grey.append(plan.turn(values * float(header.get("RescaleSlope", 1)) + float(header.get("RescaleIntercept", 0))))
        if item.mask is not None:
            labels.append(plan.turn(np.asarray(Image.open(item.mask)) > 0))
    volume = np.stack(grey)
    fit = Fit.of(volume.shape[1:], plan.spacing[1:], SIZE)
    placed = np.zeros((len(volume), SIZE, SIZE), np.uint8)
    if labels:
        down, across = (triangle_matrix(*sides).astype(float) for sides in zip(fit.shape, fit.scaled, strict=True))
        inside_of(placed, fit)[:] = down @ np.stack(labels).astype(float) @ across.T > 0.5 + 1e-9
    return squares(volume, rule, fit), placed


def inside_of(square: np.ndarray, fit: Fit) -> np.ndarray:
    (top, left), (rows, columns) = fit.offset, fit.scaled
    return square[:, top : top + rows, left : left + columns]


def squares(volume: np.ndarray, rule: IntensityRule, fit: Fit) -> np.ndarray:
    low, high = (rule.low, rule.high) if rule.modality == "CT" else np.percentile(volume, [rule.low, rule.high])
    windowed = np.clip((volume - low) / (high - low), 0, 1) * 2 - 1 if high > low else np.full(volume.shape, -1.0)
    down, across = (triangle_matrix(*sides).astype(float) for sides in zip(fit.shape, fit.scaled, strict=True))
    images = np.full((len(volume), SIZE, SIZE), -1.0)
    inside_of(images, fit)[:] = down @ windowed @ across.T
    return images


def prepared(pipeline: Pipeline, *studies: Study) -> list[PreparedStudy]:
    found = list(pipeline.prepare(studies))
    for outcome in found:
        if isinstance(outcome, InputError):
            raise outcome
    return found


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("rule", [CT, MR], ids=["CT", "MR"])
@pytest.mark.parametrize("kind", SERIES)
def test_squares_are_those_of_pydicoms_pixels(make_study, kind, rule, road):
    pixels, fields, rewrite = SERIES[kind]
    study = make_study(pixels, rewrite, Modality=rule.modality, **fields)
    images, labels = expected(study, rule)
    (found,) = prepared(Pipeline(rule, SIZE, road, threads=2), study)
    assert (found.images.dtype, found.labels.dtype) == (np.float16, np.uint8)
    np.testing.assert_allclose(found.images.astype(float), images, atol=1e-3 + HALF)
    np.testing.assert_array_equal(found.labels, labels)
    assert labels.any()
    # Half precision is the only thing that costs more than a few 1e-5.
    np.testing.assert_allclose(found.images.astype(float), images, atol=HALF + 5e-5)


@pytest.mark.parametrize("road", ROADS)
def test_every_slice_has_a_slope_and_an_intercept_of_its_own(make_study, road):
    slopes, intercepts = (1, 0.5, -2, 1, 3), (0, 100, 7, -50, 0.25)
    for rule in (CT, MR):
        study = make_study(noise("int16", -300, 300), name=rule.modality, Modality=rule.modality, RescaleSlope=slopes,
                           RescaleIntercept=intercepts)  # fmt: skip
        (found,) = prepared(Pipeline(rule, SIZE, road), study)
        np.testing.assert_allclose(found.images.astype(float), expected(study, rule)[0], atol=HALF + 5e-5)


def group(keyword: str, **values: Any) -> Dataset:
    """An item of functional groups that holds one macro."""
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    holder = Dataset()
    setattr(holder, keyword, Sequence([item]))
    return holder


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("rewrite", [nothing, compressed(JPEG2000Lossless)], ids=["raw", "JPEG 2000"])
@pytest.mark.parametrize("rule", [CT, MR], ids=["CT", "MR"])
def test_frames_of_one_file_are_slices(tmp_path, write_slice, rule, rewrite, road):
    """They lie from the head down in the file, each with a slope and an intercept of its own."""
    pixels = np.stack(noise("int16", -300, 300))
    own, slopes, intercepts = [], (1, 0.5, -2, 1, 3), (0, 100, 7, -50, 0.25)
    for number, (slope, intercept) in enumerate(zip(slopes, intercepts, strict=True)):
        own.append(group("PlanePositionSequence", ImagePositionPatient=[0, 0, -4 * number]))
        own[-1].update(group("PixelValueTransformationSequence", RescaleSlope=slope, RescaleIntercept=intercept))
    shared = group("PixelMeasuresSequence", PixelSpacing=[1, 1], SliceThickness=4)
    shared.update(group("PlaneOrientationSequence", ImageOrientationPatient=[1, 0, 0, 0, 1, 0]))
    path = write_slice(
        tmp_path / "enhanced.dcm", pixels[0], Modality=rule.modality, NumberOfFrames=DEPTH, PixelData=pixels.tobytes(),
        SharedFunctionalGroupsSequence=Sequence([shared]), PerFrameFunctionalGroupsSequence=Sequence(own),
    )  # fmt: skip
    rewrite(path)
    arguments = ([path], rule.modality, None, CT_LIVER, False)
    study = Study(rule.modality, "a", "a", (path,), False, lambda: None, plan=lambda: plan_series(*arguments))
    (found,) = prepared(Pipeline(rule, SIZE, road), study)
    grey = pixels * np.reshape(slopes, (-1, 1, 1)) + np.reshape(intercepts, (-1, 1, 1))
    images = squares(grey[::-1], rule, Fit.of((ROWS, COLUMNS), (1, 1), SIZE))
    np.testing.assert_allclose(found.images.astype(float), images, atol=HALF + 5e-5)
    assert found.heights.tolist() == [-16, -12, -8, -4, 0]


@pytest.mark.parametrize("road", ROADS)
def test_an_unlabelled_series_has_empty_labels(make_study, road):
    (found,) = prepared(Pipeline(CT, SIZE, road), make_study(noise("int16", -300, 300), masks=False))
    assert found.labels.shape == (DEPTH, SIZE, SIZE)
    assert not found.labels.any()


@pytest.mark.parametrize("road", ROADS)
def test_the_rest_is_what_the_volume_says(make_study, road):
    """Geometry, sources and notes; by the other way in, `Study.read`."""
    study = make_study(noise("int16", -300, 300), PixelSpacing=[0.7, 1.1], ImageOrientationPatient=[0, 1, 0, 1, 0, 0])
    arguments = ([path for path in study.paths if path.suffix == ".dcm"], "CT", None, CT_LIVER, False)
    (other,) = prepared(Pipeline(CT, SIZE), replace(study, plan=None, read=lambda: read_series(*arguments)))
    (found,) = prepared(Pipeline(CT, SIZE, road), study)
    assert found.shape == other.shape == (DEPTH, COLUMNS, ROWS)
    assert (found.fit, found.spacing, found.sources) == (other.fit, other.spacing, other.sources)
    assert (found.skipped, found.notes) == (other.skipped, other.notes)
    np.testing.assert_array_equal(found.affine, other.affine)
    np.testing.assert_array_equal(found.heights, other.heights)
    np.testing.assert_allclose(found.images.astype(float), other.images.astype(float), atol=1e-3)


@pytest.mark.parametrize("road", ROADS)
def test_series_of_all_kinds_follow_each_other_in_order(make_study, road):
    """More slices than a batch of DALI's, and graphs that change and come back."""
    kinds = ["int16", "twelve bits, signed", "int16", "on its side", "big endian", "int16"]
    studies = []
    for number, kind in enumerate(kinds):
        pixels, fields, rewrite = SERIES[kind]
        more = [np.roll(slice_, shift, 0) for shift in range(1 + 7 * (number == 2)) for slice_ in pixels]
        studies.append(make_study(more, rewrite, name=str(number), **fields))
    found = prepared(Pipeline(CT, SIZE, road, threads=3), *studies)
    assert [item.study for item in found] == studies
    for item in found:
        images, labels = expected(item.study, CT)
        np.testing.assert_allclose(item.images.astype(float), images, atol=HALF + 5e-5)
        np.testing.assert_array_equal(item.labels, labels)


@pytest.mark.parametrize("road", ROADS)
def test_the_result_does_not_depend_on_the_threads(make_study, road):
    study = make_study([np.roll(slice_, shift) for shift in range(9) for slice_ in noise("int16", -300, 300)])
    (one,), (three,), (again,) = (prepared(Pipeline(CT, SIZE, road, threads), study) for threads in (1, 3, 3))
    assert one.images.tobytes() == three.images.tobytes() == again.images.tobytes()
    assert one.sources == three.sources


def test_shards_divide_the_studies_between_them(make_study):
    studies = [make_study(noise("int16", -300, 300)[:1], name=str(number)) for number in range(5)]
    pipeline = Pipeline(CT, SIZE, "threads")
    shards = [[item.study.patient for item in pipeline.prepare(studies, (k, 3))] for k in range(3)]
    assert shards == [["0", "3"], ["1", "4"], ["2"]]


def test_the_next_study_is_read_meanwhile_and_no_further_one(make_study):
    begun = []

    def watched(study: Study) -> Study:
        def plan():
            begun.append(study.patient)
            return study.plan()

        return replace(study, plan=plan)

    studies = [watched(make_study(noise("int16", -300, 300)[:2], name=str(number))) for number in range(4)]
    results = Pipeline(CT, SIZE, "threads").prepare(studies)
    next(results)
    assert begun == ["0", "1"]
    next(results)
    assert begun == ["0", "1", "2"]
    results.close()
    assert begun == ["0", "1", "2"]


def damage(path: Path) -> None:
    """The header stays whole, the pixels don't decode."""
    content = bytearray(path.read_bytes())
    start = content.rindex(b"\xff\x4f\xff\x51")
    content[start + 40 :] = bytes(len(content) - start - 40)
    path.write_bytes(content)


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("rule", [CT, MR], ids=["CT", "MR"])
def test_a_slice_that_does_not_decode_is_left_out_or_ends_its_study(make_study, rule, road):
    pixels, fields, rewrite = SERIES["JPEG 2000"]
    fields = {**fields, "Modality": rule.modality}
    good = make_study(pixels[:1], name="good", **fields)
    for skip_bad in (True, False):
        study = make_study(pixels, rewrite, name=f"bad {skip_bad}", skip_bad=skip_bad, **fields)
        damage(study.paths[0])
        first, second = Pipeline(rule, SIZE, road).prepare([study, good])
        assert isinstance(second, PreparedStudy), "one study's failure ends no other"
        if not skip_bad:
            assert isinstance(first, InputError)
            assert str(first).startswith(f"{study.paths[0]}: PixelData can't be decoded")
            assert str(first).endswith("or add --skip-bad")
            continue
        (reason,) = first.skipped
        assert reason.startswith(f"{study.paths[0]}: PixelData can't be decoded")
        without = make_study(pixels[1:], rewrite, name="without", **fields)
        images, _ = expected(without, rule)
        np.testing.assert_allclose(first.images.astype(float), images, atol=HALF + 5e-5)
        assert first.heights.tolist() == [3, 6, 9, 12]
        assert first.sources == study.paths[1:DEPTH]
        assert [np.count_nonzero(label) > 0 for label in first.labels] == [True] * 4


def test_a_file_cut_short_after_it_was_planned_is_named(make_study):
    study = make_study(noise("int16", -300, 300))
    plan = study.plan()
    study.paths[2].write_bytes(study.paths[2].read_bytes()[:-10])
    (outcome,) = Pipeline(CT, SIZE, "threads").prepare([replace(study, plan=lambda: plan)])
    assert str(outcome).startswith(f"{study.paths[2]}: PixelData ends 10 bytes too early")


def test_dicom_folders_and_chaos_trees_take_the_fast_road(phantom):
    for study in find_studies(phantom, "CT", skip_bad=False):
        assert study.plan is not None


def test_dali_is_chosen_where_there_are_a_gpu_and_dali(monkeypatch):
    made = []
    monkeypatch.setattr(pipeline_module, "DaliGraphs", lambda *arguments: made.append(arguments))
    for gpu, dali, road in ((False, True, "threads"), (True, False, "threads"), (True, True, "dali")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        monkeypatch.setattr(pipeline_module, "dali_is_there", lambda dali=dali: dali)
        assert Pipeline(CT, SIZE, threads=4).road == road
    assert made == [(SIZE, 0, 4)]


def test_without_dali_asking_for_it_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali.fn", None)
    with pytest.raises(InputError, match=r"DALI can't be imported .*--reader threads"):
        Pipeline(CT, SIZE, "dali")


@needs_dali
@pytest.mark.parametrize("road", ["dali", "auto"])
def test_a_failure_of_dali_is_no_bad_file(make_study, monkeypatch, road):
    """With --skip-bad it must not empty the store study by study; where DALI wasn't asked for, threads go on."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(pipeline_module, "DaliGraphs", lambda size, device, threads: DaliGraphs(size, None, threads))
    monkeypatch.setattr(DaliGraphs, "_build", Mock(side_effect=RuntimeError("no memory\nand more")))
    studies, pipeline = [make_study(noise("int16", -300, 300), skip_bad=True)], Pipeline(CT, SIZE, road)
    if road == "dali":
        with pytest.raises(InputError, match=r"DALI failed \(no memory and more\); .*--reader threads"):
            next(pipeline.prepare(studies))
        return
    with pytest.warns(RuntimeWarning, match=r"DALI failed \(no memory and more\); .*Threads read the rest"):
        (found,) = pipeline.prepare(studies)
    np.testing.assert_array_equal(found.images, next(Pipeline(CT, SIZE, "threads").prepare(studies)).images)


@needs_dali
def test_codestreams_are_decoded_in_the_graph(make_study):
    """Twelve bits without sign, which DALI's decoder for a CPU gets right; on a GPU its own."""
    pixels, fields, rewrite = SERIES["JPEG 2000"]
    study = make_study(pixels, rewrite, **fields)
    plan, fit = study.plan(), Fit.of((ROWS, COLUMNS), (1.0, 1.0), SIZE)
    window = StoredWindow.of((-160, 240), 1, -1024, (0, 65535))
    encoding = Encoding("uint16", 12, codestream=True)
    samples = [
        Sample(
            np.frombuffer(codestreams(item.image)[0], np.uint8),
            encoding,
            plan.shape,
            window,
            False,
            (False, False),
            fit,
        )
        for item in plan.slices
    ]
    graphs = DaliGraphs(SIZE, 0 if torch.cuda.is_available() else None)
    found = np.stack([image for image, _ in graphs.run(iter(samples))])
    np.testing.assert_allclose(found.astype(float), expected(study, CT)[0], atol=HALF + 5e-5)


@needs_dali
def test_a_decoder_that_differs_from_pydicom_is_not_used(make_study, monkeypatch):
    pixels, fields, rewrite = SERIES["JPEG 2000"]
    (path, *_) = make_study(pixels, rewrite, **fields).paths
    file, calls = read_image_file(path, "CT"), []

    def decoder(wrong: int) -> Callable[..., np.ndarray]:
        def decode(codestream: bytes, dtype: str) -> np.ndarray:
            calls.append(dtype)
            return pixels[0] + np.uint16(wrong)

        return decode

    for wrong in (0, 1):
        graphs = DaliGraphs(SIZE, None)
        assert not graphs.decodes(file), "on a CPU pydicom decodes"
        graphs.device_id = 0
        monkeypatch.setattr(graphs, "_decode", decoder(wrong))
        assert graphs.decodes(file) == graphs.decodes(file) == (wrong == 0)
    assert calls == ["uint16", "uint16"], "each kind of file is tried once"
