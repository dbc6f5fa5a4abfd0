"""Figures of merit: success rates with intervals, calibration, and how alike two frames are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

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


def maximum_rank_violation(imagined: np.ndarray, real: np.ndarray) -> float:
    """Mean over policies of the worst real difference that imagination ranks the wrong way round.

    SIMPLER's MMRV (Li et al., arXiv 2405.05941), of two `(N,)` arrays of success rates.
    """
    gap = np.abs(real[:, None] - real[None])
    violated = (imagined[:, None] < imagined[None]) != (real[:, None] < real[None])
    return float((gap * violated).max(axis=1).mean())


def policy_agreement(imagined: Sequence[float], real: Sequence[float]) -> dict[str, Any]:
    """M4: how imagined success rates of several policies go with their real ones.

    Args:
        imagined: Success of each of at least three policies in imagination.
        real: The same in reality.

    Returns:
        Pearson's and Spearman's correlation, the mean maximum rank violation, the mean absolute
        error and the signed bias, and of each correlation the range with one policy left out.
    """
    x, y = np.asarray(imagined, float), np.asarray(real, float)
    if len(x) != len(y) or len(x) < 3:
        raise ValueError(f"policies: expected at least 3 in both worlds, got {len(x)}, {len(y)}")

    def correlations(rows: np.ndarray) -> tuple[float, float]:
        if len(set(x[rows])) < 2 or len(set(y[rows])) < 2:
            return float("nan"), float("nan")
        return (
            float(stats.pearsonr(x[rows], y[rows]).statistic),
            float(stats.spearmanr(x[rows], y[rows]).statistic),
        )

    every = np.arange(len(x))
    pearson, spearman = correlations(every)
    without = np.array([correlations(np.delete(every, i)) for i in every])
    return {
        "policies": len(x),
        "pearson": round(pearson, 4),
        "pearson_leave_one_out": np.round([without[:, 0].min(), without[:, 0].max()], 4).tolist(),
        "spearman": round(spearman, 4),
        "spearman_leave_one_out": np.round([without[:, 1].min(), without[:, 1].max()], 4).tolist(),
        "mmrv": round(maximum_rank_violation(x, y), 4),
        "mean_absolute_error": round(float(np.abs(x - y).mean()), 4),
        "bias": round(float((x - y).mean()), 4),
    }


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
