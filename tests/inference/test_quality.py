"""What the report says of synthetic images, on stores whose answers are known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastliver.data.intensity import IntensityRule
from fastliver.data.store import SliceStore, StoreWriter
from fastliver.inference.quality import quality, segmentor_dice

SIZE = 32


class Threshold(nn.Module):
    """A segmentor that calls bright pixels liver."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.5))

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat((self.level.expand_as(image), image), 1)


def _store(folder: Path, modality: str, images: np.ndarray, labels: np.ndarray) -> SliceStore:
    folder.mkdir()
    writer = StoreWriter(folder, modality, SIZE, IntensityRule(modality, 0, 100), True)  # type: ignore[arg-type]
    entry = {"patient": "p", "z": 0.0, "spacing": [1.0, 1.0, 1.0], "source": "x"}
    writer.add(images, labels, {"series": "s"}, [{**entry, "slice": number} for number in range(len(images))])
    writer.finish(hash="h", skipped=[], notes=[])
    return SliceStore.open(folder)


@pytest.fixture
def label() -> np.ndarray:
    label = np.zeros((SIZE, SIZE), np.uint8)
    label[8:16, 8:16] = 1
    return label


def _image(label: np.ndarray, liver: float) -> np.ndarray:
    image = np.full(label.shape, -1.0, np.float16)
    image[4:28, 4:28] = 0.0
    image[label == 1] = liver
    return image


def test_agreement_counts_what_the_filter_would_drop(tmp_path: Path, label: np.ndarray) -> None:
    half = _image(label, 0.75)
    half[8:16, 12:16] = 0.0  # S sees half of the liver: Dice 2/3
    store = _store(tmp_path / "s", "MR", np.stack([_image(label, 0.75), half]), np.stack([label, label]))
    found = segmentor_dice(Threshold(), store)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, [1, 2 / 3])


def test_quality(tmp_path: Path, label: np.ndarray) -> None:
    labels = np.stack([label, label])
    mr = _store(tmp_path / "mr", "MR", np.stack([_image(label, 0.75)] * 2), labels)
    ct = _store(tmp_path / "ct", "CT", np.stack([_image(label, -0.25)] * 2), labels)
    synthetic = _store(tmp_path / "synthetic", "MR", np.stack([_image(label, 0.625)] * 2), labels)
    found = quality(synthetic, ct, mr, np.array([0]), Threshold())  # type: ignore[arg-type]
    assert found["images"] == 2
    assert found["real"] == 1
    assert found["distance"]["liver"] == pytest.approx({"synthetic": 0.125, "ct": 1.0}, abs=0.003)
    share = 64 / SIZE**2
    assert found["distance"]["slice"] == pytest.approx({"synthetic": 0.125 * share, "ct": share}, abs=0.003)
    assert found["agreement"] == {"mean": 1.0, "p5": 1.0, "threshold": 0.8, "dropped": 0}


def test_without_a_segmentor_there_is_no_agreement(tmp_path: Path, label: np.ndarray) -> None:
    store = _store(tmp_path / "s", "MR", _image(label, 0.5)[None], label[None])
    assert quality(store, store, store, np.array([0]), None)["agreement"] is None
