"""Figures of merit against known values."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.formatting import format_points, format_rate
from training.evaluation.metrics import (
    Rate,
    auroc,
    maximum_rank_violation,
    paired_difference,
    policy_agreement,
    psnr,
    rate,
    ssim,
)


def test_clopper_pearson() -> None:
    half = rate([True] * 25 + [False] * 25)
    assert (half.mean, half.low, half.high) == pytest.approx((0.5, 0.3553, 0.6447), abs=1e-4)
    none = rate([False] * 42)
    assert (none.mean, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 42), abs=1e-4)
    assert rate([True] * 3).high == 1.0
    assert np.isnan(rate([]).mean)


def test_paired_difference() -> None:
    pairs = np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], (794, 150, 86, 570), axis=0)
    change = paired_difference(pairs[:, 0], pairs[:, 1])  # Agresti's approval of a prime minister
    assert change.mean == 0.04
    assert (change.low, change.high) == pytest.approx((0.0213, 0.0587), abs=2e-4)
    agreed = paired_difference(np.ones(10), np.ones(10))  # ten pairs prove no equality
    assert agreed.mean == 0.0
    assert agreed.high == pytest.approx(1.96 * (1 / 12 / 12) ** 0.5, abs=1e-4)
    assert agreed.low == -agreed.high
    assert paired_difference(np.ones(3), np.zeros(3)).high == 1.0
    assert np.isnan(paired_difference(np.ones(0), np.ones(0)).mean)


def test_auroc() -> None:
    assert auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])) == 0.75
    assert auroc(np.array([0.5, 0.5]), np.array([0, 1])) == 0.5
    assert np.isnan(auroc(np.array([0.5]), np.array([1])))


def test_psnr_and_ssim() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 246, (2, 16, 16, 3), dtype=np.uint8)
    assert psnr(frames, frames).tolist() == [100.0, 100.0]
    assert psnr(frames, frames + 10)[0] == pytest.approx(20 * np.log10(25.5), abs=1e-6)
    assert ssim(frames, frames).tolist() == pytest.approx([1.0, 1.0])
    assert ssim(frames, 255 - frames)[0] < 0.5


def test_rank_violations_cost_what_they_mix_up() -> None:
    real = np.array([0.2, 0.5, 0.9])
    assert maximum_rank_violation(real * 0.5 + 0.1, real) == 0.0
    swapped = np.array([0.2, 0.9, 0.5])  # the two better ones the wrong way round, 0.4 apart
    assert maximum_rank_violation(swapped, real) == pytest.approx(2 * 0.4 / 3)


def test_agreement_of_policies() -> None:
    real = [0.1, 0.3, 0.5, 0.9]
    tasks = ["hammer"] * 4
    predicted = policy_agreement([value + 0.05 for value in real], real, tasks)
    assert predicted["pearson"] == predicted["spearman"] == 1.0
    assert predicted["pearson_leave_one_out"] == [1.0, 1.0]
    assert predicted["mmrv"] == 0.0
    assert predicted["bias"] == pytest.approx(0.05)
    assert predicted["mean_absolute_error"] == pytest.approx(0.05)
    assert policy_agreement(real[::-1], real, tasks)["pearson"] < 0
    assert np.isnan(policy_agreement([1.0] * 4, real, tasks)["pearson"])
    with pytest.raises(ValueError, match="at least 3"):
        policy_agreement([0.1, 0.2], [0.1, 0.2], ["hammer"] * 2)


def test_tasks_that_differ_do_not_hide_what_is_ranked_wrongly_within_each() -> None:
    predicted = policy_agreement(
        [0.2, 0.1, 0.9, 0.8], [0.1, 0.2, 0.8, 0.9], ["soccer"] * 2 + ["hammer"] * 2
    )
    assert predicted["pearson"] > 0.9
    assert predicted["pearson_within_task"] == -1
    assert predicted["mmrv_within_task"] == pytest.approx(0.1)


def test_points_have_an_interval_where_there_is_one() -> None:
    assert format_points(Rate(0.3, -0.36, 0.96)) == "+30 [-36, +96]"
    assert format_points(Rate(0.15, float("nan"), float("nan"))) == "+15"


def test_figures_that_are_not_there_are_dashes() -> None:
    assert format_rate(None) == "-"
    assert format_rate(rate([True, False])) == "50 % [1, 99]"
