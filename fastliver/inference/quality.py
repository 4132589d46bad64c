"""How good the synthetic images of a run are: grey values beside real MR, and S's opinion of the carried labels."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastliver.data.store import SliceStore
from fastliver.inference.segmentation import BATCH, THRESHOLD, liver_probability
from fastliver.metrics import dice, overlap_counts
from fastliver.metrics.realism import REGIONS, GreyValues
from fastliver.models import ResNetGenerator

AGREEMENT = 0.8
"""A synthetic slice whose S-segmentation agrees less with the carried label (Dice) would be dropped by the filter."""


def segmentor_dice(
    segmentor: ResNetGenerator, synthetic: SliceStore, on_slice: Callable[[int], None] = lambda done: None
) -> NDArray[np.float64]:
    """Dice (N,) between S's segmentation of each synthetic slice and the label carried over from the CT."""
    agreement = []
    for start in range(0, len(synthetic), BATCH):
        part = slice(start, start + BATCH)
        found = liver_probability(segmentor, synthetic.images[part]) > THRESHOLD
        agreement.append(dice(overlap_counts(found, np.asarray(synthetic.labels[part]))))
        on_slice(start + len(found))
    return np.concatenate(agreement)


def quality(
    synthetic: SliceStore,
    ct: SliceStore,
    mr: SliceStore,
    real: NDArray[np.intp],
    segmentor: ResNetGenerator | None,
    on_slice: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """What the report says of the synthetic images, plain JSON.

    Args:
        synthetic: the synthetic MR, one slice for each CT slice with liver, in order.
        ct: what it was made from; its own distance to real MR is what translation started at.
        mr: the real MR.
        real: numbers of the MR slices to compare with.
        segmentor: S on its device in evaluation mode, or None for a CycleGAN.
        on_slice: called with the number of synthetic slices that S has segmented.

    Returns:
        {"distance": {region: {"synthetic": ..., "ct": ...}}, "images": n, "agreement": {...} or None}; distances are
        1-Wasserstein in [-1, 1] grey values against the real MR.
    """

    def values(store: SliceStore, numbers: NDArray[np.intp]) -> GreyValues:
        return GreyValues.of((store.images[number], store.labels[number]) for number in numbers)

    reference = values(mr, real)
    compared = {
        "synthetic": values(synthetic, np.arange(len(synthetic))),
        "ct": values(ct, ct.liver_slices()),
    }
    agreement = None
    if segmentor is not None and synthetic.labelled:
        found = segmentor_dice(segmentor, synthetic, on_slice)
        agreement = {
            "mean": float(found.mean()),
            "p5": float(np.percentile(found, 5)),
            "threshold": AGREEMENT,
            "dropped": int((found < AGREEMENT).sum()),
        }
    return {
        "images": len(synthetic),
        "real": len(real),
        "distance": {
            region: {name: grey.distance(reference, region) for name, grey in compared.items()} for region in REGIONS
        },
        "agreement": agreement,
    }
