"""Where imagined episodes begin: real first frames, and contexts from within demonstrations."""

from __future__ import annotations

import dataclasses
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from world4rl_gym.arguments import composed
from world4rl_gym.pixels import channels_last
from world4rl_gym.reading import StrictFolder, WorldModelError, reason_of
from world4rl_gym.writing import write_tensors

if TYPE_CHECKING:
    from world4rl_gym.model_index import ModelIndex

INITIAL_FRAMES_FILES = [
    "initial_frames/index.safetensors",
    "initial_frames/start.png",
    "initial_frames/anywhere.png",
]
KINDS = ("start", "anywhere")
_FIELDS = ("frames", "state", "command", "task_ids", "is_start")
"""What there is of each context."""
_COLUMNS = 8
_MOST_BYTES = 2**27
"""Bytes that the frames of all contexts together may fill, repeated ones counted as often."""


@dataclasses.dataclass(frozen=True)
class InitialFrames:
    """Contexts that an episode may be drawn from.

    Attributes:
        frames: `(N, 3, H, W)` uint8.
        state: `(N, S)` float32, the robot's states in them; S is 0 without one.
        command: `(N, C)` float32, its commands; C is 0 without one.
        task_ids: `(N,)` int64, indices into `tasks`.
        is_start: `(N,)` bool; whether a context is a real episode start.
        tasks: Names of the tasks.

    Raises:
        ValueError: Shapes, dtypes or ranges disagree; the message names the field.
    """

    frames: Tensor
    state: Tensor
    command: Tensor
    task_ids: Tensor
    is_start: Tensor
    tasks: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(composed(task) for task in self.tasks))
        frames, count = self.frames, len(self.frames)
        if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != torch.uint8 or not count:
            raise ValueError(
                "initial frames: expected (N >= 1, 3, H, W) uint8, "
                f"got {tuple(frames.shape)} {frames.dtype}"
            )
        for name in ("state", "command"):
            values = getattr(self, name)
            if values.ndim != 2 or len(values) != count or values.dtype != torch.float32:
                raise ValueError(
                    f"initial {name}: expected ({count}, N) float32, "
                    f"got {tuple(values.shape)} {values.dtype}"
                )
            if not bool(values.isfinite().all()):
                raise ValueError(f"initial {name}: expected finite values, got NaN or infinity")
        for name in ("task_ids", "is_start"):
            if getattr(self, name).shape != (count,):
                raise ValueError(f"{name}: expected ({count},)")
        if int(self.task_ids.min()) < 0 or int(self.task_ids.max()) >= len(self.tasks):
            raise ValueError(f"task_ids: expected within the {len(self.tasks)} tasks")

    def __len__(self) -> int:
        return len(self.frames)

    def to(self, device: torch.device | str) -> InitialFrames:
        """Returns the same contexts on another device."""
        return dataclasses.replace(self, **{n: getattr(self, n).to(device) for n in _FIELDS})

    def rows(self, indices: np.ndarray | Sequence[int]) -> InitialFrames:
        """Returns the contexts of these indices, in this order."""
        rows = torch.as_tensor(indices)
        return dataclasses.replace(self, **{n: getattr(self, n)[rows] for n in _FIELDS})

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
        tasks = [composed(task) for task in tasks]
        for task in tasks:
            if task not in self.tasks:
                raise ValueError(f"task: expected one of {', '.join(self.tasks)}, got {task!r}")
            if not (allowed & (ids == self.tasks.index(task))).any():
                raise ValueError(f"initial_frames: {task!r} has no context of kind {kind!r}")
        return np.flatnonzero(allowed & np.isin(ids, [self.tasks.index(t) for t in tasks]))

    @classmethod
    def from_starts(
        cls,
        frames: np.ndarray,
        task: str,
        state: np.ndarray | None = None,
        command: np.ndarray | None = None,
    ) -> InitialFrames:
        """Makes contexts of frames that begin episodes, such as photographs of one's own scene.

        Args:
            frames: `(N, H, W, 3)` or `(H, W, 3)` uint8.
            task: The task that they begin.
            state: `(N, S)` or `(S,)`, the robot's states in them; None for a world model without.
            command: `(N, C)` or `(C,)`, its commands; None for a world model without.

        Raises:
            ValueError: An array has another shape or dtype.
        """
        frames = np.asarray(frames)
        if frames.ndim == 3:
            frames = frames[None]
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not len(frames):
            raise ValueError(
                f"frames: expected (N, H, W, 3) uint8, got {frames.shape} {frames.dtype}"
            )
        count = len(frames)

        def rows(values: np.ndarray | None) -> Tensor:
            array = np.zeros((count, 0)) if values is None else np.asarray(values)
            if array.ndim == 1:
                array = np.broadcast_to(array, (count, len(array)))
            return torch.from_numpy(array.astype(np.float32))

        return cls(
            torch.from_numpy(frames.transpose(0, 3, 1, 2).copy()),
            rows(state),
            rows(command),
            torch.zeros(count, dtype=torch.int64),
            torch.ones(count, dtype=torch.bool),
            (task,),
        )

    def save(self, folder: Path) -> None:
        """Writes `INITIAL_FRAMES_FILES`: two PNG sheets that a person can look at, and an index."""
        (folder / "initial_frames").mkdir(parents=True, exist_ok=True)
        order = torch.argsort(self.is_start.to(torch.int8), descending=True, stable=True)
        starts = int(self.is_start.sum())
        write_tensors(
            folder / INITIAL_FRAMES_FILES[0],
            {name: getattr(self, name)[order] for name in ("task_ids", "state", "command")},
        )
        frames = channels_last(self.frames[order]).numpy()
        _write_sheet(folder / INITIAL_FRAMES_FILES[1], frames[:starts], _COLUMNS)
        _write_sheet(folder / INITIAL_FRAMES_FILES[2], frames[starts:], _COLUMNS)

    @classmethod
    def load(cls, files: StrictFolder, index: ModelIndex) -> InitialFrames:
        """Reads what `save` wrote, of a world model's folder with this index.

        Raises:
            WorldModelError: A file is missing, or contradicts the index; a task has no start.
        """
        starts, later = index.initial_frames
        most = most_contexts(index.frame_size)
        if starts < 1 or later < 0 or starts + later > most:
            raise WorldModelError(
                f"{files.folder}: initial_frames: expected at least 1 start and at most {most} "
                f"contexts of this size, got {starts} and {later}"
            )
        count = starts + later
        path = files.folder / INITIAL_FRAMES_FILES[0]
        shapes = {
            "task_ids": (count,),
            "state": (count, index.state_size),
            "command": (count, index.command_size),
        }
        columns = files.read_tensors(INITIAL_FRAMES_FILES[0], shapes, ("I64", "F32"))
        for name, dtype in (
            ("task_ids", torch.int64),
            ("state", torch.float32),
            ("command", torch.float32),
        ):
            if columns[name].dtype != dtype:
                raise WorldModelError(
                    f"{path}: tensor {name!r}: dtype: expected {dtype}, got {columns[name].dtype}"
                )
        sheets = [
            _read_sheet(files, INITIAL_FRAMES_FILES[1], starts, _COLUMNS, index.frame_size),
            _read_sheet(files, INITIAL_FRAMES_FILES[2], later, _COLUMNS, index.frame_size),
        ]
        try:
            loaded = cls(
                torch.cat(sheets),
                columns["state"],
                columns["command"],
                columns["task_ids"],
                torch.arange(count) < starts,
                index.tasks,
            )
            loaded.select("start", index.tasks)
        except ValueError as error:
            raise WorldModelError(f"{path}: {error}") from None
        return loaded


def joined(parts: Sequence[InitialFrames]) -> InitialFrames:
    """The contexts of all parts.

    Raises:
        ValueError: They do not name the same tasks.
    """
    if any(part.tasks != parts[0].tasks for part in parts):
        raise ValueError(f"tasks: expected the same in all parts, got {[p.tasks for p in parts]}")
    all_of = {name: torch.cat([getattr(part, name) for part in parts]) for name in _FIELDS}
    return InitialFrames(**all_of, tasks=parts[0].tasks)


def most_contexts(frame_size: int) -> int:
    """How many contexts of this height and width a world model may carry."""
    return _MOST_BYTES // (3 * frame_size**2)


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
