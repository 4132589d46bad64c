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
    assert {row["provider"] for row in rows} == {"copy", "fastliver", "eager", "eager contiguous"}
    assert {row["mode"] for row in rows} == set(kernels.MODES)
    assert {row["case"] for row in rows} == {"block-first channels_last"}
    assert {(row["shape"], row["dtype"]) for row in rows} == {("2x3x9x8", "fp32")}
    found = {row["metric"]: row for row in rows if row["provider"] == "fastliver" and row["mode"] == "forward"}
    assert set(found) == {"speed vs eager", "speed vs eager contiguous", "speed vs copy", "time", "rate"}
    least = 4 * 2 * 3 * (72 + 11 * 10)  # bytes: x and the padded result
    assert float(found["rate"]["p50"]) == pytest.approx(least / 1e6 / float(found["time"]["p50"]), rel=1e-4)


def test_on_a_cpu_the_stock_operators_alone_are_beside_it():
    for operator in variants(**kernels.usual(torch.device("cpu"))):
        names = ["fastliver", "eager", *(["eager contiguous"] if operator.layout == "channels_last" else [])]
        assert list(kernels.providers(operator, torch.device("cpu"))) == names


def test_the_calls_of_one_graph_outgrow_the_l2_each_with_data_of_its_own(monkeypatch):
    """Of the paper's calls at batch 1 most move a few megabytes: launched alone, the launch would be timed."""
    calls = {one.name: kernels.calls_together(one, GPU) for one in variants(["channels_last"], [torch.bfloat16])}
    assert (calls["generator-gan"], calls["block-first"], calls["stem"]) == (20, 20, 256 * 2**20 // 16_777_216)
    operator = next(variants(["channels_last"], [torch.float32], batch=32, only="stem"))
    assert kernels.calls_together(operator, GPU) == 1
    assert kernels.calls_together(operator, torch.device("cpu")) == 1
    small, seen = _small(next(variants(["contiguous"], [torch.float32], only="stem"))), []
    monkeypatch.setattr(kernels, "calls_together", lambda operator, device: 3)
    monkeypatch.setattr(kernels, "captured", lambda make, device: make())
    case = kernels.case_of(small, "forward", DEVICE, {"eager": lambda inputs: (seen.append(inputs[0]), inputs[0])[1:]})
    case.contestants[0].make()()
    first, *others = seen[-3:]
    assert all(not torch.equal(first, other) for other in others)


def test_eager_contiguous_is_given_contiguous_data():
    small = _small(next(variants(["channels_last"], [torch.float32], only="stem")))
    seen = {}
    ways = {name: lambda inputs, name=name: seen.update({name: inputs[0]}) or inputs[:1]
            for name in ("eager", "eager contiguous")}  # fmt: skip
    for contestant in kernels.case_of(small, "forward", torch.device("cpu"), ways).contestants:
        contestant.make()()
    assert seen["eager"].is_contiguous(memory_format=torch.channels_last)
    assert seen["eager contiguous"].is_contiguous()
    assert torch.equal(seen["eager"], seen["eager contiguous"])


def test_every_operator_is_a_case_in_three_modes():
    cases = list(kernels.cases(torch.device("cpu")))
    assert len(cases) == 3 * len(CASES)
    assert {case.mode for case in cases} == set(kernels.MODES)
    for case in cases:
        names = ["fastliver", "eager", *(["eager contiguous"] if "channels_last" in case.title else []), "copy"]
        assert [contestant.name for contestant in case.contestants] == names


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_command_on_a_cpu(capsys, rows_file):
    assert kernels.SUITE.main(["--only", "generator-gan c", "--repeats", "1", "--out", str(rows_file)]) == 0
    assert "times as fast" in capsys.readouterr().out
    assert rows_file.exists()
