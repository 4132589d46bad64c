"""CHAOS's metrics: its own numbers for its sample, all pairs of border voxels, and volumes that can be done by hand."""

import math
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import assume, given
from hypothesis import settings as limits
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from fastliver.metrics.chaos import VolumeScores, border, volume_scores

SPACINGS = st.tuples(*(st.sampled_from([0.5, 1.0, 2.0, 7.7]) for _ in range(3)))
PERFECT = (1, 1, 0, 0, 0)


def numbers(scores: VolumeScores) -> tuple[float, ...]:
    return scores.dice, scores.iou, scores.ravd, scores.assd, scores.mssd


def border_places(mask: np.ndarray) -> np.ndarray:
    """Voxels of the mask with one of their six neighbours in the volume and outside the mask."""
    found = []
    for place in np.argwhere(mask):
        neighbours = [place + step * sign for step in np.eye(3, dtype=int) for sign in (-1, 1)]
        inside = [tuple(n) for n in neighbours if (n >= 0).all() and (n < mask.shape).all()]
        if not all(mask[n] for n in inside):
            found.append(place)
    return np.array(found, float).reshape(-1, 3)


def distances(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """From each border voxel of either mask to the nearest of the other's, all pairs measured."""
    apart = (border_places(a)[:, None] - border_places(b)[None]) * spacing
    between = np.sqrt((apart**2).sum(-1))
    return np.concatenate([between.min(1), between.min(0)])


def pairs_of_masks(sides: int = 5):
    return array_shapes(min_dims=3, max_dims=3, max_side=sides).flatmap(
        lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape))
    )


def stack(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path).convert("L")) for path in sorted(folder.glob("*.png"))])


def test_the_organisers_numbers_for_their_sample(real_data):
    home = real_data / "chaos" / "Train_Sets" / "CT" / "3"
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted((home / "DICOM_anon").iterdir())]
    heights = sorted(float(header.ImagePositionPatient[2]) for header in headers)
    spacing = (heights[1] - heights[0], *(float(value) for value in headers[0].PixelSpacing))
    found = volume_scores(stack(real_data / "chaos" / "sample_segmentation_CT_3"), stack(home / "Ground"), spacing)
    shown = f"{found.dice:.3f} {found.ravd:.3f} {found.assd:.3f} {found.mssd:.3f}"
    assert shown == "0.978 0.665 0.734 14.000"


@limits(max_examples=60)
@given(pairs_of_masks(), SPACINGS)
def test_distances_are_those_of_all_pairs_of_border_voxels(pair, spacing):
    a, b = pair
    assume(a.any() and b.any() and not a.all() and not b.all())
    found, expected = volume_scores(a, b, spacing), distances(a, b, spacing)
    assert found.assd == pytest.approx(expected.mean(), abs=1e-9)
    assert found.mssd == pytest.approx(expected.max(), abs=1e-9)
    assert found.ravd == pytest.approx(100 * abs(a.sum() - b.sum()) / b.sum())
    assert found.dice == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
    assert found.iou == pytest.approx((a & b).sum() / (a | b).sum())


@limits(max_examples=40)
@given(pairs_of_masks(), SPACINGS)
def test_all_but_the_volume_difference_is_symmetric(pair, spacing):
    assume(not pair[0].all() and not pair[1].all())
    forth, back = volume_scores(*pair, spacing), volume_scores(*pair[::-1], spacing)
    for name in ("dice", "iou", "assd", "mssd"):
        assert getattr(forth, name) == pytest.approx(getattr(back, name)), name


@limits(max_examples=40)
@given(pairs_of_masks(4), SPACINGS, st.tuples(*(st.tuples(st.integers(1, 4), st.integers(1, 4)) for _ in range(3))))
def test_the_empty_space_around_two_masks_changes_nothing(pair, spacing, around):
    a, b = (np.pad(mask, 1) for mask in pair)  # away from the edges
    wider = [np.pad(mask, around) for mask in (a, b)]
    assert numbers(volume_scores(*wider, spacing)) == pytest.approx(numbers(volume_scores(a, b, spacing)))


def test_a_solid_box_away_from_the_edges_is_measured_from_all_its_faces():
    a, b = np.zeros((2, 9, 10, 11), bool)
    a[2:6, 2:6, 2:6], b[2:7, 2:8, 2:9] = True, True
    found, expected = volume_scores(a, b, (3, 1, 2)), distances(a, b, (3, 1, 2))
    assert (found.assd, found.mssd) == pytest.approx((expected.mean(), expected.max()))


def test_the_edge_of_the_volume_is_no_border():
    # A 3x3x3 cube in the corner of 5x5x5: only the voxels with a neighbour outside the mask are border.
    mask = np.zeros((5, 5, 5), bool)
    mask[:3, :3, :3] = True
    expected = mask.copy()
    expected[:2, :2, :2] = False
    np.testing.assert_array_equal(border(mask), expected)
    assert border(np.pad(mask, 1)).sum() == 26  # away from the edge all but the centre is border


def test_two_slabs_from_the_edge_are_measured_between_their_inner_faces():
    a, b = np.zeros((2, 8, 3, 3), bool)
    a[:2], b[:5] = True, True
    # Borders are slices 1 and 4: 3 x 2.5 mm apart. In a larger volume their shared outer faces would count as well.
    assert numbers(volume_scores(a, b, (2.5, 1, 1))) == pytest.approx((4 / 7, 2 / 5, 60, 7.5, 7.5))
    assert volume_scores(np.pad(a, 1), np.pad(b, 1), (2.5, 1, 1)).assd < 7.5


def test_distances_of_both_directions_are_pooled():
    a, b = np.zeros((2, 1, 1, 12), bool)
    a[..., 2] = True
    b[..., [2, 5, 9]] = True
    # a to b: 0; b to a: 0, 3, 7. Pooled 10 / 4; a mean of the two means would be 10 / 6.
    assert numbers(volume_scores(a, b, (9, 9, 1))) == pytest.approx((2 / 4, 1 / 3, 200 / 3, 2.5, 7))


def test_single_voxels():
    a, b = np.zeros((2, 5, 6, 7), bool)
    a[1, 2, 3], b[2, 4, 6] = True, True
    apart = math.hypot(1 * 3.0, 2 * 0.5, 3 * 2.0)
    assert numbers(volume_scores(a, b, (3.0, 0.5, 2.0))) == pytest.approx((0, 0, 0, apart, apart))


def test_identical_masks_are_perfect():
    mask = np.random.default_rng(0).random((6, 7, 8)) < 0.4
    assert numbers(volume_scores(mask, mask.copy(), (3, 1, 2))) == PERFECT
    assert volume_scores(mask, mask, (3, 1, 2)).score == 100


def test_empty_masks():
    empty, some = np.zeros((3, 4, 5), bool), np.zeros((3, 4, 5), bool)
    some[1, 1:3, 1:3] = True
    assert numbers(volume_scores(empty, empty, (1, 1, 1))) == PERFECT
    assert numbers(volume_scores(empty, some, (1, 1, 1))) == (0, 0, 100, math.inf, math.inf)
    assert numbers(volume_scores(some, empty, (1, 1, 1))) == (0, 0, math.inf, math.inf, math.inf)
    assert [volume_scores(*pair, (1, 1, 1)).score for pair in ((empty, some), (some, empty))] == [0, 0]


def test_a_mask_that_fills_the_volume_is_measured_too():
    full, half = np.ones((4, 3, 3), bool), np.ones((4, 3, 3), bool)
    half[2:] = False
    assert numbers(volume_scores(full, full, (1, 1, 1))) == PERFECT
    for pair, ravd in (((full, half), 100), ((half, full), 50)):
        found = volume_scores(*pair, (1, 1, 1))
        assert numbers(found)[:3] == pytest.approx((2 / 3, 1 / 2, ravd))
        assert found.mssd >= found.assd > 0


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.int64, np.float32])
def test_any_type_of_mask_and_any_value_but_zero(dtype):
    a, b = np.random.default_rng(1).random((2, 5, 6, 7)) < 0.3
    expected = numbers(volume_scores(a, b, (2, 1, 1)))
    assert numbers(volume_scores((a * 63).astype(dtype), (b * 255).astype(dtype), (2, 1, 1))) == expected


@pytest.mark.parametrize("other", [(4, 5, 7), (4, 5), (5, 4, 6)])
def test_masks_of_different_shapes_are_refused(other):
    with pytest.raises(ValueError) as caught:
        volume_scores(np.ones((4, 5, 6)), np.ones(other), (1, 1, 1))
    assert "(4, 5, 6)" in str(caught.value)
    assert str(other) in str(caught.value)


@pytest.mark.parametrize(
    ("dice", "ravd", "assd", "mssd", "score"),
    [
        (0.9, 1, 3, 12, (90 + 80 + 80 + 80) / 4),
        (1, 0, 0, 0, 100),
        (0.8, 0, 0, 0, 95),
        (0.7999, 0, 0, 0, 75),
        (1, 4.9, 0, 0, (300 + 2) / 4),
        (1, 5.1, 0, 0, 75),
        (1, 0, 14.7, 0, (300 + 2) / 4),
        (1, 0, 15.1, 0, 75),
        (1, 0, 0, 58.8, (300 + 2) / 4),
        (1, 0, 0, 60.1, 75),
        (1, 5, 15, 60, 25),
        (0, math.inf, math.inf, math.inf, 0),
    ],
)
def test_the_score_is_the_mean_of_four_with_thresholds(dice, ravd, assd, mssd, score):
    assert VolumeScores(dice, 0.5, ravd, assd, mssd).score == pytest.approx(score)


def test_monai_finds_the_same_away_from_the_edges():
    torch, metrics = pytest.importorskip("torch"), pytest.importorskip("monai.metrics")
    masks = np.pad(np.random.default_rng(2).random((2, 6, 8, 7)) < 0.4, ((0, 0), (2, 2), (2, 2), (2, 2)))
    spacing, (a, b) = (3.0, 1.0, 2.0), (torch.from_numpy(mask)[None, None] for mask in masks)
    found = volume_scores(*masks, spacing)
    options = {"include_background": True, "spacing": spacing}
    assd = metrics.compute_average_surface_distance(a, b, symmetric=True, **options)
    assert found.assd == pytest.approx(float(assd), rel=1e-5)
    assert found.mssd == pytest.approx(float(metrics.compute_hausdorff_distance(a, b, **options)), rel=1e-5)
    assert found.dice == pytest.approx(float(metrics.compute_dice(a, b)), rel=1e-5)
    assert found.iou == pytest.approx(float(metrics.compute_iou(a, b)), rel=1e-5)
