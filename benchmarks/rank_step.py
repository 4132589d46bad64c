"""Started by torchrun: the ranks of one process group take training steps together; rank 0 prints the seconds."""

import json
import sys
import time

import torch
import torch.distributed as dist

from benchmarks.train_step import WARM_UP, Size, noise
from fastliver.training.distributed import join
from fastliver.training.host_memory import kept_memory
from fastliver.training.memory import make_network, make_trainer
from fastliver.training.precision import Precision
from fastliver.training.trainer import Execution


def main(training: str, size: int, repeats: int) -> None:
    """Steps of batch 1 a rank, in the precision that a run would take; on a CPU the ranks share its cores."""
    with join() as ranks:
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(ranks.local)
        else:
            torch.set_num_threads(max(1, torch.get_num_threads() // ranks.count))
        device = torch.device("cuda", ranks.local) if cuda else torch.device("cpu")
        ranks = ranks.on(device)
        one = Size(training, size, 1)
        torch.manual_seed(0)
        network = make_network(one.workload()).to(device)
        execution = Execution(Precision.of("auto", device), "auto", ranks.wrap, not ranks.alone)
        trainer = make_trainer(one.workload(), network, noise(one, device), execution)
        times = []
        with kept_memory(device):
            for number in range(-WARM_UP, repeats):
                if not ranks.alone:
                    dist.barrier(ranks.group)
                began = time.perf_counter()
                trainer.step(0, 0)
                if cuda:
                    torch.cuda.synchronize(device)
                if number >= 0:
                    times.append(time.perf_counter() - began)
        if ranks.is_main:
            print(json.dumps(times))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
