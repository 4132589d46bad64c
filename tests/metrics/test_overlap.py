"""Dice and IoU of masks that can be counted by hand, and of any masks against Python's sets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fastliver.metrics import dice, iou, overlap_counts

pytestmark = pytest.mark.filterwarnings("ignore:overlap counts use PyTorch's operators:RuntimeWarning")


def masks():
    """A pair of masks of one shape, sometimes empty."""
    values = st.sampled_from([0, 0, 1, 63, 255])
    return array_shapes(min_dims=2, max_dims=4, max_side=6).flatmap(
        lambda shape: st.tuples(*(arrays(np.uint8, shape, elements=values, fill=st.just(0)) for _ in range(2)))
    )


# Two rows of four pixels each: 2 in both, 3 predicted, 4 true; both empty; one empty; equal; apart.
PREDICTED = np.array([[1, 1, 1, 0, 0, 0, 0, 0], [0] * 8, [0] * 8, [1] * 8, [1, 1, 0, 0, 0, 0, 0, 0]]).reshape(5, 2, 4)
TRUE = np.array([[1, 1, 0, 1, 1, 0, 0, 0], [0] * 8, [1] + [0] * 7, [1] * 8, [0, 0, 1, 1, 0, 0, 0, 0]]).reshape(5, 2, 4)
DICE, IOU = [4 / 7, 1, 0, 1, 0], [2 / 5, 1, 0, 1, 0]


def test_counts_dice_and_iou_by_hand():
    counts = overlap_counts(PREDICTED, TRUE)
    assert counts.intersection.tolist() == [2, 0, 0, 8, 0]
    assert counts.predicted.tolist() == [3, 0, 0, 8, 2]
    assert counts.true.tolist() == [4, 0, 1, 8, 2]
    assert dice(counts) == pytest.approx(DICE)
    assert iou(counts) == pytest.approx(IOU)


def test_two_empty_masks_agree_and_one_empty_mask_does_not():
    empty, full = np.zeros((1, 3, 3)), np.ones((1, 3, 3))
    for a, b, score in ((empty, empty, 1.0), (empty, full, 0.0), (full, empty, 0.0)):
        counts = overlap_counts(a, b)
        assert dice(counts).tolist() == iou(counts).tolist() == [score]


def test_pooled_scores_are_over_all_pixels():
    pooled = overlap_counts(PREDICTED, TRUE).pooled()
    assert dice(pooled).tolist() == [pytest.approx(2 * 10 / (13 + 15))]
    assert iou(pooled).tolist() == [pytest.approx(10 / 18)]


def test_samples_are_selected_by_number_or_mask():
    counts = overlap_counts(PREDICTED, TRUE)
    assert dice(counts.select(np.array([3, 0]))) == pytest.approx([1, 4 / 7])
    assert iou(counts.select(np.array([True, False, True, False, False]))) == pytest.approx([2 / 5, 0])


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_any_type_of_mask_counts_what_is_not_zero(dtype):
    assert dice(overlap_counts(PREDICTED.astype(dtype), (TRUE * 63).astype(dtype))) == pytest.approx(DICE)


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(5, 2, 4\).*\(4, 2, 4\)"):
        overlap_counts(PREDICTED, TRUE[:-1])


@given(masks())
def test_scores_are_those_of_sets_of_pixels(pair):
    counts = overlap_counts(*pair)
    for number, (d, j) in enumerate(zip(dice(counts), iou(counts), strict=True)):
        a, b = ({pixel for pixel in np.ndindex(mask[number].shape) if mask[number][pixel]} for mask in pair)
        assert d == pytest.approx(2 * len(a & b) / (len(a) + len(b)) if a or b else 1)
        assert j == pytest.approx(len(a & b) / len(a | b) if a or b else 1)


@given(masks())
def test_iou_follows_from_dice_and_neither_minds_the_order(pair):
    counts, turned = overlap_counts(*pair), overlap_counts(*pair[::-1])
    d = dice(counts)
    np.testing.assert_allclose(iou(counts), d / (2 - d))
    np.testing.assert_array_equal(d, dice(turned))
    assert ((d >= 0) & (d <= 1)).all()


def test_the_papers_pairs_of_scores_satisfy_the_same_identity():
    for d, j in ((0.9459, 0.8974), (0.9524, 0.9091), (0.9460, 0.8976)):
        assert d / (2 - d) == pytest.approx(j, abs=2e-4)
