"""Cloning a flow policy, and refining what chooses its noise by PPO in imagination."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from training.policies.imitation import NOISE, done_of, features_of
from training.policies.refinement import Point, make_judge, practice_env, refine
from world4rl_gym.episodes import Episode
from world4rl_gym.policy import make_policy, policy_config
from world4rl_gym.steering import NOISE_SCALE, FlowPolicy, SteeredPolicy
from world4rl_gym.world_model import WorldModel


class SteeredRows(VecEnvWrapper):
    """`NoiseSteering` for rows of SB3, which take actions in [-1, 1]."""

    def __init__(self, env: VecEnv, flow: FlowPolicy) -> None:
        super().__init__(env)
        self._flow = flow

    def reset(self) -> Any:
        """Passes on."""
        self._seen = self.venv.reset()
        return self._seen

    def step_async(self, actions: np.ndarray) -> None:
        """Takes noise, `(num_envs, A)` in [-1, 1]."""
        assert isinstance(self._seen, np.ndarray)
        self.venv.step_async(self._flow.steered(self._seen, actions))

    def step_wait(self) -> Any:
        """Passes on."""
        result = self.venv.step_wait()
        self._seen = result[0]
        return result


def clone_flow(
    episodes: Sequence[Episode], world_model: WorldModel, steps: int = 4000, seed: int = 0
) -> FlowPolicy:
    """Clones demonstrations of one task by flow matching.

    Args:
        episodes: The demonstrations.
        world_model: In which the policy is to act.
        steps: Gradient steps.
        seed: Seed of the network, of batches and of noise.
    """
    seen, done = features_of(world_model, episodes), done_of(episodes)
    scale = seen.std(dim=0)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = FlowPolicy(episodes[0].task, seen.shape[1], done.shape[1])
    optimizer = torch.optim.AdamW(flow.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(done), (256,), generator=generator)
        shown = seen[rows]
        shown = shown + NOISE * scale * torch.randn(shown.shape, generator=generator)
        noise = torch.randn(256, done.shape[1], generator=generator)
        sigma = torch.rand(256, generator=generator)
        noisy = sigma[:, None] * noise + (1 - sigma[:, None]) * done[rows]
        loss = (flow(shown, noisy, sigma) - (noise - done[rows])).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return flow.eval().requires_grad_(False)


def steer(
    flow: FlowPolicy, world_model: WorldModel, task: str, steps: int, seed: int
) -> tuple[SteeredPolicy, list[Point]]:
    """Refines, in the world model, a policy that chooses the flow policy's noise.

    PPO explores with Gaussian noise first, that is, with the flow policy as it was cloned. What is
    judged, and handed out, takes the mean noise, which begins at zero.

    Args:
        flow: It is not changed.
        world_model: Where it acts.
        task: The task.
        steps: Env steps at most.
        seed: Of PPO and of the starts.

    Returns:
        The best judged policy, and how policies were judged on the way.
    """
    begun = make_policy(policy_config(world_model, task), seed)
    with torch.no_grad():
        begun.action.weight.zero_()
        begun.log_std.fill_(math.log(1 / NOISE_SCALE))
    judge = make_judge(world_model, task)
    rows = SteeredRows(practice_env(world_model, task, seed), flow)
    try:
        refined = refine(
            begun, rows, steps, seed, f"{task} steering", lambda p: judge(SteeredPolicy(flow, p))
        )
    finally:
        rows.close()
    return SteeredPolicy(flow, refined.policy), refined.curve
