"""One viewer's imagined episodes: begun, stepped and remembered, so that they can be saved.

Knows nothing of browsers and sockets.
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import numpy as np

from world4rl_gym.arguments import check_integer
from world4rl_gym.faces import observe, to_pixels
from world4rl_gym.imagination import Imagination
from world4rl_gym.play.recording import Recording
from world4rl_gym.policy import Policy
from world4rl_gym.world_model import WorldModel

LONGEST = 1000
"""Decisions of the longest episode that is remembered."""
PERSON = "person"
"""Who drives where no policy does."""


class SessionError(ValueError):
    """What was asked for cannot be done; the message says why. Nothing has changed."""


@dataclasses.dataclass(frozen=True)
class Moment:
    """What there is to see after a decision, or at the start.

    Attributes:
        task: The task's name.
        start: Index of the initial frame that the episode began from.
        step: Decisions taken.
        horizon: Decisions after which the episode is over.
        success: Probability that the task stands solved, in [0, 1].
        solved: Whether it counts as solved in this frame.
        uncertainty: Of the episode so far, in [0, 0.5].
        state: `S` numbers, the robot's state in its own units.
        driver: Who took the decision: "person" or the policy's name; "" at the start.
        over: Whether the horizon is reached.
        seconds: What imagining and drawing took.
        frame: `(H, W, 3)` uint8.
    """

    task: str
    start: int
    step: int
    horizon: int
    success: float
    solved: bool
    uncertainty: float
    state: tuple[float, ...]
    driver: str
    over: bool
    seconds: float
    frame: np.ndarray

    def record(self) -> dict[str, Any]:
        """All but the frame, as plain JSON values."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "frame"]
        return {name: getattr(self, name) for name in names}


class Session:
    """Imagined episodes of one viewer, one at a time.

    Args:
        world_model: Shared with other sessions; nothing here changes it.
        policy: Drives where no action is given; None leaves all to the viewer.
        seed: Draws the starts and the frames' noise; None is a fresh one.
    """

    def __init__(
        self,
        world_model: WorldModel,
        policy: Policy | None = None,
        seed: int | None = None,
    ) -> None:
        self.world_model = world_model
        self.policy = policy
        self.recording: Recording | None = None
        self._rng = np.random.default_rng(seed)
        self._imagination: Imagination | None = None

    def begin(self, task: str, start: int | None = None) -> Moment:
        """Begins an episode.

        Args:
            task: The task's name.
            start: Index of an initial frame of that task; None draws one of its real starts.

        Raises:
            SessionError: The task or the index is unknown, or they do not fit each other.
        """
        begun = time.perf_counter()
        contexts = self.world_model.initial_frames
        tasks = self.world_model.config.tasks
        if task not in tasks:
            raise SessionError(f"task: expected one of {', '.join(tasks)}, got {task!r:.100}")
        if start is None:
            start = int(self._rng.choice(contexts.select("start", [task])))
        try:
            index = check_integer("start", start, 0, len(contexts) - 1)
        except ValueError as error:
            raise SessionError(f"{error!s:.200}") from None
        own = tasks[int(contexts.task_ids[index])]
        if own != task:
            raise SessionError(f"start: {index} is one of {own!r}, not of {task!r}")
        imagination = Imagination(
            1,
            self.world_model,
            initial_frames=contexts.rows([index]),  # only its frame is looked at
            max_episode_steps=min(self.world_model.config.max_episode_steps, LONGEST),
        )
        imagination.rngs = [self._rng]
        imagination.reset()
        self._imagination = imagination
        frame = to_pixels(imagination.frames)[0]
        self.recording = Recording(
            task, index, self.world_model.config.action_repeat, frame, self._state, self._command
        )
        return self._moment(begun, frame, "", 0.0)

    def step(self, action: Any = None, driver: str = PERSON) -> Moment:
        """Imagines one decision.

        Args:
            action: A numbers, clipped to [-1, 1]; None lets the policy decide.
            driver: Who chose the action.

        Raises:
            SessionError: No episode is under way, there is no policy, or the action is not A finite
                numbers.
        """
        begun = time.perf_counter()
        imagination, recording = self._imagination, self.recording
        if imagination is None or recording is None:
            raise SessionError("step: no episode is under way; begin one")
        if len(recording) >= imagination.max_episode_steps:
            raise SessionError("step: the episode is over; begin another one")
        if action is not None:
            chosen = self._checked(action)
        elif self.policy is not None:
            driver = self.policy.name
            chosen = self.policy.act(observe(imagination, self.policy.obs_type))[0]
        else:
            raise SessionError("action: there is no policy; expected numbers, got nothing")
        result = imagination.step(chosen[None])
        frame = to_pixels(imagination.frames)[0]
        probability = float(result.success_probability[0])
        solved = probability >= imagination.success_threshold
        recording.add(chosen, solved, frame, self._state, self._command, driver)
        return self._moment(begun, frame, driver, probability)

    def _checked(self, action: Any) -> np.ndarray:
        size = self.world_model.action_size
        fits = isinstance(action, (list, np.ndarray)) and len(action) == size
        if not fits or not all(_is_number(value) for value in action):
            raise SessionError(f"action: expected {size} finite numbers, got {action!r:.100}")
        return np.clip(np.asarray(action, np.float32), -1.0, 1.0)

    @property
    def _state(self) -> np.ndarray:
        assert self._imagination is not None
        return self._imagination.state[0].cpu().numpy()

    @property
    def _command(self) -> np.ndarray:
        assert self._imagination is not None
        return self._imagination.memory.command[0].cpu().numpy()

    def _moment(self, begun: float, frame: np.ndarray, driver: str, probability: float) -> Moment:
        imagination, recording = self._imagination, self.recording
        assert imagination is not None
        assert recording is not None
        return Moment(
            task=recording.task,
            start=recording.start,
            step=len(recording),
            horizon=imagination.max_episode_steps,
            success=probability,
            solved=probability >= imagination.success_threshold,
            uncertainty=float(imagination.uncertainty[0]),
            state=tuple(float(value) for value in self._state),
            driver=driver,
            over=len(recording) >= imagination.max_episode_steps,
            seconds=time.perf_counter() - begun,
            frame=frame,
        )


def _is_number(value: Any) -> bool:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
        return False
    return bool(abs(value) < 1e6) if isinstance(value, int) else math.isfinite(value)
