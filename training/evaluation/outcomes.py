"""What a world model says of real episodes: their outcomes, frame by frame and on the whole.

An episode is imagined from its first frame, state and command, by its own actions; an outcome is
success at any decision, real and imagined alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from training.data.episodes import Episode, EpisodeError
from training.evaluation.metrics import auroc, paired_difference, psnr, rate, ssim
from world4rl_gym.imagination import Imagination
from world4rl_gym.initial_frames import InitialFrames
from world4rl_gym.pixels import channels_last
from world4rl_gym.world_model import WorldModel

FRAMES = (1, 5, 15, 30, 50)
"""Frames at which figures against the horizon are taken."""
PATCH = 16
"""Side, in pixels, of the patch about the object."""
FEWEST = 10
"""Episodes of the rarer outcome below which an AUROC says nothing: it is chance."""
_ROWS = 250


@dataclasses.dataclass(frozen=True)
class Imagined:
    """A real episode of T decisions and what was imagined of it.

    Attributes:
        episode: The real one.
        probability: `(T,)`, of success after each decision.
        uncertainty: `(T,)`, the largest so far.
        state: `(T, S)`, the robot's states.
        frames: `(T + 1, H, W, 3)` uint8; None where they were not drawn.
    """

    episode: Episode
    probability: np.ndarray
    uncertainty: np.ndarray
    state: np.ndarray
    frames: np.ndarray | None

    @property
    def score(self) -> float:
        """The highest probability of success at any decision."""
        return float(self.probability.max())


def contexts_of(episodes: Sequence[Episode], tasks: Sequence[str]) -> InitialFrames:
    """The episodes' beginnings, one context each."""

    def first(name: str) -> torch.Tensor:
        values = [getattr(episode, name) for episode in episodes]
        rows = [np.zeros(0, np.float32) if value is None else value[0] for value in values]
        return torch.from_numpy(np.stack(rows))

    frames = torch.from_numpy(np.stack([episode.frames[0] for episode in episodes]))
    return InitialFrames(
        frames.permute(0, 3, 1, 2).contiguous(),
        first("state"),
        first("command"),
        torch.tensor([tasks.index(episode.task) for episode in episodes]),
        torch.ones(len(episodes), dtype=torch.bool),
        tuple(tasks),
    )


def check_fits(world_model: WorldModel, episodes: Sequence[Episode]) -> None:
    """Checks that a world model can imagine these episodes.

    Raises:
        EpisodeError: Their task, or the size of frames, actions, states or commands, is another
            than the world model's, or an action has other units.
    """
    config, size = world_model.config, world_model.frame_size
    for episode in episodes:
        if episode.task not in config.tasks:
            raise EpisodeError(
                f"task: the world model knows {', '.join(config.tasks)}, got {episode.task!r}"
            )
        bounds = tuple(
            None if side is None else tuple(side.tolist())
            for side in (episode.action_low, episode.action_high)
        )
        of_model = (config.action_low, config.action_high)
        state, command = episode.state, episode.command
        for name, expected, got in (
            ("frame size", (size, size), episode.frames.shape[1:3]),
            ("action size", world_model.action_size, episode.actions.shape[1]),
            ("state size", world_model.state_size, 0 if state is None else state.shape[1]),
            ("command size", world_model.command_size, 0 if command is None else command.shape[1]),
            ("action bounds", of_model, of_model if None in bounds else bounds),
        ):
            if expected != got:
                raise EpisodeError(
                    f"{name}: the world model has {expected}, the {episode.behaviour} episode of "
                    f"{episode.task}, seed {episode.seed}, has {got}"
                )


def imagine(
    world_model: WorldModel, episodes: Sequence[Episode], draw: bool = False
) -> list[Imagined]:
    """Imagines every episode again, in their order.

    Raises:
        EpisodeError: An episode does not fit the world model.
    """
    check_fits(world_model, episodes)
    lengths = sorted({len(episode) for episode in episodes})
    done: dict[int, Imagined] = {}
    for length in lengths:
        rows = [i for i, episode in enumerate(episodes) if len(episode) == length]
        for begin in range(0, len(rows), _ROWS):
            part = rows[begin : begin + _ROWS]
            own = [episodes[i] for i in part]
            done.update(zip(part, _imagine(world_model, own, draw), strict=True))
    return [done[i] for i in range(len(episodes))]


def _imagine(world_model: WorldModel, episodes: list[Episode], draw: bool) -> list[Imagined]:
    contexts = contexts_of(episodes, world_model.config.tasks)
    imagination = Imagination(len(episodes), world_model, initial_frames=contexts)
    imagination.rngs = [np.random.default_rng(episode.seed) for episode in episodes]
    imagined = imagination.rollout(
        np.stack([episode.actions for episode in episodes]), np.arange(len(episodes)), draw
    )
    drawn = None if imagined.frames is None else channels_last(imagined.frames).cpu().numpy()
    return [
        Imagined(
            episode,
            imagined.success_probability[i].cpu().numpy(),
            imagined.uncertainty[i].cpu().numpy(),
            imagined.state[i].cpu().numpy(),
            None if drawn is None else np.concatenate([episode.frames[:1], drawn[i]]),
        )
        for i, episode in enumerate(episodes)
    ]


def outcome_figures(imagined: Sequence[Imagined], threshold: float) -> dict[str, Any]:
    """M2: AUROC, agreement and bias, and M6: AUROC with which wrong outcomes are predicted, by the
    members' disagreement, and by the margin: how near the episode's score is to the threshold. An
    AUROC is NaN where fewer than `FEWEST` episodes have the rarer outcome.

    Args:
        imagined: Episodes of one kind.
        threshold: Probability that counts as success.
    """
    score = np.array([one.score for one in imagined])
    truth = np.array([one.episode.solved for one in imagined])
    said = score >= threshold
    wrong = said != truth
    uncertainty = np.array([one.uncertainty.max() for one in imagined])
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
