"""The one batched core: every rule of an imagined episode, in torch.

`env.py`, `vector_env.py` and `sb3.py` only translate what happens here; code that keeps its tensors
on a GPU uses it directly.
"""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from torch import Tensor

from world4rl_gym.arguments import (
    Checked,
    check_device,
    check_integer,
    check_number,
    check_probability,
    integer,
)
from world4rl_gym.features import features
from world4rl_gym.initial_frames import InitialFrames
from world4rl_gym.memory import MemoryState
from world4rl_gym.noise import row_noise
from world4rl_gym.pixels import channels_last
from world4rl_gym.starts import Starts
from world4rl_gym.tensors import plain_tensors
from world4rl_gym.world_model import DRAWN_AT_ONCE, WorldModel, by_task

RewardFunction = Callable[[np.ndarray, list[str]], tuple[np.ndarray, np.ndarray]]
"""Frames `(B, H, W, 3)` uint8 and the rows' tasks -> rewards `(B,)`, success `(B,)` bool."""


class ImaginationArguments(TypedDict, total=False):
    """The arguments of `Imagination` that every env takes and hands on; it has their meaning."""

    revision: str | None
    task: str | Sequence[str] | None
    initial_frames: str | InitialFrames | np.ndarray
    max_episode_steps: int | None
    num_inference_steps: int | None
    success_threshold: float | None
    uncertainty_penalty: float
    max_uncertainty: float | None
    reward: RewardFunction | None
    device: str | torch.device | None
    micro_batch_size: int | None


@dataclasses.dataclass(frozen=True)
class ImaginedStep:
    """What one step of `B` rows gave.

    Attributes:
        reward: `(B,)` float32, 1.0 where the task counts as solved, else 0.0, or what one's own
            function gave; less the uncertainty times its penalty.
        terminated: `(B,)` bool, where the task counts as solved.
        truncated: `(B,)` bool, where a row is not terminated: at the horizon, or where it is too
            uncertain.
        success_probability: `(B,)` float32 in [0, 1].
        uncertainty: `(B,)` float32 in [0, 0.5], how far the memory's members disagree on whether
            the episode has succeeded: the deviation of their highest success probabilities so far.
    """

    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    success_probability: Tensor
    uncertainty: Tensor


@dataclasses.dataclass(frozen=True)
class ImaginedEpisodes:
    """What `Imagination.rollout` gave, for `B` rows of `T` decisions.

    Attributes:
        success_probability: `(B, T)` float32.
        uncertainty: `(B, T)` float32.
        state: `(B, T, S)` float32, the robot's states.
        code: `(B, T, K)` float32, the frames' codes.
        frames: `(B, T, 3, H, W)` uint8; None where they were not drawn.
    """

    success_probability: Tensor
    uncertainty: Tensor
    state: Tensor
    code: Tensor
    frames: Tensor | None = None


class Imagination:
    """Imagined episodes of `num_envs` rows, stepped together; torch in, torch out.

    Every row has a numpy generator, which draws its start and the seed of its episode's denoising
    noise, and nothing else: a row's episodes do not depend on the other rows. Nothing resets by
    itself: a row that has ended goes on until `reset(mask)` begins its next episode. Nothing is
    drawn until `frames` is read. The horizon, the denoising steps, the threshold, penalty and limit
    of uncertainty and the size of micro-batches are attributes that may be set between steps.

    Args:
        num_envs: Number of rows B.
        world_model: None (the embedded default), a folder, a Hub id, or a `WorldModel`.
        revision: Branch, tag or commit on the Hub.
        task: None (any of the model's tasks), a name, or several.
        initial_frames: "start" (real episode starts), "anywhere" (any demonstrated context), or
            one's own: `InitialFrames`, or `(H, W, 3)` or `(N, H, W, 3)` uint8 photographs that
            begin the one `task` named.
        max_episode_steps: Horizon; None takes the model's.
        num_inference_steps: Denoising steps a frame; None takes the model's number.
        success_threshold: Success probability that counts as solved; None takes the model's.
        uncertainty_penalty: What a unit of uncertainty costs, in reward, at every step.
        max_uncertainty: Uncertainty above which an episode is truncated; a success there is not
            believed. None never truncates for that.
        reward: A function of all rows' present frames `(B, H, W, 3)` uint8 and their tasks, to
            rewards `(B,)` and whether each row's episode ends in success, `(B,)` bool, in place of
            the memory's judgement; every frame is drawn for it. None asks the memory.
        device: Where to compute; None stays where the model is.
        micro_batch_size: Rows computed at a time, the last batch padded. None computes all rows at
            once; a number makes a row's episode exactly independent of how many rows there are.

    Raises:
        WorldModelError: The world model cannot be loaded.
        ValueError: An argument is out of range; the message lists what is valid.
    """

    max_episode_steps = integer(1, 1_000_000)
    num_inference_steps = integer(1, 100)
    success_threshold = Checked(check_probability)
    uncertainty_penalty = Checked(check_number)
    max_uncertainty = Checked(
        lambda name, value: None if value is None else check_number(name, value)
    )
    micro_batch_size = integer(1, 65_536, optional=True)

    @plain_tensors
    def __init__(
        self,
        num_envs: int,
        world_model: str | os.PathLike[str] | WorldModel | None = None,
        *,
        revision: str | None = None,
        task: str | Sequence[str] | None = None,
        initial_frames: str | InitialFrames | np.ndarray = "start",
        max_episode_steps: int | None = None,
        num_inference_steps: int | None = None,
        success_threshold: float | None = None,
        uncertainty_penalty: float = 0.0,
        max_uncertainty: float | None = None,
        reward: RewardFunction | None = None,
        device: str | torch.device | None = None,
        micro_batch_size: int | None = None,
    ) -> None:
        chosen = None if device is None else check_device(device)
        self.num_envs = check_integer("num_envs", num_envs, 1, 1_000_000)
        if not isinstance(world_model, WorldModel):
            world_model = WorldModel.from_pretrained(world_model, revision=revision)
        elif revision is not None:
            raise ValueError(f"revision: only a Hub id has one, got a WorldModel and {revision!r}")
        elif chosen not in (None, world_model.device):
            world_model = copy.deepcopy(world_model)  # leaves the caller's where it is
        config = world_model.config
        self.max_episode_steps = _or(max_episode_steps, config.max_episode_steps)
        self.num_inference_steps = _or(num_inference_steps, config.num_inference_steps)
        self.success_threshold = _or(success_threshold, config.success_threshold)
        self.uncertainty_penalty = uncertainty_penalty
        self.max_uncertainty = max_uncertainty
        if reward is not None and not callable(reward):
            raise ValueError(f"reward: expected a function or None, got {reward!r:.100}")
        self.reward = reward
        self.micro_batch_size = micro_batch_size
        self.device = world_model.device if chosen is None else chosen
        self.world_model = world_model.to(self.device)
        self.starts = Starts(world_model, initial_frames, task, self.device)

        rows, contexts = self.num_envs, self.starts.contexts
        none = torch.zeros(rows, dtype=torch.int64, device=self.device)
        self._task_ids = np.repeat(self.starts.model_task_ids[:1], rows)
        self._memory = self.world_model.begin(
            self._task_ids,
            self.starts.codes(np.zeros(rows, np.int64)),
            contexts.state[none],
            contexts.command[none],
        )
        memory = self.world_model.memory
        memories = [memory.task(index) for index in range(len(memory.of_task))]
        self._origins = torch.stack([memory.state_origin for memory in memories])
        self._units = torch.stack([memory.state_step for memory in memories])
        self._anchors = contexts.frames[none]
        self._frames = self._anchors.clone()
        self._drawn = True
        self._steps = none.clone()
        self._noise_seeds = none.clone()
        # each member's highest success probability so far, (B, M)
        self._best = torch.zeros_like(self._memory.logit, dtype=torch.float64)
        self._started = np.zeros(rows, dtype=bool)
        self.drawn = np.zeros(rows, dtype=np.int64)
        """Index, among the initial frames, of the context that each row's episode began from."""
        self.rngs = [seeding.np_random()[0] for _ in range(rows)]
        """The rows' generators; replace one to seed its row."""

    @property
    def started(self) -> bool:
        """Whether every row has been reset."""
        return bool(self._started.all())

    @property
    def tasks(self) -> list[str]:
        """The tasks of the rows' present episodes."""
        return self.starts.tasks(self.drawn)

    @property
    def uncertainty(self) -> Tensor:
        """The rows' present uncertainty, as in `ImaginedStep`, `(B,)` float32."""
        return self._best.std(dim=1, correction=0).float()

    @property
    def memory(self) -> MemoryState:
        """The rows' present memory."""
        return self._memory

    @property
    def state(self) -> Tensor:
        """The robot's present states, `(B, S)` float32, the members' mean."""
        return self._memory.state.mean(dim=1)

    @property
    def agent_pos(self) -> Tensor:
        """The robot's present states and commands, `(B, S + C)` float32."""
        return torch.cat([self.state, self._memory.command], dim=1)

    @property
    def features(self) -> Tensor:
        """What a policy sees of the rows' present memory, `(B, 2 S + 2 C + K + 2)` float32."""
        ids = torch.from_numpy(self._task_ids).to(self.device)
        return features(
            self._origins[ids],
            self._units[ids],
            self._memory.first_code,
            self.state,
            self._memory.velocity.mean(dim=1),
            self._memory.command,
            self._steps.float() / self.world_model.config.max_episode_steps,
        )

    @property
    @plain_tensors
    def frames(self) -> Tensor:
        """The rows' present frames, `(B, 3, H, W)` uint8, drawn when they are asked for."""
        if not self._drawn:
            noise = row_noise(self._noise_seeds, self._steps * 0, tuple(self._anchors.shape[1:]))
            (drawn,) = self._in_micro_batches(
                self._draw_rows,
                self._anchors,
                self._memory.first_code,
                self._memory.code,
                self.state,
                noise,
                at_most=DRAWN_AT_ONCE,
            )
            begun = (self._steps > 0).view(-1, 1, 1, 1)
            self._frames = torch.where(begun, drawn, self._anchors)
            self._drawn = True
        return self._frames.clone()

    @plain_tensors
    def reset(
        self,
        mask: Tensor | np.ndarray | None = None,
        *,
        initial_frame: int | Sequence[int] | np.ndarray | None = None,
        task: str | None = None,
    ) -> None:
        """Begins new episodes.

        Args:
            mask: `(B,)` bool, the rows to reset, perhaps none; None resets all.
            initial_frame: Index, among `starts.contexts`, of the context to begin from, of one of
                the env's tasks and of any kind, instead of drawing one of `starts.candidates`; or
                one index for each of the B rows.
            task: Draw from this task's contexts only.

        Raises:
            TypeError: The mask is not bool.
            ValueError: The mask's shape is wrong; the index or task is unknown, or they contradict
                each other. Nothing has changed.
        """
        rows = np.arange(self.num_envs) if mask is None else self._masked(mask)
        choices = self.starts.choices(initial_frame, task, self.num_envs)
        if not len(rows):
            return
        seeds = np.empty(len(rows), np.int64)
        for i, row in enumerate(rows):
            rng = self.rngs[row]
            self.drawn[row] = choices[row][rng.integers(len(choices[row]))]
            seeds[i] = rng.integers(2**32)
        where = torch.from_numpy(rows).to(self.device)
        chosen = torch.from_numpy(self.drawn[rows]).to(self.device)
        contexts = self.starts.contexts
        self._task_ids[rows] = self.starts.model_task_ids[self.drawn[rows]]
        begun = self._by_task(
            self.world_model.begin,
            self._task_ids[rows],
            self.starts.codes(self.drawn[rows]),
            contexts.state[chosen],
            contexts.command[chosen],
        )
        self._memory = MemoryState(
            *(
                whole.index_copy(0, where, part)
                for whole, part in zip(self._memory, begun, strict=True)
            )
        )
        self._anchors[where] = contexts.frames[chosen]
        if self._drawn:
            self._frames[where] = self._anchors[where]
        self._steps[where] = 0
        self._best[where] = 0.0
        self._noise_seeds[where] = torch.from_numpy(seeds).to(self.device)
        self._started[rows] = True

    @plain_tensors
    def step(self, actions: Tensor | np.ndarray) -> ImaginedStep:
        """Imagines one step of every row.

        Args:
            actions: `(B, A)`, cast to float32 and clipped to [-1, 1].

        Raises:
            ResetNeeded: A row has not been reset yet.
            ValueError: The shape is wrong or a value is not finite; the state is unchanged.
        """
        if not self.started:
            raise ResetNeeded("reset() must be called before step()")
        checked = self.checked_actions(actions)
        self._memory = self._by_task(
            lambda ids, action, *memory: self.world_model.advance(
                ids, MemoryState(*memory), action
            ),
            self._task_ids,
            checked,
            *self._memory,
        )
        self._drawn = False
        self._steps = self._steps + 1
        self._best = torch.maximum(self._best, self._memory.probabilities)
        uncertainty = self.uncertainty
        probability = self._memory.success_probability
        terminated = probability >= self.success_threshold
        reward = terminated.float()
        if self.reward is not None:
            reward, terminated = self._rewarded(self.reward)
        truncated = self._steps >= self.max_episode_steps
        if self.max_uncertainty is not None:
            lost = uncertainty > self.max_uncertainty
            terminated, truncated = terminated & ~lost, truncated | lost
            reward = torch.where(lost, reward.clamp(max=0.0), reward)
        if self.uncertainty_penalty:
            reward = reward - self.uncertainty_penalty * uncertainty
        return ImaginedStep(reward, terminated, truncated & ~terminated, probability, uncertainty)

    @plain_tensors
    def rollout(
        self,
        actions: Tensor | np.ndarray,
        initial_frame: int | Sequence[int] | np.ndarray | None = None,
        draw: bool = False,
    ) -> ImaginedEpisodes:
        """Imagines what given actions do, from the first to the last, also past a success.

        Args:
            actions: `(B, T, A)`.
            initial_frame: Where each row begins, as in `reset`.
            draw: Whether to draw the frames.

        Raises:
            ValueError: A shape is wrong, a value is not finite, or an index is unknown.
        """
        self.reset(initial_frame=initial_frame)
        actions = torch.as_tensor(actions)
        steps = []
        for t in range(actions.shape[1]):
            result = self.step(actions[:, t])
            known = result.success_probability, result.uncertainty, self.state, self._memory.code
            steps.append((*known, self.frames) if draw else known)
        return ImaginedEpisodes(*(torch.stack(values, 1) for values in zip(*steps, strict=True)))

    def checked_actions(self, actions: Tensor | np.ndarray) -> Tensor:
        """Returns `(B, A)` float32 actions, clipped, on the core's device, or raises ValueError."""
        expected = (self.num_envs, self.world_model.action_size)
        try:
            tensor = torch.as_tensor(actions).detach()
        except (TypeError, ValueError, RuntimeError):
            got = getattr(actions, "dtype", type(actions).__name__)
            raise ValueError(f"action: expected numbers, got {got}") from None
        if tuple(tensor.shape) != expected:
            raise ValueError(f"action: expected shape {expected}, got {tuple(tensor.shape)}")
        if tensor.is_complex():
            raise ValueError(f"action: expected real numbers, got {tensor.dtype}")
        if not tensor.is_floating_point():
            tensor = tensor.to(torch.float64)
        tensor = tensor.to(self.device)
        if not bool(tensor.isfinite().all()):
            raise ValueError("action: expected finite values, got NaN or infinity")
        return tensor.clamp(-1.0, 1.0).to(torch.float32)

    def _rewarded(self, function: RewardFunction) -> tuple[Tensor, Tensor]:
        """What the user's own function makes of the present frames."""
        frames = channels_last(self.frames.cpu()).numpy()
        answer = [np.asarray(values) for values in function(frames, self.tasks)]
        if len(answer) != 2 or any(values.shape != (self.num_envs,) for values in answer):
            shapes = [values.shape for values in answer]
            raise ValueError(f"reward: expected two arrays ({self.num_envs},), got {shapes}")
        reward, terminated = answer
        if terminated.dtype != np.bool_ or not np.isfinite(reward).all():
            raise ValueError("reward: expected finite rewards, and bools")
        return (
            torch.from_numpy(reward.astype(np.float32)).to(self.device),
            torch.from_numpy(terminated.copy()).to(self.device),
        )

    def _masked(self, mask: Tensor | np.ndarray) -> np.ndarray:
        tensor = torch.as_tensor(mask)
        if tensor.dtype != torch.bool:
            raise TypeError(f"mask: expected bool, got {tensor.dtype}")
        if tuple(tensor.shape) != (self.num_envs,):
            raise ValueError(f"mask: expected ({self.num_envs},), got {tuple(tensor.shape)}")
        return np.flatnonzero(tensor.cpu().numpy())

    def _draw_rows(
        self, anchor: Tensor, first_code: Tensor, code: Tensor, state: Tensor, noise: Tensor
    ) -> tuple[Tensor]:
        steps = self.num_inference_steps
        return (self.world_model.draw(anchor, first_code, code, state, noise, steps),)

    def _by_task(
        self, function: Callable[..., MemoryState], task_ids: np.ndarray, *tensors: Tensor
    ) -> MemoryState:
        """Calls `function(task_ids, *tensors)`; in padded batches of one task where rows must not
        depend on how many there are."""
        size = self.micro_batch_size
        if size is None:
            return function(task_ids, *tensors)

        def padded(task: int, *rows: Tensor) -> MemoryState:
            ids = np.full(size, task)
            return MemoryState(*self._in_micro_batches(lambda *part: function(ids, *part), *rows))

        return by_task(padded, task_ids, *tensors)

    def _in_micro_batches(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        *tensors: Tensor,
        at_most: int | None = None,
    ) -> tuple[Tensor, ...]:
        size = self.micro_batch_size
        if size is None:
            return function(*tensors)
        size = min(size, at_most or size)  # `draw` would split more rows into unequal parts
        results = []
        for first in range(0, len(tensors[0]), size):
            # Copies: where a row lies in memory may change the last bit of a matrix product.
            chunk = [tensor[first : first + size].clone() for tensor in tensors]
            rows = len(chunk[0])
            if rows < size:
                chunk = [torch.cat([c, c[-1:].expand(size - rows, *c.shape[1:])]) for c in chunk]
            results.append([result[:rows] for result in function(*chunk)])
        return tuple(torch.cat(parts) for parts in zip(*results, strict=True))


def _or(value: object, default: object) -> object:
    return default if value is None else value
