"""What the single and the vector env share: spaces, observations and the checks of arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from torch import Tensor

from world4rl_gym.arguments import integer
from world4rl_gym.features import feature_size
from world4rl_gym.imagination import Imagination
from world4rl_gym.pixels import channels_last
from world4rl_gym.world_model import WorldModel

SETTINGS = (
    "max_episode_steps",
    "num_inference_steps",
    "success_threshold",
    "uncertainty_penalty",
    "max_uncertainty",
    "micro_batch_size",
    "render_scale",
)
"""What may be set after an env is made; each is checked as at first."""

RESET_OPTIONS = ("initial_frame", "task")
OBS_TYPES = ("pixels", "pixels_agent_pos", "features")

Observation = np.ndarray | dict[str, np.ndarray]


class _Shared:
    """An attribute of the env's `Imagination`, under the same name."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Face | None, owner: type) -> Any:
        return self if instance is None else getattr(instance.imagination, self._name)

    def __set__(self, instance: Face, value: object) -> None:
        setattr(instance.imagination, self._name, value)


class Face:
    """What the single and the vector env let one read and set: `SETTINGS`, and the spec."""

    imagination: Imagination
    max_episode_steps = _Shared()
    num_inference_steps = _Shared()
    success_threshold = _Shared()
    uncertainty_penalty = _Shared()
    max_uncertainty = _Shared()
    micro_batch_size = _Shared()
    render_scale = integer(1, 64)
    _spec: EnvSpec | None = None

    @property
    def spec(self) -> EnvSpec | None:
        """What Gymnasium made the env from, its `max_episode_steps` the env's horizon."""
        if self._spec is not None:
            self._spec.max_episode_steps = self.max_episode_steps
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = spec


def check_setting(name: str) -> None:
    """Raises AttributeError, listing what may be set, unless `name` is one of `SETTINGS`."""
    if name not in SETTINGS:
        raise AttributeError(f"{name!r} cannot be set; expected one of {', '.join(SETTINGS)}")


def make_spaces(world_model: WorldModel, obs_type: str) -> tuple[gym.Space[Any], gym.spaces.Box]:
    """Returns one row's observation and action space.

    Raises:
        ValueError: `obs_type` is unknown, or needs a robot state that the world model lacks.
    """
    if obs_type not in OBS_TYPES:
        raise ValueError(f"obs_type: expected one of {', '.join(OBS_TYPES)}, got {obs_type!r}")
    size, agent = world_model.frame_size, world_model.state_size + world_model.command_size
    if obs_type == "pixels_agent_pos" and not agent:
        raise ValueError("obs_type: this world model has no robot state; expected pixels, features")
    observed: gym.Space[Any] = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
    if obs_type == "pixels_agent_pos":
        agent_pos = gym.spaces.Box(-np.inf, np.inf, (agent,), np.float32)
        observed = gym.spaces.Dict({"pixels": observed, "agent_pos": agent_pos})
    if obs_type == "features":
        observed = gym.spaces.Box(-np.inf, np.inf, (feature_size(world_model),), np.float32)
    shape = (world_model.action_size,)
    low, high = (
        np.broadcast_to(np.asarray(side, np.float32), shape)
        for side in (world_model.config.action_low, world_model.config.action_high)
    )
    return observed, gym.spaces.Box(low, high, shape, np.float32)


def observe(imagination: Imagination, obs_type: str) -> Observation:
    """All rows' observations, fresh arrays: frames `(B, H, W, 3)` uint8, features `(B, F)` float32,
    or a dict of `pixels` and `agent_pos`, `(B, S + C)` float32."""
    if obs_type == "features":
        return imagination.features.cpu().numpy()
    pixels = to_pixels(imagination.frames)
    if obs_type == "pixels":
        return pixels
    return {"agent_pos": imagination.agent_pos.cpu().numpy(), "pixels": pixels}


def row_of(observation: Observation, row: int) -> Observation:
    """One row's observation, a copy."""
    if isinstance(observation, dict):
        return {name: values[row].copy() for name, values in observation.items()}
    return observation[row].copy()


def to_pixels(frames: Tensor) -> np.ndarray:
    """`(B, 3, H, W)` uint8 tensor to a fresh `(B, H, W, 3)` uint8 array."""
    return channels_last(frames.cpu()).numpy()


def enlarge(frame: np.ndarray, scale: int) -> np.ndarray:
    """Repeats every pixel of `(H, W, 3)` `scale` times both ways."""
    return frame.repeat(scale, axis=0).repeat(scale, axis=1)


def check_reset_options(
    options: Mapping[str, Any] | None, known: tuple[str, ...] = RESET_OPTIONS
) -> dict[str, Any]:
    """Returns a copy of the options, or raises ValueError naming an unknown one."""
    if not isinstance(options, (Mapping, type(None))):
        raise ValueError(f"options: expected a mapping, got {type(options).__name__}")
    chosen = dict(options or {})
    for name in chosen:
        if name not in known:
            raise ValueError(f"options: expected only {', '.join(known)}, got {name!r}")
    return chosen


def check_render_mode(metadata: Mapping[str, Any], render_mode: str | None) -> None:
    """Raises ValueError for a render mode that is not valid."""
    modes = metadata["render_modes"]
    if render_mode is not None and render_mode not in modes:
        raise ValueError(f"render_mode: expected None, {', '.join(modes)}, got {render_mode!r}")
