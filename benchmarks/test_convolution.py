"""`benchmarks.convolution` under pytest-benchmark.

python -m pytest benchmarks/test_convolution.py --benchmark-group-by=param:case --benchmark-columns=min,median
"""

from typing import Any

import pytest

from benchmarks.convolution import cases
from benchmarks.pytest_cases import DEVICE, each, time_contestant
from benchmarks.suite import Case, Contestant


@pytest.mark.parametrize(("case", "contestant"), each(cases(DEVICE)))
def test_convolution(benchmark: Any, case: Case, contestant: Contestant) -> None:
    time_contestant(benchmark, case, contestant)
