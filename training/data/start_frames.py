"""First frames of real episodes, many a task: what eyes learn from, and where episodes begin."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from world4rl_gym.episodes import Episode, EpisodeError, iterate_episodes, task_folder


def start_frames_path(out: Path, task: str, split: str) -> Path:
    """Where the start frames of a task and split are stored."""
    return task_folder(out, task) / f"start-frames-{split}.npz"


@dataclasses.dataclass(frozen=True)
class StartFrames:
    """First frames of real episodes.

    Attributes:
        frames: `(N, H, W, 3)` uint8.
        state: `(N, S)` float32, the robot's states; S is 0 without them.
        command: `(N, C)` float32, its commands; C is 0 without them.
        objects: `(N, 3)` float32, where the task's object is, for probes alone; None where unknown.
    """

    frames: np.ndarray
    state: np.ndarray
    command: np.ndarray
    objects: np.ndarray | None


def load_start_frames(folder: Path, task: str, split: str) -> StartFrames:
    """Reads what `--behaviour start` collected, or else the first frames of the split's episodes.

    Raises:
        EpisodeError: The file is broken, or neither it nor an episode is there.
    """
    path = start_frames_path(folder, task, split)
    if not path.exists():
        return _first_frames(iterate_episodes(folder, split, [task]))
    try:
        with np.load(path, allow_pickle=False) as arrays:
            frames = arrays["frames"]
            nothing = np.zeros((len(frames), 0), np.float32)
            return StartFrames(
                frames,
                arrays["state"] if "state" in arrays.files else nothing,
                arrays["command"] if "command" in arrays.files else nothing,
                arrays["objects"] if "objects" in arrays.files else None,
            )
    except FileNotFoundError:
        raise EpisodeError(f"{path}: no such file of start frames") from None
    except Exception as error:  # zip, its codecs and numpy's header each raise their own
        raise EpisodeError(f"{path}: not a readable file of start frames ({error})") from None


def _first_frames(episodes: Iterable[Episode]) -> StartFrames:
    nothing = np.zeros((1, 0), np.float32)
    frames, states, commands = [], [], []
    for episode in episodes:  # copied, for a view would keep all of the episode
        frames.append(episode.frames[:1].copy())
        states.append(nothing if episode.state is None else episode.state[:1].copy())
        commands.append(nothing if episode.command is None else episode.command[:1].copy())
    return StartFrames(
        np.concatenate(frames), np.concatenate(states), np.concatenate(commands), None
    )
