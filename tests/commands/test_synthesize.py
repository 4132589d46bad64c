"""`python -m fastliver.synthesize` from outside: what it writes, skips, keeps, drops and refuses."""

import json
import shutil
import signal
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

import fastliver
from fastliver.data.masks import read_mask
from fastliver.data.sources import Source
from fastliver.data.store import SliceStore


@pytest.fixture(scope="module")
def run(write_run, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture
def synthesize(train, run):
    """Runs the command on --run."""

    def call(*arguments, **options):
        given = [f"--run={options.pop('run', run)}", "--device=cpu", *arguments]
        return train(*given, module="fastliver.synthesize", small=False, **options)

    return call


@pytest.fixture(scope="module")
def ct_nifti(tmp_path_factory):
    """An nnU-Net data set of two CT, stored in unlike orientations, with labels that tell the voxels apart."""
    folder = tmp_path_factory.mktemp("ct") / "Dataset500_Ct"
    rng = np.random.default_rng(0)
    for number, signs in enumerate(((-1, -1, 1), (1, 1, -1))):
        affine = np.diag([*(s * v for s, v in zip(signs, (1.5, 1.5, 4), strict=True)), 1])
        voxels, label = rng.normal(0, 300, (24, 20, 6)), np.zeros((24, 20, 6), np.uint8)
        label[3:12, 5:9, 1:5] = 1
        for part, array in (("imagesTr", voxels.astype(np.int16)), ("labelsTr", label)):
            name = f"ct_{number}" + ("_0000" if part == "imagesTr" else "")
            (folder / part).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, affine), folder / part / f"{name}.nii.gz")
    (folder / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "numTraining": 2,
                    "file_ending": ".nii.gz"})
    )  # fmt: skip
    return folder


def files(folder: Path) -> dict[str, float]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_dicom_series_with_label_and_qa_sheet(synthesize, phantom, tmp_path) -> None:
    out = synthesize(f"--ct={phantom}", f"--out={tmp_path}", "--qa").succeeded()
    assert "slices/s" in out
    studies = Source(phantom, "CT").studies()
    for study in studies:
        volume, folder = study.read(), tmp_path / study.patient
        (made,) = Source(folder, "MR").studies()
        again = made.read()
        np.testing.assert_allclose(again.affine, volume.affine, atol=1e-6)
        assert again.image.shape == volume.image.shape
        assert again.image.std() > 1
        mask = read_mask(folder / "liver.dcm", None)
        assert mask.voxels.sum() == volume.label.sum()
        header = pydicom.dcmread(next((folder / "mr").iterdir()))
        assert "tiny/essnet" in header.DerivationDescription
        assert (tmp_path / "qa" / f"{study.patient}.png").read_bytes()[:4] == b"\x89PNG"


def test_run_again_skips_what_is_finished_and_force_does_not(synthesize, phantom, tmp_path) -> None:
    synthesize(f"--ct={phantom}", f"--out={tmp_path}").succeeded()
    before = files(tmp_path)
    first = sorted(item for item in tmp_path.iterdir() if item.is_dir())[0]
    shutil.rmtree(first)
    out = synthesize(f"--ct={phantom}", f"--out={tmp_path}").succeeded()
    assert "finished before: 1 of 2 " in out
    after = files(tmp_path)
    assert before.keys() == after.keys()
    changed = {name.split("/")[0] for name in before if before[name] != after[name]}
    assert changed == {first.name}
    synthesize(f"--ct={phantom}", f"--out={tmp_path}", "--force").succeeded()
    assert all(after[name] != time for name, time in files(tmp_path).items() if name != "fastliver.json")


def test_results_of_other_settings_are_not_mixed(synthesize, phantom, tmp_path) -> None:
    synthesize(f"--ct={phantom}", f"--out={tmp_path}", "--format=nifti").succeeded()
    synthesize(f"--ct={phantom}", f"--out={tmp_path}").refused("made with format nifti, not dicom", "--force")


def test_force_for_a_part_leaves_no_result_of_another_model(synthesize, write_run, phantom, tmp_path) -> None:
    other, out = write_run(tmp_path / "other"), tmp_path / "out"
    arguments = (f"--ct={phantom}", f"--out={out}", "--format=nifti", "--qa")
    synthesize(*arguments).succeeded()
    assert len(before := files(out)) == 2 * 3 + 1
    synthesize(*arguments, "--force", "--shard=1/2", run=other).succeeded()
    assert len(files(out)) == 3 + 1, "the other patient's are gone, and not taken for the new model's"
    assert "finished before: 1 of 2 " in synthesize(*arguments, run=other).succeeded()
    assert files(out).keys() == before.keys()
    for path in out.glob("CT_?.nii.gz"):
        described = str(nibabel.load(path).header["descrip"])
        assert fastliver.load(other, "cpu").generator.version in described


@pytest.mark.parametrize("kind", ["nifti", "nnunet"])
def test_another_patient_of_the_same_name_is_not_taken_for_finished(synthesize, phantom, kind, tmp_path) -> None:
    other = shutil.copytree(phantom, tmp_path / "other")
    out = tmp_path / "Dataset501_SyntheticMR"
    arguments = (f"--out={out}", f"--format={kind}")
    real = (f"--with-real={phantom}",) if kind == "nnunet" else ()
    synthesize(f"--ct={phantom}", *arguments, *real).succeeded()
    before = files(out)
    first = other / "Train_Sets" / "CT" / "1"
    synthesize(f"--ct={other}", *arguments).refused("CT_1", f"was made from {phantom}", f"not from {first}", "--force")
    assert files(out) == before
    assert "finished before: 2 of 2 " in synthesize(f"--ct={phantom}", *arguments).succeeded()
    if real:
        synthesize(f"--ct={phantom}", *arguments, f"--with-real={other}").refused("real_MR_1", f"not from {other}")
    first.rename(first.with_name("3"))
    shutil.rmtree(first.with_name("2"))
    synthesize(f"--ct={other}", *arguments).succeeded()
    after = files(out)
    assert after.keys() > before.keys(), "of another name they may lie side by side"
    assert "finished before: 2 of 2 " in synthesize(f"--ct={phantom}", *arguments).succeeded()


def test_what_others_left_there_is_not_taken_for_results(synthesize, phantom, ct_nifti, tmp_path) -> None:
    foreign = tmp_path / "out" / "CT_1.nii.gz"
    foreign.parent.mkdir()
    foreign.write_bytes(b"somebody's own")
    arguments = (f"--ct={phantom}", f"--out={foreign.parent}", "--format=nifti")
    synthesize(*arguments).refused(f"{foreign}: is there already", "fastliver.json", "--force")
    assert files(foreign.parent).keys() == {"CT_1.nii.gz"}
    synthesize(*arguments, "--force").succeeded()
    assert nibabel.load(foreign).ndim == 3
    before = (ct_nifti / "dataset.json").read_bytes()
    for more in ((), ("--force",)):
        synthesize(f"--ct={phantom}", f"--out={ct_nifti}", "--format=nnunet", *more).refused(
            "didn't make", "--with-real"
        )
    assert (ct_nifti / "dataset.json").read_bytes() == before


def test_qa_sheets_are_added_to_finished_results(synthesize, phantom, tmp_path) -> None:
    out = tmp_path / "out"
    synthesize(f"--ct={phantom}", f"--out={out}").succeeded()
    before = files(out)
    told = synthesize(f"--ct={phantom}", f"--out={out}", "--qa").succeeded()
    assert told.count("was finished before; QA sheet to") == 2
    after = files(out)
    assert {name: after[name] for name in before} == before
    assert len([*(out / "qa").glob("CT_*.png")]) == 2


def test_a_store_has_its_qa_sheets_beside_it(synthesize, phantom, whole_store, tmp_path) -> None:
    out = tmp_path / "qa" / "store"
    synthesize(f"--ct={phantom}", f"--out={out}", "--format=store", "--qa").succeeded()
    assert_same(out, whole_store)
    assert len([*(tmp_path / "qa" / "store.qa").glob("CT_*.png")]) == 2


def test_real_mr_is_added_though_a_ct_is_bad(synthesize, broken, phantom, tmp_path) -> None:
    first = min((broken / "Train_Sets" / "CT").iterdir())
    next(iter(sorted((first / "DICOM_anon").iterdir()))).write_bytes(b"\0" * 128 + b"DICMrubbish")
    mr = next(iter(sorted((broken / "Train_Sets" / "MR").iterdir())))
    next(iter(sorted((mr / "T2SPIR" / "DICOM_anon").iterdir()))).write_bytes(b"\0" * 128 + b"DICMrubbish")
    out = tmp_path / "Dataset501_Mixed"
    arguments = (f"--ct={broken}", f"--out={out}", "--format=nnunet", f"--with-real={broken}")
    synthesize(*arguments).refused("1 of 2 could not", f"CT_{first.name}", "1 of 3 could not", f"MR_{mr.name}", code=3)
    names = sorted(path.name for path in (out / "imagesTr").iterdir())
    assert [name.split("_")[0] for name in names] == ["real", "real", "synthetic"]
    missing = (f"--ct={broken}", f"--out={tmp_path / 'Dataset502_x'}", "--format=nnunet", "--with-real=nowhere")
    synthesize(*missing).refused("nowhere: does not exist")  # before anything is done
    assert not (tmp_path / "Dataset502_x").exists()


def test_a_label_without_liver_is_noted(synthesize, ct_nifti, tmp_path) -> None:
    source = Path(shutil.copytree(ct_nifti, tmp_path / "Dataset499_Ct"))
    path = source / "labelsTr" / "ct_0.nii.gz"
    label = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.zeros(label.shape, np.uint8), label.affine), path)
    told = synthesize(f"--ct={source}", f"--out={tmp_path / 'out'}", "--format=nifti").succeeded()
    remedy = "check the labels, where liver is the value 1 unless --liver-label says another"
    assert f"ct_0: its label shows no liver at all; {remedy}" in told
    assert told.count("no liver at all") == 1


@pytest.mark.parametrize("kind", ["nifti", "store"])
def test_a_generator_that_makes_one_grey_of_everything_is_told(synthesize, write_run, ct_nifti, tmp_path, kind) -> None:
    collapsed = write_run(tmp_path / "collapsed", contrast=0)
    options = (f"--ct={ct_nifti}", f"--out={tmp_path / 'out'}", f"--format={kind}")
    told = synthesize(*options, run=collapsed).refused("2 of 2 could not be done", "has one grey value, ", code=3)
    assert f"ct_1: {ct_nifti / 'imagesTr' / 'ct_1_0000.nii.gz'}: all of its synthetic MR" in told
    assert not [*tmp_path.rglob("ct_*.nii.gz")]
    assert not (tmp_path / "out" / "store.json").exists()


def test_labels_to_be_ignored_stay_so(synthesize, ct_nifti, tmp_path) -> None:
    source = Path(shutil.copytree(ct_nifti, tmp_path / "Dataset499_Ct"))
    described = json.loads((source / "dataset.json").read_text())
    described["labels"]["ignore"] = 2
    (source / "dataset.json").write_text(json.dumps(described))
    path = source / "labelsTr" / "ct_0.nii.gz"
    label = nibabel.load(path)
    voxels = np.asarray(label.dataobj).copy()
    voxels[0, 0, 2] = 2
    nibabel.save(nibabel.Nifti1Image(voxels, label.affine), path)
    out = tmp_path / "Dataset503_Synthetic"
    synthesize(f"--ct={source}", f"--out={out}", "--format=nnunet").succeeded()
    made = np.asarray(nibabel.load(out / "labelsTr" / "synthetic_ct_0.nii.gz").dataobj)
    assert (made == 2).all(axis=(0, 1)).tolist() == [False, False, True, False, False, False]
    assert json.loads((out / "dataset.json").read_text())["labels"]["ignore"] == 2
    synthesize(f"--ct={source}", f"--out={tmp_path / 'store'}", "--format=store").succeeded()
    assert [entry.slice for entry in SliceStore.open(tmp_path / "store").entries][:5] == [0, 1, 3, 4, 5]


def test_a_bad_patient_is_left_out_and_listed(synthesize, broken, tmp_path) -> None:
    first, second = sorted((broken / "Train_Sets" / "CT").iterdir())
    next(iter(sorted((first / "DICOM_anon").iterdir()))).write_bytes(b"\0" * 128 + b"DICMrubbish")
    outcome = synthesize(f"--ct={broken}", f"--out={tmp_path / 'out'}")
    message = outcome.refused("1 of 2 could not be done", f"CT_{first.name}", code=3)
    assert f"CT_{second.name}" not in message
    made = {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()}
    assert made == {f"CT_{second.name}"}


def test_shards_share_the_patients(synthesize, phantom, tmp_path) -> None:
    for shard in ("1/2", "2/2"):
        before = set(tmp_path.glob("CT_*"))
        synthesize(f"--ct={phantom}", f"--out={tmp_path}", f"--shard={shard}").succeeded()
        assert len(set(tmp_path.glob("CT_*")) - before) == 1
    ranks = tmp_path / "ranks"
    environment = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    synthesize(f"--ct={phantom}", f"--out={ranks}", environment=environment).succeeded()
    assert len(list(ranks.glob("CT_*"))) == 1


def test_nifti_lies_on_the_cts_voxels(synthesize, ct_nifti, tmp_path) -> None:
    synthesize(f"--ct={ct_nifti}", f"--out={tmp_path}", "--format=nifti").succeeded()
    for number in range(2):
        source = nibabel.load(ct_nifti / "imagesTr" / f"ct_{number}_0000.nii.gz")
        label = nibabel.load(ct_nifti / "labelsTr" / f"ct_{number}.nii.gz")
        made, carried = (nibabel.load(tmp_path / f"ct_{number}{part}.nii.gz") for part in ("", "_label"))
        np.testing.assert_array_equal(made.affine, source.affine)
        assert made.shape == source.shape
        assert 0 <= np.asarray(made.dataobj).min() < np.asarray(made.dataobj).max() <= 4095
        np.testing.assert_array_equal(np.asarray(carried.dataobj), np.asarray(label.dataobj))


def test_nnunet_with_real_mr_beside_it(synthesize, ct_nifti, phantom, tmp_path) -> None:
    out = tmp_path / "Dataset501_Mixed"
    arguments = (f"--ct={ct_nifti}", f"--out={out}", "--format=nnunet", f"--with-real={phantom}")
    synthesize(*arguments).succeeded()
    described = json.loads((out / "dataset.json").read_text())
    studies = Source(out, "MR").studies()
    assert described["numTraining"] == len(studies) == 5
    real = {study.patient: study.read() for study in Source(phantom, "MR").studies()}
    for study in studies:
        if study.patient.startswith("real_"):
            volume, expected = study.read(), real.pop(study.patient.removeprefix("real_"))
            np.testing.assert_array_equal(volume.image, expected.image)
            np.testing.assert_array_equal(volume.label, expected.label)
    assert not real
    assert "5 were finished" not in synthesize(*arguments).succeeded()


def test_store_is_one_to_train_on(synthesize, phantom, tmp_path) -> None:
    synthesize(f"--ct={phantom}", f"--out={tmp_path / 'store'}", "--format=store").succeeded()
    store = SliceStore.open(tmp_path / "store")
    assert (store.modality, store.labelled, len(store.patients)) == ("MR", True, 2)
    assert store.images.shape == (16, 32, 32)
    assert len(store.liver_slices()) > 0
    before = files(tmp_path / "store")
    arguments = (f"--ct={phantom}", f"--out={tmp_path / 'store'}", "--format=store")
    assert "finished before" in synthesize(*arguments).succeeded()
    assert files(tmp_path / "store") == before
    synthesize(*arguments, "--min-dice=0").refused("made with min_dice None, not 0.0")
    synthesize(*arguments, "--force").succeeded()
    assert files(tmp_path / "store").keys() == before.keys()
    assert files(tmp_path / "store") != before
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    arguments = (f"--ct={phantom}", f"--out={tmp_path / 'mine'}", "--format=store", "--force")
    synthesize(*arguments).refused("something else than a slice store")
    assert (tmp_path / "mine" / "thesis.txt").exists()


@pytest.fixture
def whole_store(synthesize, phantom, tmp_path) -> dict[str, bytes]:
    """The files of the store that one process makes of the phantom."""
    synthesize(f"--ct={phantom}", f"--out={tmp_path / 'whole'}", "--format=store").succeeded()
    return {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}


def assert_same(folder: Path, store: dict[str, bytes]) -> None:
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == store


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_shards_make_the_same_store_together(synthesize, phantom, whole_store, tmp_path, order) -> None:
    out = tmp_path / "made" / "store"
    arguments = (f"--ct={phantom}", f"--out={out}", "--format=store")
    first = synthesize(*arguments, f"--shard={order[0]}/2").succeeded()
    assert "left to other processes: 1 of 2 patients" in first
    assert not out.exists()
    # Run again, it has nothing to do; the other one, as a rank of torchrun, finds all parts and joins them.
    assert "finished before: 1 of 1 " in synthesize(*arguments, f"--shard={order[0]}/2").succeeded()
    synthesize(*arguments, environment={"RANK": str(order[1] - 1), "WORLD_SIZE": "2"}).succeeded()
    assert_same(out, whole_store)
    assert [path.name for path in out.parent.iterdir()] == ["store"]
    assert "was finished before" in synthesize(*arguments, f"--shard={order[0]}/2").succeeded()


def test_a_store_survives_kills_at_any_write(synthesize, phantom, whole_store, tmp_path) -> None:
    """Killed a little later each time, the command goes on, and never shows half a store."""
    out = tmp_path / "made" / "store"
    arguments = (f"--ct={phantom}", f"--out={out}", "--format=store")
    for writes in range(1, 100):
        code = synthesize(*arguments, kill_at_write=writes).code
        if out.exists():
            assert_same(out, whole_store)
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert writes > 10
    assert_same(out, whole_store)
    assert [path.name for path in out.parent.iterdir() if path.name[0] != "."] == ["store"]


def test_a_store_without_a_bad_patient_says_so(synthesize, broken, tmp_path) -> None:
    first, second = sorted((broken / "Train_Sets" / "CT").iterdir())
    next(iter(sorted((first / "DICOM_anon").iterdir()))).write_bytes(b"\0" * 128 + b"DICMrubbish")
    arguments = (f"--ct={broken}", f"--out={tmp_path / 'store'}", "--format=store")
    synthesize(*arguments, "--shard=2/2").succeeded()
    assert not (tmp_path / "store").exists()
    synthesize(*arguments, "--shard=1/2").refused(first.name)
    store = SliceStore.open(tmp_path / "store")
    assert store.patients == [f"CT_{second.name}"]
    (reason,) = store.meta["skipped"]
    assert reason.startswith(f"CT_{first.name}: ")
    for shard in ("1/2", "2/2"):
        synthesize(*arguments, f"--shard={shard}").refused("lacks patients", reason, code=3)
    # Mended, it is another data set.
    shutil.copytree(second / "DICOM_anon", first / "DICOM_anon", dirs_exist_ok=True)
    synthesize(*arguments).refused("made with hash", "delete it")


def test_parts_of_other_settings_are_not_mixed(synthesize, phantom, tmp_path) -> None:
    arguments = (f"--ct={phantom}", f"--out={tmp_path / 'store'}", "--format=store")
    synthesize(*arguments, "--shard=1/2").succeeded()
    synthesize(*arguments, "--shard=2/2", "--min-dice=0").refused("store.parts: holds parts made with min_dice None")
    assert not (tmp_path / "store").exists()


def test_quality_filter_drops_what_disagrees(synthesize, ct_nifti, phantom, tmp_path) -> None:
    """This S finds no liver: slices with liver disagree, and in a volume they are to be ignored; the others agree."""
    out = tmp_path / "Dataset502_Filtered"
    arguments = (f"--ct={ct_nifti}", f"--out={out}", "--format=nnunet", "--min-dice=0.9")
    label = np.asarray(nibabel.load(ct_nifti / "labelsTr" / "ct_0.nii.gz").dataobj)
    assert "ct_0: 2 slices to" in (told := synthesize(*arguments).succeeded())
    assert "dropped 4 of 6 below Dice 0.9" in told
    stored = np.asarray(nibabel.load(out / "labelsTr" / "synthetic_ct_0.nii.gz").dataobj)
    np.testing.assert_array_equal((stored == 2).all(axis=(0, 1)), label.any(axis=(0, 1)))
    assert not (stored == 1).any()
    assert json.loads((out / "dataset.json").read_text())["labels"]["ignore"] == 2
    # A series has no place that must be kept: dropped slices are left out.
    synthesize(f"--ct={phantom}", f"--out={tmp_path / 'dicom'}", "--min-dice=0.9")
    for study in Source(phantom, "CT").studies():
        volume = study.read()
        empty = ~volume.label.any(axis=(1, 2))
        if empty.any():
            written = [pydicom.dcmread(path) for path in (tmp_path / "dicom" / study.patient / "mr").iterdir()]
            heights = sorted(float(header.ImagePositionPatient[2]) for header in written)
            np.testing.assert_allclose(heights, volume.heights[empty], atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--ct=nowhere"], ["nowhere: does not exist"]),
        (["--ct={mr}"], ["MR", "but CT belongs here"]),
        (["--ct={ct}", "--format=nnunet"], ["DatasetNNN_Name"]),
        (["--ct={ct}", "--min-dice=1.5"], ["--min-dice=1.5", "between 0 and 1"]),
        (["--ct={ct}", "--shard=3/2"], ["--shard=3/2", "i/n"]),
        (["--ct={ct}", "--format=store", "--shard=1/2", "--force"], ["--force", "out.parts"]),
        (["--ct={ct}", "--batch=0"], ["--batch=0"]),
        (["--ct={ct}", "--out={mr}/mr.nii.gz"], ["mr.nii.gz: is called like a .gz file", "name a folder"]),
        (["--ct={ct}", "--with-real=x"], ["--format nnunet alone"]),
        (["--ct={ct}", "--device=tpu"], ["--device=tpu"]),
        (["--ct={ct}", "--out={ct}"], ["is the folder that is read"]),
    ],
)
def test_refusals(synthesize, phantom, tmp_path, arguments, texts) -> None:
    places = {"mr": phantom / "Train_Sets" / "MR", "ct": phantom / "Train_Sets" / "CT"}
    given = [argument.format(**places) for argument in arguments]
    synthesize(f"--out={tmp_path / 'out'}", *given).refused(*texts)
    assert not (tmp_path / "out").exists()


def test_refuses_what_the_run_or_the_ct_lacks(synthesize, write_run, phantom, broken, ct_nifti, tmp_path) -> None:
    empty = write_run(tmp_path / "unets", generator=False)
    synthesize(f"--ct={phantom}", f"--out={tmp_path / 'out'}", run=empty).refused("--stage essnet")
    plain = write_run(tmp_path / "plain", segmentor=False)
    arguments = (f"--ct={phantom}", f"--out={tmp_path / 'out'}", "--min-dice=0.5")
    synthesize(*arguments, run=plain).refused("no segmentor")
    synthesize(f"--ct={phantom}", f"--out={tmp_path / 'out'}", run=tmp_path).refused("no run here")
    image = ct_nifti / "imagesTr" / "ct_0_0000.nii.gz"
    synthesize(f"--ct={image}", f"--out={tmp_path / 'a'}").refused("is NIfTI", "--format nifti")
    assert not (tmp_path / "a").exists()
    synthesize(f"--ct={image}", f"--out={tmp_path / 'a'}", "--format=nifti").succeeded()
    for folder in (broken / "Train_Sets" / "CT").iterdir():
        shutil.rmtree(folder / "Ground")
    arguments = (f"--ct={broken}", f"--out={tmp_path / 'Dataset501_x'}", "--format=nnunet")
    synthesize(*arguments).refused("has no labels", "--format nnunet")


def test_an_enhanced_ct_becomes_a_classic_mr_series(synthesize, phantom, as_enhanced, tmp_path) -> None:
    volume = Source(phantom, "CT").studies()[0].read()
    folder = as_enhanced(volume.sources, tmp_path / "ct")
    synthesize(f"--ct={folder}", f"--out={tmp_path / 'out'}").succeeded()
    (source,) = (pydicom.dcmread(path) for path in folder.iterdir())
    (made,) = Source(tmp_path / "out", "MR").studies()
    np.testing.assert_allclose(made.read().affine, volume.affine, atol=1e-4)
    images = [pydicom.dcmread(path) for path in made.paths]
    assert len(images) == len(volume.image)
    references = [image.SourceImageSequence[0] for image in images]
    assert {item.ReferencedSOPInstanceUID for item in references} == {source.SOPInstanceUID}
    for image, item in zip(images, references, strict=True):
        frame = source.PerFrameFunctionalGroupsSequence[item.ReferencedFrameNumber - 1]
        assert image.ImagePositionPatient == frame.PlanePositionSequence[0].ImagePositionPatient
