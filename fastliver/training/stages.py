"""The stages of a run: train EssNet, synthesize MR, train and test the U-Nets.

Each stage skips what an earlier sitting finished, goes on where one was cut off, and leaves its figures in `results/`.
All ranks train; the first alone synthesizes, tests and writes.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from fastliver.config import TrainConfig
from fastliver.data.splits import labelled_subset, patients_of, synthetic_subset
from fastliver.data.store import SliceStore
from fastliver.errors import InputError
from fastliver.files import write_arrays
from fastliver.inference import liver_probability, load_essnet, load_unet, synthesize_store
from fastliver.inference.quality import quality
from fastliver.models import EssNet, ResNetGenerator, count_parameters
from fastliver.run_folder import RunFolder
from fastliver.training import checkpoint
from fastliver.training.build import Builder
from fastliver.training.distributed import Ranks
from fastliver.training.essnet import EssNetTrainer
from fastliver.training.evaluation import dice_by_slice, score
from fastliver.training.jobs import UNetJob, epoch_slices, synthesis_jobs, unet_jobs
from fastliver.training.loop import TrainingTime, train
from fastliver.training.memory_plan import MemoryPlan, release
from fastliver.training.prepare import RunData
from fastliver.training.profiling import span
from fastliver.training.progress import bar
from fastliver.training.signals import Signals
from fastliver.training.trainer import Trainer
from fastliver.training.unet import UNetTrainer
from fastliver.words import counted

FIGURE_SLICES = 6
"""Slices of each kind that are kept for the report's figures."""
EXTREMES = 4
"""Worst test slices that are kept for them, and as many best."""


def evenly(count: int) -> NDArray[np.intp]:
    """Up to FIGURE_SLICES positions spread over `count`, away from the ends where livers are small."""
    kept = min(FIGURE_SLICES, count)
    return ((np.arange(kept) + 0.5) * count / kept).astype(int)


def extremes(scores: NDArray[np.float64]) -> NDArray[np.intp]:
    """Positions of the EXTREMES lowest scores, lowest first, then of as many highest, highest first."""
    order = np.argsort(scores, kind="stable")
    kept = min(EXTREMES, len(order) // 2)
    return np.concatenate((order[:kept], order[::-1][:kept]))


@dataclass(frozen=True)
class Run:
    """A run at work.

    Attributes:
        config: its settings.
        folder: where everything goes.
        data: what it learns from.
        console: where it shows progress.
        ranks: the processes that share it.
        signals: SIGINT, SIGTERM and SIGHUP, at which it saves and leaves.
        plans: how each training fits the GPU's memory, by its name (of memory.TITLES); without one it trains plainly.
    """

    config: TrainConfig
    folder: RunFolder
    data: RunData
    console: Console
    ranks: Ranks
    signals: Signals
    plans: Mapping[str, MemoryPlan] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return self.ranks.device

    @property
    def builder(self) -> Builder:
        """What makes its trainers."""
        return Builder(self.config, self.ranks, not self.ranks.alone, self.plans, self.console.print)

    # EssNet

    def essnet_trainer(self, job: str) -> EssNetTrainer:
        """A new EssNet (or CycleGAN) and its data."""
        ct = self.builder.slices(job, self.data.ct, self.data.essnet_ct)
        mr, *more = (self.builder.slices(job, store, numbers) for store, numbers in self.data.essnet_mr)
        return self.builder.essnet(job, ct, sum(more, start=mr))

    def train_essnet(self, job: str) -> None:
        """Train one of `synthesis_jobs`."""
        meta = {
            "network": self.builder.essnet_settings(job),
            "image_size": self.config.data.image_size,
            "ct_intensity": self.data.ct.meta["intensity"],
            "mr_intensity": self.data.mr.meta["intensity"],
        }
        times = self._train(job, meta, lambda: self.essnet_trainer(job), self.config.essnet.batch)
        self.ranks.only(lambda: self._write_essnet(job, times))

    def _write_essnet(self, job: str, times: TrainingTime) -> None:
        network = EssNet(**self.builder.essnet_settings(job))
        self.folder.write_result(
            f"train-{job}",
            {
                "job": job,
                "parameters": {
                    "generator": count_parameters(network.g1),
                    "discriminator": count_parameters(network.d1),
                    "segmentor": count_parameters(network.s) if network.s is not None else 0,
                    "paper_count": count_parameters(network.g1, network.g2, network.d1, network.d2),
                    "total": count_parameters(network),
                },
                **self._cost(times),
            },
        )

    # Synthesis

    def synthesize(self, job: str) -> None:
        """Turn all CT with liver into labelled synthetic MR."""
        store, samples, result = (f"{kind}-{job}" for kind in ("synthetic", "samples", "synthesis"))
        found, before = self.trained(job), self.folder.read_result(result)
        if before is not None and self.folder.read_result(f"quality-{job}") is not None:
            if before["checkpoint"] != found.meta["digest"]:
                raise InputError(
                    f"{self.folder.synthetic(job)}: made by another training of {job} than {found.path}, and U-Nets "
                    "may have learned from it; start a new run"
                )
            self.console.print(f"{store}: done before")
            return
        network = load_essnet(found.meta["network"], found.weights(), self.device)
        ct = self.data.ct
        with span(f"synthesize {job}"), bar(self.console, f"synthesize {job}", len(ct.liver_slices())) as progress:
            synthetic = synthesize_store(
                network.g1, ct, self.data.mr_rule, self.folder.synthetic(job), job, progress.update
            )
        shown = evenly(len(synthetic))
        self._measure_quality(job, network.s, synthetic)
        # The synthetic store follows the CT's studies, so its slices are the CT's liver slices in order.
        originals = ct.liver_slices()[shown]
        write_arrays(
            self.folder.arrays(samples),
            ct=ct.images[originals],
            synthetic=synthetic.images[shown],
            label=synthetic.labels[shown],
        )
        seconds = synthetic.meta["seconds"]
        self.folder.write_result(
            result,
            {
                "job": job,
                "checkpoint": found.meta["digest"],
                "images": len(synthetic),
                "seconds": seconds,
                "images_per_second": len(synthetic) / seconds,
            },
        )

    def _measure_quality(self, job: str, segmentor: ResNetGenerator | None, synthetic: SliceStore) -> None:
        """Write what the report says of the synthetic images, beside the MR that the network learned from."""
        with bar(self.console, f"measure {job}'s images", len(synthetic)) as progress:
            found = quality(synthetic, self.data.ct, self.data.mr, self.data.split.train, segmentor, progress.update)
        self.folder.write_result(f"quality-{job}", {"job": job, **found})

    # U-Net

    def real_slices(self, job: UNetJob) -> NDArray[np.intp]:
        """Numbers of the real MR slices that a U-Net learns from."""
        return labelled_subset(self.data.mr, self.data.split.train, job.patients, job.seed)

    def synthetic_slices(self, job: UNetJob) -> tuple[SliceStore, NDArray[np.intp]]:
        """The synthetic images that a U-Net learns from besides the real ones: their store and their numbers there."""
        store = SliceStore.open(self.folder.synthetic(job.source))
        return store, synthetic_subset(store, job.arrangement, job.seed)

    def unet_trainer(self, job: UNetJob) -> UNetTrainer:
        """A new U-Net and its data."""
        real = self.real_slices(job)
        slices = self.builder.slices("unet", self.data.mr, real)
        if job.arrangement:
            slices += self.builder.slices("unet", *self.synthetic_slices(job))
        return self.builder.unet(job.seed, slices, epoch_slices(self.config, job, self.data))

    def train_unet(self, job: UNetJob) -> None:
        """Train one U-Net and test it on the held-out MR."""
        if self.folder.read_result(job.name) is not None:
            self.console.print(f"{job.name}: done before")
            return
        meta = {
            "network": self.builder.unet_settings(),
            "image_size": self.config.data.image_size,
            "mr_intensity": self.data.mr.meta["intensity"],
        }
        times = self._train(job.name, meta, lambda: self.unet_trainer(job), self.config.unet.batch)
        self.ranks.only(lambda: self._test_unet(job, times))

    def _test_unet(self, job: UNetJob, times: TrainingTime) -> None:
        found = self.trained(job.name)
        network = load_unet(found.meta["network"], found.weights(), self.device)
        split, store, real = self.data.split, self.data.mr, self.real_slices(job)
        began = time.monotonic()
        with span(f"test {job.name}"), bar(self.console, f"test {job.name}", len(split.test_volume)) as progress:
            probability = liver_probability(network, store.images[split.test_volume], progress.update)
        rate = len(split.test_volume) / (time.monotonic() - began)
        tested = np.searchsorted(split.test_volume, split.test)
        chosen = {"": evenly(len(split.test)), "-extremes": extremes(dice_by_slice(probability[tested], store, split))}
        for kind, places in chosen.items():
            shown = split.test[places]
            write_arrays(
                self.folder.arrays(job.name + kind),
                image=store.images[shown],
                label=store.labels[shown],
                probability=probability[tested[places]].astype(np.float16),
                patient=np.array([store.entries[number].patient for number in shown]),
                z=np.array([store.entries[number].z for number in shown]),
            )
        self.folder.write_result(
            job.name,
            {
                "job": job.name,
                "source": job.source,
                "arrangement": job.arrangement,
                "labelled_patients": patients_of(store, real),
                "all_labelled": job.patients is None,
                "real": len(real),
                "synthetic": len(self.synthetic_slices(job)[1]) if job.arrangement else 0,
                "seed": job.seed,
                "parameters": count_parameters(network),
                "images_per_second": rate,
                "ranks": found.meta["ranks"],
                **self._cost(times),
                **score(probability, store, split),
            },
        )

    # What both trainings share

    def _train(self, job: str, meta: dict[str, Any], make: Callable[[], Trainer], batch: int) -> TrainingTime:
        """Train unless that was finished before; either way gives what it cost."""
        found = self.ranks.first(lambda: checkpoint.final(self.folder.checkpoints(job)))
        if found is not None:
            self.ranks.only(lambda: checkpoint.drop_steps(self.folder.checkpoints(job)))
            self.console.print(f"{job}: trained before")
            return TrainingTime(found.meta["step"], found.meta["steps_per_epoch"], found.meta["seconds"])
        trainer = make()
        meta = {"job": job, **meta, "steps_per_epoch": trainer.steps_per_epoch}
        engine = self.config.engine
        times = train(trainer, self.folder, job, meta, engine, self.console, batch, self.ranks, self.signals)
        del trainer
        release(self.device)
        return times

    def trained(self, job: str) -> checkpoint.Checkpoint:
        """A finished training's checkpoint; raises InputError where there is none."""
        found = checkpoint.final(self.folder.checkpoints(job))
        if found is None:
            raise InputError(
                f"{self.folder.checkpoints(job)}: {job} is not trained yet; train it first, or name a run in which it "
                "is with --resume"
            )
        return found

    def _cost(self, times: TrainingTime) -> dict[str, Any]:
        return {
            "epochs": times.steps // times.steps_per_epoch,
            "steps_per_epoch": times.steps_per_epoch,
            "steps": times.steps,
            "seconds": times.seconds,
            "seconds_per_epoch": times.seconds_per_epoch,
            "device": device_name(self.device),
        }


def check_stage(run: Run, stage: str) -> None:
    """Raise InputError for what a stage lacks, before anything is trained or written."""
    if stage in ("unet", "all") and not run.data.mr.labelled:
        raise InputError(
            "the MR has no labels, which the U-Net learns from and is tested on; add them, or use --stage essnet and "
            "--stage synthesize alone"
        )
    if stage in ("unet", "all") and not run.data.ct.labelled and any(job.arrangement for job in unet_jobs(run.config)):
        raise InputError(
            "the CT has no labels, so its synthetic MR has none for the U-Net to learn from; add them, or choose "
            "--arrangements 0"
        )
    if stage in ("unet", "all"):
        check_ranks(run)
    if stage in ("essnet", "all"):
        for network in synthesis_jobs(run.config):
            made, weights = run.folder.result(f"synthesis-{network}"), run.folder.checkpoints(network) / "final"
            if made.exists() and not weights.exists():
                raise InputError(
                    f"{weights}: missing, and another training of {network} would not be the one whose images U-Nets "
                    "learn from; put it back, go on with --stage unet, or start a new run"
                )
    if stage == "synthesize":
        for network in synthesis_jobs(run.config):
            run.trained(network)
    if stage == "unet":
        for job in unet_jobs(run.config):
            path = run.folder.synthetic(job.source)
            if job.arrangement and not path.exists():
                raise InputError(
                    f"{path}: no synthetic images yet; make them first (--stage synthesize), or name a run that has "
                    "some with --resume"
                )


def check_ranks(run: Run) -> None:
    """Raise InputError where U-Nets would be compared whose batches differ, each rank adding one of its own."""
    results = {job.name: run.folder.read_result(job.name) for job in unet_jobs(run.config)}
    for name, result in results.items():
        if result is not None and result["ranks"] != run.ranks.count and None in results.values():
            raise InputError(
                f"{run.folder.result(name)}: trained by {counted(result['ranks'], 'process')}, and this is "
                f"{run.ranks.count}: U-Nets of other batches can't be compared with it; start {result['ranks']}, or a "
                "new run"
            )


def run_stages(run: Run, stage: str) -> None:
    """Carry out "essnet", "synthesize", "unet" or "all"."""
    networks = synthesis_jobs(run.config)
    if stage in ("essnet", "all"):
        for network in networks:
            run.train_essnet(network)
    if stage in ("synthesize", "all"):
        for network in networks:
            run.ranks.only(partial(run.synthesize, network))
    if stage in ("unet", "all"):
        for job in unet_jobs(run.config):
            run.train_unet(job)


def device_name(device: torch.device) -> str:
    """The GPU's name, or what the CPU is called."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {counted(torch.get_num_threads(), 'thread')}"
