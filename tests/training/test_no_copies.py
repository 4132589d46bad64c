"""In channels_last no activation changes its layout, from the images to the weights' gradients: a profile's copies."""

import sys
from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode

from fastliver.config import EssNetConfig, UNetConfig
from fastliver.kernels import dispatch
from fastliver.models import EssNet, UNet
from fastliver.training.essnet import EssNetTrainer
from fastliver.training.precision import Precision
from fastliver.training.trainer import Execution, Trainer
from fastliver.training.unet import UNetTrainer

SIDE, CHANNELS = 64, 16
"""From this size on PyTorch's CPU convolutions are oneDNN's, which take channels_last as cuDNN's do."""

ALLOWED = {
    # The reference's cross-entropy; the kernel reads logits in any format.
    "aten::_log_softmax",
    # The extra row and column of a 2x2 convolution's "same" padding: larger, in the same format.
    "aten::constant_pad_nd",
    # PyTorch's own convolution on a CPU, which it takes for small inputs and which unfolds them.
    "aten::_slow_conv2d_forward",
}


class OneBatch:
    """Stands in for a BatchStream."""

    steps = 1
    shape = (SIDE, SIDE)

    def __init__(self, batch: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.batch_size = batch
        self.images = 2 * torch.rand(batch, 1, SIDE, SIDE, generator=generator) - 1
        self.labels = (torch.rand(batch, SIDE, SIDE, generator=generator) > 0.5).to(torch.uint8)

    def stage(self, epoch: int, step: int) -> None:
        pass

    def batch(self) -> tuple[Tensor, Tensor]:
        return self.images, self.labels


def _trainer(kind: str, precision: Precision, batch: int = 1) -> Trainer:
    execution = Execution(precision)
    if kind == "unet":
        return UNetTrainer(UNet(CHANNELS), UNetConfig(), OneBatch(batch), execution)
    return EssNetTrainer(EssNet(CHANNELS, 2), EssNetConfig(), OneBatch(batch), OneBatch(batch), 0, execution)


def _copies(trainer: Trainer) -> Counter[str]:
    """What the operators of a step's profile copy activations for: (N, C, H, W) of several channels and rows."""
    trainer.step(0, 0)
    with profile(record_shapes=True) as trace:
        trainer.step(0, 0)
    found: Counter[str] = Counter()
    for event in trace.events():
        shape = event.input_shapes[0] if event.name == "aten::copy_" and event.input_shapes else []
        if len(shape) == 4 and shape[1] > 1:
            outer, cast = event.cpu_parent, False
            while outer is not None and outer.name in ("aten::clone", "aten::contiguous", "aten::_to_copy", "aten::to"):
                cast |= outer.name == "aten::_to_copy"
                outer = outer.cpu_parent
            if not cast:
                found[f"{outer.name if outer is not None else 'the step'} {tuple(shape)}"] += 1
    return found


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["essnet", "unet"])
def test_a_step_changes_no_activations_layout(kind, precision, batch):
    copies = _copies(_trainer(kind, Precision(precision, torch.device("cpu")), batch))
    # The segmentor's two logits follow _log_softmax's gradient, which the reference gives contiguous.
    logits = f"aten::convolution_backward {(batch, 2, SIDE, SIDE)}"
    assert not [copy for copy in copies if copy.split()[0] not in ALLOWED and copy != logits]


def test_a_layout_that_changes_would_be_seen():
    """In a step whose first layer is contiguous the profile finds copies: the test above can fail."""
    trainer = _trainer("essnet", Precision("fp32", torch.device("cpu")))
    norm = torch.nn.functional.instance_norm
    trainer.network.g1.down1.register_forward_hook(lambda layer, inputs, output: norm(output))
    assert any(copy.startswith("aten::instance_norm") for copy in _copies(trainer))


class Copies(TorchDispatchMode):
    """The operators that copy a tensor of several channels."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        source = args[1] if name == "aten::copy_" else args[0] if args else None
        if name in ("aten::clone", "aten::copy_", "aten::contiguous") and isinstance(source, Tensor):
            self.seen += [f"{name} {tuple(source.shape)}"] if source.dim() == 4 else []
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="runs in Triton's interpreter: where no GPU is")
def test_the_kernels_copy_nothing_in_a_step_of_the_generators(monkeypatch):
    """What a GPU runs: norms, paddings and losses read and write every format themselves."""
    monkeypatch.setenv("FASTLIVER_KERNELS", "triton")
    batch, config = OneBatch(1), EssNetConfig(pool=0)
    images = batch.images[:, :, :32, :32].contiguous()
    network = EssNet(2, 1)
    trainer = EssNetTrainer(network, config, batch, batch, 0, Execution(Precision("fp32", torch.device("cpu"))))
    # As cuDNN gives one channel in channels_last, where the stride of the channels differs from the images'.
    for generator in (network.g1, network.g2):
        generator.register_forward_hook(
            lambda layer, inputs, y: y.as_strided(y.shape, (y.stride(0), 1, y.stride(2), 1))
        )
    with Copies() as copies:
        trainer.generator_step(images, batch.labels[:, :32, :32].contiguous(), images)
    assert copies.seen == []


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("kind", ["essnet", "unet"])
def test_kernels_serve_all_that_a_step_asks_for(kind, precision, monkeypatch):
    """What they leave to the reference would be slower on a GPU, and nothing would say so."""
    served = []

    def use_triton(x, other=None, target=None, pad=0):
        served.append(dispatch._kernels_serve(x, other, target, pad))
        return False

    for module in ("cross_entropy", "instance_norm", "pointwise_loss", "reflect_pad"):
        monkeypatch.setattr(sys.modules[f"fastliver.kernels.{module}"], "use_triton", use_triton)
    _trainer(kind, Precision(precision, torch.device("cpu"))).step(0, 0)
    assert served
    assert all(served)
