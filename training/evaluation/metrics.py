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
    """A share of episodes, or a difference of two, with its 95 % interval, all fractions."""

    mean: float
    low: float
    high: float


def share(hits: int, count: int, digits: int = 4) -> Rate:
    """Clopper and Pearson's exact 95 % interval of `hits` of `count`; NaN where that is 0."""
    if not count:
        return Rate(float("nan"), float("nan"), float("nan"))
    interval = stats.binomtest(hits, count).proportion_ci()
    low, high = float(interval.low), float(interval.high)
    return Rate(round(hits / count, digits), round(low, digits), round(high, digits))


def rate(outcomes: Sequence[bool] | np.ndarray, digits: int = 4) -> Rate:
    """`share` of the outcomes that are true."""
    return share(int(np.sum(outcomes)), len(outcomes), digits)


def packed(outcomes: np.ndarray) -> str:
    """Outcomes `(N,)` bool as they are stored, a "0" or "1" an episode."""
    return "".join("1" if one else "0" for one in outcomes)


def unpacked(text: str) -> np.ndarray:
    """What `packed` was given, `(N,)` bool."""
    return np.array([one == "1" for one in text], bool)


def paired_difference(first: np.ndarray, second: np.ndarray) -> Rate:
    """How much more often the first outcome is true than the second one of the same episodes.

    Args:
        first: Outcomes, `(N,)` bool.
        second: The other's, `(N,)` bool.

    Returns:
        The difference of both shares, in [-1, 1], with its 95 % interval as Agresti and Min adjust
        it for matched pairs (Statistics in Medicine 24, 2005): half an episode is added to each of
        the four kinds of pairs. NaN without episodes.
    """
    gap = np.asarray(first, float) - np.asarray(second, float)
    if not len(gap):
        return Rate(float("nan"), float("nan"), float("nan"))
    count = len(gap) + 2
    centre = float(gap.sum()) / count
    spread = (float(np.abs(gap).sum()) + 1) / count - centre**2
    reach = float(stats.norm.ppf(0.975)) * (spread / count) ** 0.5
    low, high = max(-1.0, centre - reach), min(1.0, centre + reach)
    return Rate(round(float(gap.mean()), 4), round(low, 4), round(high, 4))


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: how often a positive outranks a negative; NaN without both."""
    labels = np.asarray(labels, bool)
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = stats.rankdata(scores)
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def maximum_rank_violation(imagined: np.ndarray, real: np.ndarray) -> float:
    """Mean over policies of the worst real difference that imagination ranks the wrong way round.

    SIMPLER's MMRV (Li et al., arXiv 2405.05941), of two `(N,)` arrays of success rates.
    """
    gap = np.abs(real[:, None] - real[None])
    violated = (imagined[:, None] < imagined[None]) != (real[:, None] < real[None])
    return float((gap * violated).max(axis=1).mean())


def policy_agreement(
    imagined: Sequence[float], real: Sequence[float], tasks: Sequence[str]
) -> dict[str, Any]:
    """M4: how imagined success rates of several policies go with their real ones.

    Over policies of several tasks a correlation may come from the tasks alone, easy ones and hard
    ones; whoever chooses between policies chooses within one task.

    Args:
        imagined: Success of each of at least three policies in imagination.
        real: The same in reality.
        tasks: Each policy's task.

    Returns:
        Pearson's and Spearman's correlation, the mean maximum rank violation, the mean absolute
        error and the signed bias, and of each correlation the range with one policy left out; and
        within tasks, Pearson's of deviations from the task's mean and the mean of the tasks' rank
        violations.
    """
    x, y = np.asarray(imagined, float), np.asarray(real, float)
    if not len(x) == len(y) == len(tasks) or len(x) < 3:
        raise ValueError(f"policies: expected at least 3 in both worlds, got {len(x)}, {len(y)}")

    def correlations(rows: np.ndarray) -> tuple[float, float]:
        return _correlation(x[rows], y[rows]), _correlation(x[rows], y[rows], stats.spearmanr)

    own = [np.array([task == one for one in tasks]) for task in sorted(set(tasks))]
    away = np.zeros((2, len(x)))
    for rows in own:
        away[:, rows] = x[rows] - x[rows].mean(), y[rows] - y[rows].mean()
    violations = [maximum_rank_violation(x[rows], y[rows]) for rows in own]
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
        "pearson_within_task": round(_correlation(*away.round(9)), 4),
        "mmrv_within_task": round(float(np.mean(violations)), 4),
    }


def _correlation(x: np.ndarray, y: np.ndarray, measure: Any = stats.pearsonr) -> float:
    """NaN where either does not vary."""
    if len(set(x)) < 2 or len(set(y)) < 2:
        return float("nan")
    return float(measure(x, y).statistic)


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


def place_errors(
    codes: np.ndarray, places: np.ndarray, test_codes: np.ndarray, test_places: np.ndarray
) -> np.ndarray:
    """How far off a probe of the codes places things: `(M,)`, in the places' unit.

    The probe is linear in the codes and their products, fitted with a small ridge.

    Args:
        codes: `(N, K)`.
        places: `(N, D)`.
        test_codes: `(M, K)`, held out.
        test_places: `(M, D)`.
    """
    pairs = np.triu_indices(codes.shape[1])

    def design(values: np.ndarray) -> np.ndarray:
        products = values[:, pairs[0]] * values[:, pairs[1]]
        return np.concatenate([np.ones((len(values), 1)), values, products], axis=1)

    mean, deviation = codes.mean(axis=0), codes.std(axis=0) + 1e-6
    known = design((codes - mean) / deviation).astype(np.float64)
    ridge = 1e-5 * len(known) * np.eye(known.shape[1])
    weights = np.linalg.solve(known.T @ known + ridge, known.T @ places)
    predicted = design((test_codes - mean) / deviation) @ weights
    return np.linalg.norm(predicted - test_places, axis=1)
