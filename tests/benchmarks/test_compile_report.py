"""The kernels' promises, held by compiling them for three architectures without a GPU, and that a broken one is seen.

In processes of their own: Triton's interpreter, which other tests run kernels in, can't be left again.
"""

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import compile_report
from benchmarks.compile_report import REPRESENTATIVE, WIDE_SHARE, Compiled, loads_by_width
from benchmarks.operators import CASES, OperatorCase

ROOT = Path(__file__).parents[2]
KERNELS = {
    "plane_forward", "plane_backward", "partial_statistics", "merge_statistics", "apply_forward", "partial_backward",
    "merge_backward", "apply_backward", "_pad_forward", "_pad_backward", "_pointwise", "_pair", "_scale",
    "add_in_order", "_cross_entropy",
}  # fmt: skip

REPORT = "import sys; from benchmarks.compile_report import main; sys.exit(main(sys.argv[1:]))"


def _report(*arguments: str, code: str = REPORT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command, or code that ends in it, as on a machine where nobody set anything."""
    clean = {name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET", "FASTLIVER_KERNELS")}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, env={**clean, **environment}, capture_output=True, text=True
    )


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _hold(rows: list[dict[str, str]]) -> None:
    for row in rows:
        older = compile_report.triton_version() < (3, 9)
        assert int(row["stack_bytes"]) <= (32 if older and row["layout"] == "contiguous" else 0), row
        assert 8 < int(row["registers"]) <= 255, row
        assert row["broken"] == "", row
        wide = row["layout"] == "channels_last" and row["dtype"] != "fp32" and row["case"] != "segmentation"
        assert not wide or row["widest_load_bytes"] == "16", row


def test_every_kernel_compiles_without_spilling_and_reads_channels_last_16_bytes_at_a_time(tmp_path):
    path = tmp_path / "report.csv"
    cases = ("block-second", "input-pad", "discriminator-gan", "cycle", "segmentation")
    done = _report("--cases", *cases, "--arch", "75", "90", "120", "--dtype", "fp16", "--csv", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = _rows(path)
    assert {row["kernel"] for row in rows} == KERNELS
    assert {(row["arch"], row["layout"]) for row in rows if row["case"] == "block-second"} == {
        (arch, layout) for arch in ("sm_75", "sm_90", "sm_120") for layout in ("channels_last", "contiguous")
    }
    _hold(rows)
    assert "0 break a promise" in done.stdout
    assert "FP_FUSION" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_all_cases_on_all_architectures(dtype, tmp_path):
    path = tmp_path / "report.csv"
    archs = ("75", "80", "86", "89", "90", "100", "120")
    done = _report("--cases", *(case.name for case in CASES), "--arch", *archs, "--dtype", dtype, "--csv", str(path))
    assert done.returncode == 0, done.stderr
    _hold(_rows(path))


BROKEN = "import fastliver.kernels.geometry as geometry; geometry.{}; " + REPORT


@pytest.mark.parametrize(
    ("change", "complaint"),
    [("TILE = 65536", "bytes of stack"), ("WIDE_CHANNELS = 2", "0% of the loaded bytes in loads of 16 bytes")],
)
def test_tiles_that_spill_or_are_narrow_are_complained_about(change, complaint):
    arguments = ("--cases", "patch3", "--layout", "channels_last", "--arch", "75")
    done = _report(*arguments, code=BROKEN.format(change))
    assert done.returncode == 1, done.stdout + done.stderr
    assert complaint in done.stderr
    assert "patch3 channels_last fp16, sm_75" in done.stderr


def test_the_interpreter_is_refused():
    done = _report(TRITON_INTERPRET="1")
    assert done.returncode == 2
    assert "TRITON_INTERPRET is set" in done.stderr
    assert "Traceback" not in done.stderr


def test_widths_of_loads_in_ptx():
    ptx = """
        @%p1 ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];
        ld.global.L1::evict_last.v2.b64 { %rd3, %rd4 }, [ %rd5 + 0 ];
        @!%p2 ld.global.b16 { %rs1 }, [ %rd2 + 0 ];
        ld.global.nc.v8.f32 { %f1 }, [ %rd2 + 0 ];
        ld.shared.v4.b32 {%r1, %r2, %r3, %r4}, [%r9];
        ld.param.b64 %rd1, [kernel_param_0];
        st.global.v4.b32 [ %rd1 + 0 ], { %r1, %r2, %r3, %r4 };
    """
    assert loads_by_width(ptx) == {16: 2, 2: 1, 32: 1}


def test_promises(monkeypatch):
    wide = next(case for case in CASES if case.name == "stem")
    case = replace(wide, layout="channels_last", dtype=torch.bfloat16)

    def row(stack: int, loads: dict[int, int], kernel: str = "apply_forward", of: OperatorCase = case) -> Compiled:
        return Compiled(kernel, of, 90, 64, stack, 0, loads)

    assert row(0, {16: 9, 4: 2}).broken() == ""
    assert row(8, {16: 9}).broken() == "8 bytes of stack"
    contiguous = replace(case, layout="contiguous")
    monkeypatch.setattr(compile_report, "triton_version", lambda: (3, 9))
    assert row(8, {2: 9}, of=contiguous).broken() == "8 bytes of stack"
    monkeypatch.setattr(compile_report, "triton_version", lambda: (3, 8))
    assert row(32, {2: 9}, of=contiguous).broken() == ""
    assert row(40, {2: 9}, of=contiguous).broken() == "40 bytes of stack"
    assert row(0, {16: 8, 2: 16}).broken() == "80% of the loaded bytes in loads of 16 bytes"
    assert row(0, {}).broken().startswith("0%")
    assert row(0, {2: 8}, "merge_backward").broken() == ""
    assert row(0, {2: 8}, of=wide).broken() == ""
    assert row(0, {32: 1, 16: 1}).widest == 32
    assert 0.5 < WIDE_SHARE < 1


def test_the_default_cases_exist():
    assert set(REPRESENTATIVE) <= {case.name for case in CASES}
