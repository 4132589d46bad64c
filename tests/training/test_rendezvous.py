"""The ranks of one start find each other in a store that still has what the ranks before them left."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from fastliver.training.rendezvous import agree_on_word

SHORT = timedelta(seconds=0.05)


def start(store: dist.Store, count: int, *, late: int | None = None) -> list[str]:
    """What each rank of a start is told."""

    def come(rank: int) -> str:
        if rank == late:
            time.sleep(0.1)
        return agree_on_word(store, rank, count, timedelta(seconds=20))

    with ThreadPoolExecutor(count) as ranks:
        return list(ranks.map(come, range(count)))


@pytest.mark.parametrize("late", [0, 1, 2])
def test_every_start_agrees_on_another_word(late: int) -> None:
    store = dist.HashStore()
    first, second = start(store, 3), start(store, 3, late=late)
    assert len(set(first)) == len(set(second)) == 1
    assert first[0] and second[0] and first[0] != second[0]
    assert set(start(store, 2)).isdisjoint(first + second)


def test_what_a_rank_left_that_died_before_it_was_answered_misleads_nobody() -> None:
    store = dist.HashStore()
    with pytest.raises(dist.DistStoreError, match="rank 0 has not come in time"):
        agree_on_word(store, 1, 2, SHORT)
    assert len(set(start(store, 2, late=1))) == 1


def test_who_has_not_come_is_named() -> None:
    with pytest.raises(dist.DistStoreError, match="rank 1, 2 has not come in time"):
        agree_on_word(dist.HashStore(), 0, 3, SHORT)
