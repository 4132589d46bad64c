"""Every setting of a run, its default (the paper's networks on a patient-level split), and the presets.

What a setting does is the help text of its field, which `python -m fastliver.train --help` shows under its option.
"""

import math
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from fastliver.byte_sizes import parse_bytes
from fastliver.errors import InputError

PAPER_SYNTHETIC = (0, 354, 714, 1034, 1487, 2050)
"""Numbers of synthetic images in the paper's arrangements (Table 2); 2050 is all that it generated."""


def option(default: Any, text: str, minimum: float | None = None) -> Any:
    """A dataclass field with its help text and, for a number or numbers, the least value it may have."""
    metadata = {"help": text, "minimum": minimum}
    if isinstance(default, tuple | list | dict):
        return field(default_factory=lambda: default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class DataConfig:
    """Which images are read and how they become slices."""

    data: str | None = option(None, "CHAOS root (Train_Sets): finds CT and MR itself")
    ct: str | None = option(None, "labelled CT: CHAOS CT folder, nnU-Net raw data set or DICOM folder")
    mr: str | None = option(None, "MR: CHAOS MR folder, nnU-Net raw data set or DICOM folder")
    more_mr: str | None = option(
        None, "MR of other patients, as --mr, from which EssNet alone learns; it needs no labels"
    )
    mr_sequence: Literal["t2-spir", "t1-in", "t1-out"] = option("t2-spir", "which CHAOS MR sequence")
    liver_label: str | None = option(None, "name or number of the liver in dataset.json, if it isn't called liver")
    patient_pattern: str | None = option(
        None,
        "regular expression for what names the patient in an nnU-Net case's name, such as ^[^_]+, where patients have "
        "several cases; without it each case is a patient of its own",
    )
    skip_bad: bool = option(False, "leave out files that can't be read, and count them in the report")
    image_size: int = option(256, "side of the square slices in pixels, a multiple of 16", 32)
    ct_window: tuple[float, float] = option((-160.0, 240.0), "HU that map to -1 and 1")
    mr_percentiles: tuple[float, float] = option((0.5, 99.5), "percentiles of an MR volume that map to -1 and 1", 0)

    @property
    def is_phantom(self) -> bool:
        """Whether no images are named, so that a phantom is made."""
        return self.data is self.ct is self.mr is None


@dataclass(frozen=True)
class ExperimentConfig:
    """What is trained, on which slices, and how often."""

    split: Literal["patient", "paper"] = option(
        "patient",
        "patient: no patient is trained and tested on (of nnU-Net data see --patient-pattern); paper: by slice, 350/58 "
        "of 408",
    )
    test_fraction: float = option(58 / 408, "share of MR patients (or slices) held out for testing", 0)
    segmentor: bool = option(True, "train EssNet's segmentor; without it EssNet is a CycleGAN")
    ablation: bool = option(False, "train EssNet and a CycleGAN, and compare what they are worth (Table 5)")
    arrangements: str = option(
        "all", "synthetic images beside the real ones, as in the paper: 0,354,714,1034,1487,2050 or all"
    )
    labelled_patients: str = option(
        "all",
        "also train the U-Nets of each arrangement on the labels of only so many MR patients, such as 1,2,4,8: the "
        "gain by number of labelled patients; all: none of these",
    )
    ablation_arrangement: int = option(714, "the arrangement that the ablation compares", 1)
    seeds: int = option(1, "U-Net trainings per arrangement; 2 or more give an interval", 1)
    seed: int = option(0, "first seed of everything random", 0)


@dataclass(frozen=True)
class EssNetConfig:
    """EssNet's network, losses and training."""

    epochs: int = option(100, "epochs at the full learning rate", 1)
    decay_epochs: int = option(0, "further epochs in which the learning rates fall linearly to 0", 0)
    batch: int = option(1, "images of each modality in a step", 1)
    ct_slices: int | None = option(None, "CT slices to train on; without it all (paper: 350 of 2050)", 1)
    channels: int = option(64, "width of the networks' first layers", 1)
    blocks: int = option(9, "residual blocks of a generator", 1)
    segmentor_tanh: bool = option(False, "end S in tanh, as the public EssNet code does")
    adversarial: Literal["bce", "lsgan"] = option("bce", "cross-entropy (Eq. 1-2) or least squares")
    weights: tuple[float, float, float, float, float] = option(
        (1.0, 1.0, 10.0, 10.0, 1.0), "lambda 1-5: GAN, GAN, cycle CT, cycle MR, segmentation", 0
    )
    generator_lr: float = option(1e-4, "learning rate of G1, G2 and S", 0)
    discriminator_lr: float = option(2e-4, "learning rate of D1 and D2", 0)
    betas: tuple[float, float] = option((0.5, 0.999), "Adam's betas", 0)
    pool: int = option(50, "generated images kept to show the discriminators again; 0 for none", 0)
    augment: Literal["none", "flip-shift", "keras", "full"] = option(
        "flip-shift",
        "how CT and MR vary; flip-shift: half mirrored, shifted by up to 1/16 of the side; keras: as the U-Net's "
        "Keras original, mirrored, shifted and scaled by up to 5 percent, hardly turned or sheared; full: mirrored, "
        "shifted, turned by up to 10 degrees, scaled by 10 percent, elastic, gamma, bias field and noise",
    )


@dataclass(frozen=True)
class UNetConfig:
    """The U-Net and its training."""

    epochs: int = option(300, "epochs", 1)
    epoch_slices: int | None = option(
        None,
        "slices in an epoch of every U-Net, so that all take as many steps; without it, as in the paper, each of its "
        "slices once, so that synthetic images make a training longer",
        1,
    )
    batch: int = option(2, "images in a step", 1)
    lr: float = option(1e-4, "Adam's learning rate", 0)
    channels: int = option(64, "width of the first level", 1)
    head_relu: bool = option(False, "keep the Keras original's ReLU before the output; it can die (all-grey output)")
    collapse_steps: int = option(3000, "steps with one class in every output after which a run counts as collapsed", 1)
    augment: Literal["none", "flip-shift", "keras", "full"] = option(
        "flip-shift", "how real and synthetic MR vary, as --essnet-augment"
    )


@dataclass(frozen=True)
class EngineConfig:
    """How the work is carried out; none of it but the precision's rounding changes what is learned."""

    device: Literal["auto", "cpu", "cuda"] = option("auto", "where to train; auto takes a GPU if there is one")
    reader: Literal["auto", "threads", "dali"] = option(
        "auto", "what reads DICOM: threads on the CPU, or DALI; auto takes DALI where there is a GPU for it"
    )
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = option(
        "auto",
        "what convolutions compute in; auto: bf16 on a GPU that has it, fp16 with loss scaling on an older one with "
        "tensor cores, else fp32",
    )
    graph: Literal["auto", "on", "off"] = option(
        "auto", "training steps as CUDA graphs; auto: on a GPU where it works; off, for debugging: the same steps"
    )
    deterministic: bool = option(False, "repeat the same bits on a GPU, at some speed; a CPU always does")
    memory_limit: str | None = option(
        None, "GPU memory that the whole process may take, such as 6GiB; without it what is free, on cards up to 8 GiB "
        "less 256 MiB"
    )  # fmt: skip
    checkpoint_minutes: float = option(3.0, "minutes of training that a kill may cost", 0)
    checkpoint_steps: int | None = option(None, "save after every so many steps too", 1)
    log_every: int = option(10, "steps between lines of metrics.jsonl", 1)
    profile: str | None = option(None, "steps to profile, such as 20:30, of each training; see docs/profiling.md")

    def memory_bytes(self) -> int | None:
        """What `--memory-limit` allows; raises InputError for what isn't a size."""
        return None if self.memory_limit is None else parse_bytes(self.memory_limit, "--memory-limit")

    def profile_steps(self) -> range | None:
        """The steps that `--profile` names, the last one left out; raises InputError for what isn't a window."""
        if self.profile is None:
            return None
        try:
            first, last = (int(part) for part in self.profile.split(":"))
        except ValueError:
            first = last = 0
        if not 0 <= first < last:
            raise InputError(f"--profile={self.profile}: expected first and last step with a colon, such as 20:30")
        return range(first, last)


@dataclass(frozen=True)
class TrainConfig:
    """One run's settings."""

    preset: str = "default"
    data: DataConfig = field(default_factory=DataConfig)
    experiment: ExperimentConfig = field(default_factory=ExperimentConfig)
    essnet: EssNetConfig = field(default_factory=EssNetConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        for name, value, least in self._numbers():
            values = value if isinstance(value, tuple) else (value,)
            numbers = [v for v in values if isinstance(v, int | float)]
            if not all(math.isfinite(v) for v in numbers if isinstance(v, float)):
                raise InputError(f"--{name}={value}: must be a finite number")
            if least is not None and any(v < least for v in numbers):
                raise InputError(f"--{name}={value}: must be at least {least:g}")
        if self.data.image_size % 16:
            raise InputError(
                f"--image-size={self.data.image_size}: must be a multiple of 16 (the U-Net halves it 4 times)"
            )
        low, high = self.data.ct_window
        if low >= high:
            raise InputError(f"--ct-window=[{low:g}, {high:g}]: the first must be below the second")
        low, high = self.data.mr_percentiles
        if low >= high or high > 100:
            raise InputError(f"--mr-percentiles=[{low:g}, {high:g}]: must rise and lie in 0..100")
        if max(self.essnet.betas) >= 1:
            raise InputError(f"--essnet-betas={list(self.essnet.betas)}: must be below 1")
        if self.experiment.seed >= 2**63 - self.experiment.seeds:
            raise InputError(f"--seed={self.experiment.seed}: must be below 2**63")
        if not 0 < self.experiment.test_fraction < 1:
            raise InputError(f"--test-fraction={self.experiment.test_fraction:g}: must lie between 0 and 1")
        if self.experiment.ablation and not self.experiment.segmentor:
            raise InputError("--ablation trains EssNet with its segmentor and without: leave out --no-segmentor")
        self.synthetic_counts()
        if self.patient_counts() and self.experiment.split == "paper":
            raise InputError(
                f"--labelled-patients={self.experiment.labelled_patients}: --split paper deals out slices, whoever's "
                "they are; add --split patient, or leave the option out"
            )
        if self.data.patient_pattern is not None:
            try:
                re.compile(self.data.patient_pattern)
            except re.error as error:
                raise InputError(
                    f"--patient-pattern={self.data.patient_pattern}: no regular expression ({error})"
                ) from error
        self.engine.profile_steps()
        self.engine.memory_bytes()

    def _numbers(self) -> list[tuple[str, Any, float | None]]:
        return [
            (
                option_name(section.name, item.name),
                getattr(getattr(self, section.name), item.name),
                item.metadata["minimum"],
            )
            for section in sections()
            for item in fields(section.default_factory)
        ]

    def synthetic_counts(self) -> tuple[int, ...]:
        """The arrangements as the paper's numbers of synthetic images, rising, each once."""
        if self.experiment.arrangements == "all":
            return PAPER_SYNTHETIC
        counts = _numbers(self.experiment.arrangements)
        if not counts or counts[0] < 0 or counts[-1] > PAPER_SYNTHETIC[-1]:
            raise InputError(
                f"--arrangements={self.experiment.arrangements}: expected numbers from 0 to {PAPER_SYNTHETIC[-1]} "
                "with commas between, such as 0,354,714, or all"
            )
        return counts

    def patient_counts(self) -> tuple[int, ...]:
        """Of how many MR patients U-Nets see the labels, rising, each once; all, of which one always does, left out."""
        if self.experiment.labelled_patients == "all":
            return ()
        counts = _numbers(self.experiment.labelled_patients)
        if not counts or counts[0] < 1:
            raise InputError(
                f"--labelled-patients={self.experiment.labelled_patients}: expected numbers from 1 with commas "
                "between, such as 1,2,4,8, or all"
            )
        return counts


def _numbers(text: str) -> tuple[int, ...]:
    """The whole numbers in a text such as "714,0,354", rising, each once; none if it is anything else."""
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        return ()


def sections() -> list[Any]:
    """The dataclass fields of TrainConfig that are sections of settings."""
    return [item for item in fields(TrainConfig) if item.name != "preset"]


def option_name(section: str, item: str) -> str:
    """The command-line name of a setting: the networks' own carry the section's name in front."""
    name = f"{section}_{item}" if section in ("essnet", "unet") else item
    return name.replace("_", "-")


PRESETS: dict[str, dict[str, Any]] = {
    # The phantom at a size that two CPU cores train on in about three minutes: shows the way, not the quality.
    "demo": {
        "image_size": 64,
        "essnet_augment": "none",
        "unet_augment": "none",
        "arrangements": "0,714",
        "essnet_epochs": 4,
        "essnet_channels": 16,
        "essnet_generator_lr": 4e-4,
        "essnet_discriminator_lr": 4e-4,
        "unet_epochs": 10,
        "unet_batch": 4,
        "unet_channels": 16,
        "unet_lr": 1e-3,
    },
    # Real data in minutes on a CPU.
    "quick": {
        "image_size": 96,
        "essnet_augment": "none",
        "unet_augment": "none",
        "arrangements": "0,714",
        "essnet_epochs": 3,
        # With the paper's loss such small networks came to give one MR image for every CT (docs/method.md).
        "essnet_adversarial": "lsgan",
        "essnet_channels": 24,
        "essnet_generator_lr": 2e-4,
        "unet_epochs": 12,
        "unet_batch": 4,
        "unet_channels": 16,
        "unet_lr": 1e-3,
    },
    "default": {},
    # The paper names no augmentation; that of the U-Net's Keras original is --unet-augment keras.
    "paper": {
        "split": "paper",
        "essnet_ct_slices": 350,
        "essnet_augment": "none",
        "unet_augment": "none",
        "unet_head_relu": True,
    },
}
"""What each preset sets; the rest keeps its default."""


def flatten(config: TrainConfig) -> dict[str, Any]:
    """The settings by option name with underscores, as config.yaml and the command line have them."""
    values: dict[str, Any] = {"preset": config.preset}
    for section in sections():
        for name, value in asdict(getattr(config, section.name)).items():
            values[option_name(section.name, name).replace("-", "_")] = (
                list(value) if isinstance(value, tuple) else value
            )
    return values


def unflatten(values: dict[str, Any]) -> TrainConfig:
    """The opposite of `flatten`; names it doesn't know are left alone. Raises InputError for a value out of range."""
    parts: dict[str, Any] = {}
    for section in sections():
        kind = section.default_factory
        parts[section.name] = kind(
            **{
                item.name: tuple(value) if isinstance(value, list) else value
                for item in fields(kind)
                for value in [values[option_name(section.name, item.name).replace("-", "_")]]
            }
        )
    return TrainConfig(preset=values["preset"], **parts)
