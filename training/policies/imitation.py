"""Fits policies to actions: demonstrations are cloned, and teachers distilled, by the same loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.sequences import make_sequences
from world4rl_gym.episodes import Episode, EpisodeError
from world4rl_gym.features import features
from world4rl_gym.pixels import channels_first
from world4rl_gym.policy import Policy, make_policy, policy_config
from world4rl_gym.world_model import WorldModel

SHIFT = 3
"""Largest random shift of a frame, in pixels (RAD, arXiv 2004.14990)."""
NOISE = 0.03
"""Deviation of the noise added to each number of a vector, as a share of its own."""

Seen = tuple[Tensor | None, Tensor | None]
"""Frames `(N, 3, H, W)` uint8 and vectors `(N, V)` float32, each None where a policy sees none."""


def features_of(world_model: WorldModel, episodes: Sequence[Episode]) -> Tensor:
    """The features of every decision of recorded episodes of one task, `(N, F)` float32."""
    task = episodes[0].task
    memory = world_model.task_memory(task)
    sequences = make_sequences(episodes, world_model.task_eyes(task))
    inside = sequences.mask.bool()
    rows, decisions = inside.nonzero().T
    state = sequences.state
    return features(
        memory.state_origin,
        memory.state_step,
        sequences.first_code[rows],
        state[:, :-1][inside],
        state.diff(dim=1, prepend=state[:, :1])[:, :-1][inside],
        sequences.command[:, :-1][inside],
        decisions / world_model.config.max_episode_steps,
    )


def seen_of(world_model: WorldModel, episodes: Sequence[Episode], obs_type: str) -> Seen:
    """What a policy would have seen at every decision of recorded episodes of one task."""
    if obs_type == "features":
        return None, features_of(world_model, episodes)
    if not all(episode.is_drawn for episode in episodes):
        raise EpisodeError("frames: expected episodes of which every frame is drawn")
    frames = channels_first(torch.from_numpy(np.concatenate([e.frames[:-1] for e in episodes])))
    if obs_type == "pixels":
        return frames, None
    rows = []
    for episode in episodes:
        parts = [part for part in (episode.state, episode.command) if part is not None]
        rows.append(np.concatenate(parts, axis=1)[:-1])
    return frames, torch.from_numpy(np.concatenate(rows))


def done_of(episodes: Sequence[Episode]) -> Tensor:
    """What was done at every decision, `(N, A)` float32 in [-1, 1]."""
    return torch.from_numpy(np.concatenate([episode.actions for episode in episodes]))


def fit(
    policy: Policy,
    seen: Seen,
    done: Tensor,
    steps: int = 4000,
    learning_rate: float = 1e-3,
    batch_size: int = 256,
    seed: int = 0,
) -> None:
    """Fits a policy's mean action, in place, to what was done; mean absolute error.

    Args:
        policy: The policy.
        seen: What it saw.
        done: `(N, A)` actions.
        steps: Steps of AdamW, its learning rate decayed to zero by a cosine.
        learning_rate: AdamW's.
        batch_size: Decisions a step.
        seed: Seed of batches, shifts and noise.
    """
    generator = torch.Generator().manual_seed(seed)
    frames, vectors = seen
    if vectors is not None:
        scale = vectors.std(dim=0)
        if frames is not None:  # features come in units of their own
            policy.encoder.origin.copy_(vectors.mean(dim=0))
            policy.encoder.unit.copy_(scale.clamp(min=1e-4))
    actor = [p for name, p in policy.named_parameters() if name != "log_std"]
    optimizer = torch.optim.AdamW(actor, lr=learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    policy.requires_grad_(True)
    for _ in range(steps):
        rows = torch.randint(len(done), (batch_size,), generator=generator)
        shown = None if frames is None else _shifted(frames[rows], generator)
        vector = None
        if vectors is not None:
            noise = torch.randn(batch_size, vectors.shape[1], generator=generator)
            vector = vectors[rows] + NOISE * scale * noise
        loss = (policy(shown, vector) - done[rows]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def clone_episodes(
    episodes: Sequence[Episode],
    world_model: WorldModel,
    obs_type: str = "features",
    steps: int = 4000,
    seed: int = 0,
) -> Policy:
    """Clones demonstrations of one task, all in all.

    Args:
        episodes: The demonstrations.
        world_model: In which the policy is to act.
        obs_type: What the policy sees.
        steps: Gradient steps.
        seed: Seed of the network, of batches and of noise.
    """
    policy = make_policy(policy_config(world_model, episodes[0].task, obs_type), seed)
    seen = seen_of(world_model, episodes, obs_type)
    batch_size = 256 if obs_type == "features" else 64
    fit(policy, seen, done_of(episodes), steps, batch_size=batch_size, seed=seed)
    return policy


def _shifted(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Every frame moved by up to `SHIFT` pixels, its edges repeated."""
    count, _, height, width = frames.shape
    padded = F.pad(frames.float(), [SHIFT] * 4, mode="replicate").to(frames.dtype)
    down, right = torch.randint(0, 2 * SHIFT + 1, (2, count, 1), generator=generator)
    rows = (torch.arange(height) + down)[:, None, :, None]
    columns = (torch.arange(width) + right)[:, None, None, :]
    every, colours = torch.arange(count)[:, None, None, None], torch.arange(3)[:, None, None]
    return padded[every, colours, rows, columns]
