"""The imagined environment as a Stable-Baselines3 `VecEnv`; needs the `sb3` extra."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from world4rl_gym.faces import Observation
from world4rl_gym.vector_env import ImaginedVectorEnv

try:
    from stable_baselines3.common.vec_env import VecEnv
    from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn
except ImportError as error:
    raise ImportError(
        "ImaginedVecEnv needs Stable-Baselines3: pip install 'world4rl-gym[sb3]'"
    ) from error


class ImaginedVecEnv(VecEnv):
    """`num_envs` imagined rows for SB3's algorithms, computed in one batch.

    Behaves as SB3's `DummyVecEnv` over as many `ImaginedEnv`: episodes that end are reset within
    the step, with `terminal_observation` and `TimeLimit.truncated` in their info.

    Args:
        num_envs: Number of rows.
        **arguments: Those of `ImaginedEnv`; `render_mode` is "rgb_array" unless given.

    Raises:
        WorldModelError: The world model cannot be loaded.
        ValueError: An argument is out of range; the message lists what is valid.
    """

    def __init__(self, num_envs: int, **arguments: Any) -> None:
        if "autoreset_mode" in arguments:
            raise ValueError("autoreset_mode: SB3 resets within the step; it cannot be chosen")
        arguments.setdefault("render_mode", "rgb_array")
        self.vector_env = ImaginedVectorEnv(
            num_envs, autoreset_mode=AutoresetMode.SAME_STEP, **arguments
        )
        self._pending: np.ndarray | None = None
        super().__init__(
            self.vector_env.num_envs,
            self.vector_env.single_observation_space,
            self.vector_env.single_action_space,
        )
        self.metadata = self.vector_env.metadata

    def reset(self) -> Observation:  # type: ignore[override]
        """Begins new episodes in all rows; returns their observations, `(num_envs, ...)`.

        Raises:
            ValueError: The options are unknown or out of range, or the rows' tasks differ; they are
                forgotten, as seeds are.
        """
        seeds = self._seeds if any(seed is not None for seed in self._seeds) else None
        try:
            options = _merged([options or {} for options in self._options])
            observation, info = self.vector_env.reset(seed=seeds, options=options)
        finally:
            self._reset_seeds()
            self._reset_options()
        self.reset_infos = [_row(info, row) for row in range(self.num_envs)]
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        """Takes `(num_envs, A)` actions for `step_wait`."""
        self._pending = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Imagines the step: observations, rewards `(num_envs,)` float32, dones, and infos."""
        assert self._pending is not None, "step_async() comes before step_wait()"
        observation, reward, terminated, truncated, info = self.vector_env.step(self._pending)
        self._pending = None
        done = terminated | truncated
        infos = []
        for row in range(self.num_envs):
            if done[row]:
                own = _row(info["final_info"], row)
                self.reset_infos[row] = _row(info, row)
                own["terminal_observation"] = info["final_obs"][row]
            else:
                own = _row(info, row)
            own["TimeLimit.truncated"] = bool(truncated[row] and not terminated[row])
            infos.append(own)
        return observation, reward.astype(np.float32), done, infos

    def close(self) -> None:
        """Ends the env."""
        self.vector_env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """The rows' present frames, enlarged."""
        return self.vector_env.render() or [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The attribute of each of the rows asked for; what they share, each of them gets."""
        shared = getattr(self.vector_env, attr_name)
        values = [shared] * self.num_envs if callable(shared) else self.vector_env.call(attr_name)
        return [values[row] for row in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Sets an attribute for all rows at once; they share one env."""
        if len(list(self._get_indices(indices))) != self.num_envs:
            raise ValueError("indices: the rows share one env; set_attr is for all of them")
        self.vector_env.set_attr(attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Calls the one env's method once; every row asked for gets its result, or its part."""
        results = self.vector_env.call(method_name, *method_args, **kwargs)
        return [results[row] for row in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: VecEnvIndices = None) -> list[bool]:
        """Never: the rows are not wrapped one by one."""
        return [False for _ in self._get_indices(indices)]


def _merged(options: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """One reset's options out of the rows'; each row may name its own initial frame."""
    if all(other == options[0] for other in options):
        return options[0] or None
    if any(set(other) != {"initial_frame"} for other in options):
        raise ValueError(
            "options: expected the same for all rows, or an initial_frame for each; "
            f"got {options!r:.300}"
        )
    return {"initial_frame": [other["initial_frame"] for other in options]}


def _row(info: dict[str, Any], row: int) -> dict[str, Any]:
    """One row's info out of a vector env's."""
    own = {}
    for key, values in info.items():
        if key in ("final_obs", "final_info"):
            continue
        if not key.startswith("_") and info.get(f"_{key}", np.zeros(row + 1, bool))[row]:
            value = values[row]
            own[key] = value.item() if isinstance(value, np.generic) else value
    return own
