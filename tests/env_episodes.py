"""Episodes of the single env, as its tests play them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

import world4rl_gym
from world4rl_gym import ImaginedEnv, WorldModel

ID = world4rl_gym.ENV_ID


def make(world_model: WorldModel, **arguments: Any) -> ImaginedEnv:
    return ImaginedEnv(world_model, **{"max_episode_steps": 6, **arguments})


def rollout(env: gym.Env, seed: int, steps: int) -> list[Any]:
    """Everything that `steps` steps over several episodes return, from one seeded reset on."""
    rng = np.random.default_rng(seed)
    returned: list[Any] = [env.reset(seed=seed)]
    for _ in range(steps):
        returned.append(env.step(rng.uniform(-1.2, 1.2, env.action_space.shape)))
        if returned[-1][2] or returned[-1][3]:
            returned.append(env.reset())
    return returned
