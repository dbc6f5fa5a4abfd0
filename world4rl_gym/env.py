"""The imagined environment for one row: a Gymnasium `Env` over a batch of one."""

from __future__ import annotations

import os
from typing import Any, Unpack

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from world4rl_gym.faces import (
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
from world4rl_gym.window import Window
from world4rl_gym.world_model import WorldModel


class ImaginedEnv(Face, gym.Env[Observation, np.ndarray]):
    """
    ## Description
    A robot manipulation task as a diffusion world model imagines it: a recurrent memory, begun from
    the first camera frame and the robot's state, follows actions and commands and says whether
    the task stands solved; a denoiser draws the camera's frames out of it. The method is World4RL
    (arXiv 2509.19080), rebuilt on a memory. The embedded default imagines six Meta-World tasks:
    coffee-pull, soccer, hammer, door-lock, lever-pull and handle-pull. What succeeds here need not
    succeed in reality; the model card has the measured gap.

    ## Action Space
    `Box(low, high, (A,), float32)`, with the bounds that the world model keeps in the robot's
    units. For the embedded default they are -1 and 1 and A is 4: the hand's displacement in x, y
    and z, and the gripper's effort. Values outside are clipped.

    ## Observation Space
    With `obs_type="pixels"`: `Box(0, 255, (H, W, 3), uint8)`, the camera frame; 64 x 64 for the
    embedded default. With `"pixels_agent_pos"`: a Dict of that, `pixels`, and of `agent_pos`,
    `Box(-inf, inf, (S + C,), float32)`, the robot's state and command; for the embedded default the
    hand's position in metres, the gripper's opening, and where the hand is commanded to. With
    `"features"`: `Box(-inf, inf, (2 S + 2 C + K + 2,), float32)`, what the memory knows and a robot
    knows too: its state, command, lag and last motion, the code of the first frame, and the time.
    Nothing is drawn then, and thousands of steps a second are imagined;
    `world4rl_gym.MemoryFeatures` gives the same vector on a real env.

    ## Rewards
    1.0 when the memory's success probability reaches `success_threshold`, else 0.0; less
    `uncertainty_penalty` times the uncertainty.

    ## Starting State
    A context drawn from the world model's initial frames: real first frames ("start"), or also
    frames from within demonstrations ("anywhere").
    `reset(options={"initial_frame": i, "task": name})` chooses one.

    ## Episode End
    1. Termination: success.
    2. Truncation: after `max_episode_steps` steps without success, or above `max_uncertainty`.

    ## Information
    `reset` and `step` tell the same: `task` (str); `initial_frame` (int), the index of the context
    that the episode began from; `success_probability` (float), `is_success` (bool) and
    `uncertainty` (float): how far the memory's members disagree on whether the episode has
    succeeded, the deviation of their highest success probabilities so far. results/ has how well
    it predicts a wrong outcome.

    ## Arguments
    ```python
    import gymnasium as gym
    import world4rl_gym

    env = gym.make("World4RL-Imagined-v0", task="hammer")
    ```
    A photograph of one's own scene, `(H, W, 3)` uint8, begins episodes with
    `gym.make("World4RL-Imagined-v0", initial_frames=photograph, task="hammer")`.

    The env truncates by itself, after 50 steps for the embedded default, and never a step that
    succeeds. `max_episode_steps` gives another horizon, through `gym.make` too. It is an attribute
    and stands in the env's spec. It and `num_inference_steps`, `success_threshold`,
    `uncertainty_penalty`, `max_uncertainty`, `micro_batch_size` and `render_scale` may be set
    between steps, by `env.unwrapped.success_threshold = 0.9` or `set_wrapper_attr`.

    Args:
        world_model: None (the embedded default), a folder, a Hub id, or a `WorldModel`.
        revision: Branch, tag or commit on the Hub.
        task: None (any of the model's tasks), a name, or several.
        initial_frames: "start", "anywhere", or one's own: `InitialFrames`, or `(H, W, 3)` or
            `(N, H, W, 3)` uint8 photographs that begin the one `task` named.
        max_episode_steps: Horizon; None takes the model's (50 for the embedded default).
        num_inference_steps: Denoising steps a frame; None takes the model's number.
        success_threshold: Probability that counts as success; None takes the model's.
        uncertainty_penalty: What a unit of uncertainty costs, in reward, at every step.
        max_uncertainty: Uncertainty above which an episode is truncated, and a success not
            believed; None never does that.
        reward: A function of frames `(B, H, W, 3)` uint8 and task names to rewards `(B,)` and
            success `(B,)` bool, in place of the memory's judgement; see `Imagination`.
        device: Where to compute; None stays where the model is.
        micro_batch_size: See `Imagination`; set alike here and in a vector env, rows agree exactly.
        obs_type: "pixels", "pixels_agent_pos" or "features".
        render_mode: None, "rgb_array", or "human": a window, which needs a display and pygame.
        render_scale: Integer enlargement of rendered frames.

    Raises:
        WorldModelError: The world model cannot be loaded.
        ValueError: An argument is out of range; the message lists what is valid.
        gymnasium.error.Error: There is no display, or no pygame, for `render_mode="human"`.

    ## Version History
    * v0: Initial version.
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 10}

    def __init__(
        self,
        world_model: str | os.PathLike[str] | WorldModel | None = None,
        *,
        obs_type: str = "pixels",
        render_mode: str | None = None,
        render_scale: int = 4,
        **arguments: Unpack[ImaginationArguments],
    ) -> None:
        check_render_mode(self.metadata, render_mode)
        self.render_scale = render_scale
        self.imagination = Imagination(1, world_model, **arguments)
        self.render_mode = render_mode
        self.observation_space, self.action_space = make_spaces(
            self.imagination.world_model, obs_type
        )
        self.obs_type = obs_type
        self._over = False
        self._closed = False
        self._window = self._open_window() if render_mode == "human" else None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins an episode.

        Args:
            seed: Seeds the env's generator, from which start and denoising noise are drawn.
            options: `initial_frame` (an index, as in the info) and `task` (a name) choose the
                start.

        Returns:
            The first observation, and info.

        Raises:
            ValueError: An option is unknown or out of range; nothing has changed.
        """
        self._check_open()
        chosen = check_reset_options(options)
        saved = self._np_random, self._np_random_seed, self.imagination.rngs[0]
        try:
            super().reset(seed=seed)
            self.imagination.rngs[0] = self.np_random
            self.imagination.reset(**chosen)
        except Exception:
            self._np_random, self._np_random_seed, self.imagination.rngs[0] = saved
            raise
        self._over = False
        self._show()
        return row_of(observe(self.imagination, self.obs_type), 0), self._info(False)

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Imagines one step.

        Args:
            action: `(A,)`, cast to float32 and clipped to the action space's bounds.

        Returns:
            The observation, reward, terminated, truncated and info.

        Raises:
            ResetNeeded: No episode is under way.
            ValueError: The action has the wrong shape or is not finite; nothing has changed.
        """
        self._check_open()
        if self._over:
            raise gym.error.ResetNeeded("the episode is over; call reset() before step()")
        action = np.asarray(action)
        if action.shape != self.action_space.shape:
            raise ValueError(
                f"action: expected shape {self.action_space.shape}, got {action.shape}"
            )
        scale = self.imagination.world_model.scale_actions
        result = self.imagination.step(scale(action[None]))
        terminated, truncated = bool(result.terminated[0]), bool(result.truncated[0])
        self._over = terminated or truncated
        self._show()
        observation = row_of(observe(self.imagination, self.obs_type), 0)
        reward = float(result.reward[0])
        return observation, reward, terminated, truncated, self._info(terminated)

    def render(self) -> np.ndarray | None:
        """Returns the present frame, enlarged, when `render_mode` is "rgb_array".

        With "human", `reset` and `step` show their frames by themselves.

        Raises:
            ResetNeeded: No episode has begun.
        """
        self._check_open()
        if self.render_mode is None:
            gym.logger.warn("render() does nothing without a render_mode")
            return None
        if not self.imagination.started:
            raise gym.error.ResetNeeded("reset() must be called before render()")
        if self.render_mode == "human":
            self._show()
            return None
        return enlarge(to_pixels(self.imagination.frames)[0], self.render_scale)

    def close(self) -> None:
        """Ends the env; further calls of `reset`, `step` and `render` are errors."""
        self._closed = True
        if self._window is not None:
            self._window.close()
            self._window = None

    def set_wrapper_attr(self, name: str, value: Any, *, force: bool = True) -> bool:
        """Sets one of the arguments that may change while the env is used.

        Raises:
            AttributeError: It is none of them, or misspelt; the message lists them.
            ValueError: The value is out of range.
        """
        check_setting(name)
        setattr(self, name, value)
        return True

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_window": None}  # a copy opens a window of its own

    def _info(self, success: bool) -> dict[str, Any]:
        return {
            "task": self.imagination.tasks[0],
            "initial_frame": int(self.imagination.drawn[0]),
            "success_probability": float(self.imagination.memory.success_probability[0]),
            "is_success": success,
            "uncertainty": float(self.imagination.uncertainty[0]),
        }

    def _open_window(self) -> Window:
        return Window("World4RL-Imagined", self.metadata["render_fps"])

    def _show(self) -> None:
        if self.render_mode != "human":
            return
        if self._window is None:
            self._window = self._open_window()
        frame = to_pixels(self.imagination.frames)[0]
        self._window.show(enlarge(frame, self.render_scale))

    def _check_open(self) -> None:
        if self._closed:
            raise gym.error.Error("the env is closed")


class Horizon(gym.Wrapper[Observation, np.ndarray, Observation, np.ndarray], RecordConstructorArgs):
    """Hands the horizon that `gym.make` was given to the env, in place of Gymnasium's `TimeLimit`.

    The env can keep a longer horizon than its model's, and does not truncate a success.

    Args:
        env: An `ImaginedEnv`, wrapped or not.
    """

    def __init__(self, env: gym.Env[Observation, np.ndarray]) -> None:
        RecordConstructorArgs.__init__(self)
        if isinstance(env, gym.wrappers.TimeLimit):
            env.set_wrapper_attr("max_episode_steps", env._max_episode_steps)
            env = env.env
        super().__init__(env)
