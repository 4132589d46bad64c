"""How close synthetic images are to real ones: grey-value distance, and FID and KID on a network's features."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance

from fastliver.metrics.components import fill_holes, largest_component

BINS = 1024
"""Grey values are counted in as many bins over [-1, 1]: a distance is exact to 2 / BINS."""
BODY_LEVEL = -0.9
"""What is brighter is body, together with what it encloses."""
REGIONS = ("liver", "body", "slice")
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000


def body_mask(image: NDArray[np.floating]) -> NDArray[np.bool_]:
    """The body in a slice (H, W) in [-1, 1]: the largest bright part with its holes filled."""
    return fill_holes(largest_component(np.asarray(image, np.float32) > BODY_LEVEL))


@dataclass(frozen=True)
class GreyValues:
    """How often each grey value occurs in each of REGIONS, over many slices: (BINS,) counts."""

    counts: dict[str, NDArray[np.int64]]

    @staticmethod
    def of(slices: Iterable[tuple[NDArray[np.floating], NDArray[np.uint8]]]) -> "GreyValues":
        """Count the values of images (H, W) in [-1, 1] with labels (H, W), 1 where liver is."""
        counts = {region: np.zeros(BINS, np.int64) for region in REGIONS}
        for image, label in slices:
            bins = ((np.asarray(image, np.float32) + 1.0) * (BINS / 2)).astype(np.intp).clip(0, BINS - 1)
            masks = {"liver": label == 1, "body": body_mask(image), "slice": np.ones(label.shape, bool)}
            for region, mask in masks.items():
                counts[region] += np.bincount(bins[mask], minlength=BINS)
        return GreyValues(counts)

    def distance(self, other: "GreyValues", region: str) -> float | None:
        """The 1-Wasserstein distance of the two distributions in [-1, 1] (0 to 2); None where one has no pixel."""
        mine, theirs = self.counts[region], other.counts[region]
        if not mine.any() or not theirs.any():
            return None
        centres = (np.arange(BINS) + 0.5) * (2 / BINS) - 1
        return float(wasserstein_distance(centres, centres, mine, theirs))


def frechet_distance(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """FID: the Frechet distance of normal distributions fitted to two sets of features (Heusel et al. 2017, Eq. 6).

    Args:
        first: (N, D) features of one set; N should exceed D, or the covariance is singular and the value too high.
        second: (M, D) of the other.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    cov_a, cov_b = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    # The trace of the product's root is the sum of its eigenvalues' roots, which are real and not negative.
    eigenvalues = scipy.linalg.eigvals(cov_a @ cov_b).real.clip(0)
    spread = np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(eigenvalues).sum()
    return float(max(((a.mean(0) - b.mean(0)) ** 2).sum() + spread, 0.0))


def kernel_distance(first: NDArray[np.floating], second: NDArray[np.floating], seed: int = 0) -> tuple[float, float]:
    """KID: mean and standard deviation of the unbiased squared MMD over subsets (Binkowski et al. 2018).

    The kernel is (x.y / D + 1)^3. Subsets have 1,000 features. Where a set has no more, both are taken whole, once, and
    the deviation is 0.

    Args:
        first: (N, D) features, N at least 2.
        second: (M, D), M at least 2.
        seed: of the choice of subsets.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    size = KID_SUBSET_SIZE
    if min(len(a), len(b)) <= size:
        return _squared_mmd(a, b), 0.0
    rng = np.random.default_rng(seed)
    values = [
        _squared_mmd(a[rng.choice(len(a), size, replace=False)], b[rng.choice(len(b), size, replace=False)])
        for _ in range(KID_SUBSETS)
    ]
    return float(np.mean(values)), float(np.std(values))


def _squared_mmd(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    def kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        return (x @ y.T / x.shape[1] + 1) ** 3

    within = sum((k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kernel(a, a), kernel(b, b)))
    return float(within - 2 * kernel(a, b).mean())
