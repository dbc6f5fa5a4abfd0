"""How far imagination may be believed: figures over replays of held-out episodes (list M).

A replay is a real episode and what the world model makes of its first frame and its actions. Knows
nothing of files, nor of where episodes come from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats

from training.episodes import Episode
from training.metrics import (
    auroc,
    expected_calibration_error,
    paired_difference,
    psnr,
    rate,
    ssim,
)
from training.replay import replay
from world4rl_gym.pixels import channels_first
from world4rl_gym.world_model import WorldModel

FRAMES = (1, 5, 15, 30, 50)
"""Frames at which figures against the horizon are taken."""


@dataclasses.dataclass(frozen=True)
class Replay:
    """An episode, what was imagined of it, and how solved each imagined frame looks.

    Attributes:
        episode: The real episode.
        imagined: `(T + 1, H, W, 3)` uint8.
        uncertainty: `(T,)` the uncertainty of each imagined frame, in grey levels.
        probability: `(T,)` success probability of the imagined frames after each action.
        real_probability: `(T,)` the same of the real frames.
    """

    episode: Episode
    imagined: np.ndarray
    uncertainty: np.ndarray
    probability: np.ndarray
    real_probability: np.ndarray

    def succeeds(self, threshold: float, by: int | None = None) -> bool:
        """Whether it is imagined to be solved, within the first `by` decisions where given."""
        return bool((self.probability[:by] >= threshold).any())


def replay_all(
    world_model: WorldModel, episodes: Sequence[Episode], num_inference_steps: int, seed: int
) -> list[Replay]:
    """Imagines every episode again; see `training.replay`."""
    rollouts = replay(
        world_model.denoiser, world_model.scheduler, episodes, num_inference_steps, seed
    )

    def probabilities(frames: np.ndarray) -> np.ndarray:
        return world_model.success_probability(channels_first(torch.from_numpy(frames))).numpy()

    return [
        Replay(
            episode,
            rollout.frames,
            rollout.uncertainty,
            probabilities(rollout.frames[1:]),
            probabilities(episode.frames[1:]),
        )
        for episode, rollout in zip(episodes, rollouts, strict=True)
    ]


def reward_head_figures(
    episodes: Sequence[Episode], scores: Sequence[np.ndarray], threshold: float
) -> dict[str, Any]:
    """M1: the reward head on real frames, and on whole episodes, with 95 % intervals.

    Args:
        episodes: Episodes held out from training and from the choice of the threshold.
        scores: Success probability of the frame after each of their actions.
        threshold: Probability that counts as solved.
    """
    pooled = np.concatenate(scores)
    solved = np.concatenate([e.success for e in episodes])
    called = pooled >= threshold
    ended = np.array([bool((s >= threshold).any()) for s in scores])
    true = np.array([e.solved for e in episodes])
    return {
        "frames": len(pooled),
        "solved_frames": int(solved.sum()),
        "auroc": round(auroc(pooled, solved), 5),
        "ece": round(expected_calibration_error(pooled, solved), 5),
        "false_positive": dataclasses.asdict(rate(called[~solved], 5)),
        "false_negative": dataclasses.asdict(rate(~called[solved], 5)),
        "episode_false_success": dataclasses.asdict(rate(ended[~true])),
        "episode_missed_success": dataclasses.asdict(rate(~ended[true])),
    }


def fidelity(replays: Sequence[Replay]) -> dict[str, Any]:
    """M2: mean PSNR (dB) and SSIM at `FRAMES`, of imagination and of the frozen first frame."""
    figures: dict[str, Any] = {}
    for name, measure in (("psnr", psnr), ("ssim", ssim)):
        model, frozen = {}, {}
        for t in FRAMES:
            shown = [r for r in replays if t < len(r.imagined)]
            if not shown:
                continue
            real = np.stack([r.episode.frames[t] for r in shown])
            first = np.stack([r.episode.frames[0] for r in shown])
            imagined = np.stack([r.imagined[t] for r in shown])
            model[str(t)] = round(float(measure(real, imagined).mean()), 4)
            frozen[str(t)] = round(float(measure(real, first).mean()), 4)
        figures[name] = model
        figures[f"{name}_frozen"] = frozen
    return figures


def outcomes(replays: Sequence[Replay], threshold: float) -> dict[str, Any]:
    """M2: imagined against true outcome of the same starts and actions, with 95 % intervals."""
    true = np.array([r.episode.solved for r in replays])
    imagined = np.array([r.succeeds(threshold) for r in replays])
    false_success = rate(imagined[~true])
    missed = rate(~imagined[true])
    by_frame = {
        str(t): round(
            float(np.mean([r.succeeds(threshold, t) == r.episode.success[:t].any() for r in some])),
            4,
        )
        for t in FRAMES
        if (some := [r for r in replays if t < len(r.imagined)])
    }
    return {
        "episodes": len(replays),
        "solved": int(true.sum()),
        "agreement": dataclasses.asdict(rate(true == imagined)),
        "agreement_by_frame": by_frame,
        "false_success": {"rate": false_success.mean, "upper": false_success.high},
        "missed_success": {"rate": missed.mean, "upper": missed.high},
    }


def optimism(replays: Sequence[Replay], threshold: float) -> dict[str, Any]:
    """M3: imagined minus true success under probe actions that nobody would call skilled.

    `low` and `high` end the 95 % interval of `optimism`, that of `paired_difference`.
    """
    true = np.array([r.episode.solved for r in replays])
    imagined = np.array([r.succeeds(threshold) for r in replays])
    gap = paired_difference(imagined, true)
    return {
        "episodes": len(replays),
        "true": round(float(true.mean()), 4),
        "imagined": round(float(imagined.mean()), 4),
        "optimism": gap.mean,
        "low": gap.low,
        "high": gap.high,
    }


def foretelling(replays: Sequence[Replay], threshold: float) -> dict[str, Any]:
    """M6: how well uncertainty foretells that an imagined outcome is wrong.

    An episode's score is its highest uncertainty up to where imagination ends it. `auroc` is over
    all replays; `auroc_of_successes` over those imagined to succeed, which is what a policy can
    exploit; `auroc_of_doubt` is of another score, the reward head's own doubt about its verdict
    at that end; `error_correlation` is Spearman's, of a frame's uncertainty and its true error.
    """
    scores, doubts, wrong, success = [], [], [], []
    expected: list[float] = []
    error: list[float] = []
    for r in replays:
        hits = np.flatnonzero(r.probability >= threshold)
        end = int(hits[0]) + 1 if len(hits) else len(r.probability)
        scores.append(float(r.uncertainty[:end].max()))
        highest = float(r.probability[:end].max())
        doubts.append(1 - highest if len(hits) else highest)
        wrong.append(bool(len(hits)) != r.episode.solved)
        success.append(bool(len(hits)))
        expected.extend(r.uncertainty)
        error.extend(-psnr(r.episode.frames[1:], r.imagined[1:]))
    correlation = stats.spearmanr(expected, error).statistic
    score, mistaken, succeeded = np.array(scores), np.array(wrong), np.array(success)
    return {
        "episodes": len(replays),
        "wrong": int(mistaken.sum()),
        "auroc": round(auroc(score, mistaken), 4),
        "auroc_of_doubt": round(auroc(np.array(doubts), mistaken), 4),
        "auroc_of_successes": round(auroc(score[succeeded], mistaken[succeeded]), 4),
        "error_correlation": round(float(correlation), 4),
        "median": round(float(np.median(expected)), 3),
        "quantile_99": round(float(np.quantile(expected, 0.99)), 3),
    }
