"""What a world model says of real episodes: imagined again, by their own actions.

An episode is imagined from its first frame, state and command; an outcome is success at any
decision, real and imagined alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from world4rl_gym.episodes import Episode, EpisodeError
from world4rl_gym.imagination import Imagination
from world4rl_gym.initial_frames import InitialFrames
from world4rl_gym.pixels import channels_last
from world4rl_gym.world_model import WorldModel

_ROWS = 250


@dataclasses.dataclass(frozen=True)
class Imagined:
    """A real episode of T decisions and what was imagined of it.

    Attributes:
        episode: The real one.
        probability: `(T,)`, of success after each decision.
        uncertainty: `(T,)`, as in `ImaginedStep`, after each decision.
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

    @property
    def doubt(self) -> float:
        """The uncertainty about the whole episode's outcome, in [0, 0.5]."""
        return float(self.uncertainty[-1])


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
        for name, expected, got in (
            ("frame size", (size, size), episode.frames.shape[1:3]),
            ("action size", world_model.action_size, episode.actions.shape[1]),
            ("state size", world_model.state_size, episode.state_size),
            ("command size", world_model.command_size, episode.command_size),
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
