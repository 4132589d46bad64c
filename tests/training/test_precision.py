"""What a precision means on which device, what it computes in, and that loss scaling changes nothing else."""

import pytest
import torch

from fastliver.config import UNetConfig
from fastliver.errors import InputError
from fastliver.models import UNet
from fastliver.training.precision import Precision, choose
from fastliver.training.trainer import Execution
from fastliver.training.unet import NOT_FINITE, UNetTrainer
from fastliver.training.update import SCALING_PATIENCE, Update, not_finite

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capability", "expected"),
    [(None, "fp32"), ((6, 1), "fp32"), ((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 6), "bf16"), ((12, 0), "bf16")],
    ids=["CPU", "GTX 1080", "V100", "RTX 2060", "RTX 3080", "RTX 5090"],
)
def test_auto_takes_what_the_device_is_fastest_in(capability, expected):
    assert choose("auto", capability, "device") == expected


@pytest.mark.parametrize(
    ("name", "capability", "remedy"),
    [
        ("tf32", (7, 5), "use fp32"),
        ("tf32", None, "use fp32"),
        ("bf16", (7, 5), "use fp16"),
        ("fp16", None, "use bf16 or fp32"),
    ],
)
def test_what_a_device_cannot_do_is_refused_with_what_it_can(name, capability, remedy):
    with pytest.raises(InputError, match=f"--precision={name}: The Device .*{remedy}"):
        choose(name, capability, "The Device")


@pytest.mark.parametrize(
    ("name", "capability"), [("fp32", (6, 1)), ("fp16", (6, 1)), ("fp16", (9, 0)), ("tf32", (8, 0)), ("bf16", None)]
)
def test_what_is_asked_for_by_name_is_taken(name, capability):
    assert choose(name, capability, "device") == name


def test_the_gpus_capability_decides(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "RTX 2060")
    assert Precision.of("auto", torch.device("cuda")).name == "fp16"
    with pytest.raises(InputError, match="--precision=bf16: RTX 2060 has no bf16"):
        Precision.of("bf16", torch.device("cuda"))


@pytest.mark.parametrize(("name", "tf32"), [("tf32", True), ("fp32", False), ("bf16", False)])
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_step_sets_cudnn_and_leaves_it_as_it_was(name, tf32, deterministic, monkeypatch):
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: deterministic)
    before = (cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic)
    with Precision(name, torch.device("cuda")).step():
        assert (cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic) == (tf32, not deterministic, deterministic)
    assert (cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic) == before


# In training


def _unet(stream, precision: Precision) -> UNetTrainer:
    torch.manual_seed(1)
    batches = stream(1, 3, 2)
    batches.batches = [(images.float(), labels) for images, labels in batches.batches]
    return UNetTrainer(UNet(4), UNetConfig(lr=1e-3), batches, Execution(precision))


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_convolutions_are_reduced_and_losses_weights_and_moments_are_not(name, dtype, stream):
    trainer = _unet(stream, Precision(name, CPU))
    seen = set()
    for layer in trainer.network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(lambda layer, inputs, output: seen.add(output.dtype))
    loss = trainer.step(0, 0).losses["loss"]
    assert seen == {dtype}
    assert loss.dtype == torch.float32
    assert {weight.dtype for weight in trainer.network.parameters()} == {torch.float32}
    moments = [value for state in trainer.optimizers["unet"].state.values() for value in state.values()]
    assert {value.dtype for value in moments} == {torch.float32}


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_essnet_in_a_reduced_precision_starts_where_fp32_starts(name, make_essnet):
    def losses(precision: str) -> dict[str, float]:
        trainer = make_essnet(channels=8, execution=Execution(Precision(precision, CPU)))
        first = trainer.step(0, 0).losses
        assert all(loss.dtype == torch.float32 for loss in first.values())
        # fp16 looks for its scale, and a gradient that grows has it look again: which steps, rounding decides.
        faults = [any(trainer.step(0, 0).faults.values()) for _ in range(12)]
        assert faults.count(True) <= (6 if precision == "fp16" else 0)
        return {name: float(loss) for name, loss in first.items()}

    expected = losses("fp32")
    assert losses(name) == pytest.approx(expected, rel=0.02)


def test_weights_lie_in_the_precisions_memory_format_and_plain_leaves_them(make_essnet):
    def form(execution: Execution | None) -> bool:
        weight = make_essnet(channels=4, execution=execution).network.g1.down1.weight
        return weight.is_contiguous(memory_format=torch.channels_last)

    assert form(Execution(Precision("fp32", CPU)))
    assert not form(None)


# Loss scaling


def _layer() -> torch.nn.Linear:
    torch.manual_seed(2)
    return torch.nn.Linear(3, 2)


def _loss(layer: torch.nn.Linear, factor: float = 1.0) -> torch.Tensor:
    return (layer(torch.ones(1, 3)) * factor).square().sum()


def test_loss_scaling_changes_no_update():
    """The scale is a power of two: not even the rounding differs."""
    weights = []
    for name in ("fp32", "fp16"):
        layer = _layer()
        update = Update([layer], 0.1, (0.5, 0.999), Precision(name, CPU))
        assert [float(update(_loss(layer))) for _ in range(4)] == [0.0] * 4
        weights.append(layer.weight.detach().clone())
    assert torch.equal(*weights)


def test_a_step_that_overflows_is_left_out_and_halves_the_scale():
    layer = _layer()
    update = Update([layer], 0.1, (0.5, 0.999), Precision("fp16", CPU))
    update(_loss(layer))
    before, scale = layer.weight.detach().clone(), update.scaler.get_scale()
    assert update(_loss(layer, 1e18)) == 1.0  # finite itself, but not times the scale
    assert torch.equal(layer.weight, before)
    assert update.scaler.get_scale() == scale / 2
    assert update.optimizer.state[layer.weight]["step"] == 1
    assert update(_loss(layer)) == 0.0
    assert not torch.equal(layer.weight, before)


def test_the_loss_scale_is_saved_and_restored():
    layer = _layer()
    update = Update([layer], 0.1, (0.5, 0.999), Precision("fp16", CPU))
    for _ in range(3):
        update(_loss(layer, float("inf")))
    fresh = _layer()
    other = Update([fresh], 0.1, (0.5, 0.999), Precision("fp16", CPU))
    other.load_state(update.state())
    other(_loss(fresh))
    assert other.scaler.get_scale() == update.scaler.get_scale() == 65536 / 8
    plain = Update([_layer()], 0.1, (0.5, 0.999), Precision("fp32", CPU))
    plain.load_state(update.state())  # a run that goes on in fp32
    assert plain.state() == {}


def test_patience_is_none_without_scaling_and_outlasts_the_search_for_a_scale_with_it(stream):
    assert _unet(stream, Precision("bf16", CPU)).patience[NOT_FINITE] == 1
    assert _unet(stream, Precision("fp16", CPU)).patience[NOT_FINITE] == SCALING_PATIENCE > 16


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_element_that_is_no_number_is_found(value, no_sync):
    gradients = [torch.ones(4, 3), torch.ones(2)]
    assert not_finite(gradients) == 0
    gradients[1][1] = value
    with no_sync():
        found = not_finite(gradients)
    assert found == 1


def test_adam_in_channels_last_is_adam():
    """Its kernel sees weights, gradients and moments in the order of memory; what it leaves is in the weights' own."""
    torch.manual_seed(0)
    image, results = torch.rand(2, 3, 9, 9), []
    start = torch.nn.Conv2d(3, 4, 3).state_dict()
    for form in (torch.contiguous_format, torch.channels_last):
        conv = torch.nn.Conv2d(3, 4, 3)
        conv.load_state_dict(start)
        conv.to(memory_format=form)
        update = Update([conv], 0.1, (0.5, 0.999), Precision("fp32", CPU))
        for _ in range(3):
            update(conv(image).square().sum())
        state = update.optimizer.state[conv.weight]
        assert conv.weight.is_contiguous(memory_format=form)
        assert state["exp_avg"].shape == conv.weight.shape
        results.append((conv.weight.detach(), state["exp_avg"], state["exp_avg_sq"], conv.bias.detach()))
    for contiguous, channels_last in zip(*results, strict=True):
        torch.testing.assert_close(channels_last, contiguous, rtol=1e-4, atol=1e-5)


# Going on from a checkpoint


def test_a_saved_state_takes_this_runs_settings_and_format():
    """As when a run that began on a CPU goes on on a GPU: Adam's kernel there walks all in the order of memory."""
    conv = torch.nn.Conv2d(3, 4, 3)
    saved = Update([conv], 0.1, (0.5, 0.999), Precision("fp32", CPU))
    saved(conv(torch.ones(1, 3, 8, 8)).sum())
    state = saved.optimizer.state_dict()
    state["param_groups"][0].update(fused=None, capturable=True, lr=7.0)
    own = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    update = Update([own], 0.1, (0.5, 0.999), Precision("fp32", CPU))
    update.optimizer.load_state_dict(state)
    group = update.optimizer.param_groups[0]
    assert (group["fused"], group["capturable"], group["lr"]) == (True, False, 0.1)
    moment = update.optimizer.state[own.weight]["exp_avg"]
    assert moment.stride() == own.weight.stride() != conv.weight.stride()
    assert torch.equal(moment, saved.optimizer.state[conv.weight]["exp_avg"])
    update.set_rate(0.5)
    assert group["lr"] == 0.05
