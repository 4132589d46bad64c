"""The networks as ONNX: one file each, any number of slices at once, what a user must know in the file's metadata."""

import copy
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fastliver.errors import InputError
from fastliver.files import write_file

OPSET = 20


class _Probability(nn.Module):
    """A network that ends in the probability of liver."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """(N, 1, H, W) in [-1, 1] -> (N, 1, H, W) in [0, 1]."""
        output = self.network(image)
        logits = output if output.shape[1] == 1 else output[:, 1:] - output[:, :1]
        return torch.sigmoid(logits)


def export_generator(network: nn.Module, size: int, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a generator: `ct` (N, 1, size, size) float32 in [-1, 1] -> `mr`, alike.

    Args:
        network: on the CPU, in evaluation mode.
        size: side of the slices.
        path: of the file; written whole or not at all.
        metadata: text to keep in the file.

    Raises:
        InputError: when the packages that this needs aren't there.
    """
    _export(network, size, path, {**metadata, "input": "ct in [-1, 1]", "output": "mr in [-1, 1]"}, ("ct", "mr"))


def export_segmenter(network: nn.Module, size: int, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a U-Net or a segmentor: `mr` (N, 1, size, size) float32 in [-1, 1] -> `liver`, its probability; see
    `export_generator`."""
    described = {**metadata, "input": "mr in [-1, 1]", "output": "probability of liver"}
    _export(_Probability(network).eval(), size, path, described, ("mr", "liver"))


def _export(network: nn.Module, size: int, path: Path, metadata: Mapping[str, str], names: tuple[str, str]) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as error:
        raise InputError(f"--format=onnx needs the package {error.name}: pip install onnx onnxscript") from error
    # In channels_last the norms go sample by sample on a CPU, which would fix the number of samples.
    network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    example = torch.zeros(2, 1, size, size)
    # The exporter's own messages are about operators that nobody here uses.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (example,),
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    write_file(path, model.SerializeToString())
