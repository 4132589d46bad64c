"""Trainers out of a run's settings: networks, streams of batches, precision, memory plan and ranks put together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastliver.config import EssNetConfig, TrainConfig, UNetConfig
from fastliver.data.batches import BatchStream, Slices
from fastliver.data.store import SliceStore
from fastliver.models import EssNet, UNet
from fastliver.training.distributed import Ranks
from fastliver.training.essnet import EssNetTrainer
from fastliver.training.memory import set_checkpoint_blocks
from fastliver.training.memory_plan import MemoryPlan
from fastliver.training.precision import Precision
from fastliver.training.trainer import Execution
from fastliver.training.unet import UNetTrainer


@dataclass(frozen=True)
class Builder:
    """Makes a run's trainers; a training is named as in memory.TITLES: "essnet", "cyclegan" or "unet".

    Attributes:
        config: the run's settings.
        ranks: the processes that train together.
        distributed: whether steps are carried out as several ranks do; it outlives `alone`, whose steps cost the same.
        plans: how each training fits the GPU's memory, by its name; without one it trains plainly.
        tell: takes messages to the user.
    """

    config: TrainConfig
    ranks: Ranks
    distributed: bool = False
    plans: Mapping[str, MemoryPlan] = field(default_factory=dict)
    tell: Callable[[str], None] = print

    def alone(self) -> "Builder":
        """Makes the trainers that this rank would have by itself, and says nothing."""
        return replace(self, ranks=Ranks(device=self.ranks.device), tell=lambda message: None)

    def essnet_settings(self, training: str) -> dict[str, Any]:
        """EssNet's arguments; "cyclegan" has no segmentor."""
        essnet = self.config.essnet
        return {
            "channels": essnet.channels,
            "blocks": essnet.blocks,
            "segmentor": training == "essnet",
            "segmentor_tanh": essnet.segmentor_tanh,
        }

    def unet_settings(self) -> dict[str, Any]:
        """The U-Net's arguments."""
        return {"channels": self.config.unet.channels, "head_relu": self.config.unet.head_relu}

    def slices(self, training: str, store: SliceStore, numbers: NDArray[np.intp]) -> Slices:
        """Slices of a store, on the device or in host memory as the training's plan says."""
        plan = self.plans.get(training)
        return Slices.load(store, numbers, self.ranks.device, None if plan is None else plan.slices_budget)

    def essnet(self, training: str, ct: Slices, mr: Slices) -> EssNetTrainer:
        """A new EssNet, or CycleGAN, and what trains it on these slices."""
        config, seed = self.config.essnet, self.config.experiment.seed
        torch.manual_seed(seed)
        network = EssNet(**self.essnet_settings(training)).to(self.ranks.device)
        execution = self._execution(training, network)
        streams = self._stream(ct, config, (seed, 21), len(mr)), self._stream(mr, config, (seed, 22))
        trainer = EssNetTrainer(network, config, *streams, self.ranks.own_seed(seed), execution)
        self._seed_dropout(seed)
        return trainer

    def unet(self, seed: int, slices: Slices, length: int | None = None) -> UNetTrainer:
        """A new U-Net and what trains it on these slices.

        Args:
            seed: of its weights, order and dropout.
            slices: what it learns from.
            length: slices drawn in an epoch, None for each once.
        """
        torch.manual_seed(seed)
        network = UNet(**self.unet_settings()).to(self.ranks.device)
        execution = self._execution("unet", network)
        stream = self._stream(slices, self.config.unet, (seed, 23), length)
        trainer = UNetTrainer(network, self.config.unet, stream, execution)
        self._seed_dropout(seed)
        return trainer

    def _execution(self, training: str, network: EssNet | UNet) -> Execution:
        """How a training runs; has the network keep as little for the backward as the plan says."""
        plan, engine, ranks = self.plans.get(training), self.config.engine, self.ranks
        set_checkpoint_blocks(network, plan is not None and plan.checkpoint_blocks)
        precision = Precision.of(engine.precision if plan is None else plan.precision, ranks.device)
        parallel = plan is None or plan.is_roomy
        return Execution(precision, engine.graph, ranks.wrap, self.distributed, parallel, self.tell)

    def _seed_dropout(self, seed: int) -> None:
        """Let torch's random numbers, alike so far to give all ranks the same weights, go each rank's own way.

        Rank 0 goes on as a run of one rank does.
        """
        if not self.ranks.is_main:
            torch.manual_seed(self.ranks.own_seed(seed))

    def _stream(
        self, slices: Slices, config: EssNetConfig | UNetConfig, seed: tuple[int, ...], length: int | None = None
    ) -> BatchStream:
        """This rank's part of a training's batches."""
        return BatchStream(slices, config.batch, seed, config.augment, length, self.ranks.rank, self.ranks.count)
