"""Scores of a U-Net on the held-out MR."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastliver.data.splits import Split
from fastliver.data.store import SliceStore
from fastliver.inference.segmentation import THRESHOLD
from fastliver.metrics import dice, iou, overlap_counts, roc_curve


def dice_by_slice(probability: NDArray[np.float32], store: SliceStore, split: Split) -> NDArray[np.float64]:
    """Dice of each of `split.test`, from the probability (len(split.test), H, W) of those slices."""
    return dice(overlap_counts(probability > THRESHOLD, np.asarray(store.labels[split.test])))


def score(probability: NDArray[np.float32], store: SliceStore, split: Split) -> dict[str, Any]:
    """Every score of the report.

    Pooled and per-slice scores are on test slices with liver; those per patient on all slices of the patient, who must
    be held out whole: a split by slice has none.

    Args:
        probability: (len(split.test_volume), H, W), in that order.
        store: the MR store that the split numbers.
        split: what was held out.

    Returns:
        {"scores": ..., "roc": {"fpr": ..., "tpr": ...}}, plain JSON.
    """
    labels = np.asarray(store.labels[split.test_volume])
    counts = overlap_counts(probability > THRESHOLD, labels)
    with_liver = np.isin(split.test_volume, split.test)
    liver = counts.select(with_liver)
    pooled = liver.pooled()
    per_slice, per_slice_iou = dice(liver), iou(liver)
    patients = np.array([store.entries[number].patient for number in split.test_volume])
    whole = split.name == "patient"
    by_patient = {str(name): counts.select(patients == name).pooled() for name in dict.fromkeys(patients) if whole}
    curve = roc_curve(probability[with_liver], labels[with_liver])
    return {
        "scores": {
            "dice": float(dice(pooled)[0]),
            "iou": float(iou(pooled)[0]),
            "dice_per_slice_mean": float(per_slice.mean()),
            "dice_per_slice_std": float(per_slice.std(ddof=1)) if len(per_slice) > 1 else 0.0,
            "iou_per_slice_mean": float(per_slice_iou.mean()),
            "iou_per_slice_std": float(per_slice_iou.std(ddof=1)) if len(per_slice) > 1 else 0.0,
            "dice_per_patient": {name: float(dice(part)[0]) for name, part in by_patient.items()},
            "iou_per_patient": {name: float(iou(part)[0]) for name, part in by_patient.items()},
            "auc": curve.auc,
        },
        "roc": {"fpr": curve.fpr.round(6).tolist(), "tpr": curve.tpr.round(6).tolist()},
    }
