"""The trainings that a run consists of, by name."""

from dataclasses import dataclass

from fastliver.config import TrainConfig


@dataclass(frozen=True)
class UNetJob:
    """One U-Net training.

    Attributes:
        source: "real" for real images alone, or the network whose synthetic images are added.
        arrangement: the paper's number of synthetic images; 0 is real images alone.
        seed: of initialisation, order, dropout and the choice of synthetic images.
    """

    source: str
    arrangement: int
    seed: int

    @property
    def name(self) -> str:
        return f"unet-{self.source}-{self.arrangement}-seed{self.seed}"


def synthesis_jobs(config: TrainConfig) -> list[str]:
    """The networks to train for synthesis: "essnet", "cyclegan" without its segmentor, or both for the ablation."""
    if config.experiment.ablation:
        return ["essnet", "cyclegan"]
    return ["essnet" if config.experiment.segmentor else "cyclegan"]


def unet_jobs(config: TrainConfig) -> list[UNetJob]:
    """The U-Nets to train: each arrangement with the first network's images, and the ablation's one with both's."""
    experiment = config.experiment
    first, *others = synthesis_jobs(config)
    counts = set(config.synthetic_counts())
    if experiment.ablation:
        counts |= {0, experiment.ablation_arrangement}
    jobs = []
    for seed in range(experiment.seed, experiment.seed + experiment.seeds):
        jobs += [UNetJob(first if count else "real", count, seed) for count in sorted(counts)]
        jobs += [UNetJob(other, experiment.ablation_arrangement, seed) for other in others]
    return jobs
