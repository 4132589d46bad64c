"""Synthetic MR from CT slices, with the CT's labels."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fastliver.data.intensity import IntensityRule
from fastliver.data.store import SliceStore, StoreWriter
from fastliver.files import new_folder
from fastliver.inference.segmentation import BATCH
from fastliver.models import ResNetGenerator


@torch.inference_mode()
def synthesize(
    generator: ResNetGenerator,
    images: NDArray[np.floating],
    on_slice: Callable[[int], None] = lambda done: None,
    batch: int = BATCH,
) -> NDArray[np.float16]:
    """Synthetic MR (N, H, W) in [-1, 1] of CT slices (N, H, W) in [-1, 1]; H and W are multiples of 4.

    Args:
        generator: G1 on its device, in evaluation mode.
        images: the CT slices.
        on_slice: called with the number of slices done.
        batch: slices that are computed at once.
    """
    device = next(generator.parameters()).device
    synthetic = np.empty(images.shape, np.float16)
    for start in range(0, len(images), batch):
        part = torch.from_numpy(np.asarray(images[start : start + batch], np.float32)).unsqueeze(1).to(device)
        synthetic[start : start + batch] = generator(part).squeeze(1).cpu().numpy()
        on_slice(start + len(part))
    return synthetic


def synthesize_store(
    generator: ResNetGenerator,
    ct: SliceStore,
    rule: IntensityRule,
    path: Path,
    model: str,
    on_slice: Callable[[int], None] = lambda done: None,
) -> SliceStore:
    """Write a store of synthetic MR: one slice for each CT slice that `liver_slices` names, with its label.

    Args:
        generator: G1 on its device, in evaluation mode.
        ct: the store to translate.
        rule: how the real MR that G1 learned from was scaled; the synthetic values mean the same.
        path: of the new store; what stood there is replaced when the new one is whole.
        model: what made the images, kept in `store.json`.
        on_slice: called with the number of slices done.
    """
    done = 0
    chosen = ct.liver_slices()
    started = time.monotonic()
    with new_folder(path) as temporary:
        writer = StoreWriter(temporary, "MR", ct.meta["size"], rule, ct.labelled)
        for number, study in enumerate(ct.meta["studies"]):
            slices = np.array([index for index in chosen if ct.entries[index].study == number], np.intp)
            images = np.empty((len(slices), *ct.images.shape[1:]), np.float16)
            for start in range(0, len(slices), BATCH):
                images[start : start + BATCH] = synthesize(generator, ct.images[slices[start : start + BATCH]])
                done += len(slices[start : start + BATCH])
                on_slice(done)
            entries = [
                {
                    "patient": entry.patient,
                    "slice": entry.slice,
                    "z": entry.z,
                    "spacing": list(entry.spacing),
                    "source": entry.source,
                }
                for entry in (ct.entries[index] for index in slices)
            ]
            writer.add(images, np.asarray(ct.labels[slices]), study, entries)
        seconds = time.monotonic() - started
        writer.finish(synthetic_by=model, source_hash=ct.meta["hash"], seconds=seconds, skipped=[], notes=[])
    return SliceStore.open(path)
