"""`benchmarks.decode` under pytest-benchmark.

python -m pytest benchmarks/test_decode.py --benchmark-group-by=param:case --benchmark-columns=min,median
"""

from typing import Any

import pytest

from benchmarks.decode import Material, cases
from benchmarks.pytest_cases import DEVICE, each, time_contestant
from benchmarks.suite import Case, Contestant


@pytest.mark.parametrize(("case", "contestant"), each(cases(DEVICE, Material())))
def test_decode(benchmark: Any, case: Case, contestant: Contestant) -> None:
    time_contestant(benchmark, case, contestant)
