"""PPO in one file over `gym.make_vec`, in the style of CleanRL: nothing hidden, edit at will.

python examples/cleanrl_style_ppo.py --task handle-pull --steps 20000
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from torch import Tensor, nn
from torch.distributions import Normal

import world4rl_gym

NUM_ENVS, LENGTH, EPOCHS, MINIBATCHES = 8, 32, 4, 4
GAMMA, LAMBDA, CLIP, ENTROPY, VALUE = 0.99, 0.95, 0.2, 0.0, 0.5


class Agent(nn.Module):
    """A small convolutional actor and critic on `(B, H, W, 3)` uint8 frames."""

    def __init__(self, env: gym.vector.VectorEnv) -> None:
        super().__init__()
        size = env.single_observation_space.shape[0] // 8
        outputs = env.single_action_space.shape[0]
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 32, 8, stride=8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * size * size, 128),
            nn.ReLU(),
        )
        self.mean, self.value = nn.Linear(128, outputs), nn.Linear(128, 1)
        self.log_std = nn.Parameter(torch.full((outputs,), -0.5))

    def forward(self, frames: Tensor) -> tuple[Normal, Tensor]:
        hidden = self.trunk(frames.movedim(-1, 1).float() / 255)
        return Normal(self.mean(hidden), self.log_std.exp()), self.value(hidden).squeeze(1)


def advantages_of(
    rewards: Tensor, values: Tensor, terminated: Tensor, over: Tensor, last_value: Tensor
) -> Tensor:
    """Generalised advantages `(LENGTH, NUM_ENVS)`.

    Under Gymnasium's NEXT_STEP autoreset the frame after a truncated step is that episode's own,
    so its value is there to be bootstrapped from; only the step after that begins a new episode.
    """
    advantages = torch.zeros_like(rewards)
    following = torch.zeros_like(last_value)
    next_values = torch.cat([values[1:], last_value[None]])
    for t in reversed(range(len(rewards))):
        bootstrap = next_values[t] * ~terminated[t]
        delta = rewards[t] + GAMMA * bootstrap - values[t]
        following = delta + GAMMA * LAMBDA * following * ~over[t]
        advantages[t] = following
    return advantages


def update(agent: Agent, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor]) -> None:
    """Several epochs of PPO's clipped objective over the flat transitions of `batch`."""
    count = len(batch["frames"])
    for _ in range(EPOCHS):
        for rows in torch.randperm(count).chunk(MINIBATCHES):
            distribution, value = agent(batch["frames"][rows])
            log_prob = distribution.log_prob(batch["actions"][rows]).sum(1)
            ratio = (log_prob - batch["log_probs"][rows]).exp()
            advantage = batch["advantages"][rows]
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            gain = torch.min(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
            value_loss = (value - batch["returns"][rows]).square().mean()
            entropy = distribution.entropy().sum(1).mean()
            loss = -gain.mean() + VALUE * value_loss - ENTROPY * entropy
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--task", help="one of the world model's tasks; any of them if left out")
    parser.add_argument("--world-model", help="a folder or a Hub id; the embedded default else")
    args = parser.parse_args(arguments)
    torch.manual_seed(0)

    env = RecordEpisodeStatistics(
        gym.make_vec(world4rl_gym.ENV_ID, NUM_ENVS, world_model=args.world_model, task=args.task)
    )
    agent = Agent(env)
    optimizer = torch.optim.Adam(agent.parameters(), lr=3e-4, eps=1e-5)
    frames, _ = env.reset(seed=0)
    over = np.zeros(NUM_ENVS, bool)
    step = 0
    while step < args.steps:
        rollout: dict[str, list[Tensor]] = {}
        for _ in range(LENGTH):
            seen = torch.from_numpy(frames)
            with torch.no_grad():
                distribution, value = agent(seen)
            action = distribution.sample()
            # The step after an episode's end only resets; what is done there is not experience.
            real = torch.from_numpy(~over)
            frames, reward, terminated, truncated, _ = env.step(action.numpy())
            over = terminated | truncated
            for name, entry in {
                "frames": seen,
                "actions": action,
                "log_probs": distribution.log_prob(action).sum(1),
                "values": value,
                "rewards": torch.from_numpy(reward).float(),
                "terminated": torch.from_numpy(terminated),
                "over": torch.from_numpy(over),
                "real": real,
            }.items():
                rollout.setdefault(name, []).append(entry)
            step += NUM_ENVS
        data = {name: torch.stack(entries) for name, entries in rollout.items()}
        with torch.no_grad():
            last_value = agent(torch.from_numpy(frames))[1]
        data["advantages"] = advantages_of(
            data["rewards"], data["values"], data["terminated"], data["over"], last_value
        )
        data["returns"] = data["advantages"] + data["values"]
        real = data.pop("real")
        update(agent, optimizer, {name: entries[real] for name, entries in data.items()})
    returns = list(env.return_queue)
    print(
        f"CleanRL-style PPO, {step} imagined steps: imagined success "
        f"{np.mean(returns) if returns else 0:.2f} in the last {len(returns)} episodes"
    )
    env.close()


if __name__ == "__main__":
    main()
