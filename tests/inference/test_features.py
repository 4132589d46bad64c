"""Feature networks out of ONNX files."""

from pathlib import Path

import numpy as np
import pytest

from fastliver.errors import InputError
from fastliver.inference.features import FeatureNetwork

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def _network(path: Path, channels: int, size: int | None = None) -> Path:
    """Means over each channel's pixels: (N, channels, 1, 1)."""
    from onnx import TensorProto, helper

    sides = [size or "H", size or "W"]
    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["x"], ["y"])],
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, *sides])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", channels, 1, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("channels", [1, 3])
def test_features_of_every_slice(tmp_path: Path, channels: int) -> None:
    images = np.random.default_rng(0).uniform(-1, 1, (19, 8, 8)).astype(np.float16)
    done: list[int] = []
    features = FeatureNetwork(_network(tmp_path / "n.onnx", channels))(images, done.append)
    expected = images.astype(np.float64).mean((1, 2))[:, None].repeat(channels, 1)
    np.testing.assert_allclose(features, expected, atol=1e-6)
    assert done == [16, 19]


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing.onnx: no such file"):
        FeatureNetwork(tmp_path / "missing.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a network")
    with pytest.raises(InputError, match="bad.onnx: can't be loaded as ONNX"):
        FeatureNetwork(tmp_path / "bad.onnx")
    with pytest.raises(InputError, match="1 or 3"):
        FeatureNetwork(_network(tmp_path / "two.onnx", 2))


def test_wrong_size_is_named(tmp_path: Path) -> None:
    network = FeatureNetwork(_network(tmp_path / "n.onnx", 1, size=16))
    with pytest.raises(InputError, match="refuses images"):
        network(np.zeros((2, 8, 8), np.float16))
