"""Several processes that train as one, each on its own part of every batch, started by torchrun.

Two roads of communication: a gloo group on the host carries decisions, errors and checkpoints, and waits as long as
rank 0 needs to read a data set; gradients and losses go by NCCL between GPUs, by gloo between CPUs.
"""

import gc
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastliver.errors import OtherRankFailed, RunError, run_again
from fastliver.training.rendezvous import meeting_place

T = TypeVar("T")

WAIT = timedelta(days=1)
"""For rank 0 to build a store or test a network; a rank that dies is noticed at once, by its closed connection."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, of which this is one.

    The default is a process alone, for which every method is the obvious thing and costs nothing.

    Attributes:
        rank: number of this process, from 0.
        count: number of processes.
        local: number of this process on its machine, which is the number of its GPU.
        device: where this process computes; see `on`.
        group: of gradients and losses; None is the gloo group that everything else goes through.
    """

    rank: int = 0
    count: int = 1
    local: int = 0
    device: torch.device = torch.device("cpu")  # noqa: RUF009 -- can't be changed
    group: dist.ProcessGroup | None = None

    @property
    def alone(self) -> bool:
        return self.count == 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone writes and speaks."""
        return self.rank == 0

    def on(self, device: torch.device) -> "Ranks":
        """The same ranks computing on `device`; every rank must call it."""
        nccl = not self.alone and device.type == "cuda"
        return replace(self, device=device, group=dist.new_group(backend="nccl") if nccl else None)

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over the ranks as they arise (DistributedDataParallel)."""
        if self.alone:
            return module
        return nn.parallel.DistributedDataParallel(
            module,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            process_group=self.group,
            gradient_as_bucket_view=True,
        )

    def own_seed(self, seed: int) -> int:
        """A seed for what each rank has of its own, such as dropout; rank 0's is `seed`, as in a run without others."""
        if self.is_main:
            return seed
        return int(np.random.SeedSequence([seed, self.rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))

    # Decisions

    def first(self, work: Callable[[], T]) -> T:
        """What `work` gives, done by rank 0 and then by the others, who find what it left on disk.

        Raises:
            OtherRankFailed: on the other ranks, when it failed on rank 0.
        """
        value = self.only(work)
        return value if self.is_main else work()

    def only(self, work: Callable[[], T]) -> T:
        """What `work` gives on rank 0, which alone does it while the others wait; on those, None.

        Raises:
            OtherRankFailed: on the other ranks, when it failed on rank 0.
        """
        if self.alone:
            return work()
        done, value = False, None
        try:
            if self.is_main:
                value = work()
                done = True
        finally:
            done = self.broadcast(done)
        if not done:
            raise OtherRankFailed("rank 0 failed")
        return value  # type: ignore[return-value]

    def broadcast(self, value: T) -> T:
        """Rank 0's value."""
        if self.alone:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """The values of all ranks in their order, on rank 0; elsewhere nothing."""
        if self.alone:
            return [value]
        values: list[Any] | None = [None] * self.count if self.is_main else None
        dist.gather_object(value, values)
        return values if values is not None else []

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on some rank."""
        if self.alone:
            return flag
        shared = torch.tensor(int(flag))
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return bool(shared)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the ranks, element by element, of tensors on their devices."""
        if self.alone:
            return values
        summed = values.clone()
        dist.all_reduce(summed, group=self.group)
        return summed / self.count


@dataclass(frozen=True)
class Launch:
    """How torchrun started this process.

    Attributes:
        job: torchrun's name of the job (`--rdzv-id`), the same on every machine and after a restart; None where it
            has none.
        may_restart: whether it would, after a failure (`--max-restarts`).
    """

    job: str | None
    may_restart: bool

    @staticmethod
    def find() -> "Launch | None":
        """None when torchrun didn't start this process."""
        job = os.environ.get("TORCHELASTIC_RUN_ID")
        if job is None:
            return None
        most = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
        return Launch(job if job not in ("", "none") else None, most > 0)


@contextmanager
def join(again: Callable[[], str] = run_again) -> Iterator[Ranks]:
    """Find the other ranks, if torchrun (or what sets the same variables) started several.

    Args:
        again: says how to go on when another rank is lost.

    Raises:
        RunError: when another rank can't be reached any more.
    """
    count = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    if count == 1:
        yield Ranks()
        return
    # DistributedDataParallel would import it once a group is there, and its functions' defaults would keep that group.
    importlib.import_module("torch.distributed.nn.functional")

    try:
        dist.init_process_group("gloo", timeout=WAIT, **meeting_place())
        yield Ranks(dist.get_rank(), count, int(os.environ.get("LOCAL_RANK", "0")))
    except RuntimeError as error:
        # gloo's errors have no type of their own.
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            reason = str(error).splitlines()[0]
            raise RunError(
                f"another rank has ended or can't be reached ({reason}); its own message says why; {again()}"
            ) from error
        raise
    finally:
        # Also after an error, when the others may wait for this one: closed connections tell them. But NCCL might
        # wait for them, so that a rank with a GPU then leaves without a word.
        if dist.is_initialized() and (sys.exception() is None or not torch.cuda.is_initialized()):
            dist.destroy_process_group()
            # The last reference to the group, somewhere in a cycle, ends gloo's threads. One that still let go of a
            # tensor of Python's while Python shuts down would end the process with SIGABRT, whatever its exit code.
            gc.collect()
