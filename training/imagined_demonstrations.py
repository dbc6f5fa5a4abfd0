"""Demonstrations as the world model imagines them: as they were played, and on the way back.

A frozen world model is most right where a hand moves freely, and most wrong at contact. Both uses
here rest on the first. A demonstration replayed shows a policy imagined frames whose right action
is known; a demonstration disturbed shows it where errors of its own lead, and the way back. Noise
while demonstrating is DART's (arXiv 1703.09327), corrective labels from a learned model are CCIL's
(arXiv 2310.12972); here displacements add up, so that nobody is asked for the label.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from training.episodes import Episode
from training.replay import imagine, replay, stacked_actions
from world4rl_gym.world_model import WorldModel

BATCH_SIZE = 40
"""Corrections imagined together."""


def replayed(world_model: WorldModel, demonstrations: Sequence[Episode]) -> list[Episode]:
    """Each demonstration with its frames as they are imagined from its first and its actions."""
    rollouts = replay(
        world_model.denoiser,
        world_model.scheduler,
        demonstrations,
        world_model.config.num_inference_steps,
    )
    return [
        dataclasses.replace(episode, frames=rollout.frames)
        for episode, rollout in zip(demonstrations, rollouts, strict=True)
    ]


class Disturbed:
    """Plays a batch of demonstrations with disturbances, and knows the action that leads back.

    The right action at decision t is the demonstrated one, less a part of what the disturbances
    before have added up to; what is done is that action with the disturbance of now.

    Args:
        actions: `(B, T, A)` float32 demonstrated actions in [-1, 1].
        displacements: How many of the action's first dimensions move the hand by as much, so that
            they add up to where it is; the others, a gripper's, are left as demonstrated.
        deviation: Deviation of a disturbance, at most; each episode draws its own.
        hold: Decisions that one disturbance lasts, on average; every other is none at all.
        gain: Part of what has added up that one action takes back.
        rng: Draws the disturbances.

    Attributes:
        right: `(B, T, A)` float32, the right actions so far.
    """

    def __init__(
        self,
        actions: np.ndarray,
        *,
        displacements: int,
        deviation: float,
        hold: float,
        gain: float,
        rng: np.random.Generator,
    ) -> None:
        rows, _, size = actions.shape
        self.actions, self.right = actions, np.zeros_like(actions)
        self.moves = np.arange(size) < displacements
        self.hold, self.gain, self.rng = hold, gain, rng
        self.scale = rng.uniform(0, deviation, (rows, 1))
        self.disturbance = np.zeros((rows, size))
        self.astray = np.zeros((rows, size))
        self.decision = 0

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """What is done next, `(B, A)` float32 in [-1, 1], whatever the frames show."""
        shown = self.actions[:, self.decision]
        right = np.clip(shown - self.gain * self.astray, -1, 1)
        self.right[:, self.decision] = right
        rows, size = shown.shape
        fresh = self.rng.random((rows, 1)) < 1 / self.hold
        drawn = self.rng.normal(size=(rows, size)) * self.scale * self.moves
        drawn *= self.rng.random((rows, 1)) < 0.5
        self.disturbance = np.where(fresh, drawn, self.disturbance)
        done = np.clip(right + self.disturbance, -1, 1)
        self.astray += (done - shown) * self.moves
        self.decision += 1
        return done.astype(np.float32)


def corrections(
    world_model: WorldModel,
    demonstrations: Sequence[Episode],
    count: int,
    *,
    displacements: int = 3,
    deviation: float = 0.6,
    hold: float = 4.0,
    gain: float = 0.4,
    seed: int = 0,
) -> list[Episode]:
    """Demonstrations in turn, imagined with disturbances; the actions are those that lead back.

    Args:
        world_model: Imagines them.
        demonstrations: Episodes.
        count: How many to imagine.
        displacements: As in `Disturbed`.
        deviation: As in `Disturbed`.
        hold: As in `Disturbed`.
        gain: As in `Disturbed`.
        seed: Seed of the disturbances and of the denoising noise.

    Returns:
        `count` episodes; their `success` is the demonstration's, not what was imagined.
    """
    rng = np.random.default_rng(seed)
    chosen = [demonstrations[i % len(demonstrations)] for i in range(count)]
    made: list[Episode] = []
    for first in range(0, count, BATCH_SIZE):
        batch = chosen[first : first + BATCH_SIZE]
        actions = stacked_actions(batch)
        player = Disturbed(
            actions,
            displacements=displacements,
            deviation=deviation,
            hold=hold,
            gain=gain,
            rng=rng,
        )
        rollouts = imagine(
            world_model.denoiser,
            world_model.scheduler,
            np.stack([e.frames[0] for e in batch]),
            player,
            actions.shape[1],
            world_model.config.num_inference_steps,
            torch.arange(first, first + len(batch)) + seed * 100_003,
        )
        made += [
            dataclasses.replace(
                episode, frames=rollout.until(len(episode)).frames, actions=right[: len(episode)]
            )
            for episode, rollout, right in zip(batch, rollouts, player.right, strict=True)
        ]
    return made
