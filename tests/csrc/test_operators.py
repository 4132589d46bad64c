"""The operators behind the counts: against peers and PyTorch, errors, loading, meters."""

import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from fastliver import compiled
from fastliver.metrics import extension, overlap
from fastliver.metrics.overlap import OverlapMeter, dice, iou, overlap_counts, overlap_counts_from_logits
from tests.csrc.label_maps import label_map, plain

REPOSITORY = Path(__file__).parents[2]
GPU = torch.cuda.is_available()
built = pytest.mark.skipif(bool(extension.MISSING), reason=f"no extension: {extension.MISSING}")
pytestmark = pytest.mark.filterwarnings("ignore:overlap counts use PyTorch's operators:RuntimeWarning")


def test_the_number_of_threads_changes_nothing():
    pred, true = label_map((5, 300, 301), 2, torch.uint8, 1), label_map((5, 300, 301), 2, torch.uint8, 2)
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            results.append([extension.count(pred, true, classes) for classes in (2, 3, 40, 3000)])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


GOOD = torch.ones(2, 3, 4, dtype=torch.uint8)
LOGITS = torch.ones(2, 2, 3, 4)
BAD_COUNTS = [
    (GOOD.float(), GOOD, 2, "^pred has dtype"), (GOOD, GOOD.half(), 2, "^target has dtype"),
    (GOOD, GOOD[:1], 2, "^target has shape"), (GOOD[:0], GOOD[:0], 2, "^pred has shape .* empty"),
    (GOOD[0, 0], GOOD[0, 0], 2, "^pred has shape"), (GOOD, GOOD, 0, "^num_classes is 0"),
    (GOOD, GOOD, -1, "^num_classes is -1"), (GOOD, GOOD, 65537, "^num_classes is 65537"),
    (GOOD, GOOD + 1, 2, "^target holds 2 at pixel 0 of sample 0: expected class ids 0 to 1"),
    (GOOD.long() - 2, GOOD, 2, "^pred holds -1 at"), (GOOD.long() + (1 << 40), GOOD, 2, "^pred holds 1099511627777"),
    (GOOD, GOOD.int() - 256, 300, "^target holds -255"), (GOOD * 255, GOOD, 40, "^pred holds 255"),
]  # fmt: skip
BAD_LOGITS = [
    (LOGITS.double(), GOOD, "^logits has dtype"), (LOGITS, GOOD.float(), "^target has dtype"),
    (LOGITS[0], GOOD, "^target has shape"), (LOGITS, GOOD[:, :2], "^target has shape"),
    (LOGITS[0, 0], GOOD, "^logits has shape"), (LOGITS[:0], GOOD[:0], "^logits has shape .* empty"),
    (LOGITS, GOOD + 1, "^target holds 2"), (LOGITS[:, :1], GOOD * 63, "^target holds 63"),
]  # fmt: skip


@pytest.mark.parametrize("function", [extension.count, extension.reference_counts])
@pytest.mark.parametrize(("pred", "target", "classes", "message"), BAD_COUNTS)
def test_errors_name_the_argument(function, pred, target, classes, message):
    with pytest.raises(ValueError, match=message):
        function(pred, target, classes)


@pytest.mark.parametrize("function", [extension.count_from_logits, extension.reference_counts_from_logits])
@pytest.mark.parametrize(("logits", "target", "message"), BAD_LOGITS)
def test_errors_of_logits_name_the_argument(function, logits, target, message):
    with pytest.raises(ValueError, match=message):
        function(logits, target, 0.0)


@built
def test_one_wrong_pixel_among_many_is_found():
    pred = torch.zeros(3, 200, 200, dtype=torch.uint8)
    pred[2, 150, 7] = 2
    with pytest.raises(ValueError, match="pred holds 2 at pixel 30007 of sample 2: expected class ids 0 to 1"):
        torch.ops.fastliver.overlap_counts(pred, torch.zeros_like(pred), 2)


@built
def test_opcheck():
    for classes, dtype in ((2, torch.bool), (5, torch.int64)):
        pred, true = label_map((2, 5, 6), classes, dtype, 1), label_map((2, 5, 6), classes, torch.uint8, 2)
        torch.library.opcheck(torch.ops.fastliver.overlap_counts, (pred, true, classes))
    for channels in (1, 3):
        logits = torch.randn(2, channels, 5, 6)
        torch.library.opcheck(torch.ops.fastliver.overlap_counts_from_logits, (logits, true.clamp(max=1), 0.0))


@built
@pytest.mark.parametrize(
    "order", [("fastliver.kernels", "fastliver.metrics"), ("fastliver.metrics", "fastliver.kernels")]
)
def test_the_library_loads_in_either_order(order):
    code = (
        f"import {order[0]}, {order[1]}, torch\nx = torch.ones(1, 2, 2, dtype=torch.uint8)\n"
        "print(torch.ops.fastliver.overlap_counts(x, x, 2).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[[[0, 0, 0], [4, 4, 4]]]"


def test_without_the_library_pytorch_counts_the_same_and_says_so_once(monkeypatch, tmp_path):
    pred, true = label_map((2, 9, 9), 2, torch.uint8, 1), label_map((2, 9, 9), 2, torch.uint8, 2)
    logits = torch.randn(2, 1, 9, 9)
    expected = extension.count(pred, true, 2), extension.count_from_logits(logits, true, 0.0)
    reason = compiled.load(tmp_path / "_C.abi3.so")
    assert "not built" in reason
    monkeypatch.setattr(extension, "MISSING", reason)
    extension._warn_once.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert torch.equal(extension.count(pred, true, 2), expected[0])
        assert torch.equal(extension.count_from_logits(logits, true, 0.0), expected[1])
        assert dice(overlap_counts(pred.numpy() * 63, true.numpy())).shape == (2,)
    assert [str(warning.message) for warning in caught] == [
        f"overlap counts use PyTorch's operators, which are slower: {reason}; install again with a C++ compiler: pip "
        "install --no-build-isolation -e ."
    ]
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"not a library")
    assert "did not load" in compiled.load(broken)


def test_a_gpu_without_its_kernel_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setattr(extension, "MISSING", "")
    monkeypatch.setattr(extension, "has_kernel", lambda device: device == "cpu")
    extension._warn_once.cache_clear()
    with pytest.warns(RuntimeWarning, match="without a kernel for cuda; .*nvcc: FASTLIVER_CUDA=1 pip install"):
        assert not extension._serves(SimpleNamespace(device=torch.device("cuda")))
    with pytest.warns(RuntimeWarning, match="without a kernel for meta$"):
        assert not extension._serves(SimpleNamespace(device=torch.device("meta")))


def test_a_gpu_that_the_kernel_has_no_code_for_is_counted_by_pytorch(monkeypatch):
    def refuse(*arguments):
        raise RuntimeError("overlap counts on CUDA: no kernel image is available for execution on the device")

    monkeypatch.setattr(extension, "MISSING", "")
    monkeypatch.setattr(extension, "has_kernel", lambda device: True)
    monkeypatch.setattr(torch.ops.fastliver, "overlap_counts", refuse, raising=False)
    for cached in (extension._fault, extension._warn_once):
        cached.cache_clear()
    with FakeTensorMode(), pytest.warns(RuntimeWarning, match="run on cuda:0 .*no kernel image.*; .*FASTLIVER_CUDA=1"):
        assert not extension._serves(SimpleNamespace(device=torch.device("cuda:0")))
    extension._fault.cache_clear()


def test_arrays_are_read_where_they_lie():
    pred, true = (label_map((3, 8, 9), 4, torch.uint8, seed).numpy() for seed in (1, 2))
    pred.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="overlap counts use PyTorch's operators")
        counts = overlap_counts(pred, true, 4)
    assert counts.intersection.shape == (3, 4)
    assert np.stack([counts.intersection, counts.predicted, counts.true], -1).tolist() == plain(pred, true, 4)
    reversed_axis = overlap_counts(pred[:, ::-1], true, 4)
    assert reversed_axis.intersection.tolist() == overlap_counts(pred[:, ::-1].copy(), true, 4).intersection.tolist()
    for dtype in (np.int8, np.int16, np.uint16, np.uint32, ">i4"):
        assert overlap_counts(pred.astype(dtype), true, 4).true.tolist() == counts.true.tolist()
        mask = overlap_counts(pred.astype(dtype), true)
        assert mask.intersection.tolist() == overlap_counts(pred, true).intersection.tolist()


def test_scores_per_class_and_pooled():
    pred, true = np.array([[[0, 1], [2, 2]]]), np.array([[[0, 1], [1, 2]]])
    counts = overlap_counts(pred, true, 4)
    assert dice(counts).tolist() == [[1.0, pytest.approx(2 / 3), pytest.approx(2 / 3), 1.0]]  # class 3: both empty
    assert iou(counts).tolist() == [[1.0, 0.5, 0.5, 1.0]]
    assert dice(counts.pooled()).shape == (1, 4)
    logits = torch.nn.functional.one_hot(torch.from_numpy(pred), 4).movedim(-1, 1).float()
    assert dice(overlap_counts_from_logits(logits, true)).tolist() == dice(counts).tolist()
    assert dice(overlap_counts_from_logits(logits[:, 1:2], true == 1, 0.5)).tolist() == [pytest.approx(2 / 3)]


def test_a_meter_gives_what_all_batches_together_give():
    pred, true = label_map((7, 12, 13), 2, torch.uint8, 1) * 63, label_map((7, 12, 13), 2, torch.uint8, 2)
    meter = OverlapMeter()
    with pytest.raises(ValueError, match="nothing"):
        meter.per_sample()
    for part in (slice(0, 3), slice(3, 4), slice(4, 7)):
        meter.update(pred[part], true[part])
    whole = overlap_counts(pred, true)
    assert dice(meter.per_sample()).tolist() == dice(whole).tolist()
    assert dice(meter.pooled()).tolist() == dice(whole.pooled()).tolist()
    meter.reset()
    logits = torch.randn(7, 3, 12, 13, requires_grad=True)
    classes = OverlapMeter(3)
    classes.update_from_logits(logits, true)
    assert iou(classes.per_sample()).tolist() == iou(overlap_counts(logits.argmax(1), true, 3)).tolist()
    with pytest.raises(ValueError, match="logits has 3 channels: expected 1"):
        meter.update_from_logits(logits, true)


@pytest.fixture(params=["as on a GPU", pytest.param("cuda", marks=pytest.mark.skipif(not GPU, reason="no GPU"))])
def unchecked(request, monkeypatch) -> torch.device:
    """A device whose counts leave out what is out of range, without raising: a GPU, or a CPU that counts like one."""
    if request.param == "cuda":
        return torch.device("cuda")

    def count(pred: Tensor, target: Tensor, num_classes: int) -> Tensor:
        return torch.tensor(plain(pred.numpy(), target.numpy(), num_classes))

    monkeypatch.setattr(overlap, "count", count)
    monkeypatch.setattr(overlap, "count_from_logits", lambda x, y, _: count(x.argmax(1), y, x.shape[1]))
    return torch.device("cpu")


@pytest.mark.parametrize("classes", [2, 3, 40, 300, 5000])
@pytest.mark.parametrize("bad", [-1, "classes", 1 << 40])
@pytest.mark.parametrize(
    ("wrong_pred", "wrong_true", "message"),
    [
        ([], [], None),
        ([5], [], "predicted holds class ids out of range at 1 pixels"),
        ([], [0, 34], "true holds class ids out of range at 2 pixels"),
        ([5], [5], "predicted holds class ids out of range at 1 pixels"),
        ([5, 6], [7], "predicted holds class ids out of range at 2 pixels"),
        (range(35), range(35), "predicted holds class ids out of range at 35 pixels"),
    ],
)
def test_class_ids_out_of_range_raise_when_unchecked_counts_are_read(
    unchecked, classes, bad, wrong_pred, wrong_true, message
):
    """On either side, or at the same pixel on both, and never without one."""
    pred, true = label_map((3, 5, 7), classes, torch.int64, 1), label_map((3, 5, 7), classes, torch.int64, 2)
    logits = torch.nn.functional.one_hot(pred, classes).movedim(-1, 1).float()
    for labels, wrong in ((pred, wrong_pred), (true, wrong_true)):
        labels.view(3, -1)[1, list(wrong)] = classes if bad == "classes" else bad
    pred, true, logits = (x.to(unchecked) for x in (pred, true, logits))
    meter, from_logits = OverlapMeter(classes), OverlapMeter(classes)
    for part in (slice(0, 2), slice(2, 3)):
        meter.update(pred[part], true[part])
        from_logits.update_from_logits(logits[part], true[part])

    def check(read, message, sample) -> None:
        if message is None:
            assert read().true.sum() == true.numel()
        else:
            with pytest.raises(ValueError, match=f"{message} of sample {sample}: expected 0 to {classes - 1}"):
                read()

    check(lambda: overlap_counts(pred, true, classes), message, 1)
    check(meter.per_sample, message, 1)
    check(meter.pooled, message, 0)
    of_true = f"true holds class ids out of range at {len(wrong_true)} pixels" if wrong_true else None
    check(lambda: overlap_counts_from_logits(logits, true), of_true, 1)
    check(from_logits.per_sample, of_true, 1)


WORKER = """
import sys, torch
from fastliver.metrics.overlap import OverlapMeter, dice, overlap_counts
rank, store = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
generator = torch.Generator().manual_seed(0)
pred, true = (torch.randint(0, 2, (5, 8, 8), generator=generator) for _ in range(2))
meter, idle = OverlapMeter(), OverlapMeter()
part = slice(0, 2) if rank == 0 else slice(2, 5)
meter.update(pred[part], true[part])
if rank == 1:
    idle.update(pred, true)
whole = overlap_counts(pred, true)
assert dice(meter.per_sample()).tolist() == dice(whole).tolist()
assert dice(meter.pooled()).tolist() == dice(whole.pooled()).tolist()
assert dice(idle.per_sample()).tolist() == dice(whole).tolist()
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_meters_merge_across_processes(tmp_path):
    command = [sys.executable, "-c", WORKER]
    workers = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store")], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors


@pytest.mark.parametrize("kind", ["random", "empty", "full", "one empty"])
def test_monai_agrees(kind):
    monai = pytest.importorskip("monai.metrics")
    pred, true = peers_masks(kind)
    theirs = monai.compute_dice(pred[:, None], true[:, None], include_background=True, ignore_empty=False)[:, 0]
    assert dice(overlap_counts(pred, true)) == pytest.approx(theirs.numpy())
    theirs = monai.compute_iou(pred[:, None], true[:, None], include_background=True, ignore_empty=False)[:, 0]
    assert iou(overlap_counts(pred, true)) == pytest.approx(theirs.numpy())


@pytest.mark.parametrize("kind", ["random", "full", "one empty"])
def test_torchmetrics_agrees(kind):
    segmentation = pytest.importorskip("torchmetrics.functional.segmentation")
    pred, true = (x.long() for x in peers_masks(kind))
    theirs = segmentation.dice_score(pred, true, num_classes=2, average=None, input_format="index")[:, 1]
    assert dice(overlap_counts(pred, true)) == pytest.approx(theirs.numpy())


def peers_masks(kind: str) -> tuple[Tensor, Tensor]:
    if kind == "random":
        return label_map((6, 20, 21), 2, torch.uint8, 1), label_map((6, 20, 21), 2, torch.uint8, 2)
    true = torch.zeros(2, 9, 9, dtype=torch.uint8) if kind == "empty" else torch.ones(2, 9, 9, dtype=torch.uint8)
    return (torch.zeros_like(true) if kind == "one empty" else true), true
