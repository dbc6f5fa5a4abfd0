"""The imagined environment for many rows, computed in one batch: a Gymnasium `VectorEnv`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Unpack

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from world4rl_gym.faces import (
    RESET_OPTIONS,
    Face,
    Observation,
    check_render_mode,
    check_reset_options,
    check_setting,
    enlarge,
    make_spaces,
    observe,
    row_of,
    to_pixels,
)
from world4rl_gym.imagination import Imagination, ImaginationArguments
from world4rl_gym.world_model import WorldModel

_SPACES = ("observation_space", "action_space")
_OF_ROWS = ("np_random", "np_random_seed", "render")
"""What holds or returns something of each row."""


class ImaginedVectorEnv(Face, VectorEnv[Observation, np.ndarray, np.ndarray]):
    """`num_envs` rows of `ImaginedEnv`, one forward pass a step.

    Row i seeded s + i follows the single env with that seed. Arguments are those of `ImaginedEnv`,
    and:

    Args:
        num_envs: Number of rows.
        autoreset_mode: `AutoresetMode.NEXT_STEP` (Gymnasium's default), `SAME_STEP` or `DISABLED`,
            or its value as a string.

    Raises:
        WorldModelError: The world model cannot be loaded.
        ValueError: An argument is out of range; the message lists what is valid.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(
        self,
        num_envs: int = 1,
        world_model: str | os.PathLike[str] | WorldModel | None = None,
        *,
        obs_type: str = "pixels",
        render_mode: str | None = None,
        render_scale: int = 4,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        **arguments: Unpack[ImaginationArguments],
    ) -> None:
        check_render_mode(self.metadata, render_mode)
        self.render_scale = render_scale
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.imagination = Imagination(num_envs, world_model, **arguments)
        self.num_envs = self.imagination.num_envs
        self.render_mode = render_mode
        spaces = make_spaces(self.imagination.world_model, obs_type)
        self.obs_type = obs_type
        self.single_observation_space, self.single_action_space = spaces
        self.observation_space = batch_space(spaces[0], self.num_envs)
        self.action_space = batch_space(spaces[1], self.num_envs)
        self._seeds: list[int] = [-1] * self.num_envs
        for row in range(self.num_envs):
            self._seed_row(row, None)
        self._over = np.zeros(self.num_envs, dtype=bool)

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[misc, override]
        """The rows' generators."""
        return tuple(self.imagination.rngs)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The rows' seeds."""
        return tuple(self._seeds)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins new episodes in all rows, or in those of `options["reset_mask"]`.

        Args:
            seed: Row i is seeded `seed + i`, or with the i-th of a sequence.
            options: `initial_frame` and `task` as for `ImaginedEnv`, and `reset_mask`,
                `(num_envs,)` bool.

        Returns:
            All rows' observations, `(num_envs, ...)`, and info.

        Raises:
            ValueError: The mask's shape is wrong or nothing is set; the seeds are too few; an
                option is unknown.
            TypeError: The mask is not a bool array.
        """
        self._check_open()
        chosen = check_reset_options(options, (*RESET_OPTIONS, "reset_mask"))
        mask = self._reset_mask(chosen.pop("reset_mask", None))
        seeds = self._row_seeds(seed)
        saved = self.imagination.rngs[:], self._seeds[:]
        try:
            for row in np.flatnonzero(mask).tolist():
                if seeds[row] is not None:
                    self._seed_row(row, seeds[row])
            self.imagination.reset(mask, **chosen)
        except Exception:
            self.imagination.rngs, self._seeds = saved
            raise
        self._over[mask] = False
        return observe(self.imagination, self.obs_type), self._info(mask, np.zeros_like(mask))

    def step(
        self, actions: np.ndarray
    ) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Imagines one step of every row.

        Args:
            actions: `(num_envs, A)`, cast to float32 and clipped to the action space's bounds.

        Returns:
            Observations `(num_envs, ...)`, rewards float64, terminated, truncated and info.

        Raises:
            ResetNeeded: A row has no episode under way (never under an autoreset).
            ValueError: The shape is wrong or a value is not finite; nothing has changed.
        """
        self._check_open()
        resetting = self._over.copy()
        if self.autoreset_mode == AutoresetMode.DISABLED and resetting.any():
            raise gym.error.ResetNeeded(
                f"rows {np.flatnonzero(resetting).tolist()} are over; reset them with "
                "options={'reset_mask': ...} before step()"
            )
        scale = self.imagination.world_model.scale_actions
        result = self.imagination.step(scale(np.asarray(actions)))
        reward = result.reward.cpu().numpy().astype(np.float64)
        terminated = result.terminated.cpu().numpy()
        truncated = result.truncated.cpu().numpy()
        if self.autoreset_mode == AutoresetMode.NEXT_STEP and resetting.any():
            self.imagination.reset(resetting)
            reward[resetting], terminated[resetting], truncated[resetting] = 0.0, False, False
        over = terminated | truncated
        every = np.ones_like(over)
        if self.autoreset_mode == AutoresetMode.SAME_STEP and over.any():
            final = observe(self.imagination, self.obs_type)
            final_obs = np.full(self.num_envs, None, dtype=object)
            for row in np.flatnonzero(over).tolist():
                final_obs[row] = row_of(final, row)  # a view would keep all rows' memory
            final_info = self._info(over, terminated)
            self.imagination.reset(over)
            info = self._info(every, terminated & ~over)
            info.update(final_obs=final_obs, _final_obs=over.copy())
            info.update(final_info=final_info, _final_info=over.copy())
            self._over = np.zeros(self.num_envs, dtype=bool)
        else:
            info = self._info(every, terminated)
            self._over = over.copy()
        return observe(self.imagination, self.obs_type), reward, terminated, truncated, info

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Returns the rows' present frames, enlarged, when `render_mode` is "rgb_array".

        Raises:
            ResetNeeded: A row has not been reset yet.
        """
        self._check_open()
        if self.render_mode is None:
            gym.logger.warn("render() does nothing without a render_mode")
            return None
        if not self.imagination.started:
            raise gym.error.ResetNeeded("reset() must be called before render()")
        frames = to_pixels(self.imagination.frames)
        return tuple(enlarge(frame, self.render_scale) for frame in frames)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Returns an attribute or a method's result once for each row, as `SyncVectorEnv` does.

        Spaces are those of one row. What the rows share, they all get.
        """
        value = getattr(self, f"single_{name}" if name in _SPACES else name)
        if callable(value):
            value = value(*args, **kwargs)
        return tuple(value) if name in _OF_ROWS and value is not None else (value,) * self.num_envs

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Returns an attribute once for each row; the rows share one env."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Sets an attribute for all rows at once; they share one env.

        Args:
            name: Of the attribute.
            values: The value, or a list or tuple of it for each row.

        Raises:
            AttributeError: It is none that may be set, or misspelt; the message lists them.
            ValueError: A value is out of range, the rows' values differ, or their number is wrong.
        """
        check_setting(name)
        if isinstance(values, (list, tuple)):
            if len(values) != self.num_envs or any(value != values[0] for value in values):
                raise ValueError(
                    f"values: expected one value or the same {self.num_envs} times, for the rows "
                    f"share one env; got {values!r}"
                )
            values = values[0]
        setattr(self, name, values)

    def close_extras(self, **kwargs: Any) -> None:
        """Takes what Gymnasium's vector envs take, such as `terminate`; there is nothing to end."""

    def _info(self, mask: np.ndarray, success: np.ndarray) -> dict[str, Any]:
        """What `ImaginedEnv` tells, of the masked rows, as `VectorEnv._add_info` lays it out."""
        values_of = {
            "task": np.array(self.imagination.tasks, dtype=object),
            "initial_frame": self.imagination.drawn,
            "success_probability": self.imagination.memory.success_probability.cpu().numpy(),
            "is_success": success,
            "uncertainty": self.imagination.uncertainty.cpu().numpy(),
        }
        info: dict[str, Any] = {}
        for key, values in values_of.items():
            if values.dtype == np.float32:
                values = values.astype(np.float64)
            info[key] = np.full(self.num_envs, None if values.dtype == object else 0, values.dtype)
            info[key][mask] = values[mask]
            info[f"_{key}"] = mask.copy()
        return info

    def _row_seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            return [int(seed) + row for row in range(self.num_envs)]
        if not isinstance(seed, (Sequence, np.ndarray)) or isinstance(seed, str):
            raise ValueError(f"seed: expected an integer or one a row, got {seed!r}")
        seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed: expected {self.num_envs} seeds, got {len(seeds)}")
        return seeds

    def _seed_row(self, row: int, seed: int | None) -> None:
        self.imagination.rngs[row], self._seeds[row] = seeding.np_random(seed)

    def _reset_mask(self, mask: Any) -> np.ndarray:
        if mask is None:
            return np.ones(self.num_envs, dtype=bool)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            got = mask.dtype if isinstance(mask, np.ndarray) else type(mask).__name__
            raise TypeError(f"reset_mask: expected a bool array, got {got}")
        if mask.shape != (self.num_envs,):
            raise ValueError(f"reset_mask: expected shape ({self.num_envs},), got {mask.shape}")
        if not mask.any():
            raise ValueError("reset_mask: expected at least one True")
        return mask.copy()

    def _check_open(self) -> None:
        if self.closed:
            raise gym.error.Error("the env is closed")


def _autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    valid = {m.value: m for m in AutoresetMode} | {m.name: m for m in AutoresetMode}
    if isinstance(mode, AutoresetMode):
        return mode
    if isinstance(mode, str) and mode in valid:
        return valid[mode]
    names = ", ".join(m.name for m in AutoresetMode)
    raise ValueError(f"autoreset_mode: expected one of {names}, got {mode!r}")
