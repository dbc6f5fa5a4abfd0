"""What the single and the vector env share: spaces, observations and the checks of arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from torch import Tensor

from world4rl_gym.features import feature_size
from world4rl_gym.imagination import Imagination
from world4rl_gym.pixels import channels_last
from world4rl_gym.world_model import WorldModel

RESET_OPTIONS = ("initial_frame", "task")
OBS_TYPES = ("pixels", "pixels_agent_pos", "features")

Observation = np.ndarray | dict[str, np.ndarray]


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


def check_render_arguments(
    metadata: Mapping[str, Any], render_mode: str | None, render_scale: int
) -> None:
    """Raises ValueError for a render mode or scale that is not valid."""
    modes = metadata["render_modes"]
    if render_mode is not None and render_mode not in modes:
        raise ValueError(f"render_mode: expected None, {', '.join(modes)}, got {render_mode!r}")
    if type(render_scale) is not int or not 1 <= render_scale <= 64:
        raise ValueError(f"render_scale: expected an integer in [1, 64], got {render_scale!r}")
