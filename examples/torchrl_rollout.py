"""TorchRL's `GymWrapper` over `gym.make_vec`: a policy, collected rollouts, a PPO update.

python examples/torchrl_rollout.py --task handle-pull --steps 4000
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn
from torchrl.envs import GymWrapper
from torchrl.modules import ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import world4rl_gym


class Pixels(nn.Module):
    """`(..., H, W, 3)` uint8 frames to flat features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 8, stride=8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(64), nn.ReLU()
        )

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        batch = frames.shape[:-3]
        pixels = frames.flatten(0, -4).movedim(-1, 1) if batch else frames.movedim(-1, 0)[None]
        return self.layers(pixels.float() / 255).view(*batch, -1)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--task", help="one of the world model's tasks; any of them if left out")
    parser.add_argument("--world-model", help="a folder or a Hub id; the embedded default else")
    args = parser.parse_args(arguments)
    torch.manual_seed(0)

    rows, length = 4, 16
    env = GymWrapper(
        gym.make_vec(
            world4rl_gym.ENV_ID,
            rows,
            world_model=args.world_model,
            task=args.task,
            autoreset_mode=AutoresetMode.DISABLED,  # TorchRL resets the rows by itself
        )
    )
    size = env.action_spec.shape[-1]
    actor = ProbabilisticActor(
        TensorDictModule(
            nn.Sequential(Pixels(), nn.Linear(64, 2 * size), NormalParamExtractor()),
            in_keys=["observation"],
            out_keys=["loc", "scale"],
        ),
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
        return_log_prob=True,
    )
    critic = ValueOperator(nn.Sequential(Pixels(), nn.Linear(64, 1)), in_keys=["observation"])
    with torch.no_grad():
        critic(actor(env.reset(seed=0)))  # gives the lazy layers their sizes
    advantage = GAE(gamma=0.99, lmbda=0.95, value_network=critic)
    loss = ClipPPOLoss(actor, critic)
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-4)

    collected, rewards = 0, 0.0
    while collected < args.steps:
        with torch.no_grad():
            rollout = env.rollout(length, actor, break_when_any_done=False)
            advantage(rollout)
        terms = loss(rollout)
        total = sum(value for key, value in terms.items() if key.startswith("loss_"))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        collected += rollout.numel()
        rewards += float(rollout["next", "reward"].sum())
    print(f"TorchRL, {collected} imagined steps: {rewards:.0f} imagined successes")
    env.close()


if __name__ == "__main__":
    main()
