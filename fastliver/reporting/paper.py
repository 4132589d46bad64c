"""The numbers printed in the paper that this package implements, to be set beside a run's own.

"Cross modality medical image synthesis for improving liver segmentation" (EssNet + U-Net on CHAOS).
"""

from dataclasses import dataclass

SHOWN_ARRANGEMENT = 714
"""Synthetic images at the paper's best result: fixed beforehand here, so that no run picks its own on test patients."""

DEVICE = "GeForce RTX 2060"


@dataclass(frozen=True)
class Scores:
    """Pooled Dice and IoU on the paper's 58 test slices."""

    dice: float
    iou: float


@dataclass(frozen=True)
class Cost:
    """One row of Table 4, with the epochs and hours that the text around it gives."""

    parameters: int
    epochs: int
    images_per_epoch: int
    seconds_per_epoch: float
    hours: float
    images_per_second: float


# Tables 1 and 2 and the section on the data: slices that show liver.
CT_SLICES = 2050
MR_SLICES = 408
TRAIN_SLICES = 350
TEST_SLICES = 58
ESSNET_CT_SLICES = 350

# Table 3, by the number of synthetic images beside the 350 real ones.
SEGMENTATION = {
    0: Scores(0.9459, 0.8974),
    354: Scores(0.9467, 0.8989),
    714: Scores(0.9524, 0.9091),
    1034: Scores(0.9485, 0.9020),
    1487: Scores(0.9475, 0.9002),
    2050: Scores(0.9505, 0.9058),
}

# Table 5, where CycleGAN made the 714 synthetic images.
CYCLEGAN = {714: Scores(0.9460, 0.8976)}

# Table 4. Training took 6 h 23 min and 6 h 39 min; the U-Net's is the one with 1064 images.
ESSNET_COST = Cost(28_256_644, 100, 350, 230, 6 + 23 / 60, 2.02)
UNET_COST = Cost(31_031_685, 300, 1064, 80, 6 + 39 / 60, 21)


def scores(source: str, arrangement: int) -> Scores | None:
    """The paper's scores for one training set, or None where the paper has none."""
    return (CYCLEGAN if source == "cyclegan" else SEGMENTATION).get(arrangement)
