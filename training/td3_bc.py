"""TD3+BC: offline reinforcement learning on episodes alone, to compare refinement with.

    python -m training.td3_bc --policy runs/clone/hammer --episodes data/episodes --out runs/td3_bc

As Fujimoto and Gu, "A Minimalist Approach to Offline Reinforcement Learning" (arXiv 2106.06860):
the actor maximises `alpha * Q / mean |Q|` less its squared distance from the actions in the data,
the critics are TD3's (arXiv 1802.09477), frames are shifted at random. The reward is 1 at the first
solved frame, which ends an episode; the horizon ends none. The actor begins as a cloned policy, and
what is saved is a policy of the same kind. Uses neither the world model nor the real env.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from training import command
from training.averaging import update_ema
from training.clone_policy import random_shift
from training.episodes import Episode, EpisodeError, load_episodes
from training.locks import locked
from training.policy import (
    GaussianCnnPolicy,
    actor_parameters,
    load_policy,
    load_policy_config,
    save_policy,
)
from training.policy_network import FrameEncoder
from training.settings import keep_settings, require_at_least, require_within
from world4rl_gym.pixels import channels_first


@dataclasses.dataclass(frozen=True)
class Args:
    """Command line of `training.td3_bc`.

    Attributes:
        policy: Folder of the cloned policy that the actor begins as.
        out: Folder of the policy.
        episodes: Folder of episodes; all training episodes of the policy's task are learned from.
        steps: Gradient steps of the critics.
        batch_size: Decisions a step.
        learning_rate: Adam's, of the critics.
        actor_learning_rate: Adam's, of the actor.
        alpha: Weight of the critic against the squared distance from the data. The paper's is 2.5,
            for states that tell everything and many thousand episodes; of a hundred episodes of
            frames that, and a tenth of it, leaves little of the clone (results/log.md).
        gamma: Discount.
        target_decay: Decay of the target networks.
        target_noise: Deviation of the noise on the target's action, clipped at two and a half
            times as much.
        policy_delay: Critic steps an actor step.
        warmup: First steps, in which the critics alone learn; less than `steps`.
        shift: Largest random shift of a frame, in pixels.
        seed: Seed of critics, batches and noise.
    """

    policy: Path
    out: Path
    episodes: Path = Path("data/episodes")
    steps: int = 3000
    batch_size: int = 128
    learning_rate: float = 3e-4
    actor_learning_rate: float = 1e-4
    alpha: float = 0.03
    gamma: float = 0.99
    target_decay: float = 0.995
    target_noise: float = 0.2
    policy_delay: int = 2
    warmup: int = 1000
    shift: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, 1, "steps", "batch_size", "policy_delay")
        require_at_least(self, 0, "alpha", "target_noise", "shift")
        require_within(self, 0, self.steps - 1, "warmup")
        require_within(self, 0, 1, "gamma", "target_decay")


@dataclasses.dataclass(frozen=True)
class Transitions:
    """Decisions of episodes, each episode up to its first solved frame.

    Attributes:
        frames: `(F, 3, H, W)` uint8, of all episodes.
        now: `(N,)` int64, the frame of each decision; the next frame follows it.
        actions: `(N, A)` float32.
        solved: `(N,)` float32, 1 where the next frame is the first solved one.
    """

    frames: Tensor
    now: Tensor
    actions: Tensor
    solved: Tensor

    @classmethod
    def of(cls, episodes: Sequence[Episode]) -> Transitions:
        """Takes episodes apart.

        Raises:
            EpisodeError: None of them is solved, or there are none.
        """
        now, actions, solved = [], [], []
        first = 0
        for episode in episodes:
            count = int(np.argmax(episode.success)) + 1 if episode.solved else len(episode)
            now.append(np.arange(first, first + count))
            actions.append(episode.actions[:count])
            solved.append(episode.success[:count].astype(np.float32))
            first += len(episode.frames)
        if not any(part.any() for part in solved):
            raise EpisodeError(
                "success: expected a solved episode at least; no reward to learn from"
            )
        frames = channels_first(torch.from_numpy(np.concatenate([e.frames for e in episodes])))
        parts = [torch.from_numpy(np.concatenate(part)) for part in (now, actions, solved)]
        return cls(frames, *parts)


class TwinCritic(nn.Module):
    """Two estimates of the return of an action, on one encoder."""

    def __init__(self, observation_space: gym.spaces.Box, action_size: int) -> None:
        super().__init__()
        self.encoder = FrameEncoder(observation_space)
        width = self.encoder.features_dim + action_size
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, 1)) for _ in range(2)
        )

    def forward(self, frames: Tensor, actions: Tensor) -> Tensor:
        """`(B, 3, H, W)` uint8 and `(B, A)` -> `(2, B)` float32."""
        features = torch.cat([self.encoder(frames.float() / 255), actions], dim=1)
        return torch.stack([head(features).squeeze(1) for head in self.heads])


def mean_action(policy: GaussianCnnPolicy, frames: Tensor) -> Tensor:
    """The policy's deterministic action, `(B, A)` in [-1, 1]."""
    gaussian: Any = policy.get_distribution(frames).distribution
    return gaussian.mean.clamp(-1, 1)


def learn(args: Args, policy: GaussianCnnPolicy, data: Transitions) -> None:
    """Improves the policy in place; targets are kept within [0, 1], as every return is."""
    assert isinstance(policy.observation_space, gym.spaces.Box)
    generator = torch.Generator().manual_seed(args.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        critic = TwinCritic(policy.observation_space, data.actions.shape[1])
    target_critic = copy.deepcopy(critic).requires_grad_(False)
    target_policy = type(policy)(**policy._get_constructor_parameters())
    target_policy.load_state_dict(policy.state_dict())
    target_policy.requires_grad_(False)
    actor = actor_parameters(policy)
    target_actor = actor_parameters(target_policy)
    critic_optimizer = torch.optim.Adam(critic.parameters(), lr=args.learning_rate)
    actor_optimizer = torch.optim.Adam(actor.values(), lr=args.actor_learning_rate)
    policy.set_training_mode(True)
    bar = tqdm(range(args.steps), unit="step", desc=f"TD3+BC {policy.task}", mininterval=1)
    for step in bar:
        rows = torch.randint(len(data.now), (args.batch_size,), generator=generator)
        frames = random_shift(data.frames[data.now[rows]], args.shift, generator)
        following = random_shift(data.frames[data.now[rows] + 1], args.shift, generator)
        actions, solved = data.actions[rows], data.solved[rows]
        with torch.no_grad():
            noise = torch.randn(actions.shape, generator=generator) * args.target_noise
            most = 2.5 * args.target_noise
            planned = mean_action(target_policy, following) + noise.clamp(-most, most)
            later = target_critic(following, planned.clamp(-1, 1)).amin(0)
            wanted = solved + args.gamma * (1 - solved) * later.clamp(0, 1)
        critic_loss = F.mse_loss(critic(frames, actions), wanted.expand(2, -1))
        critic_optimizer.zero_grad()
        critic_loss.backward()
        critic_optimizer.step()
        if step % args.policy_delay == 0:
            if step >= args.warmup:
                chosen = mean_action(policy, frames)
                value = critic(frames, chosen)[0]
                scale = args.alpha / value.detach().abs().mean().clamp(min=1e-3)
                actor_loss = F.mse_loss(chosen, actions) - scale * value.mean()
                actor_optimizer.zero_grad()
                actor_loss.backward()
                actor_optimizer.step()
            update_ema(target_critic, critic, args.target_decay, step)
            with torch.no_grad():
                for name, own in target_actor.items():
                    own.lerp_(actor[name], 1 - args.target_decay)
        if step % 50 == 0:
            bar.set_postfix(critic=f"{critic_loss.item():.4f}")
    policy.set_training_mode(False)


def run(args: Args) -> None:
    """Loads episodes and policy, learns, and saves the policy to `args.out`.

    Raises:
        EpisodeError: There are no episodes of the policy's task, or none of them is solved.
        PolicyError: The policy cannot be read.
        SettingsError: The folder holds another run.
        InUseError: Another process is training into it.
    """
    policy, config = load_policy(args.policy), load_policy_config(args.policy)
    data = Transitions.of(load_episodes(args.episodes, "train", [config.task]))
    with locked(args.out):
        keep_settings(args, args.out)
        learn(args, policy, data)
        save_policy(policy, config, args.out)


def main() -> None:
    """Runs the command line."""
    run(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)
