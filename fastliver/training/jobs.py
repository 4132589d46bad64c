"""The trainings that a run consists of, by name."""

from dataclasses import dataclass
from itertools import product

from fastliver.config import TrainConfig
from fastliver.data.splits import synthetic_count
from fastliver.training.prepare import RunData


@dataclass(frozen=True)
class UNetJob:
    """One U-Net training.

    Attributes:
        source: "real" for real images alone, or the network whose synthetic images are added.
        arrangement: the paper's number of synthetic images; 0 is real images alone.
        seed: of initialisation, order, dropout and the choice of synthetic images and labelled patients.
        patients: of how many MR patients it sees the labels; None is all that aren't tested on.
    """

    source: str
    arrangement: int
    seed: int
    patients: int | None = None

    @property
    def name(self) -> str:
        fewer = "" if self.patients is None else f"-patients{self.patients}"
        return f"unet-{self.source}-{self.arrangement}{fewer}-seed{self.seed}"


def synthesis_jobs(config: TrainConfig) -> list[str]:
    """The networks to train for synthesis: "essnet", "cyclegan" without its segmentor, or both for the ablation."""
    if config.experiment.ablation:
        return ["essnet", "cyclegan"]
    return ["essnet" if config.experiment.segmentor else "cyclegan"]


def unet_jobs(config: TrainConfig) -> list[UNetJob]:
    """The U-Nets to train: each arrangement with the first network's images, and the ablation's one with both's.

    Then, for the learning curve, each of `--arrangements` with few labelled patients.
    """
    experiment = config.experiment
    first, *others = synthesis_jobs(config)
    seeds = range(experiment.seed, experiment.seed + experiment.seeds)
    counts = set(config.synthetic_counts())
    if experiment.ablation:
        counts |= {0, experiment.ablation_arrangement}
    jobs = []
    for seed in seeds:
        jobs += [UNetJob(first if count else "real", count, seed) for count in sorted(counts)]
        jobs += [UNetJob(other, experiment.ablation_arrangement, seed) for other in others]
    for seed, patients in product(seeds, config.patient_counts()):
        jobs += [UNetJob(first if count else "real", count, seed, patients) for count in config.synthetic_counts()]
    return jobs


def epoch_slices(config: TrainConfig, job: UNetJob, data: RunData) -> int:
    """How many slices a U-Net sees in an epoch: `--unet-epoch-slices`, or as many as it would have with all labels."""
    if config.unet.epoch_slices is not None:
        return config.unet.epoch_slices
    return len(data.split.train) + synthetic_count(job.arrangement, len(data.ct.liver_slices()))
