"""Figures of what a world model says of real episodes: outcomes, and frames against the horizon."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from training.evaluation.metrics import auroc, paired_difference, psnr, rate, ssim
from world4rl_gym.outcomes import Imagined

FRAMES = (1, 5, 15, 30, 50)
"""Frames at which figures against the horizon are taken."""
PATCH = 16
"""Side, in pixels, of the patch about the object."""
FEWEST = 10
"""Episodes of the rarer outcome below which an AUROC says nothing: it is chance."""


def outcome_figures(imagined: Sequence[Imagined], threshold: float) -> dict[str, Any]:
    """M2: AUROC, agreement and bias, and M6: AUROC with which wrong outcomes are predicted, by the
    members' disagreement on them, and by the margin: how near the episode's score is to the
    threshold. An AUROC is NaN where fewer than `FEWEST` episodes have the rarer outcome.

    Args:
        imagined: Episodes of one kind.
        threshold: Probability that counts as success.
    """
    score = np.array([one.score for one in imagined])
    truth = np.array([one.episode.solved for one in imagined])
    said = score >= threshold
    wrong = said != truth
    uncertainty = np.array([one.doubt for one in imagined])
    bias = paired_difference(said, truth)
    return {
        "episodes": len(imagined),
        "real": dataclasses.asdict(rate(truth)),
        "imagined": dataclasses.asdict(rate(said)),
        "imagined_minus_real": dataclasses.asdict(bias),
        "agreement": dataclasses.asdict(rate(~wrong)),
        "auroc": _auroc(score, truth),
        "wrong_predicted_by_uncertainty": _auroc(uncertainty, wrong),
        "wrong_predicted_by_margin": _auroc(-np.abs(score - threshold), wrong),
    }


def _auroc(score: np.ndarray, truth: np.ndarray) -> float:
    """AUROC to four digits; NaN with fewer than `FEWEST` of either truth."""
    enough = FEWEST <= truth.sum() <= len(truth) - FEWEST
    return round(auroc(score, truth), 4) if enough else float("nan")


def frame_figures(imagined: Sequence[Imagined]) -> dict[str, Any]:
    """Mean PSNR (dB) and SSIM at `FRAMES`, of imagination and of the frozen first frame."""
    figures: dict[str, Any] = {"episodes": len(imagined)}
    for name, measure in (("psnr", psnr), ("ssim", ssim)):
        model, frozen = {}, {}
        for t in FRAMES:
            shown = [one for one in imagined if one.frames is not None and t < len(one.frames)]
            if not shown:
                continue
            real = np.stack([one.episode.frames[t] for one in shown])
            first = np.stack([one.episode.frames[0] for one in shown])
            drawn = np.stack([one.frames[t] for one in shown if one.frames is not None])
            model[str(t)] = round(float(measure(real, drawn).mean()), 4)
            frozen[str(t)] = round(float(measure(real, first).mean()), 4)
        figures[name], figures[f"{name}_of_first_frame"] = model, frozen
    return figures


def contact_psnr(imagined: Sequence[Imagined], centres: Sequence[np.ndarray]) -> dict[str, float]:
    """PSNR of the patch about the object, over the frames in which it moves.

    Args:
        imagined: Drawn episodes.
        centres: Of each, `(T + 1, 2)`, the object's column and row in pixels.

    Returns:
        `frames`, and in dB `psnr` and that of the first frame, `psnr_of_first_frame`.
    """
    real, drawn, first = [], [], []
    for one, places in zip(imagined, centres, strict=True):
        assert one.frames is not None
        size = one.frames.shape[1]
        moved = np.linalg.norm(np.diff(places, axis=0), axis=1) > 0.1
        for t in np.flatnonzero(moved) + 1:
            corner = np.clip(np.round(places[t]).astype(int) - PATCH // 2, 0, size - PATCH)
            window = np.s_[corner[1] : corner[1] + PATCH, corner[0] : corner[0] + PATCH]
            real.append(one.episode.frames[t][window])
            drawn.append(one.frames[t][window])
            first.append(one.episode.frames[0][window])
    if not real:
        return {"frames": 0.0, "psnr": float("nan"), "psnr_of_first_frame": float("nan")}
    truth = np.stack(real)
    return {
        "frames": float(len(real)),
        "psnr": round(float(psnr(truth, np.stack(drawn)).mean()), 4),
        "psnr_of_first_frame": round(float(psnr(truth, np.stack(first)).mean()), 4),
    }
