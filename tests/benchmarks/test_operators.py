"""The list of cases against the calls that the networks make, and the bytes against numbers worked out by hand."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode

import fastliver.models.discriminator
import fastliver.models.generator
from benchmarks.operators import CASES, NORMS, bytes_moved, call, gradients, make_inputs, output_gradients, variants
from fastliver.models import EssNet, PatchDiscriminator, ResNetGenerator, UNet


def _recorded(calls: Counter, name: str, operator: Callable[..., Any]) -> Callable[..., Any]:
    def record(x, *args, **options):
        if name == "reflect_pad":
            calls[name, tuple(x.shape), "none", args[0], False] += 1
        else:
            activation = args[0] if args else "relu"
            pad = options.get("pad", 1 if name == "instance_norm_act_shared" else 0)
            residual = options.get("residual")
            calls[name, tuple(x.shape), activation, pad, residual is not None] += 1
            assert activation != "leaky_relu" or options["slope"] == 0.2
            if residual is not None:
                # The interior of a tensor padded by 1, in the format of x: as `make_inputs` makes it.
                _, c, h, w = x.shape
                strides = ((h + 2) * (w + 2) * c, 1, (w + 2) * c, c)
                assert residual.stride() == strides
        return operator(x, *args, **options)

    return record


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_the_list_is_what_the_networks_call_in_channels_last(network, monkeypatch):
    calls: Counter = Counter()
    module = {"generator": fastliver.models.generator, "discriminator": fastliver.models.discriminator}[network]
    for name in ("reflect_pad", *NORMS):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, _recorded(calls, name, getattr(module, name)))
    monkeypatch.setenv("FASTLIVER_KERNELS", "triton")  # with fake tensors: shapes and strides, nothing computed
    with FakeTensorMode():
        model = ResNetGenerator() if network == "generator" else PatchDiscriminator()
        for parameter in model.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        model(torch.empty(1, 1, 256, 256).to(memory_format=torch.channels_last))
    listed = {
        (case.operator, case.shape, case.activation, case.pad, case.residual): case.calls
        for case in CASES
        if case.network == network
    }
    assert calls == listed
    norms = sum(count for (name, *_), count in calls.items() if name in NORMS)
    assert norms == {"generator": 23, "discriminator": 3}[network]


def test_the_losses_have_the_shapes_of_the_networks_outputs():
    with FakeTensorMode():
        network, image = EssNet(channels=1, blocks=1), torch.empty(1, 1, 256, 256)
        found = {
            "patch_adversarial_loss": network.d1(image).shape,
            "patch_discriminator_loss": network.d2(image).shape,
            "cycle_l1_loss": network.g2(image).shape,
            "pixel_cross_entropy": network.s(image).shape,
        }
    found["binary_cross_entropy_with_logits"] = UNet(channels=1)(torch.zeros(2, 1, 256, 256)).shape
    losses = [case for case in CASES if case.network in ("essnet", "unet")]
    assert {case.operator for case in losses} == set(found)
    for case in losses:
        assert case.shape == found[case.operator], case.name


def test_variants_multiply_the_batch_and_leave_out_layouts_that_are_the_same():
    assert len({case.name for case in CASES}) == len(CASES)
    everything = list(variants(batch=3))
    wide = sum(case.shape[1] > 1 for case in CASES)
    assert len(everything) == 3 * (2 * wide + len(CASES) - wide)
    assert {case.shape[0] for case in everything if case.network == "unet"} == {6}
    assert {case.name for case in variants(only="block")} == {"block-first", "block-second", "block-last"}
    assert {case.operator for case in variants(only="reflect")} == {"reflect_pad"}
    assert {case.dtype_name for case in variants(dtypes=[torch.float16])} == {"fp16"}


@pytest.mark.parametrize(
    "case", list(variants(dtypes=[torch.bfloat16], only="block-second")), ids=lambda case: case.layout
)
def test_inputs_and_incoming_gradients_lie_as_in_the_networks(case):
    inputs = make_inputs(case)
    x, residual = inputs
    assert x.shape == residual.shape == case.shape
    assert x.dtype == residual.dtype == torch.bfloat16
    expected = (256 * 66 * 66, 66 * 66, 66, 1) if case.layout == "contiguous" else (256 * 66 * 66, 1, 66 * 256, 256)
    assert residual.stride() == expected
    assert x.is_contiguous(memory_format=torch.channels_last) == (case.layout == "channels_last")
    padded = torch.empty(1, 256, 66, 66, dtype=case.dtype).to(memory_format=torch.channels_last)
    incoming = output_gradients((padded, padded[:, :, 1:-1, 1:-1]))
    assert all(g.is_contiguous(memory_format=torch.channels_last) for g in incoming)
    again = make_inputs(case)
    assert all(torch.equal(a, b) for a, b in zip(inputs, again, strict=True))
    assert not torch.equal(x, make_inputs(case, seed=1)[0])


def test_only_what_training_differentiates_gets_a_gradient():
    import benchmarks.kernels

    counts = {}
    for case in variants(["contiguous"], [torch.float32]):
        if case.shape[2] <= 31:
            inputs = make_inputs(case)
            outputs = call(case, benchmarks.kernels.Eager, inputs)
            counts[case.operator] = len(gradients(outputs, inputs, output_gradients(outputs)))
    assert counts == {"instance_norm_act": 1, "patch_adversarial_loss": 1, "patch_discriminator_loss": 2}


P, PADDED = 256 * 64 * 64, 256 * 66 * 66
BYTES = {
    # name, layout, dtype: (forward least, forward moved, backward least, backward moved)
    ("stem", "contiguous", "bf16"): (16_777_216, 25_165_824, 25_165_824, 41_943_040),  # 2, 3, 3, 5 times 8,388,608
    ("patch2", "contiguous", "fp32"): (4_194_304, 4_194_304, 6_291_456, 6_291_456),  # one pass: 2 and 3
    ("patch2", "channels_last", "fp32"): (4_194_304, 6_291_456, 6_291_456, 10_485_760),
    # x, residual, padded y; backward padded dy, shortcut, x, dx, d_residual.
    ("block-second", "channels_last", "bf16"): (
        2 * (2 * P + PADDED), 2 * (3 * P + PADDED), 2 * (PADDED + 4 * P), 2 * (2 * PADDED + 6 * P)
    ),
    ("block-second", "contiguous", "bf16"): (
        2 * (2 * P + PADDED), 2 * (2 * P + PADDED), 2 * (PADDED + 4 * P), 2 * (PADDED + 4 * P)
    ),
    # The residual's gradient is dy.
    ("block-last", "contiguous", "bf16"): (2 * 3 * P, 2 * 3 * P, 2 * 3 * P, 2 * 3 * P),
    ("input-pad", "contiguous", "bf16"): (268_360, 268_360, 268_360, 268_360),  # 2 (256^2 + 262^2)
    ("generator-gan", "contiguous", "fp16"): (5_400, 5_400, 5_400, 5_400),  # 900 (2 + 4)
    ("discriminator-gan", "contiguous", "fp16"): (10_800, 10_800, 10_800, 10_800),
    ("cycle", "contiguous", "fp32"): (786_432, 786_432, 524_288, 524_288),  # 65,536 (4 + 4 + 4), (4 + 4)
    ("segmentation", "contiguous", "bf16"): (851_968, 851_968, 786_432, 786_432),  # 65,536 (4 + 1 + 8), (8 + 4)
    ("unet-loss", "contiguous", "bf16"): (917_504, 917_504, 786_432, 786_432),  # 131,072 (2 + 1 + 4), (4 + 2)
}  # fmt: skip


@pytest.mark.parametrize("key", BYTES, ids=" ".join)
def test_bytes_by_hand(key):
    name, layout, dtype = key
    case = next(c for c in variants() if (c.name, c.layout, c.dtype_name) == (name, layout, dtype))
    found = tuple(bytes_moved(case, mode, least) for mode in ("forward", "backward") for least in (True, False))
    assert found == BYTES[key]
    assert bytes_moved(case, "full") == found[0] + found[2]
