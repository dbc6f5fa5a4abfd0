"""Stable-Baselines3's PPO around our policies: into it, its critic first, and out of it again."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from world4rl_gym.policy import DEVIATION, Encoder, Policy, PolicyConfig
from world4rl_gym.world_model import WorldModel

ROLLOUT_STEPS = 3200
"""Env steps between two updates, over all rows."""
CRITIC_STEPS = 16_000
"""Env steps in which the critic learns before the policy does."""


class _Extractor(BaseFeaturesExtractor):
    """A policy's encoder, as SB3 wants it: SB3 hands frames over as floats in [0, 1]."""

    def __init__(self, space: gym.Space[Any], config: PolicyConfig) -> None:
        encoder = Encoder(config)
        super().__init__(space, encoder.size)
        self.encoder, self._obs_type = encoder, config.obs_type

    def forward(self, seen: Any) -> torch.Tensor:
        if self._obs_type == "features":
            return self.encoder(None, seen)
        if self._obs_type == "pixels":
            return self.encoder(2 * seen - 1, None)
        return self.encoder(2 * seen["pixels"] - 1, seen["agent_pos"])


def make_ppo(policy: Policy, env: VecEnv, seed: int) -> PPO:
    """SB3's PPO as it comes, with rollouts of `ROLLOUT_STEPS`, on a copy of `policy`."""
    config = policy.shape
    model = PPO(
        ActorCriticPolicy,
        env,
        n_steps=max(1, ROLLOUT_STEPS // env.num_envs),
        batch_size=400,
        n_epochs=4,
        learning_rate=1e-4,
        gamma=0.999,
        target_kl=0.05,
        seed=seed,
        device="cpu",
        policy_kwargs={
            "net_arch": [config.width, config.width],
            "log_std_init": math.log(DEVIATION),
            "features_extractor_class": _Extractor,
            "features_extractor_kwargs": {"config": config},
        },
    )
    for ours, theirs in _parts(policy, model):
        theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        model.policy.log_std.copy_(policy.log_std)
    return model


def policy_of(ppo: PPO, like: Policy) -> Policy:
    """PPO's present policy, a copy; `like` is the policy that it began with."""
    policy = Policy(**dataclasses.asdict(like.shape))
    for ours, theirs in _parts(policy, ppo):
        ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        policy.log_std.copy_(ppo.policy.log_std)
    return policy.eval().requires_grad_(False)


def _parts(policy: Policy, ppo: PPO) -> list[tuple[torch.nn.Module, torch.nn.Module]]:
    """The actor's parts, ours and SB3's."""
    theirs: Any = ppo.policy
    return [
        (policy.encoder, theirs.pi_features_extractor.encoder),
        (policy.hidden, theirs.mlp_extractor.policy_net),
        (policy.action, theirs.action_net),
    ]


def learn_critic(ppo: PPO, steps: int) -> None:
    """Trains the critic alone, for so many env steps: a clone comes without one.

    With a critic that knows nothing, PPO's first updates lead a strong clone astray.
    """
    actor = [p for name, p in ppo.policy.named_parameters() if "value" not in name]
    for parameter in actor:
        parameter.requires_grad_(False)
    ppo.learn(steps)
    for parameter in actor:
        parameter.requires_grad_(True)


class UnitActions(VecEnvWrapper):
    """Takes actions in [-1, 1], as policies give them, whatever the robot's units.

    Args:
        env: Rows of the imagined env.
        world_model: Whose units they have.
    """

    def __init__(self, env: VecEnv, world_model: WorldModel) -> None:
        space = gym.spaces.Box(-1.0, 1.0, (world_model.action_size,), np.float32)
        super().__init__(env, action_space=space)
        self._unscale = world_model.unscale_actions

    def reset(self) -> Any:
        """Passes on."""
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        """Takes `(num_envs, A)` in [-1, 1]."""
        self.venv.step_async(self._unscale(actions))

    def step_wait(self) -> Any:
        """Passes on."""
        return self.venv.step_wait()
