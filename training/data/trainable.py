"""What training asks of episodes: sizes that can be trained on, splits that share nothing."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from training.runs.settings import SettingsError
from world4rl_gym.episodes import (
    BEHAVIOURS,
    SPLITS,
    Episode,
    EpisodeError,
    episode_files,
    iterate_episodes,
    load_episodes,
    task_folder,
)

DEMONSTRATIONS = Path(__file__).parent / "demonstrations"
"""Five expert episodes of each of the embedded world model's tasks."""


FRAME_SIZES = (16, 256)
"""Smallest and largest height and width of frames that a world model is trained on."""


MOST_STATE = 256
"""Numbers of the robot's state that a memory takes."""


def check_frame_size(where: str, height: int, width: int) -> None:
    """Raises EpisodeError, saying what is needed, for frames that nothing can be trained on."""
    least, most = FRAME_SIZES
    if height != width or height % 8 or not least <= height <= most:
        raise EpisodeError(
            f"{where}: expected square frames, a multiple of 8 from {least} to {most} pixels, got "
            f"{width} x {height}; python -m training.import_episodes pads and resizes"
        )


def iterate_trainable(
    folder: Path, task: str, behaviours: Sequence[str] = BEHAVIOURS
) -> Iterator[Episode]:
    """Loads one training episode of a task after another; the first is loaded at once, and what
    `check_trainable` checks is checked then."""
    episodes = iterate_episodes(folder, "train", [task], behaviours)
    first = next(episodes)
    check_trainable(folder, task, first)
    return itertools.chain([first], episodes)


def check_trainable(folder: Path, task: str, first: Episode) -> None:
    """Checks what all trainings need, before any begins, and says what would be learned badly.

    Args:
        folder: Folder of episodes.
        task: The task.
        first: One of its training episodes; all have the same sizes.

    Raises:
        EpisodeError: The size of frames, state or command does not suit, there is one training
            episode alone, or none solves the task; the message names the split.
    """
    where = f"{folder}: train episodes of {task}"
    check_frame_size(where, *first.frames.shape[1:3])
    states, commands, size = first.state_size, first.command_size, first.actions.shape[1]
    if states > MOST_STATE or commands > size:
        raise EpisodeError(
            f"{where}: expected at most {MOST_STATE} numbers of state and {size} of command (as "
            f"many as action components), got {states} and {commands}"
        )
    counts = {
        split: [bool(success.any()) for success in read_outcomes(folder, task, split)]
        for split in SPLITS
    }
    solved_of = ", ".join(f"{split} {sum(own)} of {len(own)}" for split, own in counts.items())
    if len(counts["train"]) < 2:
        raise EpisodeError(f"{where}: expected at least 2, better 50, got {len(counts['train'])}")
    if not any(counts["train"]):
        raise EpisodeError(
            f"{where}: expected some that solve the task, got none; solved: {solved_of}"
        )
    for split in ("train", "validation"):
        own = counts[split]
        if own and (all(own) or not any(own)):
            kind = "fails" if all(own) else "solves the task"
            print(f"note: {split} episodes of {task}: none {kind}; solved: {solved_of}", flush=True)


def read_outcomes(folder: Path, task: str, split: str) -> list[np.ndarray]:
    """`success`, `(T,)` bool, of each readable episode of a split; no frame is read."""
    outcomes = []
    for path in episode_files(task_folder(folder, task) / split):
        try:
            with np.load(path, allow_pickle=False) as arrays:
                outcomes.append(arrays["success"])
        except Exception:  # a broken file is named where it is loaded
            continue
    return outcomes


def load_demonstrations(folder: Path, task: str, count: int, draw: int = 0) -> list[Episode]:
    """Loads `count` expert training episodes of a task: others a draw, while there are enough.

    Raises:
        EpisodeError: There are none, or one is broken.
        SettingsError: There are too few.
    """
    experts = load_episodes(folder, "train", [task], ["expert"])
    if len(experts) < count:
        raise SettingsError(
            f"demonstrations: {folder} holds {len(experts)} expert episodes of {task}, expected "
            f"at least {count}"
        )
    first = draw * count % (len(experts) - count + 1)
    return experts[first : first + count]


def require_disjoint(splits: Mapping[str, Sequence[Episode]]) -> None:
    """Raises EpisodeError where one episode stands in two splits, whatever its file's name."""
    seen: dict[tuple[str, int], str] = {}
    for split, episodes in splits.items():
        for episode in episodes:
            content = zlib.crc32(episode.actions.tobytes(), zlib.crc32(episode.frames.tobytes()))
            other = seen.setdefault((episode.task, content), split)
            if other != split:
                raise EpisodeError(
                    f"{split}: {episode.behaviour} episode of {episode.task}, seed {episode.seed}, "
                    f"stands in {other} too"
                )
