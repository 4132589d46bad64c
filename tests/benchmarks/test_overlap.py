"""The contestants that count masks: all give the same Dice, worked out by hand."""

import numpy as np
import pytest
import torch

from benchmarks import overlap

CPU = torch.device("cpu")
# 4 of 6 and 4 pixels in common: 2 * 3 / (4 + 6) = 0.6; and disjoint masks.
A = torch.tensor([[[1, 1, 0], [1, 1, 0]], [[1, 0, 0], [0, 0, 0]]], dtype=torch.uint8)
B = torch.tensor([[[1, 1, 1], [1, 0, 1]], [[0, 0, 0], [0, 0, 1]]], dtype=torch.uint8)
DICE = [2 * 3 / (4 + 5), 0.0]


@pytest.mark.parametrize("name", overlap.SCORES)
def test_everybody_scores_what_a_hand_does(name):
    ways = {**overlap.contestants(CPU), **overlap.contestants(torch.device("cuda"))}
    if name not in ways:
        pytest.skip(f"{name} isn't installed")
    scores = np.asarray(ways[name]((A, B))(), np.float64)
    assert scores == pytest.approx(DICE, abs=1e-6)


def test_a_wrong_score_is_seen():
    works = {name: lambda: np.array([0.5, 1.0]) for name in ("numpy", "fastliver", "monai")}
    assert overlap.disagreement(works) == {}
    for name in ("fastliver", "monai"):
        assert list(overlap.disagreement({**works, name: lambda: torch.tensor([0.5, 0.9])})) == [name]
        assert list(overlap.disagreement({**works, name: lambda: np.array([np.nan, 1.0])})) == [name]


def test_masks_are_discs_that_overlap_in_part():
    a, b = overlap.masks((3, 64, 64), CPU)
    for mask in (a, b):
        assert (mask.shape, mask.dtype) == ((3, 64, 64), torch.uint8)
        assert 0.15 < mask.float().mean() < 0.25  # a disc of radius 16 is a fifth of 64x64
    assert 0 < (a & b).sum() < a.sum()


def test_a_case_a_shape_with_the_bytes_of_both_masks():
    cases = list(overlap.cases(CPU))
    assert [case.shape for case in cases] == ["58x256x256", "2050x256x256", "300x512x512"]
    assert cases[0].amount == pytest.approx(2 * 58 * 65536 / 1e9)
    assert [c.title for c in cases[0].contestants][:3] == ["fastliver", "fastliver operator", "numpy"]
