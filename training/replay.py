"""Open-loop replay: a real episode's first frame and actions, imagined by the world model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch

from training.episodes import Episode
from world4rl_gym.denoiser import Denoiser
from world4rl_gym.noise import row_noise
from world4rl_gym.pixels import channels_first, channels_last
from world4rl_gym.scheduler import EulerScheduler
from world4rl_gym.world_model import sample_next_frame


@dataclasses.dataclass(frozen=True)
class Rollout:
    """What was imagined of one episode.

    Attributes:
        frames: `(T + 1, H, W, 3)` uint8; frame 0 is the real one.
        uncertainty: `(T,)` float32, of each imagined frame, in grey levels.
    """

    frames: np.ndarray
    uncertainty: np.ndarray


def replay(
    denoiser: Denoiser,
    scheduler: EulerScheduler,
    episodes: Sequence[Episode],
    num_inference_steps: int,
    seed: int = 0,
    batch_size: int = 32,
    act: Callable[[np.ndarray], np.ndarray] | None = None,
) -> list[Rollout]:
    """Imagines every episode from its first frame and its own actions, or someone else's.

    Args:
        denoiser: The denoiser.
        scheduler: Its sampler.
        episodes: Episodes, all of one length.
        num_inference_steps: Denoising steps a frame.
        seed: Seed of the denoising noise.
        batch_size: Episodes imagined together.
        act: Who acts on what is imagined, a closed loop: `(B, H, W, 3)` uint8 frames to `(B, A)`
            float32 actions. None takes the episodes' own actions, an open loop.

    Returns:
        One rollout an episode.
    """
    rollouts: list[Rollout] = []
    length = denoiser.config.context_length
    for first in range(0, len(episodes), batch_size):
        batch = episodes[first : first + batch_size]
        start = channels_first(torch.from_numpy(np.stack([e.frames[0] for e in batch])))
        actions = torch.from_numpy(np.stack([e.actions for e in batch]))
        padded = torch.cat(
            [actions.new_zeros(len(batch), length - 1, actions.shape[2]), actions], 1
        )
        frames, uncertainty = [start] * length, []
        seeds = torch.arange(first, first + len(batch)) + seed * 100_003
        for t in range(actions.shape[1]):
            if act is not None:
                taken = act(channels_last(frames[-1]).numpy())
                padded[:, t + length - 1] = torch.from_numpy(taken)
            noise = row_noise(seeds, torch.full_like(seeds, t), tuple(start.shape[1:]))
            prediction = sample_next_frame(
                denoiser,
                scheduler,
                start,
                torch.stack(frames[-length:], dim=1),
                padded[:, t : t + length],
                noise,
                num_inference_steps,
            )
            frames.append(prediction.frames)
            uncertainty.append(prediction.uncertainty)
        seen = channels_last(torch.stack(frames[length - 1 :], dim=1)).numpy()
        doubts = torch.stack(uncertainty, dim=1).numpy()
        rollouts.extend(Rollout(f, u) for f, u in zip(seen, doubts, strict=True))
    return rollouts
