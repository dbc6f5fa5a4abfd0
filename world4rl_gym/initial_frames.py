"""Where imagined episodes begin: real first frames, and contexts from within demonstrations."""

from __future__ import annotations

import dataclasses
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from world4rl_gym.pixels import channels_last
from world4rl_gym.reading import StrictFolder, WorldModelError, reason_of
from world4rl_gym.writing import write_tensors

INITIAL_FRAMES_FILES = [
    "initial_frames/index.safetensors",
    "initial_frames/start.png",
    "initial_frames/anywhere.png",
]
KINDS = ("start", "anywhere")
_COLUMNS = 8
_MOST_BYTES = 2**27
"""Bytes that the frames of all contexts together may fill, repeated ones counted as often."""


@dataclasses.dataclass(frozen=True)
class InitialFrames:
    """Contexts that an episode may be drawn from.

    Attributes:
        frames: `(F, 3, H, W)` uint8, each frame once.
        windows: `(N, T)` int64, which frames a context is of, oldest first; a real start repeats
            its one frame.
        actions: `(N, T - 1, A)` float32; the true actions between the frames, zeros at a start.
        task_ids: `(N,)` int64, indices into `tasks`.
        is_start: `(N,)` bool; whether a context is a real episode start.
        tasks: Names of the tasks.

    Raises:
        ValueError: Shapes, dtypes or ranges disagree; the message names the field.
    """

    frames: Tensor
    windows: Tensor
    actions: Tensor
    task_ids: Tensor
    is_start: Tensor
    tasks: tuple[str, ...]

    def __post_init__(self) -> None:
        frames, windows, actions = self.frames, self.windows, self.actions
        if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != torch.uint8:
            raise ValueError(
                "initial frames: expected (F, 3, H, W) uint8, "
                f"got {tuple(frames.shape)} {frames.dtype}"
            )
        if windows.ndim != 2 or windows.dtype != torch.int64 or not windows.numel():
            raise ValueError(
                "windows: expected (N >= 1, T >= 1) int64, "
                f"got {tuple(windows.shape)} {windows.dtype}"
            )
        if int(windows.min()) < 0 or int(windows.max()) >= len(frames):
            raise ValueError(f"windows: expected within the {len(frames)} frames")
        count, length = windows.shape
        if actions.ndim != 3 or actions.shape[:2] != (count, length - 1):
            raise ValueError(
                f"initial actions: expected ({count}, {length - 1}, A), got {tuple(actions.shape)}"
            )
        if not bool((actions.abs() <= 1).all()):
            raise ValueError("initial actions: expected values in [-1, 1]")
        for name in ("task_ids", "is_start"):
            if getattr(self, name).shape != (count,):
                raise ValueError(f"{name}: expected ({count},)")
        if int(self.task_ids.min()) < 0 or int(self.task_ids.max()) >= len(self.tasks):
            raise ValueError(f"task_ids: expected within the {len(self.tasks)} tasks")

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def context_shape(self) -> tuple[int, ...]:
        """`(T, 3, H, W)`, the shape of a context's frames."""
        return (self.windows.shape[1], *self.frames.shape[1:])

    def frames_of(self, contexts: Tensor) -> Tensor:
        """Returns the frames of these contexts, `(K, T, 3, H, W)` uint8, oldest first."""
        return self.frames[self.windows[contexts]]

    def to(self, device: torch.device | str) -> InitialFrames:
        """Returns the same contexts on another device."""
        return dataclasses.replace(
            self,
            frames=self.frames.to(device),
            windows=self.windows.to(device),
            actions=self.actions.to(device),
            task_ids=self.task_ids.to(device),
            is_start=self.is_start.to(device),
        )

    def select(self, kind: str, tasks: Sequence[str]) -> np.ndarray:
        """Returns the indices of the contexts that an episode may be drawn from.

        Args:
            kind: "start", real starts alone, or "anywhere", starts and demonstrated contexts.
            tasks: Names of the tasks.

        Returns:
            `(M,)` int64, ascending.

        Raises:
            ValueError: `kind` or a task is unknown, or a task has no such context.
        """
        if kind not in KINDS:
            raise ValueError(f"initial_frames: expected one of {', '.join(KINDS)}, got {kind!r}")
        allowed = self.is_start.cpu().numpy() if kind == "start" else np.ones(len(self), bool)
        ids = self.task_ids.cpu().numpy()
        for task in tasks:
            if task not in self.tasks:
                raise ValueError(f"task: expected one of {', '.join(self.tasks)}, got {task!r}")
            if not (allowed & (ids == self.tasks.index(task))).any():
                raise ValueError(f"initial_frames: {task!r} has no context of kind {kind!r}")
        return np.flatnonzero(allowed & np.isin(ids, [self.tasks.index(t) for t in tasks]))

    @classmethod
    def from_contexts(
        cls,
        frames: Tensor,
        actions: Tensor,
        task_ids: Tensor,
        is_start: Tensor,
        tasks: tuple[str, ...],
    ) -> InitialFrames:
        """Keeps each frame of these contexts once.

        Args:
            frames: `(N, T, 3, H, W)` uint8, oldest first; of a start only the last frame counts.
            actions: As the attribute.
            task_ids: As the attribute.
            is_start: As the attribute.
            tasks: As the attribute.

        Raises:
            ValueError: Shapes, dtypes or ranges disagree; the message names the field.
        """
        if frames.ndim != 5 or is_start.shape != frames.shape[:1]:
            raise ValueError(
                "initial frames: expected (N, T, 3, H, W) and (N,) is_start, "
                f"got {tuple(frames.shape)} and {tuple(is_start.shape)}"
            )
        length = frames.shape[1]
        lone = is_start[:, None] & (torch.arange(length) < length - 1)
        own = torch.where(lone, 0, 1).flatten().cumsum(0).view(lone.shape) - 1
        windows = torch.where(is_start[:, None], own[:, -1:], own)
        return cls(frames[~lone], windows, actions, task_ids, is_start, tasks)

    @classmethod
    def from_starts(
        cls, frames: np.ndarray, task: str, context_length: int, action_size: int
    ) -> InitialFrames:
        """Makes contexts of single frames, such as photographs of the user's own scene.

        Args:
            frames: `(N, H, W, 3)` or `(H, W, 3)` uint8.
            task: The task that they begin.
            context_length: Context frames T of the world model.
            action_size: Its action components A.

        Raises:
            ValueError: The frames have another shape or dtype.
        """
        frames = np.asarray(frames)
        if frames.ndim == 3:
            frames = frames[None]
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not len(frames):
            raise ValueError(
                f"frames: expected (N, H, W, 3) uint8, got {frames.shape} {frames.dtype}"
            )
        pixels = torch.from_numpy(frames.transpose(0, 3, 1, 2).copy())
        return cls(
            pixels,
            torch.arange(len(frames))[:, None].repeat(1, context_length),
            torch.zeros(len(frames), context_length - 1, action_size),
            torch.zeros(len(frames), dtype=torch.int64),
            torch.ones(len(frames), dtype=torch.bool),
            (task,),
        )

    def save(self, folder: Path) -> None:
        """Writes `INITIAL_FRAMES_FILES`: two PNG sheets that a person can look at, and an index."""
        (folder / "initial_frames").mkdir(parents=True, exist_ok=True)
        order = torch.argsort(self.is_start.to(torch.int8), descending=True, stable=True)
        starts = int(self.is_start.sum())
        write_tensors(
            folder / INITIAL_FRAMES_FILES[0],
            {"task_ids": self.task_ids[order], "actions": self.actions[order[starts:]]},
        )
        windows = self.windows[order]
        for name, shown, columns in (
            (INITIAL_FRAMES_FILES[1], windows[:starts, -1], _COLUMNS),
            (INITIAL_FRAMES_FILES[2], windows[starts:].flatten(), windows.shape[1]),
        ):
            _write_sheet(folder / name, channels_last(self.frames[shown]).numpy(), columns)

    @classmethod
    def load(
        cls,
        files: StrictFolder,
        tasks: tuple[str, ...],
        counts: tuple[int, int],
        context_length: int,
        action_size: int,
        frame_size: int,
    ) -> InitialFrames:
        """Reads what `save` wrote.

        Args:
            files: The world model's folder.
            tasks: Its tasks, every one of which must have a start.
            counts: Number of starts and of later contexts, as its index says.
            context_length: Its context frames T.
            action_size: Its action components A.
            frame_size: Its frames' height and width.

        Raises:
            WorldModelError: A file is missing, or contradicts the world model.
        """
        starts, later = counts
        most = _MOST_BYTES // (context_length * 3 * frame_size**2)
        if starts < 1 or later < 0 or starts + later > most:
            raise WorldModelError(
                f"{files.folder}: initial_frames: expected at least 1 start and at most {most} "
                f"contexts of this size, got {starts} and {later}"
            )
        path = files.folder / INITIAL_FRAMES_FILES[0]
        shapes = {
            "task_ids": (starts + later,),
            "actions": (later, context_length - 1, action_size),
        }
        index = files.read_tensors(INITIAL_FRAMES_FILES[0], shapes, ("I64", "F32"))
        for name, dtype in (("task_ids", torch.int64), ("actions", torch.float32)):
            if index[name].dtype != dtype:
                raise WorldModelError(
                    f"{path}: tensor {name!r}: dtype: expected {dtype}, got {index[name].dtype}"
                )
        first = _read_sheet(files, INITIAL_FRAMES_FILES[1], starts, _COLUMNS, frame_size)
        rest = _read_sheet(
            files, INITIAL_FRAMES_FILES[2], later * context_length, context_length, frame_size
        )
        windows = torch.cat(
            [
                torch.arange(starts)[:, None].expand(-1, context_length),
                torch.arange(starts, starts + len(rest)).view(later, context_length),
            ]
        )
        no_actions = torch.zeros(starts, context_length - 1, action_size)
        actions = torch.cat([no_actions, index["actions"]])
        is_start = torch.arange(starts + later) < starts
        try:
            frames = torch.cat([first, rest])
            loaded = cls(frames, windows, actions, index["task_ids"], is_start, tasks)
            loaded.select("start", tasks)
        except ValueError as error:
            raise WorldModelError(f"{path}: {error}") from None
        return loaded


def _write_sheet(path: Path, frames: np.ndarray, columns: int) -> None:
    """Writes `(N, H, W, 3)` frames as one PNG, `columns` a row, the last row filled with black."""
    size = frames.shape[1:3]
    rows = max(1, -(-len(frames) // columns))
    sheet = np.zeros((rows * columns, *size, 3), np.uint8)
    sheet[: len(frames)] = frames
    sheet = sheet.reshape(rows, columns, *size, 3).transpose(0, 2, 1, 3, 4)
    Image.fromarray(sheet.reshape(rows * size[0], columns * size[1], 3)).save(path, optimize=True)


def _read_sheet(files: StrictFolder, name: str, count: int, columns: int, size: int) -> Tensor:
    """Reads `count` frames back as `(N, 3, H, W)` uint8."""
    path = files.folder / name
    rows = max(1, -(-count // columns))
    width, height = columns * size, rows * size
    data = files.read_bytes(name, 2**16 + 2 * 3 * width * height)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=["PNG"])
        if image.size != (width, height) or image.mode != "RGB":
            raise WorldModelError(
                f"{path}: expected {width} x {height} RGB pixels, got "
                f"{image.size[0]} x {image.size[1]} {image.mode}"
            )
        pixels = np.asarray(image)
    except WorldModelError:
        raise
    except Exception as error:  # the decoder raises whatever a broken chunk leads it to
        raise WorldModelError(f"{path}: is not a readable PNG ({reason_of(error)})") from None
    frames = pixels.reshape(rows, size, columns, size, 3).transpose(0, 2, 4, 1, 3)
    return torch.from_numpy(frames.reshape(rows * columns, 3, size, size)[:count].copy())
