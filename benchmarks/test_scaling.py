"""`benchmarks.scaling` under pytest-benchmark: batches and image sides; ranks are in `python -m benchmarks.scaling`.

python -m pytest benchmarks/test_scaling.py --benchmark-group-by=param:case --benchmark-columns=min,median
"""

from typing import Any

import pytest

from benchmarks.pytest_cases import DEVICE, each, time_contestant
from benchmarks.scaling import cases
from benchmarks.suite import Case, Contestant


@pytest.mark.parametrize(("case", "contestant"), each(cases(DEVICE)))
def test_step(benchmark: Any, case: Case, contestant: Contestant) -> None:
    time_contestant(benchmark, case, contestant, rounds=20 if DEVICE.type == "cuda" else 3)
