"""The one batched core: every rule of an imagined episode, in torch.

`env.py`, `vector_env.py` and `sb3.py` only translate what happens here; code that keeps its tensors
on a GPU uses it directly.
"""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from torch import Tensor

from world4rl_gym.arguments import check_device, check_integer, check_number, check_probability
from world4rl_gym.initial_frames import InitialFrames
from world4rl_gym.noise import row_noise
from world4rl_gym.starts import Starts
from world4rl_gym.world_model import WorldModel


@dataclasses.dataclass(frozen=True)
class ImaginedStep:
    """What one step of `B` rows gave.

    Attributes:
        frames: `(B, 3, H, W)` uint8, the frames after the step.
        reward: `(B,)` float32, 1.0 where the frame counts as solved, else 0.0; less the uncertainty
            times its penalty.
        terminated: `(B,)` bool, where the frame counts as solved.
        truncated: `(B,)` bool, where a row is not terminated: at the horizon, or where it is too
            uncertain.
        success_probability: `(B,)` float32 in [0, 1].
        uncertainty: `(B,)` float32, the error that the world model expects of its own frame: the
            root mean squared one, in grey levels, of the patch of which it is least sure.
    """

    frames: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    success_probability: Tensor
    uncertainty: Tensor


class Imagination:
    """Imagined episodes of `num_envs` rows, stepped together; torch in, torch out.

    Every row has a numpy generator, which draws its start and the seed of its episode's denoising
    noise, and nothing else: a row's episodes do not depend on the other rows. Nothing resets by
    itself: a row that has ended goes on until `reset(mask)` begins its next episode.

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
        uncertainty_penalty: What a grey level of uncertainty costs, in reward, at every step.
        max_uncertainty: Uncertainty above which an episode is truncated, in grey levels; a success
            in such a frame is not believed. None never truncates for that.
        device: Where to compute; None stays where the model is.
        compile: Compile the step into one CUDA graph; needs a GPU and a fixed number of rows.
        micro_batch_size: Rows computed at a time, the last batch padded. None computes all rows at
            once; a number makes a row's frames exactly independent of how many rows there are.

    Raises:
        WorldModelError: The world model cannot be loaded.
        ValueError: An argument is out of range; the message lists what is valid.
    """

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
        device: str | torch.device | None = None,
        compile: bool = False,
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
        self.max_episode_steps = check_integer(
            "max_episode_steps", _or(max_episode_steps, config.max_episode_steps), 1, 1_000_000
        )
        self.num_inference_steps = check_integer(
            "num_inference_steps", _or(num_inference_steps, config.num_inference_steps), 1, 100
        )
        self.success_threshold = check_probability(
            "success_threshold", _or(success_threshold, config.success_threshold)
        )
        self.uncertainty_penalty = check_number("uncertainty_penalty", uncertainty_penalty)
        self.max_uncertainty = (
            None if max_uncertainty is None else check_number("max_uncertainty", max_uncertainty)
        )
        self.micro_batch_size = (
            None
            if micro_batch_size is None
            else check_integer("micro_batch_size", micro_batch_size, 1, 65_536)
        )
        self.device = world_model.device if chosen is None else chosen
        self.world_model = world_model.to(self.device)
        if compile and self.device.type != "cuda":
            raise ValueError(f"compile: expected a CUDA device, got {self.device}")
        self.compile = compile
        self._compiled: Callable[..., tuple[Tensor, Tensor, Tensor]] | None = None
        self.starts = Starts(world_model, initial_frames, task, self.device)

        length, size = world_model.context_length, world_model.frame_size
        rows = self.num_envs
        self._frames = torch.zeros(
            rows, length, 3, size, size, dtype=torch.uint8, device=self.device
        )
        self._anchors = torch.zeros(rows, 3, size, size, dtype=torch.uint8, device=self.device)
        self._actions = torch.zeros(
            rows, length, world_model.action_size, dtype=torch.float32, device=self.device
        )
        self._steps = torch.zeros(rows, dtype=torch.int64, device=self.device)
        self._noise_seeds = torch.zeros(rows, dtype=torch.int64, device=self.device)
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
    def frames(self) -> Tensor:
        """The rows' present frames, `(B, 3, H, W)` uint8, a copy."""
        return self._frames[:, -1].clone()

    @property
    def tasks(self) -> list[str]:
        """The tasks of the rows' present episodes."""
        return self.starts.tasks(self.drawn)

    @torch.no_grad()
    def reset(
        self,
        mask: Tensor | np.ndarray | None = None,
        *,
        initial_frame: int | Sequence[int] | np.ndarray | None = None,
        task: str | None = None,
    ) -> Tensor:
        """Begins new episodes.

        Args:
            mask: `(B,)` bool, the rows to reset, perhaps none; None resets all.
            initial_frame: Index, among `starts.contexts`, of the context to begin from, of one of
                the env's tasks and of any kind, instead of drawing one of `starts.candidates`; or
                one index for each of the B rows.
            task: Draw from this task's contexts only.

        Returns:
            `(B, 3, H, W)` uint8, the present frames of all rows.

        Raises:
            TypeError: The mask is not bool.
            ValueError: The mask's shape is wrong; the index or task is unknown, or they contradict
                each other. Nothing has changed.
        """
        rows = np.arange(self.num_envs) if mask is None else self._masked(mask)
        choices = self.starts.choices(initial_frame, task, self.num_envs)
        seeds = np.empty(len(rows), np.int64)
        for i, row in enumerate(rows):
            rng = self.rngs[row]
            self.drawn[row] = choices[row][rng.integers(len(choices[row]))]
            seeds[i] = rng.integers(2**32)
        where = torch.from_numpy(rows).to(self.device)
        contexts = torch.from_numpy(self.drawn[rows]).to(self.device)
        self._frames[where] = self.starts.contexts.frames_of(contexts)
        self._anchors[where] = self._frames[where, 0]
        self._actions[where, :-1] = self.starts.contexts.actions[contexts]
        self._actions[where, -1] = 0.0
        self._steps[where] = 0
        self._noise_seeds[where] = torch.from_numpy(seeds).to(self.device)
        self._started[rows] = True
        return self.frames

    @torch.no_grad()
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
        self._actions[:, -1] = self.checked_actions(actions)
        next_frames, uncertainty, probability = self._in_micro_batches(
            self._imagine,
            self._anchors,
            self._frames,
            self._actions,
            self._noise_seeds,
            self._steps,
        )
        self._frames = torch.cat([self._frames[:, 1:], next_frames.unsqueeze(1)], dim=1)
        self._actions = torch.cat([self._actions[:, 1:], self._actions[:, -1:]], dim=1)
        self._steps = self._steps + 1
        terminated = probability >= self.success_threshold
        truncated = self._steps >= self.max_episode_steps
        if self.max_uncertainty is not None:
            lost = uncertainty > self.max_uncertainty
            terminated, truncated = terminated & ~lost, truncated | lost
        reward = terminated.float()
        if self.uncertainty_penalty:
            reward = reward - self.uncertainty_penalty * uncertainty
        return ImaginedStep(
            next_frames.clone(),
            reward,
            terminated,
            truncated & ~terminated,
            probability,
            uncertainty,
        )

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

    def _masked(self, mask: Tensor | np.ndarray) -> np.ndarray:
        tensor = torch.as_tensor(mask)
        if tensor.dtype != torch.bool:
            raise TypeError(f"mask: expected bool, got {tensor.dtype}")
        if tuple(tensor.shape) != (self.num_envs,):
            raise ValueError(f"mask: expected ({self.num_envs},), got {tuple(tensor.shape)}")
        return np.flatnonzero(tensor.cpu().numpy())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": None}  # a copy compiles for itself

    def _imagine(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not self.compile:
            return self._imagine_rows(*inputs)
        if self._compiled is None:
            self._compiled = torch.compile(self._imagine_rows, mode="reduce-overhead")
        frames, uncertainty, probability = self._compiled(*inputs)
        # A CUDA graph writes its next results over these.
        return frames.clone(), uncertainty.clone(), probability.clone()

    def _imagine_rows(
        self, anchors: Tensor, frames: Tensor, actions: Tensor, seeds: Tensor, steps: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next frames of some rows, how uncertain they are, and how likely solved."""
        noise = row_noise(seeds, steps, tuple(frames.shape[2:]))
        prediction = self.world_model.predict(
            anchors, frames, actions, noise, self.num_inference_steps
        )
        probability = self.world_model.success_probability(prediction.frames)
        return prediction.frames, prediction.uncertainty, probability

    def _in_micro_batches(
        self, function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        size = self.micro_batch_size
        if size is None:
            return function(*tensors)
        results = []
        for first in range(0, self.num_envs, size):
            chunk = [tensor[first : first + size] for tensor in tensors]
            rows = len(chunk[0])
            if rows < size:
                chunk = [torch.cat([c, c[-1:].expand(size - rows, *c.shape[1:])]) for c in chunk]
            results.append([result[:rows] for result in function(*chunk)])
        return tuple(torch.cat(parts) for parts in zip(*results, strict=True))


def _or(value: object, default: object) -> object:
    return default if value is None else value
