"""The real twin of the imagined env: Meta-World v3 with the same spaces, frames and horizon.

Knows MuJoCo and Meta-World; knows nothing of world models. Needs the ``metaworld`` extra and a GL
library that renders without a display (``MUJOCO_GL=egl`` or ``osmesa``).
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import subprocess
import sys
import typing
import weakref
from typing import Any, Literal

import gymnasium as gym
import numpy as np

Task = Literal["coffee-pull", "soccer", "hammer", "door-lock", "lever-pull", "handle-pull"]
TASKS: tuple[Task, ...] = typing.get_args(Task)
"""The six Meta-World tasks of World4RL (arXiv 2509.19080), without Meta-World's ``-v3``."""

ACTION_SIZE = 4
STATE_SIZE = 4
COMMAND_SIZE = 3
ACTION_REPEAT = 3
HORIZON = 50
FRAME_SIZE = 64
SUPERSAMPLING = 3  # drawn that much larger, then averaged: at 64 x 64 aliasing hides what decides
CAMERA_POSITION = (0.75, 0.075, 0.7)  # where Meta-World's "corner4" hangs
CAMERA_TARGET = (0.0, 0.7, 0.14)
CAMERA_FIELD_OF_VIEW = 40.0  # degrees; corner4 has 60, which leaves a mug three pixels wide

SPLIT_SEEDS = {"train": 0, "validation": 1_000_000, "test": 2_000_000}
"""First seed of each split; a split owns the million seeds from there on."""
TABLE_OFFSET = 300_000
"""Of the test starts of results/table.md; nothing is chosen on them."""

GL_HELP = (
    "Real Meta-World needs a GL library that renders without a display. On Debian or Ubuntu: "
    "apt-get install libegl1 libgl1-mesa-dri libosmesa6, then set MUJOCO_GL=egl or MUJOCO_GL=osmesa"
)

_PROBE = """
try:
    import mujoco
    model = mujoco.MjModel.from_xml_string('<mujoco/>')
    renderer = mujoco.Renderer(model, 8, 8)
    renderer.update_scene(mujoco.MjData(model))
    renderer.render()
    renderer.close()
except Exception as error:
    print(f"{type(error).__name__}: {error}", flush=True)
    raise
"""


class RealEnvUnavailableError(RuntimeError):
    """Meta-World, MuJoCo or a GL library is missing; the message says what to install."""


def split_seeds(split: str, count: int, offset: int = 0) -> range:
    """Returns `count` seeds of a split, from its `offset`-th on.

    Raises:
        ValueError: `split` is unknown, or the range leaves the million seeds that the split owns.
    """
    if split not in SPLIT_SEEDS:
        raise ValueError(f"split: expected one of {', '.join(SPLIT_SEEDS)}, got {split!r}")
    if count < 0 or offset < 0 or offset + count > 1_000_000:
        raise ValueError(f"seeds: expected offset + count within 1,000,000, got {offset} + {count}")
    first = SPLIT_SEEDS[split] + offset
    return range(first, first + count)


def check_task(task: str) -> None:
    """Raises ValueError, listing the valid names, when `task` is not one of `TASKS`."""
    if task not in TASKS:
        raise ValueError(f"task: expected one of {', '.join(TASKS)}, got {task!r}")


def choose_gl_backend() -> str | None:
    """Finds a GL backend that renders here and puts it in ``MUJOCO_GL``.

    A backend is tried in a process of its own, since a failed one cannot be replaced within a
    process. A value that is already set is left as it is, and only checked. ``PYOPENGL_PLATFORM``
    is made to agree with it, without which no backend renders.

    Returns:
        The backend's name, or None when nothing renders.
    """
    return _try_backends()[0]


def _try_backends() -> tuple[str | None, str]:
    """The backend that renders, put in the environment, or None; and why the others do not."""
    chosen = os.environ.get("MUJOCO_GL")
    reasons = []
    for backend in [chosen] if chosen else ["egl", "osmesa"]:
        failure = _failure(backend)
        if failure is None:
            os.environ.update(_variables(backend))
            return backend, ""
        reasons.append(f"MUJOCO_GL={backend}: {failure}")
    return None, "; ".join(reasons)


def _variables(backend: str) -> dict[str, str]:
    platform = {"PYOPENGL_PLATFORM": backend} if backend in ("egl", "osmesa") else {}
    return {"MUJOCO_GL": backend, **platform}


@functools.cache
def _failure(backend: str) -> str | None:
    """Why a backend does not render, or None where it does; tried once a process."""
    tried = subprocess.run(
        [sys.executable, "-c", _PROBE],
        env={**os.environ, **_variables(backend)},
        capture_output=True,
        text=True,
        errors="replace",
    )
    if tried.returncode == 0:
        return None
    return tried.stdout.split("\n")[0] or f"its process ended with {tried.returncode}"


def require_real_env() -> None:
    """Makes sure that Meta-World imports and renders; sets ``MUJOCO_GL`` where it is unset.

    Raises:
        RealEnvUnavailableError: with what to install.
    """
    for module in ("mujoco", "metaworld"):
        if importlib.util.find_spec(module) is None:
            raise RealEnvUnavailableError(
                f"{module} is not installed; pip install 'world4rl-gym[metaworld]'"
            )
    backend, reasons = _try_backends()
    if backend is None:
        raise RealEnvUnavailableError(f"nothing renders here ({reasons}). {GL_HELP}")


class RealEnv(gym.Env):
    """One Meta-World task seen through a camera, with the imagined env's contract.

    Observation `Box(0, 255, (64, 64, 3), uint8)`, or with `obs_type="pixels_agent_pos"` a Dict of
    that, `pixels`, and of `agent_pos`, `Box(-inf, inf, (7,), float32)`: the robot's state and its
    command. Action `Box(-1, 1, (4,), float32)`: three displacements of the hand and the gripper's
    effort, held for `action_repeat` simulator steps. The sparse reward is 1.0 on success. A seed
    fixes the start configuration, also after other episodes, which Meta-World's own `reset(seed=)`
    does not.

    Args:
        task: One of `TASKS`.
        max_episode_steps: Decisions until truncation.
        action_repeat: Simulator steps a decision.
        terminate_on_success: Whether success ends the episode, as it does in imagination.
        frame_size: Height and width of a frame in pixels.
        lean_rendering: Draw without multisampling, shadows and reflections, many times faster, and
            average `SUPERSAMPLING` x `SUPERSAMPLING` pixels to one; Meta-World's default is with
            them, drawn in the frame's own size.
        obs_type: "pixels" or "pixels_agent_pos".
        drawn: "all" frames, or only the "first" of an episode, which later observations repeat:
            many times faster, for policies that look once.

    Raises:
        ValueError: The task or `obs_type` is unknown.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(
        self,
        task: str,
        max_episode_steps: int = HORIZON,
        action_repeat: int = ACTION_REPEAT,
        terminate_on_success: bool = True,
        frame_size: int = FRAME_SIZE,
        lean_rendering: bool = True,
        obs_type: Literal["pixels", "pixels_agent_pos"] = "pixels",
        drawn: Literal["all", "first"] = "all",
    ) -> None:
        check_task(task)
        if obs_type not in ("pixels", "pixels_agent_pos"):
            raise ValueError(f"obs_type: expected pixels or pixels_agent_pos, got {obs_type!r}")
        import metaworld  # before mujoco: it sets up the rendering backend
        import mujoco
        from metaworld import policies
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        del metaworld

        self.task = task
        self.render_mode = "rgb_array"
        self.max_episode_steps = max_episode_steps
        self.action_repeat = action_repeat
        self.terminate_on_success = terminate_on_success
        self.obs_type = obs_type
        self.drawn = drawn
        pixels = gym.spaces.Box(0, 255, (frame_size, frame_size, 3), np.uint8)
        size = STATE_SIZE + COMMAND_SIZE
        agent_pos = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.observation_space = (
            pixels
            if obs_type == "pixels"
            else gym.spaces.Dict({"pixels": pixels, "agent_pos": agent_pos})
        )
        self.action_space = gym.spaces.Box(-1.0, 1.0, (ACTION_SIZE,), np.float32)

        self._sim = ALL_V3_ENVIRONMENTS[f"{task}-v3"]()
        self._sim._partially_observable = False  # the scripted expert reads the goal ...
        self._sim.__dict__.pop("sawyer_observation_space", None)  # ... which a stale space clips
        self._sim._set_task_called = True
        self._sim._freeze_rand_vec = False
        self._sim.seeded_rand_vec = True
        self._sim.max_path_length = max_episode_steps * action_repeat + 1
        words = "".join(word.capitalize() for word in task.split("-"))
        self._expert = getattr(policies, f"Sawyer{words}V3Policy")()

        if lean_rendering:  # before the renderer is made
            self._sim.model.vis.quality.offsamples = 0
            self._sim.model.vis.quality.shadowsize = 0
        self._supersampling = SUPERSAMPLING if lean_rendering else 1
        side = frame_size * self._supersampling
        buffer = self._sim.model.vis.global_
        buffer.offwidth, buffer.offheight = max(buffer.offwidth, side), max(buffer.offheight, side)
        self._renderer = mujoco.Renderer(self._sim.model, side, side)
        # MuJoCo ends EGL at exit, and a renderer that is freed later complains.
        self._at_exit = functools.partial(_close_renderer, weakref.ref(self._renderer))
        atexit.register(self._at_exit)
        if lean_rendering:
            self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        sight = np.subtract(CAMERA_TARGET, CAMERA_POSITION)
        distance = float(np.linalg.norm(sight))
        self._camera.lookat[:] = CAMERA_TARGET
        self._camera.distance = distance
        self._camera.azimuth = np.degrees(np.arctan2(sight[1], sight[0]))
        self._camera.elevation = np.degrees(np.arcsin(sight[2] / distance))
        self._sim.model.vis.global_.fovy = CAMERA_FIELD_OF_VIEW
        self._mj_forward = mujoco.mj_forward
        self._state: np.ndarray | None = None
        self._first: np.ndarray | None = None
        self._shown: np.ndarray | None = None
        self._steps = 0

    @property
    def _sim_state(self) -> np.ndarray:
        assert self._state is not None, "reset() must be called first"
        return self._state

    @property
    def state(self) -> np.ndarray:
        """The robot's state `(4,)` float32: the hand's x, y, z in metres and how far the gripper
        is open, in [0, 1]."""
        return np.asarray(self._sim_state[:4], np.float32)

    @property
    def command(self) -> np.ndarray:
        """Where the hand is commanded to, `(3,)` float32 in metres."""
        return np.asarray(self._sim.data.mocap_pos[0], np.float32)

    @property
    def object_position(self) -> np.ndarray:
        """Where the task's object is, `(3,)` float32 in metres; nothing learns from it."""
        return np.asarray(self._sim_state[4:7], np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray | dict[str, np.ndarray], dict[str, Any]]:
        """Starts an episode from the start configuration that `seed` fixes."""
        super().reset(seed=seed)
        start_seed = seed if seed is not None else int(self.np_random.integers(2**31 - 1))
        self._sim.seed(start_seed)
        self._sim._freeze_rand_vec = False
        self._sim.reset_model()  # draws the start configuration ...
        self._sim._freeze_rand_vec = True
        self._sim.reset()  # ... and lays out the scene with it; Meta-World's reset does so twice
        self._mj_forward(self._sim.model, self._sim.data)  # fixtures moved after the last forward
        self._state = self._sim._get_obs()
        self._sim._prev_obs = self._state[:18].copy()
        self._steps = 0
        self._first = self._shown = self._frame()
        self._start_seed = start_seed
        info = {"task": self.task, "is_success": False, "seed": start_seed}
        return self._observation(self._first.copy()), info

    def step(
        self, action: np.ndarray
    ) -> tuple[np.ndarray | dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Holds `action` ((4,), clipped to [-1, 1]) for `action_repeat` simulator steps."""
        action = np.clip(np.asarray(action, np.float32), -1.0, 1.0)
        success = False
        for _ in range(self.action_repeat):
            self._state, _, _, _, sim_info = self._sim.step(action)
            success = success or bool(sim_info["success"])
        self._steps += 1
        terminated = success and self.terminate_on_success
        truncated = self._steps >= self.max_episode_steps and not terminated
        info = {"task": self.task, "is_success": success, "seed": self._start_seed}
        self._shown = self._frame() if self.drawn == "all" else None
        frame = self._first if self._shown is None else self._shown
        assert frame is not None, "reset() must be called before step()"
        return self._observation(frame.copy()), float(success), terminated, truncated, info

    def expert_action(self) -> np.ndarray:
        """Returns Meta-World's scripted expert's action for the present state, clipped; (4,)."""
        action = self._expert.get_action(self._state)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def render(self) -> np.ndarray:
        """Returns the present frame, `(64, 64, 3)` uint8."""
        if self._shown is None:
            self._shown = self._frame()
        return self._shown.copy()

    def close(self) -> None:
        """Frees the renderer; close one RealEnv before making the next in the same process."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
            atexit.unregister(self._at_exit)
            self._sim.close()

    def _observation(self, frame: np.ndarray) -> np.ndarray | dict[str, np.ndarray]:
        if self.obs_type == "pixels":
            return frame
        return {"pixels": frame, "agent_pos": np.concatenate([self.state, self.command])}

    def _frame(self) -> np.ndarray:
        self._renderer.update_scene(self._sim.data, camera=self._camera)
        drawn = self._renderer.render()
        factor = self._supersampling
        if factor == 1:
            return drawn.copy()
        side = len(drawn) // factor
        blocks = drawn.reshape(side, factor, side, factor, 3)
        return (blocks.mean(axis=(1, 3)) + 0.5).astype(np.uint8)


def _close_renderer(renderer: weakref.ref[Any]) -> None:
    if (left := renderer()) is not None:
        left.close()


def to_pixels(places: np.ndarray, frame_size: int = FRAME_SIZE) -> np.ndarray:
    """Where the camera sees places: `(..., 3)` metres -> `(..., 2)` column and row in pixels."""
    sight = np.subtract(CAMERA_TARGET, CAMERA_POSITION)
    forward = sight / np.linalg.norm(sight)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    up = np.cross(right, forward)
    away = np.asarray(places, float) - CAMERA_POSITION
    depth = away @ forward
    focus = frame_size / 2 / np.tan(np.radians(CAMERA_FIELD_OF_VIEW) / 2)
    column = frame_size / 2 + focus * (away @ right) / depth
    row = frame_size / 2 - focus * (away @ up) / depth
    return np.stack([column, row], axis=-1)
