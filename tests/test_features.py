"""Features: the same vector in imagination and on a real env, from the same inputs."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import ACTIONS, COMMANDS, SIZE, STATES

from world4rl_gym import ImaginedVecEnv, MemoryFeatures
from world4rl_gym.features import feature_size
from world4rl_gym.imagination import Imagination
from world4rl_gym.world_model import WorldModel


class Robot(gym.Env[dict[str, np.ndarray], np.ndarray]):
    """A robot that moves exactly as an imagined one did."""

    def __init__(self, frame: np.ndarray, agent_pos: np.ndarray) -> None:
        self.observation_space = gym.spaces.Dict(
            {
                "pixels": gym.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8),
                "agent_pos": gym.spaces.Box(-np.inf, np.inf, (STATES + COMMANDS,), np.float32),
            }
        )
        self.action_space = gym.spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32)
        self.frame, self.agent_pos, self.steps = frame, agent_pos, 0

    def observe(self) -> dict[str, np.ndarray]:
        frame = self.frame if self.steps == 0 else np.zeros_like(self.frame)
        return {"pixels": frame, "agent_pos": self.agent_pos[self.steps]}

    def reset(self, **arguments: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        self.steps, self.asked = 0, arguments
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, Any]:
        self.steps += 1
        return self.observe(), 0.0, False, False, {}


def test_imagined_and_real_features_are_equal(tiny_world_model: WorldModel) -> None:
    imagination = Imagination(1, tiny_world_model, task="pull", success_threshold=0.9999)
    imagination.reset()
    frame = imagination.frames[0].permute(1, 2, 0).numpy()
    imagined, agent_pos = [imagination.features[0].numpy()], [imagination.agent_pos[0].numpy()]
    rng = np.random.default_rng(0)
    for _ in range(6):
        imagination.step(rng.uniform(-1, 1, (1, ACTIONS)).astype(np.float32))
        imagined.append(imagination.features[0].numpy())
        agent_pos.append(imagination.agent_pos[0].numpy())
    env = MemoryFeatures(
        Robot(frame, np.stack(agent_pos).astype(np.float64)), tiny_world_model, "pull"
    )
    for _ in range(2):  # the second episode holds nothing of the first
        seen = [env.reset()[0]]
        seen += [env.step(np.zeros(ACTIONS, np.float32))[0] for _ in range(6)]
        np.testing.assert_allclose(np.stack(seen), np.stack(imagined), atol=1e-5)
    assert all(env.observation_space.contains(one) for one in seen)  # from float64 as well
    env.reset(seed=3, options={"place": 1})
    assert env.unwrapped.asked == {"seed": 3, "options": {"place": 1}}  # type: ignore[attr-defined]
    assert not np.allclose(imagined[0], imagined[6], atol=0.05)


def test_features_are_those_of_the_task(tiny_world_model: WorldModel) -> None:
    shapes = []
    for task in ("push", "pull"):
        env = ImaginedVecEnv(3, world_model=tiny_world_model, task=task, obs_type="features")
        shapes.append(env.reset().shape)
        env.close()
    assert shapes == [(3, feature_size(tiny_world_model))] * 2


@pytest.mark.parametrize("missing", ["pixels", "agent_pos"])
def test_an_env_that_tells_too_little_is_refused(
    tiny_world_model: WorldModel, missing: str
) -> None:
    robot = Robot(np.zeros((SIZE, SIZE, 3), np.uint8), np.zeros((1, STATES + COMMANDS)))
    spaces = {k: v for k, v in robot.observation_space.items() if k != missing}  # type: ignore[attr-defined]
    robot.observation_space = gym.spaces.Dict(spaces)
    with pytest.raises(ValueError, match="observation_space: expected a Dict"):
        MemoryFeatures(robot, tiny_world_model, "push")
