"""A real env of one's own: an arm that is told where to go pushes a block to the right edge."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

SIZE = 32


class OwnPushEnv(gym.Env[dict[str, np.ndarray], np.ndarray]):
    """Actions are the arm's target and the gripper's, 0 to 100, as in `fixtures/lerobot_v3`."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Dict(
            pixels=gym.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8),
            agent_pos=gym.spaces.Box(-np.inf, np.inf, (6,), np.float32),
        )
        self.action_space = gym.spaces.Box(0.0, 110.0, (3,), np.float32)
        self.largest = 0.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.state = np.array([10.0, 50.0, 20.0], np.float32)
        self.target = self.state.copy()
        self.block = self.np_random.uniform((30, 15), (40, 85))
        return self._seen(), {}

    def step(self, action: np.ndarray) -> Any:
        self.largest = max(self.largest, float(np.max(action)))
        self.target = np.asarray(action, np.float32)
        self.state = (self.state + 0.8 * (self.target - self.state)).astype(np.float32)
        if abs(self.state[1] - self.block[1]) < 16 and self.state[0] > self.block[0]:
            self.block[0] = min(float(self.state[0]), 96.0)
        done = bool(self.block[0] >= 85)
        return self._seen(), float(done), done, False, {"is_success": done}

    def _seen(self) -> dict[str, np.ndarray]:
        frame = np.full((SIZE, SIZE, 3), (70, 80, 90), np.uint8)
        column, row = round(self.block[0] * 0.3), 4 + round(self.block[1] * 0.2)
        frame[row : row + 3, column : column + 3] = (220, 60, 40)
        return {"pixels": frame, "agent_pos": np.concatenate([self.state, self.target])}


gym.register("OwnPush-v0", "own_push_env:OwnPushEnv")
