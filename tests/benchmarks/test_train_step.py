"""The training steps that race: the same start, the same first losses, and who differs is not timed."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks import train_step
from benchmarks.suite import Contestant
from benchmarks.train_step import Provider, Size, case_of, disagreement, first_losses, make_step, race
from fastliver.training import update

CPU = torch.device("cpu")
STOCK, OURS = Provider("stock", "fp32"), Provider("fastliver", "fp32", ours=True)


@pytest.fixture
def small(monkeypatch):
    """Networks of 4 channels on 32x32."""
    real = train_step.TrainConfig

    def config():
        whole = real()
        return replace(whole, essnet=replace(whole.essnet, channels=4, blocks=1), unet=replace(whole.unet, channels=4))

    monkeypatch.setattr(train_step, "TrainConfig", config)
    monkeypatch.setattr(train_step, "StockEssNet", partial(StockEssNet, channels=4, blocks=1))
    monkeypatch.setattr(train_step, "StockUNet", partial(StockUNet, channels=4))


from benchmarks.stock import StockEssNet, StockUNet  # noqa: E402  -- the fixture above needs the real ones


@pytest.mark.parametrize("training", ["essnet", "unet"])
def test_ours_and_stock_have_the_same_first_losses(training, small):
    size = Size(training, 32, 2)
    stock, ours = (first_losses(make_step(size, one, CPU)) for one in (STOCK, OURS))
    assert disagreement(ours, stock, "fp32") == ""
    assert stock


def test_a_difference_is_named():
    first, later = "loss of step 1", "loss of step 2"
    assert disagreement({first: 1.0, later: 1.04}, {first: 1.0005, later: 1.0}, "fp32") == ""
    assert disagreement({first: 1.04}, {first: 1.0}, "fp32")
    assert "has 1.1 as loss where stock has 1" in disagreement({"loss": 1.1}, {"loss": 1.0}, "fp32")
    assert disagreement({"loss": float("nan")}, {"loss": 1.0}, "bf16")


@pytest.mark.parametrize("skipped", ["backward", "update"])
def test_who_leaves_work_out_is_seen(skipped, small, monkeypatch):
    """The first losses would be the same."""
    size = Size("essnet", 32, 1)
    stock = first_losses(make_step(size, STOCK, CPU))
    if skipped == "update":
        idle = type("Idle", (update._AdamInMemoryOrder,), {"step": lambda self, closure=None: None})
        monkeypatch.setattr(update, "_AdamInMemoryOrder", idle)
    else:
        monkeypatch.setattr(torch.Tensor, "backward", lambda self, *args, **options: None)
    assert disagreement(first_losses(make_step(size, OURS, CPU)), stock, "fp32")


def test_who_starts_elsewhere_is_not_timed(small, sitting, monkeypatch):
    real = train_step.first_losses

    def wrong(step):
        losses = real(step)
        return (
            {name: 2 * value for name, value in losses.items()} if step.network.__class__.__name__ == "UNet" else losses
        )

    monkeypatch.setattr(train_step, "first_losses", wrong)
    held = sitting()
    case = case_of(Size("unet", 32, 1), CPU, [STOCK, OURS])
    assert list(race(case, held)) == ["stock fp32"]
    (complaint,) = held.complaints
    assert complaint.startswith("unet 1x1x32x32: fastliver fp32 has")


def test_work_grows_with_batch_and_area():
    # 1.562 TFLOP at 256x256 (the paper's networks); a 16th of it at 64x64.
    assert Size("essnet", 64, 2).tflop == pytest.approx(2 * 1.562 / 16)
    assert Size("unet", 256, 2).tflop == pytest.approx(0.655)


def test_dropout_is_off_for_the_first_losses_alone(small):
    step = make_step(Size("unet", 32, 1), STOCK, CPU)
    first_losses(step)
    shares = [module.p for module in step.network.modules() if isinstance(module, torch.nn.Dropout)]
    assert shares == [0.5]


def test_every_size_has_stock_and_ours_in_two_precisions():
    cases = list(train_step.cases(CPU))
    assert [case.title for case in cases] == ["essnet 1x1x64x64", "unet 2x1x64x64"]
    for case in cases:
        titles = [contestant.title for contestant in case.contestants]
        assert titles[0] == "stock fp32"
        assert titles[-3:] == ["fastliver fp32", "fastliver bf16", "stock compiled fp32"]


def test_on_a_gpu_the_paper_s_batches_come_first_and_stock_has_a_graph_too(monkeypatch):
    gpu = torch.device("cuda")
    assert [(size.training, size.batch) for size in train_step.sizes(gpu)] == [
        *(("essnet", 1), ("unet", 2)),
        *(("unet", 1), ("essnet", 2), ("essnet", 4), ("unet", 4), ("essnet", 8), ("unet", 8)),
    ]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU")
    kinds = train_step.providers(gpu)
    assert [(one.name, one.precision) for one in kinds] == [
        *(("stock", "fp32"), ("stock", "tf32"), ("stock autocast", "bf16"), ("stock autocast channels_last", "bf16")),
        *(("stock graph", "bf16"), ("fastliver", "fp32"), ("fastliver", "bf16"), ("stock compiled", "bf16")),
    ]


def test_a_peer_that_fails_ends_nothing_and_the_compiled_come_last(small, sitting, read_rows):
    def fail():
        raise RuntimeError("InductorError: no\nmore")

    held = sitting(repeats=2)
    case = case_of(Size("unet", 32, 2), CPU, [STOCK, OURS])
    stock, ours = case.contestants
    broken = Contestant("stock compiled", fail, "fp32")
    assert list(race(replace(case, contestants=(stock, broken, ours)), held)) == ["stock fp32", "fastliver fp32"]
    assert held.notes == ["unet 2x1x32x32: stock compiled fp32 failed (InductorError: no); not timed"]
    late = Contestant("stock compiled", stock.make, "fp32")
    assert list(race(replace(case, contestants=(stock, late, ours)), held)) == [
        *("stock fp32", "fastliver fp32", "stock compiled fp32")
    ]
    rows = [(row["provider"], row["metric"]) for row in read_rows()][-5:]
    assert (
        rows
        == [
            *(("fastliver", "speed vs stock fp32"), ("stock", "time"), ("stock", "rate"), ("fastliver", "time")),
            *(("fastliver", "rate"), ("fastliver", "speed vs stock compiled fp32")),
            *(("stock compiled", "time"), ("stock compiled", "rate")),
        ][-5:]
    )
