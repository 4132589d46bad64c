"""What can be tried of the kernels' benchmark without a GPU: its providers, its check, its rows."""

from dataclasses import replace

import pytest
import torch

from benchmarks import kernels
from benchmarks.operators import CASES, DTYPES, OperatorCase, variants

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
GPU = torch.device("cuda")
"""Whose list of providers is asked for; nothing is put there."""


def _small(case: OperatorCase) -> OperatorCase:
    """The case on two images of three channels (three of one class each) and 9x8 pixels."""
    return replace(case, shape=(2, min(case.shape[1], 3), 9, 8))


@pytest.fixture
def triton_road(monkeypatch):
    monkeypatch.setenv("FASTLIVER_KERNELS", "triton")


@pytest.mark.parametrize(
    "case",
    [*variants(["channels_last"], [torch.bfloat16]), *variants(["contiguous"], [torch.float32])],
    ids=lambda case: f"{case.title} {case.dtype_name}",
)
def test_every_provider_agrees_with_the_definition(case, triton_road):
    small = _small(case)
    ways = kernels.providers(small, GPU, compiled=False)
    assert list(ways)[:2] == ["fastliver", "eager"]
    for name, provider in ways.items():
        assert kernels.disagreement(small, provider, DEVICE) < kernels.TOLERANCES[case.dtype] / 2, name


def test_a_library_routine_stands_beside_norms():
    def names(case: OperatorCase) -> list[str]:
        return list(kernels.providers(case, GPU, compiled=False))

    single = {case.title: names(case) for case in variants(dtypes=[torch.float32])}
    assert "library" in single["stem channels_last"]
    assert "library" not in single["generator-gan contiguous"]
    assert "library" not in single["cycle contiguous"]
    batched = {case.title: names(case) for case in variants(dtypes=[torch.float32], batch=2)}
    assert "library" not in batched["stem channels_last"]
    assert "library" in batched["stem contiguous"]


def test_disagreement_sees_a_wrong_value_a_wrong_gradient_and_nan(triton_road):
    case = _small(next(variants(["contiguous"], [torch.float32], only="stem")))
    right = kernels.providers(case, DEVICE, compiled=False)["fastliver"]

    def wrong_value(inputs):
        return (right(inputs)[0] * 1.01,)

    def wrong_gradient(inputs):
        y = right(inputs)[0]
        return (y + (y - y.detach()) * 0.01,)

    def nan(inputs):
        return (right(inputs)[0] * float("nan"),)

    assert kernels.disagreement(case, right, DEVICE) < 1e-5
    assert kernels.disagreement(case, wrong_value, DEVICE) == pytest.approx(0.01, rel=0.01)
    assert kernels.disagreement(case, wrong_gradient, DEVICE) == pytest.approx(0.01, rel=0.01)
    assert kernels.disagreement(case, nan, DEVICE) == float("inf")


@pytest.mark.parametrize(
    ("name", "dtype"), [("block-second", "fp16"), ("discriminator-gan", "bf16"), ("segmentation", "fp32")]
)
def test_repeats_have_the_same_bits(name, dtype, triton_road):
    case = next(c for c in variants(["channels_last", "contiguous"], [DTYPES[dtype]]) if c.name == name)
    assert kernels.repeats_differ(_small(case), 3, DEVICE) == 0


def test_a_repeat_that_differs_or_leaves_elements_unwritten_is_counted(monkeypatch):
    case = _small(next(variants(["contiguous"], [torch.float32], only="stem")))
    runs = []

    def drifting(inputs):
        runs.append(1)
        y = inputs[0] * 1.0
        return (y + (len(runs) == 4) * torch.eye(8, device=y.device)[:1, :1],)

    monkeypatch.setattr(kernels, "providers", lambda case, device, compiled: {"fastliver": drifting})
    monkeypatch.setattr(kernels, "captured", lambda make, device: make())
    assert kernels.repeats_differ(case, 4, DEVICE) == 2 * 3 * 9 * 8

    kept = torch.zeros(case.shape, device=DEVICE)

    def unwritten(inputs):
        y = inputs[0] * 1.0
        kept.view(-1)[1:] = 1.0  # the first element keeps what it had
        y.data = kept
        return (y,)

    monkeypatch.setattr(kernels, "providers", lambda case, device, compiled: {"fastliver": unwritten})
    assert kernels.repeats_differ(case, 4, DEVICE) >= 3


def test_steps_are_the_three_modes():
    case = _small(next(variants(["contiguous"], [torch.float32], only="patch2")))
    provider = kernels.providers(case, DEVICE, compiled=False)["eager"]
    results = {mode: step() for mode, step in kernels.steps(provider, kernels.make_inputs(case, DEVICE))}
    assert tuple(results) == kernels.MODES
    assert results["forward"][0].shape == case.shape
    assert torch.equal(results["backward"][0], results["full"][0])


def test_rows_of_an_operator(sitting, read_rows, monkeypatch):
    operator = _small(next(variants(["channels_last"], [torch.float32], only="block-first")))
    ways = kernels.providers(operator, torch.device("cpu"), compiled=False)
    ways["wrong"] = lambda inputs: (ways["eager"](inputs)[0] * 2,)
    monkeypatch.setattr(kernels, "providers", lambda case, device, compiled=True: dict(ways))
    held = sitting(repeats=2)
    kernels.time_operator(operator, held)
    (note,) = held.notes
    assert "wrong is 1 from the definition" in note
    rows = read_rows()
    assert {row["provider"] for row in rows} == {"copy", "fastliver", "eager"}
    assert {row["mode"] for row in rows} == set(kernels.MODES)
    assert {row["case"] for row in rows} == {"block-first channels_last"}
    assert {(row["shape"], row["dtype"]) for row in rows} == {("2x3x9x8", "fp32")}
    found = {row["metric"]: row for row in rows if row["provider"] == "fastliver" and row["mode"] == "forward"}
    assert set(found) == {"speed vs eager", "speed vs copy", "time", "rate"}
    least = 4 * 2 * 3 * (72 + 11 * 10)  # bytes: x and the padded result
    assert float(found["rate"]["p50"]) == pytest.approx(least / 1e6 / float(found["time"]["p50"]), rel=1e-4)


def test_on_a_cpu_the_stock_operators_alone_are_beside_it():
    for operator in variants(**kernels.usual(torch.device("cpu"))):
        assert list(kernels.providers(operator, torch.device("cpu"))) == ["fastliver", "eager"]


def test_every_operator_is_a_case_in_three_modes():
    cases = list(kernels.cases(torch.device("cpu")))
    assert len(cases) == 3 * len(CASES)
    assert {case.mode for case in cases} == set(kernels.MODES)
    assert all([c.name for c in case.contestants] == ["fastliver", "eager", "copy"] for case in cases)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_command_on_a_cpu(capsys, rows_file):
    assert kernels.SUITE.main(["--only", "generator-gan c", "--repeats", "1", "--out", str(rows_file)]) == 0
    assert "times as fast" in capsys.readouterr().out
    assert rows_file.exists()
