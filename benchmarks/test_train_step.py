"""`benchmarks.train_step` under pytest-benchmark: every provider of every case, each by itself.

python -m pytest benchmarks/test_train_step.py --benchmark-group-by=param:case --benchmark-columns=min,median
"""

from typing import Any

import pytest
import torch

from benchmarks.train_step import WARM_UP, Case, Provider, cases, make_step, milliseconds, providers

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("case", cases(DEVICE), ids=lambda case: f"{case.training}-{case.shape}")
@pytest.mark.parametrize("provider", providers(DEVICE), ids=lambda one: f"{one.name}-{one.precision}".replace(" ", "-"))
def test_step(benchmark: Any, case: Case, provider: Provider) -> None:
    step, _ = make_step(case, provider, DEVICE)
    cuda = DEVICE.type == "cuda"
    benchmark.pedantic(milliseconds, (step, DEVICE), rounds=20 if cuda else 3, warmup_rounds=WARM_UP if cuda else 1)
    if benchmark.stats:
        benchmark.extra_info["TFLOP_per_s"] = round(case.tflop / benchmark.stats.stats.min, 3)
