"""A real env of one's own, as the programs that measure policies play it.

Knows Gymnasium; knows nothing of how the env works.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from training.envs.real_env import RealEnv
from world4rl_gym.world_model import WorldModel


class OwnEnvError(ValueError):
    """An env cannot be made, or does not tell what is needed; the message says what."""


class OwnEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Gives a Gymnasium env what `training.envs.rollouts` asks of the real twin.

    Actions come in [-1, 1] and are given to the env in its own units. An env that has ended stands
    still, so that every episode fills the horizon.

    Args:
        env: Its observations are a Dict of `pixels`, `(H, W, 3)` uint8, and `agent_pos`, the
            robot's state and its command, `(S + C,)`; its info says `is_success`.
        world_model: Whose sizes, units and horizon hold.
        task: The task's name.

    Raises:
        OwnEnvError: The observations or actions do not fit the world model.
    """

    def __init__(
        self, env: gym.Env[Any, Any], world_model: WorldModel, task: str | None = None
    ) -> None:
        super().__init__(env)
        self.world_model, self.task = world_model, world_model.config.tasks[0]
        if task is not None:
            self.task = world_model.config.tasks[world_model.task_index(task)]
        self.drawn = "all"
        self.action_repeat = world_model.config.action_repeat
        self.max_episode_steps = world_model.config.max_episode_steps
        size = world_model.frame_size
        agent = world_model.state_size + world_model.command_size
        expected = {"pixels": (size, size, 3), "agent_pos": (agent,)}
        space = env.observation_space
        parts = space.spaces if isinstance(space, gym.spaces.Dict) else {}
        if any(name not in parts or parts[name].shape != expected[name] for name in expected):
            raise OwnEnvError(
                f"observation_space: expected a Dict of {expected}, got {env.observation_space}"
            )
        if env.action_space.shape != (world_model.action_size,):
            raise OwnEnvError(
                f"action_space: expected ({world_model.action_size},), got {env.action_space}"
            )
        self.action_space = gym.spaces.Box(-1.0, 1.0, (world_model.action_size,), np.float32)
        self._seen: dict[str, np.ndarray] = {}
        self._last: tuple[Any, ...] | None = None

    @property
    def state(self) -> np.ndarray:
        """The robot's present state, `(S,)` float32."""
        return self._agent_pos[: self.world_model.state_size]

    @property
    def command(self) -> np.ndarray:
        """Its command, `(C,)` float32."""
        return self._agent_pos[self.world_model.state_size :]

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        """Begins an episode."""
        self._last = None
        self._seen, info = self.env.reset(**arguments)
        return self._seen, info

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes `(A,)` in [-1, 1]; after the env's end it changes nothing.

        Raises:
            OwnEnvError: The info lacks `is_success`.
        """
        if self._last is not None:
            return self._last  # type: ignore[return-value]
        clipped = np.clip(np.asarray(action, np.float32), -1, 1)
        result = self.env.step(self.world_model.unscale_actions(clipped))
        self._seen, reward, terminated, truncated, info = result
        if "is_success" not in info:
            raise OwnEnvError(f"info: expected 'is_success' in it, got {sorted(info)}")
        info = {**info, "is_success": bool(info["is_success"])}
        outcome = self._seen, float(reward), terminated, truncated, info
        if terminated or truncated:
            self._last = outcome
        return outcome

    def render(self) -> np.ndarray:  # type: ignore[override]
        """The present frame, `(H, W, 3)` uint8."""
        return np.array(self._seen["pixels"], np.uint8)

    @property
    def _agent_pos(self) -> np.ndarray:
        return np.array(self._seen["agent_pos"], np.float32)


AnyEnv = RealEnv | OwnEnv


def make_own_env(name: str, world_model: WorldModel, task: str | None = None) -> OwnEnv:
    """Makes an env of a registered id.

    Args:
        name: As `gymnasium.make` takes it: `module:id`, where the module registers the id.
        world_model: Whose sizes, units and horizon hold.
        task: The task's name.

    Raises:
        OwnEnvError: It cannot be made, or does not fit the world model.
    """
    try:
        env = gym.make(name, disable_env_checker=True)
    except (gym.error.Error, ImportError) as error:
        raise OwnEnvError(
            f"real_env: expected module:id of a Gymnasium env, got {name!r} ({error})"
        ) from None
    return OwnEnv(env, world_model, task)
