"""skrl's `wrap_env` over `gym.make_vec`, and its PPO.

python examples/skrl_ppo.py --task handle-pull --steps 4000
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium as gym
import torch
from skrl.agents.torch.ppo import PPO, PPO_CFG
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import DeterministicMixin, GaussianMixin, Model
from skrl.trainers.torch import SequentialTrainer
from skrl.utils import set_seed
from torch import nn

import world4rl_gym


def make_network(size: int, outputs: int) -> nn.Module:
    """Convolutions over the flat `(B, size * size * 3)` pixels that skrl hands over."""
    return nn.Sequential(
        nn.Unflatten(1, (size, size, 3)),
        nn.Flatten(2, 3),  # (B, size, size * 3): rows of pixels, colours beside one another
        nn.Unflatten(1, (1, size)),
        nn.Conv2d(1, 16, (8, 24), stride=(8, 24)),  # 8 x 8 pixels of three colours
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * (size // 8) ** 2, 64),
        nn.ReLU(),
        nn.Linear(64, outputs),
    )


class Policy(GaussianMixin, Model):
    def __init__(self, size: int, **spaces: Any) -> None:
        Model.__init__(self, **spaces)
        GaussianMixin.__init__(self, clip_actions=False)
        self.network = make_network(size, self.num_actions)
        self.log_std = nn.Parameter(torch.full((self.num_actions,), -0.5))

    def compute(self, inputs: dict[str, Any], role: str) -> tuple[torch.Tensor, dict[str, Any]]:
        return self.network(inputs["observations"].float() / 255), {"log_std": self.log_std}


class Value(DeterministicMixin, Model):
    def __init__(self, size: int, **spaces: Any) -> None:
        Model.__init__(self, **spaces)
        DeterministicMixin.__init__(self)
        self.network = make_network(size, 1)

    def compute(self, inputs: dict[str, Any], role: str) -> tuple[torch.Tensor, dict[str, Any]]:
        return self.network(inputs["observations"].float() / 255), {}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--task", help="one of the world model's tasks; any of them if left out")
    parser.add_argument("--world-model", help="a folder or a Hub id; the embedded default else")
    args = parser.parse_args(arguments)
    set_seed(0)

    rows, rollouts = 8, 16
    env = wrap_env(
        gym.make_vec(world4rl_gym.ENV_ID, rows, world_model=args.world_model, task=args.task)
    )
    spaces = {
        "observation_space": env.observation_space,
        "action_space": env.action_space,
        "device": env.device,
    }
    size = env.observation_space.shape[0]
    configuration = PPO_CFG(rollouts=rollouts, learning_epochs=4, learning_rate=3e-4)
    configuration.experiment.write_interval = 0
    configuration.experiment.checkpoint_interval = 0
    agent = PPO(
        models={"policy": Policy(size, **spaces), "value": Value(size, **spaces)},
        memory=RandomMemory(memory_size=rollouts, num_envs=rows, device=env.device),
        cfg=configuration,
        **spaces,
    )
    timesteps = max(args.steps // rows, rollouts)
    SequentialTrainer(
        env=env,
        agents=agent,
        cfg={
            "timesteps": timesteps,
            "headless": True,
            "disable_progressbar": True,
            "close_environment_at_exit": False,
        },
    ).train()
    env.close()
    print(f"skrl, {timesteps * rows} imagined steps: trained")


if __name__ == "__main__":
    main()
