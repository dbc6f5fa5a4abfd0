"""Figures of merit: success rates with intervals, calibration, and how alike two frames are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats
from skimage.metrics import structural_similarity


@dataclasses.dataclass(frozen=True)
class Rate:
    """A share of episodes with its 95 % interval, all fractions."""

    mean: float
    low: float
    high: float


def rate(outcomes: Sequence[bool] | np.ndarray, digits: int = 4) -> Rate:
    """Clopper and Pearson's exact 95 % interval of a share; NaN where there is no outcome."""
    count, hits = len(outcomes), int(np.sum(outcomes))
    if not count:
        return Rate(float("nan"), float("nan"), float("nan"))
    low = float(stats.beta.ppf(0.025, hits, count - hits + 1)) if hits else 0.0
    high = float(stats.beta.ppf(0.975, hits + 1, count - hits)) if hits < count else 1.0
    return Rate(round(hits / count, digits), round(low, digits), round(high, digits))


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: how often a positive outranks a negative; NaN without both."""
    labels = np.asarray(labels, bool)
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = stats.rankdata(scores)
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def expected_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = 15
) -> float:
    """Mean gap between confidence and frequency over equal bins, weighted by their counts."""
    which = np.minimum((np.asarray(probabilities) * bins).astype(int), bins - 1)
    total = 0.0
    for b in range(bins):
        inside = which == b
        if inside.any():
            total += inside.mean() * abs(probabilities[inside].mean() - labels[inside].mean())
    return float(total)


def psnr(real: np.ndarray, imagined: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of `(N, H, W, 3)` uint8 frames, dB, `(N,)`; 100 where equal."""
    error = ((real.astype(np.float64) - imagined.astype(np.float64)) ** 2).mean(axis=(1, 2, 3))
    return np.where(error > 0, 10 * np.log10(255.0**2 / np.maximum(error, 1e-12)), 100.0)


def ssim(real: np.ndarray, imagined: np.ndarray) -> np.ndarray:
    """Structural similarity of `(N, H, W, 3)` uint8 frames, `(N,)` (scikit-image)."""
    return np.array(
        [
            structural_similarity(a, b, channel_axis=2, data_range=255)
            for a, b in zip(real, imagined, strict=True)
        ]
    )
