"""ROC against pairs counted by hand and against the Mann-Whitney statistic, which is its area."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from fastliver.metrics import roc_curve


def test_a_small_case_with_ties_by_hand():
    """Liver has 0.9, 0.5, 0.4 and the rest 0.5, 0.4, 0.7.

    0.9 beats three, 0.5 beats one and ties one, 0.4 ties one: 3 + 1.5 + 0.5 = 5 of 9 pairs.
    """
    scores, true = np.array([0.9, 0.5, 0.4, 0.5, 0.4, 0.7]), np.array([1, 1, 1, 0, 0, 0])
    curve = roc_curve(scores, true)
    assert curve.auc == pytest.approx(5 / 9)
    # Falling thresholds: 0.9 one liver; 0.7 one other; 0.5 one of each; 0.4 one of each.
    points = list(zip(curve.fpr.tolist(), curve.tpr.tolist(), strict=True))
    expected = [(0, 0), (0, 1 / 3), (1 / 3, 1 / 3), (2 / 3, 2 / 3), (1, 1)]
    assert {tuple(np.round(point, 6)) for point in points} <= {tuple(np.round(point, 6)) for point in expected}
    assert (0, pytest.approx(1 / 3)) in points
    assert (pytest.approx(1 / 3), pytest.approx(1 / 3)) in points


@pytest.mark.parametrize(
    ("scores", "area"), [([3, 4, 1, 2], 1.0), ([1, 2, 3, 4], 0.0), ([5, 5, 5, 5], 0.5), ([4, 2, 3, 1], 0.75)]
)
def test_perfect_reversed_constant_and_mixed_scores(scores, area):
    assert roc_curve(np.array(scores, float), np.array([1, 1, 0, 0])).auc == pytest.approx(area)


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=60))
def test_the_area_is_the_mann_whitney_statistic(pairs):
    scores, true = np.array([score for score, _ in pairs], float), np.array([liver for _, liver in pairs])
    if true.all() or not true.any():
        with pytest.raises(ValueError, match="one class only"):
            roc_curve(scores, true)
        return
    expected = mannwhitneyu(scores[true], scores[~true]).statistic / (true.sum() * (~true).sum())
    assert roc_curve(scores, true).auc == pytest.approx(expected)


def test_the_area_of_many_pixels_is_exact_however_thin_the_curve():
    rng = np.random.default_rng(0)
    true = rng.random((8, 40, 40)) < 0.1
    scores = rng.normal(size=true.shape).astype(np.float32) + true
    expected = mannwhitneyu(scores[true], scores[~true]).statistic / (true.sum() * (~true).sum())
    for points in (5, 400):
        curve = roc_curve(scores, true, points)
        assert curve.auc == pytest.approx(expected, abs=1e-9)
        assert 2 <= len(curve.fpr) <= points


@pytest.mark.parametrize("points", [2, 10, 400])
@pytest.mark.parametrize("count", [3, 50, 5000])
def test_a_thinned_curve_keeps_its_ends_and_only_rises(points, count):
    rng = np.random.default_rng(count)
    true = np.arange(count) % 3 == 0
    curve = roc_curve(rng.normal(size=count) + true, true, points)
    assert (curve.fpr[0], curve.tpr[0]) == (0, 0)
    assert (curve.fpr[-1], curve.tpr[-1]) == (1, 1)
    assert (np.diff(curve.fpr) >= 0).all()
    assert (np.diff(curve.tpr) >= 0).all()


def test_a_thinned_curve_follows_the_whole_one():
    rng = np.random.default_rng(1)
    true = rng.random(20000) < 0.02
    curve = roc_curve(rng.normal(size=20000) + 4 * true, true, 100)
    assert len(curve.fpr) <= 100
    assert np.trapezoid(curve.tpr, curve.fpr) == pytest.approx(curve.auc, abs=5e-3)


@pytest.mark.parametrize("value", [0, 1])
def test_one_class_has_no_curve(value):
    with pytest.raises(ValueError, match="one class only"):
        roc_curve(np.linspace(0, 1, 9).reshape(3, 3), np.full((3, 3), value))


def test_masks_of_any_grey_and_shape_are_liver_where_not_zero():
    scores = np.array([[0.1, 0.8], [0.4, 0.3]])
    assert roc_curve(scores, np.array([[0, 63], [63, 0]])).auc == 1.0
