"""What a policy sees of the memory with `obs_type="features"`, and the same on a real robot."""

from __future__ import annotations

import os
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from world4rl_gym.pixels import channels_first
from world4rl_gym.world_model import WorldModel


def feature_size(world_model: WorldModel) -> int:
    """Numbers in a feature vector: 2 S + 2 C + K + 2."""
    return 2 * world_model.state_size + 2 * world_model.command_size + world_model.code_size + 2


def features(
    origin: Tensor,
    unit: Tensor,
    first_code: Tensor,
    state: Tensor,
    velocity: Tensor,
    command: Tensor,
    time: Tensor,
) -> Tensor:
    """What the memory knows that a real robot knows too.

    Args:
        origin: `(S,)` or `(B, S)`, the task's usual first state.
        unit: `(S,)` or `(B, S)`, its motion in a decision.
        first_code: `(B, K)`, the eyes' code of the first frame.
        state: `(B, S)`, the robot's state.
        velocity: `(B, S)`, its change in the last decision, 0 at first.
        command: `(B, C)`, what it is commanded to.
        time: `(B,)`, decisions taken, as a share of the model's horizon.

    Returns:
        `(B, 2 S + 2 C + K + 2)` float32, each of the order of 1: state and command as differences
        from the usual start, the lag of the state behind the command, velocity, first code, time
        and its square.
    """
    commands = command.shape[1]
    far = 5 * unit
    parts = [
        (state - origin) / far,
        (command - origin[..., :commands]) / far[..., :commands],
        (command - state[:, :commands]) / (2 * unit[..., :commands]),
        velocity / (2 * unit),
        first_code,
        torch.stack([time, time.square()], dim=1),
    ]
    return torch.cat(parts, dim=1).float()


class MemoryFeatures(gym.ObservationWrapper[np.ndarray, np.ndarray, dict[str, np.ndarray]]):
    """Gives, on a real env, the very observation of the imagined one with `obs_type="features"`.

    The first frame of an episode is seen; after that the robot's state and command suffice. A
    policy that was refined in imagination on features so runs on the robot as it is.

    Args:
        env: Its observations are a Dict of `pixels`, `(H, W, 3)` uint8, and `agent_pos`, the
            robot's state and its command, `(S + C,)`, in the units of the world model's training.
        world_model: None (the embedded default), a folder, a Hub id, or a `WorldModel`.
        task: The task's name; None where the model has one only.

    Raises:
        WorldModelError: The world model cannot be loaded.
        ValueError: The env's observations do not fit, or the task is unknown.
    """

    def __init__(
        self,
        env: gym.Env[dict[str, np.ndarray], np.ndarray],
        world_model: str | os.PathLike[str] | WorldModel | None = None,
        task: str | None = None,
    ) -> None:
        super().__init__(env)
        if not isinstance(world_model, WorldModel):
            world_model = WorldModel.from_pretrained(world_model)
        self.world_model = world_model
        self._task_ids = np.array([world_model.task_index(task)])
        self.memory = world_model.task_memory(task)
        states, commands = world_model.state_size, world_model.command_size
        size = world_model.frame_size
        space = env.observation_space
        parts: dict[str, gym.Space[Any]] = {}
        if isinstance(space, gym.spaces.Dict):
            parts = dict(space.spaces)
        expected = {"pixels": (size, size, 3), "agent_pos": (states + commands,)}
        got = {name: part.shape for name, part in parts.items() if name in expected}
        if got != expected:
            raise ValueError(f"observation_space: expected a Dict of {expected}, got {space}")
        self.observation_space = gym.spaces.Box(
            -np.inf, np.inf, (feature_size(world_model),), np.float32
        )
        self._first_code: Tensor | None = None
        self._last_state: Tensor | None = None
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins an episode; its first frame is looked at."""
        self._first_code = None
        return super().reset(seed=seed, options=options)

    def observation(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """Returns the features `(2 S + 2 C + K + 2,)` float32 of what the env shows now."""
        agent_pos = torch.from_numpy(np.asarray(observation["agent_pos"], np.float32))
        state, command = agent_pos[None].split(
            [self.world_model.state_size, self.world_model.command_size], dim=1
        )
        if self._first_code is None:
            frame = channels_first(torch.from_numpy(observation["pixels"]))[None]
            self._first_code = self.world_model.encode(frame, self._task_ids)
            self._last_state, self._steps = state, 0
        else:
            self._steps += 1
        assert self._last_state is not None
        velocity, self._last_state = state - self._last_state, state
        horizon = self.world_model.config.max_episode_steps
        time = torch.tensor([self._steps / horizon], dtype=torch.float32)
        seen = features(
            self.memory.state_origin,
            self.memory.state_step,
            self._first_code,
            state,
            velocity,
            command,
            time,
        )
        return seen[0].numpy()
