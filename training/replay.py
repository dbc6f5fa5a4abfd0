"""Imagination from real first frames: of a real episode's own actions, or of what someone does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from training.episodes import Episode
from world4rl_gym.denoiser import Denoiser
from world4rl_gym.noise import row_noise
from world4rl_gym.pixels import channels_first, channels_last
from world4rl_gym.scheduler import EulerScheduler
from world4rl_gym.world_model import sample_next_frame

Act = Callable[[np.ndarray], np.ndarray]
"""Who acts on what is imagined: `(B, H, W, 3)` uint8 frames to `(B, A)` float32 in [-1, 1]."""


@dataclasses.dataclass(frozen=True)
class Rollout:
    """What was imagined of one episode.

    Attributes:
        frames: `(T + 1, H, W, 3)` uint8; frame 0 is the real one.
        actions: `(T, A)` float32.
        uncertainty: `(T,)` float32, of each imagined frame, in grey levels.
    """

    frames: np.ndarray
    actions: np.ndarray
    uncertainty: np.ndarray

    def until(self, steps: int) -> Rollout:
        """Its first `steps` decisions."""
        return Rollout(self.frames[: steps + 1], self.actions[:steps], self.uncertainty[:steps])


def replay(
    denoiser: Denoiser,
    scheduler: EulerScheduler,
    episodes: Sequence[Episode],
    num_inference_steps: int,
    seed: int = 0,
    batch_size: int = 32,
    act: Act | None = None,
) -> list[Rollout]:
    """Imagines every episode from its first frame and its own actions, or someone else's.

    Args:
        denoiser: The denoiser.
        scheduler: Its sampler.
        episodes: Episodes; of a batch of several lengths, each rollout is as long as its own.
        num_inference_steps: Denoising steps a frame.
        seed: Seed of the denoising noise.
        batch_size: Episodes imagined together.
        act: Who acts, a closed loop; None takes the episodes' own actions, an open loop.

    Returns:
        One rollout an episode.
    """
    rollouts: list[Rollout] = []
    for first in range(0, len(episodes), batch_size):
        batch = episodes[first : first + batch_size]
        actions = stacked_actions(batch)
        taken = iter(actions.swapaxes(0, 1))
        imagined = imagine(
            denoiser,
            scheduler,
            np.stack([e.frames[0] for e in batch]),
            act or (lambda frames, taken=taken: next(taken)),  # type: ignore[misc]
            actions.shape[1],
            num_inference_steps,
            torch.arange(first, first + len(batch)) + seed * 100_003,
        )
        rollouts += [r.until(len(e)) for r, e in zip(imagined, batch, strict=True)]
    return rollouts


def stacked_actions(episodes: Sequence[Episode]) -> np.ndarray:
    """Actions as `(B, T, A)` float32, those of shorter episodes held after their last."""
    longest = max(len(episode) for episode in episodes)
    return np.stack(
        [np.pad(e.actions, ((0, longest - len(e)), (0, 0)), mode="edge") for e in episodes]
    )


@torch.no_grad()
def imagine(
    denoiser: Denoiser,
    scheduler: EulerScheduler,
    starts: np.ndarray,
    act: Act,
    steps: int,
    num_inference_steps: int,
    seeds: Tensor,
) -> list[Rollout]:
    """Imagines one batch, past any success.

    Args:
        denoiser: The denoiser.
        scheduler: Its sampler.
        starts: `(B, H, W, 3)` uint8 real first frames.
        act: Who acts.
        steps: Decisions.
        num_inference_steps: Denoising steps a frame.
        seeds: `(B,)` int64, of each row's denoising noise.

    Returns:
        One rollout a row.
    """
    length, size = denoiser.config.context_length, denoiser.config.action_size
    start = channels_first(torch.from_numpy(starts))
    actions = torch.zeros(len(start), length - 1 + steps, size)
    frames, uncertainty = [start] * length, []
    for t in range(steps):
        actions[:, t + length - 1] = torch.from_numpy(act(channels_last(frames[-1]).numpy()))
        noise = row_noise(seeds, torch.full_like(seeds, t), tuple(start.shape[1:]))
        prediction = sample_next_frame(
            denoiser,
            scheduler,
            start,
            torch.stack(frames[-length:], dim=1),
            actions[:, t : t + length],
            noise,
            num_inference_steps,
        )
        frames.append(prediction.frames)
        uncertainty.append(prediction.uncertainty)
    seen = channels_last(torch.stack(frames[length - 1 :], dim=1)).numpy()
    acted = actions[:, length - 1 :].numpy()
    doubts = torch.stack(uncertainty, dim=1).numpy()
    return [Rollout(*parts) for parts in zip(seen, acted, doubts, strict=True)]
