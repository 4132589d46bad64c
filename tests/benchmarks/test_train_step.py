"""The training steps that race: the same start, the same first losses, and who differs is not timed."""

import pytest
import torch

from benchmarks import train_step
from benchmarks.train_step import Provider, Size, case_of, disagreement, first_losses, make_step, prepared

CPU = torch.device("cpu")
STOCK, OURS = Provider("stock", "fp32"), Provider("fastliver", "fp32", ours=True)


@pytest.fixture
def small(monkeypatch):
    """Networks of 4 channels on 32x32."""
    real = train_step.TrainConfig

    def config():
        from dataclasses import replace

        whole = real()
        return replace(whole, essnet=replace(whole.essnet, channels=4, blocks=1), unet=replace(whole.unet, channels=4))

    monkeypatch.setattr(train_step, "TrainConfig", config)
    monkeypatch.setattr(train_step, "StockEssNet", lambda: StockEssNet(channels=4, blocks=1))
    monkeypatch.setattr(train_step, "StockUNet", lambda: StockUNet(channels=4))


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
        monkeypatch.setattr(torch.optim.Adam, "step", lambda self, closure=None: None)
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
    assert list(prepared(case, held)) == ["stock fp32"]
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
        assert titles[-2:] == ["fastliver fp32", "fastliver bf16"]
