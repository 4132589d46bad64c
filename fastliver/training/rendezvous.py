"""Where the ranks of a run learn each other's addresses, also after torchrun has started them again.

torchrun's store outlives the processes: it still has the addresses of those that died. Each start of the ranks
therefore keeps its own under a word that only these processes know. torchrun's count of restarts is no such word, as
it counts for each machine apart (pytorch/pytorch#108158).
"""

import time
import uuid
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

PAUSE = 0.01
"""Seconds between two looks into the store."""


def meeting_place() -> dict[str, Any]:
    """What `init_process_group` wants to know: store, rank and world size, from the variables that torchrun sets.

    Raises:
        RuntimeError: when the store can't be reached, or a rank hasn't come in time.
    """
    store, rank, count = next(rendezvous("env://"))
    return {"store": dist.PrefixStore(agree_on_word(store, rank, count), store), "rank": rank, "world_size": count}


def agree_on_word(store: dist.Store, rank: int, count: int, wait: timedelta = dist.default_pg_timeout) -> str:
    """A word that the ranks of this start share, and no process before them knew.

    Every rank leaves a name that it made up; rank 0 answers each name with the word until all have thanked for it. What
    earlier processes left holds other names, and is written over.

    Raises:
        DistStoreError: when a rank hasn't come after this wait (half an hour, as PyTorch waits for its store).
    """
    end = time.monotonic() + wait.total_seconds()
    made_up = uuid.uuid4().hex
    if rank > 0:
        store.set(f"name of {rank}", made_up)
        while not (answer := _read(store, f"answer to {rank}")).startswith(made_up):
            _pause(end, "rank 0")
        store.set(f"thanks of {rank}", answer)
        return answer.removeprefix(made_up)
    missing = set(range(1, count))
    while missing:
        for other in sorted(missing):
            answer = _read(store, f"name of {other}") + made_up
            store.set(f"answer to {other}", answer)
            if _read(store, f"thanks of {other}") == answer:
                missing.remove(other)
        if missing:
            _pause(end, "rank " + ", ".join(map(str, sorted(missing))))
    return made_up


def _read(store: dist.Store, key: str) -> str:
    """The value, empty where there is none yet."""
    return store.get(key).decode() if store.check([key]) else ""


def _pause(end: float, awaited: str) -> None:
    if time.monotonic() > end:
        raise dist.DistStoreError(f"{awaited} has not come in time")
    time.sleep(PAUSE)
