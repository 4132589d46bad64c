"""`benchmarks.train_step` under pytest-benchmark: every provider of every case, each by itself.

python -m pytest benchmarks/test_train_step.py --benchmark-group-by=param:case --benchmark-columns=min,median
"""

from typing import Any

import pytest

from benchmarks.pytest_cases import DEVICE, each, time_contestant
from benchmarks.suite import Case, Contestant
from benchmarks.train_step import cases
from fastliver.training.host_memory import kept_memory


@pytest.mark.parametrize(("case", "contestant"), each(cases(DEVICE)))
def test_step(benchmark: Any, case: Case, contestant: Contestant) -> None:
    with kept_memory(DEVICE):
        time_contestant(benchmark, case, contestant, rounds=20 if DEVICE.type == "cuda" else 3)
