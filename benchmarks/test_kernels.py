"""`benchmarks.kernels` under pytest-benchmark: forward and backward of every operator. On a GPU these are replays of
graphs with a warm L2, the host's launch in the time; `python -m benchmarks.kernels` has neither.

python -m pytest benchmarks/test_kernels.py --benchmark-group-by=param:case --benchmark-columns=min,median
"""

from typing import Any

import pytest

from benchmarks.kernels import cases
from benchmarks.pytest_cases import DEVICE, each, time_contestant
from benchmarks.suite import Case, Contestant


@pytest.mark.parametrize(("case", "contestant"), each(case for case in cases(DEVICE) if case.mode == "full"))
def test_operator(benchmark: Any, case: Case, contestant: Contestant) -> None:
    time_contestant(benchmark, case, contestant)
