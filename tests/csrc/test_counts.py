"""The operators' counts against definitions, on a CPU and on a GPU: types, formats, views, addresses, sizes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastliver.metrics import extension
from tests.csrc.label_maps import label_map, plain

devices = pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
)
pytestmark = pytest.mark.filterwarnings("ignore:overlap counts use PyTorch's operators:RuntimeWarning")


@devices
@given(
    st.lists(st.integers(1, 24), min_size=2, max_size=4).map(tuple),
    st.sampled_from([1, 2, 3, 8, 32, 33, 70, 256, 300]),
    st.sampled_from(extension.LABELS),
    st.sampled_from(extension.LABELS),
    st.integers(0, 99),
)
@settings(max_examples=30)
def test_counts_are_those_of_the_definition(device, shape, classes, pred_dtype, true_dtype, seed):
    pred, true = label_map(shape, classes, pred_dtype, seed), label_map(shape, classes, true_dtype, seed + 1)
    expected = plain(pred.numpy(), true.numpy(), classes)
    pred, true = pred.to(device), true.to(device)
    counts = extension.count(pred, true, classes)
    assert counts.dtype == torch.int64
    assert counts.is_contiguous()
    assert counts.tolist() == expected
    assert torch.equal(counts, extension.reference_counts(pred, true, classes))


@devices
@pytest.mark.parametrize("side", [1, 5, 31, 32, 33, 90, 91, 181, 300])
@pytest.mark.parametrize("value", [0, 1, "random"])
def test_masks_of_any_size_with_tails(device, side, value):
    pred, true = (
        label_map((3, side, side), 2, torch.uint8, seed) if value == "random" else
        torch.full((3, side, side), value, dtype=torch.uint8)
        for seed in (1, 2)
    )  # fmt: skip
    for classes in (2, 3):
        counts = extension.count(pred.to(device), true.to(device), classes)
        assert counts.tolist() == plain(pred.numpy(), true.numpy(), classes)


ACROSS = 200, 201
"""40,200 pixels: three blocks of threads on a GPU, several pieces on a CPU."""


def somewhere(base: Tensor, first: int, inner: tuple[int, ...]) -> Tensor:
    """(N, *inner) from rows (N, pixels), at an address that isn't aligned and with samples that lie apart."""
    return base[:, first : first + int(np.prod(inner))].unflatten(1, inner)


@devices
@pytest.mark.parametrize("classes", [2, 5, 300, 5000])
@pytest.mark.parametrize("pred_dtype", extension.LABELS)
@pytest.mark.parametrize("true_dtype", extension.LABELS)
def test_samples_lie_apart_and_start_anywhere(device, pred_dtype, true_dtype, classes):
    bases = [label_map((3, 40217), classes, dtype, seed) for seed, dtype in enumerate((pred_dtype, true_dtype))]
    for starts in ((0, 0), (1, 1), (3, 16), (5, 7)):
        pred, true = (somewhere(base, first, ACROSS) for base, first in zip(bases, starts, strict=True))
        expected = extension.reference_counts(pred, true, classes)
        pred, true = (somewhere(base.to(device), first, ACROSS) for base, first in zip(bases, starts, strict=True))
        assert torch.equal(extension.count(pred, true, classes).cpu(), expected)


@devices
@pytest.mark.parametrize("dtype", extension.LOGITS)
@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("last", [False, True])
def test_logits_lie_apart_and_start_anywhere(device, dtype, channels, last):
    base = torch.randn((2, channels * 40200 + 24), generator=torch.Generator().manual_seed(0)).to(dtype)
    for first, true_dtype in zip((0, 1, 8, 3), extension.LABELS, strict=True):

        def logits(base: Tensor, first: int = first) -> Tensor:
            if last:
                return somewhere(base, first, (*ACROSS, channels)).movedim(-1, 1)
            return somewhere(base, first, (channels, *ACROSS))

        target = label_map((2, 40217), max(channels, 2), true_dtype, 1)
        expected = extension.reference_counts_from_logits(logits(base), somewhere(target, first, ACROSS), 0.25)
        got = extension.count_from_logits(logits(base.to(device)), somewhere(target.to(device), first, ACROSS), 0.25)
        assert torch.equal(got.cpu(), expected)


@devices
@pytest.mark.parametrize("classes", [2, 7, 60, 300])
def test_views_need_not_be_contiguous(device, classes):
    base = label_map((6, 20, 30, 17), classes, torch.int32, 3).to(device)
    for pred in (base[::2], base[:, ::2], base[..., 3:11], base.transpose(1, 3), base[:1].expand(6, 20, 30, 17),
                 base[:, :1, :1].expand(6, 20, 30, 17), base.flip(0)):  # fmt: skip
        true = label_map(tuple(pred.shape), classes, torch.int32, 4).to(device)
        expected = plain(pred.cpu().numpy(), true.cpu().numpy(), classes)
        assert extension.count(pred, true, classes).tolist() == expected
        assert extension.count(true, pred, classes)[..., [0, 2, 1]].tolist() == expected


@devices
@pytest.mark.parametrize("dtype", extension.LOGITS)
@pytest.mark.parametrize("channels", [1, 2, 5, 40, 300])
@pytest.mark.parametrize("volume", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_logits_give_the_counts_of_their_mask(device, dtype, channels, volume, last):
    shape = (2, channels, 3, 9, 11) if volume else (2, channels, 33, 35)
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(channels)).to(dtype)
    logits.view(-1)[::13] = 0.5  # ties, and values on a threshold
    logits.view(-1)[::101] = float("nan")
    logits.view(-1)[::97] = float("-inf")
    if last:
        logits = logits.contiguous(memory_format=torch.channels_last_3d if volume else torch.channels_last)
    for target_dtype in extension.LABELS:
        target = label_map((2, *shape[2:]), max(channels, 2), target_dtype, 5)
        for threshold in (0.0, 0.5, -1.3, 0.1, 1e6, float("inf"), float("-inf"), float("nan")):
            mask = logits[:, 0].float() > threshold if channels == 1 else logits.argmax(1)
            counts = extension.count_from_logits(logits.to(device), target.to(device), threshold)
            assert counts.tolist() == plain(mask.numpy(), target.numpy(), max(channels, 2))
            assert torch.equal(counts.cpu(), extension.reference_counts_from_logits(logits, target, threshold))
            if channels > 1:
                break
    counts = extension.count_from_logits(logits.to(device)[..., 1:-1], target.to(device)[..., 1:-1], 0.0)
    assert torch.equal(counts.cpu(), extension.reference_counts_from_logits(logits[..., 1:-1], target[..., 1:-1], 0.0))


@devices
def test_as_many_classes_as_are_allowed(device):
    most = extension.MAX_CLASSES
    pred, true = label_map((2, 50, 50), most, torch.int64, 1), label_map((2, 50, 50), most, torch.int32, 2)
    pred[0, 0, 0] = true[0, 0, 0] = most - 1
    counts = extension.count(pred.to(device), true.to(device), most)
    assert counts[0, most - 1, 0] >= 1
    assert torch.equal(counts.cpu(), extension.reference_counts(pred, true, most))
