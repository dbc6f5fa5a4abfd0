"""What the single and the vector env share: spaces, arrays and the checks of their arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from torch import Tensor

from world4rl_gym.pixels import channels_last
from world4rl_gym.world_model import WorldModel

RESET_OPTIONS = ("initial_frame", "task")


def make_spaces(world_model: WorldModel) -> tuple[gym.spaces.Box, gym.spaces.Box]:
    """Returns one row's observation and action space."""
    size = world_model.frame_size
    return (
        gym.spaces.Box(0, 255, (size, size, 3), np.uint8),
        gym.spaces.Box(-1.0, 1.0, (world_model.action_size,), np.float32),
    )


def to_observation(frames: Tensor) -> np.ndarray:
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
