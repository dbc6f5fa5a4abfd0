"""Stable-Baselines3 SAC in imagination: on frames from nothing, or on features from a clone.

    python -m examples.sb3_sac --task handle-pull --steps 20000
    python -m examples.sb3_sac --task lever-pull --policy runs/clone/lever-pull/policy \\
        --steps 100000 --real 100

From a clone, its actor learns the clone's actions first, and its replay buffer begins with the
clone's imagined episodes. `--real N` then measures N episodes in the real env.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from examples.measuring import real_success
from training.policies.ppo import UnitActions
from training.policies.refinement import ProgressReward
from world4rl_gym import ImaginedVecEnv, Policy
from world4rl_gym.world_model import WorldModel

PREFILLED, NOISE, IMITATION_STEPS = 40_000, 0.2, 3000
"""Steps of the clone in the buffer, the deviation of its noise, and gradient steps of imitation."""
FRAMES = {"buffer_size": 10_000, "learning_starts": 100, "batch_size": 64, "train_freq": 8}
"""A buffer of 250 MB of 64 x 64 frames."""


def begin_with(model: SAC, env: VecEnv, policy: Policy) -> None:
    """Fills the replay buffer with a clone's episodes, and fits the actor to its actions.

    Args:
        model: SAC on features.
        env: Its rows; features `(B, F)`, actions `(B, A)` in [-1, 1].
        policy: The clone.
    """
    rng = np.random.default_rng(0)
    buffer: Any = model.replay_buffer
    seen: Any = env.reset()
    for _ in range(PREFILLED // env.num_envs):
        action = policy.act(seen) + NOISE * rng.standard_normal(
            (env.num_envs, env.action_space.shape[0])
        )
        action = np.clip(action, -1, 1).astype(np.float32)
        following, reward, done, infos = env.step(action)
        last: Any = np.array(following)
        for row in np.flatnonzero(done):
            last[row] = infos[row]["terminal_observation"]
        buffer.add(seen, last, action, reward, done, infos)
        seen = following
    for _ in range(IMITATION_STEPS):
        observations = buffer.sample(256).observations
        advised = torch.from_numpy(policy.act(observations.numpy()))
        loss = (model.actor(observations, deterministic=True) - advised).square().mean()
        model.actor.optimizer.zero_grad()
        loss.backward()
        model.actor.optimizer.step()


class Actor:
    """SAC's mean action, as real episodes are played with."""

    obs_type = "features"

    def __init__(self, model: SAC) -> None:
        self._model = model

    def act(self, observation: Any) -> np.ndarray:
        """`(B, F)` -> `(B, A)` in [-1, 1]."""
        return self._model.predict(observation, deterministic=True)[0]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--task", help="one of the world model's tasks; any of them if left out")
    parser.add_argument("--world-model", help="a folder or a Hub id; the embedded default else")
    parser.add_argument("--policy", help="a clone on features to begin with; frames else")
    parser.add_argument("--real", type=int, default=0, help="real episodes, with --policy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/sb3_sac"))
    args = parser.parse_args(arguments)
    if (args.policy and not args.task) or (args.real and not args.policy):
        parser.error("--policy needs --task, and --real needs --policy")

    world_model = WorldModel.from_pretrained(args.world_model)
    policy = Policy.from_pretrained(args.policy) if args.policy else None
    if policy is not None and policy.obs_type != "features":
        parser.error(f"--policy: expected one on features, got on {policy.obs_type}")

    def rows(count: int) -> VecEnv:
        kind = "features" if policy else "pixels"
        return ImaginedVecEnv(count, world_model=world_model, task=args.task, obs_type=kind)

    if policy is None:
        env, eval_env = VecMonitor(rows(8)), VecMonitor(rows(4))
        how: dict[str, Any] = {"policy": "CnnPolicy", "gradient_steps": 4, **FRAMES}
    else:
        env = ProgressReward(UnitActions(VecMonitor(rows(64)), world_model))
        eval_env = UnitActions(VecMonitor(rows(64)), world_model)
        how = {"policy": "MlpPolicy", "gradient_steps": 16, "learning_starts": 0}
        how |= {"gamma": 0.98, "ent_coef": "auto_0.01"}  # as little noise as a clone bears
    evaluate = EvalCallback(
        eval_env,
        n_eval_episodes=eval_env.num_envs * 2,
        eval_freq=max(args.steps // 4 // env.num_envs, 1),
        best_model_save_path=str(args.out),
        verbose=0,
    )
    model = SAC(env=env, seed=args.seed, **how)
    if policy is not None:
        begin_with(model, env, policy)
    model.learn(args.steps, callback=evaluate)
    model.save(args.out / "last")

    best = SAC.load(args.out / "best_model", env=eval_env)
    success, _ = evaluate_policy(best, eval_env, n_eval_episodes=8 if policy is None else 128)
    print(f"SAC, {model.num_timesteps} imagined steps: imagined success {success:.2f}")
    if args.real:
        print(f"real success {real_success(Actor(best), world_model, args.task, args.real)}")
    env.close()
    eval_env.close()


if __name__ == "__main__":
    main()
