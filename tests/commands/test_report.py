"""`python -m fastliver.report` from outside: the page made again, FID and KID with a named network, and refusals."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

from fastliver.data.store import SliceStore
from fastliver.errors import InputError
from fastliver.metrics.realism import kernel_distance
from fastliver.report import open_mr_store
from fastliver.run_folder import RunFolder


@pytest.fixture
def report(train):
    """Runs the command on a run."""

    def call(run, *arguments, **options):
        return train(run, *arguments, module="fastliver.report", small=False, **options)

    return call


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, with the stores beside it, to change."""
    return Path(shutil.copytree(finished.parent, tmp_path / "runs")) / finished.name


def made(run: Path) -> dict[str, bytes]:
    """Page, tables and figures."""
    paths = [run / "report.html", *run.glob("tables/*"), *run.glob("figures/*")]
    return {str(path.relative_to(run)): path.read_bytes() for path in paths}


def network(path: Path, channels: int = 3) -> Path:
    """An ONNX file whose features are means and means of squares over each channel: (N, 2 * channels)."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "x"], ["xx"]),
            helper.make_node("Concat", ["x", "xx"], ["both"], axis=1),
            helper.make_node("GlobalAveragePool", ["both"], ["y"]),
        ],
        "moments",
        [helper.make_tensor_value_info("x", real, ["N", channels, "H", "W"])],
        [helper.make_tensor_value_info("y", real, ["N", 2 * channels, 1, 1])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_the_mr_of_fid_is_never_more_mr(train, phantom: Path, tmp_path: Path) -> None:
    """Whichever store comes first, the one that the U-Nets' MR is in counts; also through a link to the run."""
    runs = tmp_path / "runs"
    more = tmp_path / "more"
    shutil.copytree(phantom / "Train_Sets" / "MR" / "2", more / "71")
    train("--data", phantom, "--runs", runs, "--name=run", f"--more-mr={more}", "--stage=essnet").succeeded()
    run = RunFolder(runs / "run")
    patients = [f"MR_{number}" for number in (1, 2, 3)]
    assert open_mr_store(run, None).patients == patients
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "link").symlink_to(runs / "run")
    assert open_mr_store(RunFolder(tmp_path / "links" / "link"), None).patients == patients
    stores = sorted((runs / "stores").glob("mr-*"))
    first, second = (SliceStore.open(path).patients for path in stores)
    wrong = stores[0] if first != patients else stores[1]
    assert {len(first), len(second)} == {1, 3}
    with pytest.raises(InputError, match="not the MR store"):
        open_mr_store(run, str(wrong))
    # Both orders of the two: the names of stores are digests, which nobody chooses.
    for name in ("mr-32-000000000000", "mr-32-ffffffffffff"):
        wrong = wrong.rename(wrong.with_name(name))
        assert open_mr_store(run, None).patients == patients


def moments(store: SliceStore) -> np.ndarray:
    """What `network` with one channel makes of a store's slices with liver."""
    images = np.asarray(store.images[store.liver_slices()], np.float64)
    return np.stack([images.mean((1, 2)), (images**2).mean((1, 2))], 1)


def test_makes_again_what_training_made(report, run) -> None:
    before = made(run)
    assert {"report.html", "tables/segmentation.csv"} <= before.keys()
    assert any(name.startswith("figures/") for name in before)
    for folder in ("tables", "figures"):
        shutil.rmtree(run / folder)
    (run / "report.html").unlink()
    out = report(run, figures=True).succeeded()
    assert made(run) == before
    assert f"Report: {run / 'report.html'}" in out
    assert "Real only" in out


def test_needs_nothing_but_results(report, run) -> None:
    before = (run / "tables" / "segmentation.csv").read_bytes()
    for folder in ("checkpoints", "synthetic", "tensorboard", "tables"):
        shutil.rmtree(run / folder)
    shutil.rmtree(run.parent / "stores")
    report(run).succeeded()
    assert (run / "tables" / "segmentation.csv").read_bytes() == before


def test_tables_follow_the_results(report, run) -> None:
    (path,) = (run / "results").glob("unet-essnet-714-seed0.json")
    result = json.loads(path.read_text())
    result["scores"]["dice"] = 0.875
    path.write_text(json.dumps(result))
    assert "0.8750" in report(run).succeeded()
    assert "0.875" in (run / "tables" / "segmentation.csv").read_text()
    path.unlink()
    report(run).succeeded()
    assert "0.875" not in (run / "tables" / "segmentation.csv").read_text()


def test_fid_and_kid_of_a_named_network(report, run, tmp_path) -> None:
    file = network(tmp_path / "moments.onnx", channels=1)
    assert file.name not in (run / "report.html").read_text()
    report(run, f"--feature-network={file}").succeeded()
    found = RunFolder(run).read_result("features-essnet")
    (mr,) = (run.parent / "stores").glob("mr-*")
    real, synthetic = moments(SliceStore.open(mr)), moments(SliceStore.open(run / "synthetic"))
    tested_on = RunFolder(run).read_result("data")["split"]["test_patients"]
    patients = [entry.patient for entry in SliceStore.open(mr).entries if entry.liver]
    real = real[~np.isin(patients, tested_on)]
    assert (found["network"], found["dimensions"]) == ("moments.onnx", 2)
    assert (found["real"], found["synthetic"]) == (len(real), len(synthetic))
    covariances = [np.cov(features, rowvar=False) for features in (real, synthetic)]
    spread = sum(covariances) - 2 * scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    fid = ((real.mean(0) - synthetic.mean(0)) ** 2).sum() + np.trace(spread)
    assert found["fid"] == pytest.approx(fid, abs=1e-4)
    assert found["kid"] == pytest.approx(kernel_distance(synthetic, real)[0], abs=1e-4)
    page = (run / "report.html").read_text()
    assert "FID" in page
    assert "moments.onnx" in page
    # The measured values stay: they are results of the run.
    report(run).succeeded()
    assert (run / "report.html").read_text() == page


def test_the_real_mr_may_lie_elsewhere(report, run, tmp_path) -> None:
    file = network(tmp_path / "moments.onnx")
    (mr,) = (run.parent / "stores").glob("mr-*")
    (ct,) = (run.parent / "stores").glob("ct-*")
    moved, other = mr.rename(tmp_path / "real"), ct.rename(tmp_path / "other")
    report(run, f"--feature-network={file}").refused(run.parent / "stores", "--mr-store")
    report(run, f"--feature-network={file}", f"--mr-store={other}").refused(other, "not the MR store", "--mr-store")
    report(run, f"--feature-network={file}", f"--mr-store={moved}").succeeded()
    assert RunFolder(run).read_result("features-essnet")["dimensions"] == 6


def test_refuses_what_is_no_run(report, tmp_path) -> None:
    report(tmp_path / "nowhere").refused(tmp_path / "nowhere", "no run here", "config.yaml")
    assert not (tmp_path / "nowhere").exists()
    report(tmp_path).refused(tmp_path, "no run here")
    assert list(tmp_path.iterdir()) == []


def test_refuses_a_bad_network_and_leaves_the_report(report, run, tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    before = made(run)
    report(run, f"--feature-network={tmp_path / 'missing.onnx'}").refused("missing.onnx: no such file")
    (tmp_path / "bad.onnx").write_bytes(b"not a network")
    report(run, f"--feature-network={tmp_path / 'bad.onnx'}").refused("bad.onnx: can't be loaded as ONNX")
    report(run, f"--feature-network={network(tmp_path / 'two.onnx', 2)}").refused("two.onnx", "1 or 3")
    assert made(run) == before
    assert RunFolder(run).read_results("features-") == []


def test_refuses_features_without_synthetic_images(report, run, tmp_path) -> None:
    file = network(tmp_path / "moments.onnx")
    shutil.rmtree(run / "synthetic")
    report(run, f"--feature-network={file}").refused(run, "no synthetic images", "--stage synthesize")


def test_letters_that_a_terminal_lacks_are_replaced(run) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "fastliver.report", str(run)],
        env={**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
        capture_output=True,
    )
    assert found.returncode == 0, found.stderr[-500:]
    assert "? Dice" in found.stdout.decode("latin-1")
