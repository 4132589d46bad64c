"""Runs that diverge or collapse stop, and say where."""

import re
from pathlib import Path

import pytest
import torch

from fastliver.config import EngineConfig
from fastliver.errors import RunError
from fastliver.training.essnet import (
    CT_CONSTANT,
    CT_REPEATED,
    D1_CONSTANT,
    D2_CONSTANT,
    MR_CONSTANT,
    MR_REPEATED,
    NOT_FINITE,
)
from fastliver.training.guards import Guard
from fastliver.training.loop import train
from fastliver.training.repetition import Repetition, variety
from fastliver.training.trainer import StepResult, is_constant
from fastliver.training.unet import GREY, ONE_CLASS
from fastliver.training.unet import NOT_FINITE as UNET_NOT_FINITE


def _result(loss: float = 1.0, **faults: bool) -> StepResult:
    losses = {"first": torch.tensor(0.5), "gan_mr": torch.tensor(loss)}
    return StepResult(losses, {name: torch.tensor(float(value)) for name, value in faults.items()})


def _guard(patience: int = 3, per_epoch: int = 4) -> Guard:
    return Guard("essnet", {"stuck": patience, "dark": patience}, per_epoch)


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_no_number_is_named_with_its_step(loss):
    guard = _guard()
    for step in range(9):
        guard.watch(step, _result(loss if step == 7 else 1.0))
    with pytest.raises(RunError, match=rf"^essnet: loss gan_mr is {loss} at step 7; last good: X; try another --seed"):
        guard.check("last good: X")


def test_a_fault_stops_the_run_after_its_patience_and_not_before():
    guard = _guard(patience=3)
    guard.watch(4, _result(stuck=True, dark=False))
    guard.check("")
    guard.watch(5, _result(stuck=True, dark=True))
    guard.check("")
    guard.watch(6, _result(stuck=True, dark=True))
    with pytest.raises(RunError, match="essnet: stuck, from step 4 to step 6; Y"):
        guard.check("Y")


def test_a_fault_that_comes_and_goes_does_not_stop():
    guard = _guard(patience=3, per_epoch=3)
    for step in range(60):
        guard.watch(step, _result(stuck=step % 3 != 2, dark=step % 2 == 0))
        guard.check("")
    guard.finish(60, "")


def test_a_fault_that_held_for_the_whole_last_epoch_stops_at_the_end():
    for since, stops in ((4, True), (5, False)):
        guard = _guard(patience=100, per_epoch=4)
        for step in range(8):
            guard.watch(step, _result(stuck=step >= since))
        if stops:
            with pytest.raises(RunError, match="stuck, from step 4 to the end; Z; .*, or more epochs"):
                guard.finish(8, "Z")
        else:
            guard.finish(8, "Z")


def test_an_image_without_contrast_is_constant():
    images = torch.rand(2, 1, 8, 8)
    assert not is_constant(images)
    images[1] = 0.3 + 1e-4 * torch.rand(1, 8, 8)
    assert is_constant(images)


# In training


def _zero_head(network: torch.nn.Module, weight: float = 0.0, bias: float = 0.0) -> None:
    """Make the last layer of a network output a constant."""
    with torch.no_grad():
        network.weight.mul_(weight)
        network.bias.fill_(bias)


@pytest.mark.parametrize(("generator", "fault"), [("g1", MR_CONSTANT), ("g2", CT_CONSTANT)])
def test_a_generator_that_gives_a_constant_stops_the_training(generator, fault, make_essnet, run, console):
    trainer = make_essnet(epochs=9, generator_lr=0.0)
    assert trainer.patience == {
        **dict.fromkeys((MR_CONSTANT, CT_CONSTANT, MR_REPEATED, CT_REPEATED, D1_CONSTANT, D2_CONSTANT), 100),
        **dict.fromkeys(NOT_FINITE.values(), 1),
    }
    trainer.patience = dict.fromkeys(trainer.patience, 5)
    _zero_head(getattr(trainer.network, generator).head)
    with pytest.raises(RunError, match=f"essnet: {fault}, from step 0 to step 4; no checkpoint was written yet"):
        train(trainer, run, "essnet", {}, EngineConfig(checkpoint_minutes=60), console)


@pytest.mark.parametrize(("generator", "fault"), [("g1", MR_REPEATED), ("g2", CT_REPEATED)])
@pytest.mark.parametrize(("code", "stops"), [(0.03, True), (1.0, False)])
def test_a_generator_that_hides_what_it_is_given_in_one_image_stops_the_training(
    generator, fault, code, stops, make_essnet, run, console
):
    """One image with contrast, and in it what it was given: faintly, as a collapsed CycleGAN has it, or plainly."""
    trainer = make_essnet(epochs=9, generator_lr=0.0)
    trainer.patience[fault] = 5
    one = torch.rand(1, 1, *trainer.mr.shape, generator=torch.Generator().manual_seed(0)) * 0.5

    def hide(module, inputs, output):
        return one + code * (inputs[0] - inputs[0].mean())

    getattr(trainer.network, generator).register_forward_hook(hide)
    if stops:
        with pytest.raises(RunError, match=f"essnet: {fault}, from step 1 to step 5"):
            train(trainer, run, "essnet", {}, EngineConfig(checkpoint_minutes=60), console)
    else:
        train(trainer, run, "essnet", {}, EngineConfig(checkpoint_minutes=60), console)


def test_how_unlike_images_are():
    a, b = torch.randn(2, 1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert variety(a, a) == 0
    assert variety(a, b) == pytest.approx(1, abs=0.05)
    assert variety(a, -a) == 2
    assert variety(a, 3 + 0.9 * a + 0.1 * b) == pytest.approx(0.02 / 1.82, abs=0.002)  # by hand, for variances of 1


def test_the_same_image_for_the_same_ct_is_no_fault():
    repetition = Repetition((1, 1, 8, 8), torch.device("cpu"))
    ct, mr = torch.rand(2, 1, 1, 8, 8)
    assert [float(repetition.found(ct, mr)) for _ in range(3)] == [0, 0, 0]
    assert float(repetition.found(torch.rand(1, 1, 8, 8), mr)) == 1


def test_a_short_run_whose_generator_gave_a_constant_throughout_fails_at_the_end(make_essnet, run, console):
    trainer = make_essnet(epochs=1, generator_lr=0.0)
    _zero_head(trainer.network.g1.head)
    with pytest.raises(RunError, match="from step 0 to the end"):
        train(trainer, run, "essnet", {}, EngineConfig(), console)
    assert not (run.checkpoints("essnet") / "final").exists()


@pytest.mark.parametrize(("discriminator", "fault"), [("d1", D1_CONSTANT), ("d2", D2_CONSTANT)])
def test_a_dead_discriminator_stops_the_training(discriminator, fault, make_essnet, run, console):
    trainer = make_essnet(epochs=9, discriminator_lr=0.0)
    trainer.patience[fault] = 5
    assert not any(trainer.step(0, 0).faults.values())
    _zero_head(getattr(trainer.network, discriminator).head)
    with pytest.raises(RunError, match=f"essnet: {fault}, from step 0 to step 4"):
        train(trainer, run, "essnet", {}, EngineConfig(checkpoint_minutes=60), console)


class _Break(torch.autograd.Function):
    """The identity, whose gradient is no number."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * float("nan")


@pytest.mark.parametrize(("network", "optimizer"), [("g2", "generators"), ("s", "generators"), ("d1", "d1")])
def test_gradients_that_are_no_numbers_are_named_though_every_loss_is_one(network, optimizer, make_essnet):
    trainer = make_essnet()
    layer = getattr(trainer.network, network)
    if network == "d1":
        # Not in the generators' step, where it judges with frozen weights.
        layer.register_forward_hook(lambda m, i, y: _Break.apply(y) if m.conv1.weight.requires_grad else y)
    else:
        layer.register_forward_hook(lambda module, inputs, y: _Break.apply(y))
    result = trainer.step(0, 0)
    assert result.values()[: len(result.losses) - 2].isfinite().all()
    assert {fault for fault, there in result.faults.items() if there} == {NOT_FINITE[optimizer]}


def test_a_unets_gradients_that_are_no_numbers_stop_the_training_at_once(make_unet, run, console):
    trainer = make_unet()
    trainer.network.register_forward_hook(lambda module, inputs, y: _Break.apply(y))
    with pytest.raises(RunError, match=f"{UNET_NOT_FINITE}, from step 0 to step 0"):
        train(trainer, run, "unet", {}, EngineConfig(), console)


@pytest.mark.parametrize("bias", [50.0, -50.0])
def test_a_unet_of_one_class_stops_the_training(bias, make_unet, run, console):
    trainer = make_unet(epochs=9, lr=0.0, collapse_steps=4)
    _zero_head(trainer.network.out, 1.0, bias)
    with pytest.raises(RunError, match=f"{ONE_CLASS}, from step 0 to step 3"):
        train(trainer, run, "unet-real-0-seed0", {}, EngineConfig(), console)


def test_a_grey_unet_stops_the_training(make_unet, run, console):
    trainer = make_unet(epochs=9, lr=0.0)
    assert trainer.patience == {GREY: 100, ONE_CLASS: 3000, UNET_NOT_FINITE: 1}
    trainer.patience[GREY] = 4
    _zero_head(trainer.network.out)
    with pytest.raises(RunError, match=f"{GREY}, from step 0 to step 3"):
        train(trainer, run, "unet", {}, EngineConfig(), console)


@pytest.mark.parametrize("value", [0, 1])
def test_one_class_is_no_fault_where_the_labels_hold_one_class(value, make_unet):
    trainer = make_unet(lr=0.0)
    _zero_head(trainer.network.out, 1.0, 50.0)
    trainer.slices.slices.labels.fill_(value)
    assert not trainer.step(0, 0).faults[ONE_CLASS]


def test_divergence_names_a_checkpoint_that_is_there_and_finite(make_essnet, run, console):
    trainer = make_essnet(epochs=4)
    step = trainer.step

    def break_at_5(epoch: int, number: int) -> StepResult:
        if (epoch, number) == (1, 2):
            with torch.no_grad():
                trainer.network.g1.head.weight.fill_(float("nan"))
        return step(epoch, number)

    trainer.step = break_at_5
    with pytest.raises(RunError, match="loss generators is nan at step 5; last good checkpoint: ") as caught:
        train(trainer, run, "essnet", {}, EngineConfig(checkpoint_minutes=0), console)
    path = Path(re.search(r"checkpoint: (.*?);", str(caught.value))[1])
    assert path == run.checkpoints("essnet") / "step-00000005"
    good = make_essnet()
    good.network.load_state_dict(_weights(path))
    assert all(value.isfinite().all() for value in good.network.state_dict().values())


def _weights(path: Path) -> dict[str, torch.Tensor]:
    from fastliver.training.checkpoint import Checkpoint

    return Checkpoint.open(path).weights()
