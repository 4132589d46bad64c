"""The receiver operating characteristic over pixels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RocCurve:
    """A ROC curve along falling thresholds, thinned, and the area under all of it.

    Attributes:
        fpr: (points,) false positive rate, 0 to 1, ascending.
        tpr: (points,) true positive rate at the same thresholds.
        auc: area under the whole curve, 0 to 1.
    """

    fpr: NDArray[np.float64]
    tpr: NDArray[np.float64]
    auc: float


def roc_curve(scores: NDArray, true: NDArray, points: int = 400) -> RocCurve:
    """ROC of scores against truth (any shape, non-zero is liver).

    The area is exact; the curve is thinned to about `points`, evenly along its own length.

    Raises:
        ValueError: when the truth holds one class only, which has no ROC.
    """
    from sklearn.metrics import auc
    from sklearn.metrics import roc_curve as exact_curve

    labels = true.ravel() != 0
    if labels.all() or not labels.any():
        raise ValueError("the truth holds one class only: there is no ROC")
    fpr, tpr, _ = exact_curve(labels, scores.ravel())
    length = np.concatenate(([0.0], np.cumsum(np.abs(np.diff(fpr)) + np.abs(np.diff(tpr)))))
    keep = np.unique(np.searchsorted(length, np.linspace(0.0, length[-1], points)))
    return RocCurve(fpr[keep], tpr[keep], float(auc(fpr, tpr)))
