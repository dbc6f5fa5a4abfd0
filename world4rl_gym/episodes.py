"""Episodes on disk: one lossless compressed file each, checked whenever it is read.

The one place that says how frames and actions line up: ``action[t]`` leads from ``frame[t]`` to
``frame[t + 1]``, and ``success[t]`` speaks of ``frame[t + 1]``.
"""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from world4rl_gym.arguments import composed
from world4rl_gym.writing import write_whole

BEHAVIOURS = ("expert", "noisy-expert", "policy", "plan", "replay", "random")
PROBES = ("zero", "open-gripper", "reversed", "shuffled")
"""Behaviours that nothing learns from; they only probe a world model for optimism."""
SPLITS = ("train", "validation", "test")


class EpisodeError(ValueError):
    """An episode, or a folder of them, is missing or broken; the message names file and field."""


@dataclasses.dataclass(frozen=True)
class Episode:
    """One recorded episode of T decisions.

    Attributes:
        frames: `(T + 1, H, W, 3)` uint8; or `(1, H, W, 3)`, the first alone, of an episode that
            was not drawn.
        actions: `(T, A)` float32 in [-1, 1].
        success: `(T,)` bool; whether the task stands solved in `frames[t + 1]`.
        task: The task's name.
        behaviour: Who acted, one of `BEHAVIOURS` or `PROBES`.
        seed: The seed of the start configuration.
        action_repeat: Simulator steps for which each action was held.
        state: `(T + 1, S)` float32, the robot's state at each frame, in its own units; or None.
        command: `(T + 1, C)` float32, what the robot is commanded to: `command[:, j]` is the target
            of `state[:, j]`; or None. `command[0]` stands before the first action.
        policy: Name of the policy that acted, by which outcomes are reported; "" for none.
        action_low: `(A,)` float64, what -1 stands for in each action component, in the robot's
            units; None where actions are in [-1, 1] themselves.
        action_high: The same for 1.
        imagined: Whether a world model imagined it, as `world4rl play` saves its episodes; nothing
            is trained or measured on those.

    Raises:
        EpisodeError: A field has another shape, dtype or range; the message names it.
    """

    frames: np.ndarray
    actions: np.ndarray
    success: np.ndarray
    task: str
    behaviour: str
    seed: int
    action_repeat: int
    state: np.ndarray | None = None
    command: np.ndarray | None = None
    policy: str = ""
    action_low: np.ndarray | None = None
    action_high: np.ndarray | None = None
    imagined: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", composed(self.task))
        frames, actions, success = self.frames, self.actions, self.success
        _require(frames.dtype == np.uint8, "frames", "dtype uint8", frames.dtype)
        _require(
            frames.ndim == 4 and frames.shape[3] == 3, "frames", "(T + 1, H, W, 3)", frames.shape
        )
        _require(actions.ndim == 2 and len(actions) >= 2, "actions", "(T >= 2, A)", actions.shape)
        _require(actions.dtype == np.float32, "actions", "dtype float32", actions.dtype)
        _require(bool(np.isfinite(actions).all()), "actions", "finite values", "NaN or infinity")
        _require(
            bool((np.abs(actions) <= 1).all()),
            "actions",
            "values in [-1, 1]",
            f"{actions.min():.4g} to {actions.max():.4g}",
        )
        whole = len(actions) + 1
        _require(len(frames) in (1, whole), "frames", f"length {whole}, or 1", len(frames))
        for name, values in (("state", self.state), ("command", self.command)):
            if values is not None:
                fits = values.ndim == 2 and len(values) == whole and values.dtype == np.float32
                got = f"{values.shape} {values.dtype}"
                _require(fits, name, f"({whole}, N) float32", got)
                _require(bool(np.isfinite(values).all()), name, "finite values", "NaN or infinity")
        if self.command is not None:
            size = 0 if self.state is None else self.state.shape[1]
            fits = 1 <= self.command.shape[1] <= size
            _require(fits, "command", f"1 to {size} columns", self.command.shape[1])
        _require(
            success.dtype == np.bool_ and success.shape == (len(actions),),
            "success",
            f"({len(actions)},) bool",
            f"{success.shape} {success.dtype}",
        )
        low, high = self.action_low, self.action_high
        if low is not None or high is not None:
            size = actions.shape[1]
            for name, side in (("action_low", low), ("action_high", high)):
                fits = side is not None and side.shape == (size,) and side.dtype == np.float64
                _require(fits, name, f"({size},) float64", side)
            assert low is not None and high is not None
            ordered = bool(np.isfinite([low, high]).all() and (low < high).all())
            _require(ordered, "action_low", "finite and below action_high", low)
        _require(bool(self.task), "task", "a name", repr(self.task))
        known = (*BEHAVIOURS, *PROBES)
        _require(self.behaviour in known, "behaviour", " or ".join(known), self.behaviour)
        _require(self.action_repeat >= 1, "action_repeat", "at least 1", self.action_repeat)

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def is_drawn(self) -> bool:
        """Whether every frame was drawn, not the first alone."""
        return len(self.frames) > 1

    @property
    def solved(self) -> bool:
        """Whether the task was solved at any time."""
        return bool(self.success.any())

    @property
    def state_size(self) -> int:
        """Numbers of the robot's state; 0 without one."""
        return 0 if self.state is None else self.state.shape[1]

    @property
    def command_size(self) -> int:
        """Numbers of the command; 0 without one."""
        return 0 if self.command is None else self.command.shape[1]

    def to_bytes(self) -> bytes:
        """Returns the content of its file, a compressed `.npz`."""
        file = io.BytesIO()
        arrays: dict[str, Any] = {k: np.asarray(v) for k, v in vars(self).items() if v is not None}
        np.savez_compressed(file, **arrays)
        return file.getvalue()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the episode; the file appears whole or not at all."""
        write_whole(Path(path), self.to_bytes())


def load_episode(path: str | os.PathLike[str]) -> Episode:
    """Reads and checks one episode file.

    Raises:
        EpisodeError: The file is missing, unreadable or breaks the contract of `Episode`.
    """
    scalars: dict[str, Callable[[np.ndarray], Any]] = {"str": str, "int": int, "bool": bool}
    values = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for field in sorted(dataclasses.fields(Episode), key=lambda field: field.name):
                if field.name in arrays.files:
                    read = scalars.get(str(field.type), np.asarray)
                    values[field.name] = read(arrays[field.name])
                elif field.default is dataclasses.MISSING:
                    raise EpisodeError(f"field {field.name!r} is missing")
        return Episode(**values)
    except FileNotFoundError:
        raise EpisodeError(f"{path}: no such episode file") from None
    except EpisodeError as error:
        raise EpisodeError(f"{path}: {error}") from None
    except Exception as error:  # zip, its codecs and numpy's header each raise their own
        raise EpisodeError(f"{path}: not a readable episode file ({error})") from None


def load_episodes(
    folder: str | os.PathLike[str],
    split: str,
    tasks: Iterable[str] | None = None,
    behaviours: Sequence[str] = BEHAVIOURS,
    skip_bad: bool = False,
) -> list[Episode]:
    """Loads all episodes of a split, in the order of their paths; see `iterate_episodes`."""
    return list(iterate_episodes(folder, split, tasks, behaviours, skip_bad))


def iterate_episodes(
    folder: str | os.PathLike[str],
    split: str,
    tasks: Iterable[str] | None = None,
    behaviours: Sequence[str] = BEHAVIOURS,
    skip_bad: bool = False,
) -> Iterator[Episode]:
    """Loads one episode of a split after another, in the order of their paths.

    Args:
        folder: Holds `TASK/SPLIT/*.npz`.
        split: One of `SPLITS`.
        tasks: Tasks to load; None loads every task found.
        behaviours: Behaviours to load.
        skip_bad: Leave broken files out, and say how many, rather than refuse.

    Raises:
        EpisodeError: When it comes to it: the folder or split is missing or empty, a file is
            broken, imagined, or of another task than its folder, or the episodes disagree on frame
            size, action size or action repeat.
    """
    folder = Path(folder)
    if split not in SPLITS:
        raise EpisodeError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    if not folder.is_dir():
        raise EpisodeError(f"{folder}: no such folder of episodes")
    names = task_names(folder) if tasks is None else [composed(task) for task in tasks]
    first: tuple[str, int, dict[str, object]] | None = None
    bad: list[str] = []
    for task in names:
        for path in episode_files(task_folder(folder, task) / split):
            try:
                episode = load_episode(path)
                if episode.task != task:
                    raise EpisodeError(f"{path}: task: expected {task!r}, got {episode.task!r}")
                if episode.imagined:
                    raise EpisodeError(f"{path}: imagined: expected a real episode")
            except EpisodeError as error:
                if not skip_bad:
                    raise
                bad.append(str(error))
                continue
            if episode.behaviour not in behaviours:
                continue
            shape = _shape(episode)
            if first is None:
                first = episode.task, episode.seed, shape
            known, seed, expected = first
            for field, got in shape.items():
                if expected[field] != got:
                    raise EpisodeError(
                        f"{folder}: {field} differs between episodes: {expected[field]} for "
                        f"{known} seed {seed}, {got} for {task} seed {episode.seed}"
                    )
            yield episode
    if bad:
        print(f"left out {len(bad)} broken episode files; the first: {bad[0]}")
    if first is None:
        raise EpisodeError(f"{folder}: no {split} episodes of {', '.join(names) or 'any task'}")


def task_names(folder: Path) -> list[str]:
    """The tasks of a folder of episodes, in order; what begins with a dot is none."""
    found = [p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    return sorted(map(composed, found))


def task_folder(folder: Path, task: str) -> Path:
    """The folder of a task, however its name is composed."""
    if folder.is_dir():
        for path in folder.iterdir():
            if composed(path.name) == composed(task):
                return path
    return folder / task


def episode_files(folder: Path) -> list[Path]:
    """The episode files of a folder, in order; what begins with a dot, as macOS's `._x.npz`, is
    none."""
    return sorted(p for p in folder.glob("*.npz") if not p.name.startswith("."))


def _shape(episode: Episode) -> dict[str, object]:
    """What all episodes of a folder have in common."""
    low, high = episode.action_low, episode.action_high
    return {
        "frame size": episode.frames.shape[1:],
        "action size": episode.actions.shape[1],
        "action_repeat": episode.action_repeat,
        "state size": episode.state_size,
        "command size": episode.command_size,
        "action bounds": None if low is None or high is None else (low.tolist(), high.tolist()),
    }


def _require(holds: bool, field: str, expected: str, got: object) -> None:
    if not holds:
        raise EpisodeError(f"{field}: expected {expected}, got {got}")
