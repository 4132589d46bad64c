"""The cases of decode.py for pytest-benchmark.

python -m pytest benchmarks/test_decode.py --benchmark-group-by=param:case --benchmark-columns=min,median
"""

from typing import Any

import pytest

from benchmarks.decode import TOLERANCE, cases, disagreement

NAMES = ("files", "jpeg2000", "store", "files-gpu", "memory-gpu")
PROVIDERS = ("fastliver", "dali-cpu", "pydicom", "monai", "file")


@pytest.fixture(scope="module")
def found() -> Any:
    with cases() as made:
        yield {case.name: case for case in made}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("case", NAMES)
def test_rate(benchmark: Any, found: Any, case: str, provider: str) -> None:
    if case not in found or provider not in found[case].providers:
        pytest.skip(f"no {provider} for {case} on this machine")
    benchmark.pedantic(found[case].providers[provider], rounds=5, warmup_rounds=1)
    if benchmark.stats:
        rate = found[case].amount / benchmark.stats.stats.median
        benchmark.extra_info[found[case].unit] = round(rate, 2)


@pytest.mark.parametrize("case", ["files", "jpeg2000"])
def test_providers_agree(found: Any, case: str) -> None:
    assert max(disagreement(found[case]).values()) < TOLERANCE
