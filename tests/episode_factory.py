"""Small episodes of a toy scene: the action moves a square, solved at the right edge."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from world4rl_gym.episodes import Episode

SIZE, HORIZON, ACTIONS = 16, 8, 3


def make_episode(
    seed: int, task: str = "push", behaviour: str = "expert", horizon: int = HORIZON
) -> Episode:
    """An expert moves right, anyone else at random; the same seed gives the same episode."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (horizon, ACTIONS)).astype(np.float32)
    if behaviour == "expert":
        actions[:, 0] = 1.0
    x = float(rng.integers(0, 4))
    row = int(rng.integers(2, 12))
    places = [x]
    for action in actions:
        x = float(np.clip(x + 2 * action[0], 0, SIZE - 4))
        places.append(x)
    frames = np.full((horizon + 1, SIZE, SIZE, 3), 60, np.uint8)
    for t, place in enumerate(places):
        frames[t, row : row + 3, round(place) : round(place) + 3] = (220, 40, 40)
    success = np.array(places[1:]) >= SIZE - 5
    return Episode(frames, actions, success, task, behaviour, seed, 2)


def with_robot(episode: Episode) -> Episode:
    """The square's place for a state, an exact integrator for a command."""
    command = np.cumsum(np.concatenate([[[0.0]], 0.1 * episode.actions[:, :1]]), axis=0)
    command = np.clip(command, -0.25, 0.55)
    state = np.concatenate([0.9 * command, np.zeros_like(command)], axis=1)
    return dataclasses.replace(
        episode, state=state.astype(np.float32), command=command.astype(np.float32)
    )


def write_episodes(folder: Path, tasks: tuple[str, ...] = ("push",), count: int = 6) -> Path:
    """Writes `count` expert and random episodes a task to train, fewer to the other splits."""
    for task in tasks:
        for split, first, number in (
            ("train", 0, count),
            ("validation", 1000, 2),
            ("test", 2000, 2),
        ):
            for behaviour, offset in (("expert", 0), ("random", 100)):
                for seed in range(first + offset, first + offset + number):
                    episode = make_episode(seed, task, behaviour)
                    episode.save(folder / task / split / f"{behaviour}-{seed:07d}.npz")
    return folder
