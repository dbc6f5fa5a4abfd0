"""Which initial frames an env's episodes are drawn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from world4rl_gym.arguments import check_integer
from world4rl_gym.initial_frames import InitialFrames
from world4rl_gym.world_model import WorldModel


class Starts:
    """The contexts that an env chose out of the world model's, or of the user's own.

    Args:
        world_model: Whose contexts, or whose frames' size and tasks.
        initial_frames: "start", "anywhere", `InitialFrames`, or `(H, W, 3)` or `(N, H, W, 3)` uint8
            photographs that begin the one `task` named.
        task: None (any task), a name, or several: any iterable of names.
        device: Where to keep the contexts.

    Raises:
        ValueError: An argument is out of range; the message lists what is valid.
    """

    def __init__(
        self,
        world_model: WorldModel,
        initial_frames: str | InitialFrames | np.ndarray,
        task: str | Sequence[str] | None,
        device: torch.device,
    ) -> None:
        names = None if task is None else [task] if isinstance(task, str) else _several(task)
        if isinstance(initial_frames, np.ndarray):
            initial_frames = _photographs(world_model, initial_frames, names)
        if isinstance(initial_frames, InitialFrames):
            check_contexts_fit(world_model.initial_frames, initial_frames)
            self._kind, contexts = "anywhere", initial_frames
        elif isinstance(initial_frames, str):
            self._kind, contexts = initial_frames, world_model.initial_frames
        else:
            raise ValueError(
                "initial_frames: expected 'start', 'anywhere', InitialFrames or a uint8 array, "
                f"got {type(initial_frames).__name__}"
            )
        if names is None:
            names = [contexts.tasks[i] for i in contexts.task_ids.unique()]
        self.candidates = contexts.select(self._kind, names)
        """Indices of the contexts that episodes are drawn from."""
        self.contexts = contexts.to(device)
        names_of_model = world_model.config.tasks
        self.model_task_ids = np.array(
            [names_of_model.index(contexts.tasks[i]) for i in contexts.task_ids.tolist()]
        )
        """`(N,)`, indices of the contexts' tasks among the world model's."""
        self._encode = world_model.encode
        self._codes = torch.zeros(
            len(contexts), world_model.code_size, dtype=torch.float32, device=device
        )
        self._is_encoded = np.zeros(len(contexts), bool)
        self._task_ids = contexts.task_ids.cpu().numpy()

    def codes(self, indices: np.ndarray) -> torch.Tensor:
        """Returns the codes of these contexts, `(B, K)` float32.

        A context is encoded when it is first asked for, by itself: a world model carries thousands,
        and a code does not depend on what else is in a batch.
        """
        for index in np.unique(indices[~self._is_encoded[indices]]):
            one = slice(index, index + 1)
            self._codes[one] = self._encode(self.contexts.frames[one], self.model_task_ids[one])
            self._is_encoded[index] = True
        return self._codes[torch.from_numpy(indices)]

    def tasks(self, indices: np.ndarray) -> list[str]:
        """Returns the tasks of these contexts."""
        return [self.contexts.tasks[i] for i in self._task_ids[indices]]

    def choices(
        self, initial_frame: int | Sequence[int] | np.ndarray | None, task: str | None, rows: int
    ) -> list[np.ndarray]:
        """Returns, for each row, the indices of the contexts that it may begin from.

        Args:
            initial_frame: The one to begin from, of any kind, or one a row; None leaves it to the
                draw.
            task: Allow this task's contexts only.
            rows: Number of rows.

        Raises:
            ValueError: The index or task is unknown, or they contradict each other.
        """
        if initial_frame is None or np.ndim(initial_frame) == 0:
            return [self._choices(initial_frame, task)] * rows
        if np.shape(initial_frame) == (rows,):
            return [self._choices(index, task) for index in np.asarray(initial_frame)]
        raise ValueError(
            f"initial_frame: expected an index or {rows} of them, "
            f"got shape {np.shape(initial_frame)}"
        )

    def _choices(self, initial_frame: object, task: str | None) -> np.ndarray:
        candidates = self.candidates
        if task is not None:
            candidates = np.intersect1d(candidates, self.contexts.select(self._kind, [task]))
            if not len(candidates):
                drawn = sorted(set(self.tasks(self.candidates)))
                raise ValueError(f"task: expected one of {', '.join(drawn)}, got {task!r}")
        if initial_frame is None:
            return candidates
        index = check_integer("initial_frame", initial_frame, 0, len(self.contexts) - 1)
        allowed = sorted(set(self.tasks(candidates)))
        (own,) = self.tasks(np.array([index]))
        if own not in allowed:
            raise ValueError(
                f"initial_frame: {index} is a context of {own!r}, not of {', '.join(allowed)}"
            )
        return np.array([index])


def _photographs(
    world_model: WorldModel, frames: np.ndarray, tasks: list[str] | None
) -> InitialFrames:
    names = world_model.config.tasks
    if tasks is None or len(tasks) != 1 or tasks[0] not in names:
        raise ValueError(
            f"task: frames of one's own begin one of {', '.join(names)}; got {tasks!r}"
        )
    (task,) = tasks
    own = world_model.initial_frames
    usual = own.task_ids == own.tasks.index(task)
    return InitialFrames.from_starts(  # the robot stands where it usually begins
        frames,
        task,
        own.state[usual].mean(dim=0).cpu().numpy(),
        own.command[usual].mean(dim=0).cpu().numpy(),
    )


def check_contexts_fit(own: InitialFrames, given: InitialFrames) -> None:
    """Raises ValueError, naming the field, unless `given` has the sizes and tasks of `own`."""
    size, got_size = own.frames.shape[2:], given.frames.shape[2:]
    if size != got_size:
        raise ValueError(
            f"initial_frames: frames: expected {size[0]} x {size[1]} pixels (height x width), "
            f"got {got_size[0]} x {got_size[1]}; crop and resize them first"
        )
    for name in ("state", "command"):
        expected, got = getattr(own, name).shape[1:], getattr(given, name).shape[1:]
        if expected != got:
            raise ValueError(
                f"initial_frames: {name}: expected {tuple(expected)} a context, got {tuple(got)}"
            )
    unknown = sorted(set(given.tasks) - set(own.tasks))
    if unknown:
        raise ValueError(
            f"initial_frames: expected tasks of {', '.join(own.tasks)}, got {unknown[0]!r}"
        )


def _several(task: object) -> list[str]:
    refused = (str, bytes, Mapping)
    names = list(task) if isinstance(task, Iterable) and not isinstance(task, refused) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"task: expected None, a name, or several; got {task!r}")
    return names
