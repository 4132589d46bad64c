"""ONNX files against our networks, in onnxruntime, with one slice and with several."""

import numpy as np
import pytest
import torch

import fastliver
from fastliver.export.onnx import export_generator, export_segmenter

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def model(write_run, tmp_path_factory):
    return fastliver.load(write_run(tmp_path_factory.mktemp("run") / "tiny"), "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["generator", "unet", "segmentor"])
def test_equals_ours(model, tmp_path, name) -> None:
    path = tmp_path / f"{name}.onnx"
    essnet = model.generator.network
    if name == "generator":
        export_generator(essnet.g1, 32, path, {"model": "tiny"})
        ours = essnet.g1
    else:
        network = essnet.s if name == "segmentor" else model.liver_networks()[0].network
        export_segmenter(network, 32, path, {"model": "tiny"})

        def ours(x):
            y = network(x)
            return y.sigmoid() if name == "unet" else y.softmax(1)[:, 1:]

    session = onnxruntime.InferenceSession(path)
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert (given.name, made.name) == (("ct", "mr") if name == "generator" else ("mr", "liver"))
    assert session.get_modelmeta().custom_metadata_map["model"] == "tiny"
    for count in (1, 2, 5):
        x = torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(count)) * 2 - 1
        with torch.no_grad():
            expected = ours(x).numpy()
        (found,) = session.run(None, {given.name: x.numpy()})
        assert expected.std() > 1e-3
        np.testing.assert_allclose(found, expected, atol=1e-4)
