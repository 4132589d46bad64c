"""A suite's cases under pytest-benchmark: what its `test_<suite>.py` parametrizes over, and how one is timed."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch

from benchmarks.measure import seconds_of
from benchmarks.suite import Case, Contestant
from fastliver.training.memory_plan import release

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def each(cases: Iterable[Case]) -> list[Any]:
    """Every contestant of every case; `--benchmark-group-by=param:case` puts those of a case together."""
    return [
        pytest.param(case, contestant, id=f"{case.title}-{contestant.title}".replace(" ", "-"))
        for case in cases
        for contestant in case.contestants
    ]


def time_contestant(benchmark: Any, case: Case, contestant: Contestant, rounds: int = 5) -> None:
    """Time one contestant, the device waited for, and note its rate."""
    work = contestant.make()
    # On a GPU the first steps of a training record its graph.
    benchmark.pedantic(seconds_of, (work, DEVICE), rounds=rounds, warmup_rounds=8 if DEVICE.type == "cuda" else 1)
    if benchmark.stats and case.amount:
        benchmark.extra_info[case.unit] = float(f"{case.amount / benchmark.stats.stats.median:.4g}")
    del work
    release(DEVICE)
