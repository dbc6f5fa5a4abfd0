"""A robot that is not Meta-World's: Gymnasium-Robotics' FetchReach, seen by two cameras.

Records episodes as folders of pictures and a table, and registers a real env of one's own, in which
policies are measured. The commands that follow are in results/second_domain.md.

    pip install gymnasium-robotics
    python -m examples.fetch_reach --out recordings/reach --episodes 230
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import gymnasium_robotics
import mujoco
import numpy as np

from examples.recording import run

SIZE = 64
DECISIONS = 25
STEP = 0.03
"""By how much an action of 1 displaces the commanded place, in metres."""
LARGEST_MOVE = 0.05
"""How far the arm moves in one step at an action of 1, in metres."""
LEAN = (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION)
HOME, HOMING = np.array([1.12, 0.75, 0.62]), 15
"""Where the gripper begins, in metres, and in how many steps it gets there."""
CAMERAS = {"above": (1.34, 180.0, -89.0), "beside": (1.32, 90.0, 0.0)}
"""What each looks at (x, in metres), and its azimuth and elevation, in degrees."""


class FetchReachPixels(gym.Env[dict[str, np.ndarray], np.ndarray]):
    """FetchReach with what a robot sees: two cameras, side by side, and where its gripper is.

    `pixels` is `(64, 64, 3)` uint8; `agent_pos` `(6,)` float32, the gripper's place and the
    commanded one, in metres. An action `(3,)` in [-1, 1] displaces the commanded place, which the
    gripper follows. The goal is a red ball in the air; within 5 cm of it the task is solved. An
    episode ends after 25 decisions.
    """

    def __init__(self) -> None:
        gym.register_envs(gymnasium_robotics)
        self.robot: Any = gym.make("FetchReach-v4", max_episode_steps=DECISIONS).unwrapped
        self.observation_space = gym.spaces.Dict(
            pixels=gym.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8),
            agent_pos=gym.spaces.Box(-np.inf, np.inf, (6,), np.float32),
        )
        self.action_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
        self._renderer: mujoco.Renderer | None = None
        self._cameras = []
        for x, azimuth, elevation in CAMERAS.values():
            camera = mujoco.MjvCamera()
            camera.lookat[:] = (x, 0.75, 0.5)
            camera.distance, camera.azimuth, camera.elevation = 1.0, azimuth, elevation
            self._cameras.append(camera)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """The goal at a new place, the arm drawn back; the same seed gives the same one."""
        super().reset(seed=seed)
        self._seen, _ = self.robot.reset(seed=int(self.np_random.integers(2**31)))
        for _ in range(HOMING):
            way = np.clip(10 * (HOME - self.gripper), -1, 1)
            self._seen, *_ = self.robot.step(np.append(way, 0.0))
        self._decision = 0
        self.command = self.gripper
        return self._observation(), {}

    def step(self, action: np.ndarray) -> Any:
        """Displaces the commanded place, and moves the gripper towards it."""
        self.command = self.command + STEP * np.clip(action, -1, 1)
        way = np.clip((self.command - self.gripper) / LARGEST_MOVE, -1, 1)
        self._seen, _, _, _, info = self.robot.step(np.append(way, 0.0))
        self._decision += 1
        solved = bool(info["is_success"])
        over = self._decision >= DECISIONS
        return self._observation(), float(solved), False, over, {"is_success": solved}

    def close(self) -> None:
        """Frees the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        self.robot.close()

    @property
    def gripper(self) -> np.ndarray:
        """`(3,)`, metres."""
        return np.array(self._seen["achieved_goal"])

    @property
    def goal(self) -> np.ndarray:
        """`(3,)`, metres; the expert's secret."""
        return np.array(self._seen["desired_goal"])

    def _observation(self) -> dict[str, np.ndarray]:
        if self._renderer is None:
            self._renderer = mujoco.Renderer(self.robot.model, SIZE, SIZE // 2)
        self.robot._render_callback()  # puts the goal's mark where the goal is
        views = []
        for camera in self._cameras:
            self._renderer.update_scene(self.robot.data, camera)
            for flag in LEAN:
                self._renderer.scene.flags[flag] = 0
            views.append(self._renderer.render())
        pixels = np.concatenate(views, axis=1)
        agent_pos = np.concatenate([self.gripper, self.command])
        return {"pixels": pixels, "agent_pos": agent_pos.astype(np.float32)}


class Reacher:
    """Moves to where it believes the goal to be: off by `offset`, and not steadily."""

    def __init__(self, rng: np.random.Generator, number: int) -> None:
        shaken = number % 3 > 0
        self.offset = rng.normal(0, 0.04 * shaken, 3)
        self.deviation, self.rng = 0.3 * shaken, rng
        self.noise = np.zeros(3)

    def act(self, env: FetchReachPixels) -> np.ndarray:
        """An action `(3,)` float32 in [-1, 1]."""
        self.noise = 0.8 * self.noise + 0.6 * self.deviation * self.rng.standard_normal(3)
        way = env.goal + self.offset - env.command
        return np.clip(way / STEP + self.noise, -1, 1).astype(np.float32)


gym.register("FetchReachPixels-v0", "examples.fetch_reach:FetchReachPixels")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    run(__doc__, arguments, FetchReachPixels, Reacher, DECISIONS, command_size=3)


if __name__ == "__main__":
    main()
