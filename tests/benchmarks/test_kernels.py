"""What can be tried of the kernels' benchmark without a GPU: its providers, its check, its CSV."""

import csv
from dataclasses import replace

import pytest
import torch

from benchmarks import kernels, measure
from benchmarks.cases import DTYPES, Case, variants

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _small(case: Case) -> Case:
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
    ways = kernels.providers(small, compiled=False)
    assert list(ways)[:2] == ["fastliver", "eager"]
    for name, provider in ways.items():
        assert kernels.disagreement(small, provider, DEVICE) < kernels.TOLERANCES[case.dtype] / 2, name


def test_a_library_routine_stands_beside_norms_and_adversarial_losses():
    def names(case: Case) -> list[str]:
        return list(kernels.providers(case, compiled=False))

    single = {case.title: names(case) for case in variants(dtypes=[torch.float32])}
    assert "library" in single["stem channels_last"]
    assert "library" in single["generator-gan contiguous"]
    assert "library" not in single["cycle contiguous"]
    batched = {case.title: names(case) for case in variants(dtypes=[torch.float32], batch=2)}
    assert "library" not in batched["stem channels_last"]
    assert "library" in batched["stem contiguous"]


def test_disagreement_sees_a_wrong_value_a_wrong_gradient_and_nan(triton_road):
    case = _small(next(variants(["contiguous"], [torch.float32], only="stem")))
    right = kernels.providers(case, compiled=False)["fastliver"]

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
        return (y + (len(runs) == 3) * torch.eye(8, device=y.device)[:1, :1],)

    monkeypatch.setattr(kernels, "providers", lambda case, compiled: {"fastliver": drifting})
    monkeypatch.setattr(kernels, "captured", lambda step, device: step)
    assert kernels.repeats_differ(case, 4, DEVICE) == 2 * 3 * 9 * 8

    kept = torch.zeros(case.shape, device=DEVICE)

    def unwritten(inputs):
        y = inputs[0] * 1.0
        kept.view(-1)[1:] = 1.0  # the first element keeps what it had
        y.data = kept
        return (y,)

    monkeypatch.setattr(kernels, "providers", lambda case, compiled: {"fastliver": unwritten})
    assert kernels.repeats_differ(case, 4, DEVICE) >= 3


def test_steps_are_the_three_modes():
    case = _small(next(variants(["contiguous"], [torch.float32], only="patch2")))
    provider = kernels.providers(case, compiled=False)["eager"]
    results = {mode: step() for mode, step in kernels.steps(provider, kernels.make_inputs(case, DEVICE))}
    assert tuple(results) == kernels.MODES
    assert results["forward"][0].shape == case.shape
    assert torch.equal(results["backward"][0], results["full"][0])


class _Clock:
    """Stands in for the stopwatch: runs the work once and gives times."""

    def __init__(self):
        self.runs = 0

    def microseconds(self, work):
        work()
        self.runs += 1
        return 1.0, 2.0, 4.0


def _results(path):
    return measure.Results(path, "kernels", measure.surroundings(torch.device("cpu")))


def _read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_of_a_case(tmp_path, monkeypatch, triton_road):
    case = _small(next(variants(["channels_last"], [torch.float32], only="block-first")))
    ways = kernels.providers(case, compiled=False)
    ways["wrong"] = lambda inputs: (ways["eager"](inputs)[0] * 2,)
    monkeypatch.setattr(kernels, "providers", lambda case: ways)
    path = tmp_path / "device" / "kernels.csv"
    with _results(path) as results:
        complaints = kernels.time_case(case, _Clock(), results, DEVICE)
        assert _read(path)  # written as it goes
    assert len(complaints) == 1
    assert "wrong is 1 from the definition" in complaints[0]
    rows = _read(path)
    assert tuple(rows[0]) == measure.COLUMNS
    assert {row["provider"] for row in rows} == {"copy", "fastliver", "eager"}
    assert {row["mode"] for row in rows} == set(kernels.MODES)
    assert {row["case"] for row in rows} == {"block-first channels_last"}
    assert {(row["shape"], row["dtype"], row["suite"]) for row in rows} == {("2x3x9x8", "fp32", "kernels")}
    by_metric = {row["metric"]: row for row in rows if row["provider"] == "fastliver" and row["mode"] == "forward"}
    assert [by_metric["time"][p] for p in ("unit", "p20", "p50", "p80")] == ["us", "1", "2", "4"]
    least = 4 * 2 * 3 * (72 + 11 * 10)  # bytes: x and the padded result
    assert float(by_metric["throughput"]["p50"]) == pytest.approx(least / 2e3)
    assert float(by_metric["throughput"]["p20"]) == pytest.approx(least / 4e3)
    assert float(by_metric["traffic"]["p50"]) == pytest.approx((least + 4 * 2 * 3 * 72) / 2e3)
    assert float(by_metric["of_copy"]["p50"]) == 1.0


def test_a_second_sitting_is_added_and_other_columns_are_refused(tmp_path):
    path = tmp_path / "kernels.csv"
    where = {"case": "a", "provider": "b", "mode": "full", "shape": "1", "dtype": "fp32"}
    for _ in range(2):
        with _results(path) as results:
            results.add("time", "us", (1.0, 2.0, 3.0), **where)
    assert len(_read(path)) == 2
    path.write_text("suite,case\n")
    with pytest.raises(ValueError, match=r"kernels.csv: its columns are suite, case; expected suite, case, provider"):
        _results(path)


def test_percentiles_and_rates():
    assert measure.percentiles(list(range(101))) == (20.0, 50.0, 80.0)
    assert measure.rates(100.0, (1.0, 2.0, 4.0)) == (25.0, 50.0, 100.0)
    assert measure.results_folder("NVIDIA H100 80GB HBM3").name == "nvidia-h100-80gb-hbm3"


def test_a_copy_moves_the_bytes_that_it_says():
    target = kernels.copy_step(1000, DEVICE)()
    assert target.numel() * target.element_size() == 500


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys, tmp_path):
    out = tmp_path / "kernels.csv"
    assert kernels.main(["--only", "stem", "--batch", "1,32", "--out", str(out)]) == 2
    assert "no GPU here" in capsys.readouterr().err
    assert not out.exists()
