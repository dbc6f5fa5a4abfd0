"""Ray RLlib's PPO with env runners, for those who outgrow one machine.

RLlib pins another Gymnasium (1.2), so give it an environment of its own. On a busy or small machine
Ray's start needs more time than it gives itself:

    python -m venv rllib && rllib/bin/pip install world4rl-gym "ray[rllib]"
    OMP_NUM_THREADS=1 RAY_raylet_start_wait_time_s=300 \\
        rllib/bin/python examples/rllib_ppo.py --task handle-pull --steps 4000 --runners 2
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium as gym
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.tune.registry import register_env

import world4rl_gym


def make_env(config: dict[str, Any]) -> gym.Env:
    """Builds one env within an env runner."""
    return gym.make(world4rl_gym.ENV_ID, **config)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--runners", type=int, default=2, help="processes that step envs")
    parser.add_argument("--task", help="one of the world model's tasks; any of them if left out")
    parser.add_argument("--world-model", help="a folder or a Hub id; the embedded default else")
    args = parser.parse_args(arguments)

    imagined = {"world_model": args.world_model, "task": args.task, "obs_type": "features"}
    register_env("imagined", make_env)
    config = (
        PPOConfig()
        .environment("imagined", env_config=imagined)
        .env_runners(num_env_runners=args.runners, num_envs_per_env_runner=2)
        .training(train_batch_size_per_learner=512, minibatch_size=128, num_epochs=2)
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[64, 64]))
    )
    algorithm = config.build_algo()
    steps = 0
    while steps < args.steps:
        result = algorithm.train()["env_runners"]
        steps = int(result["num_env_steps_sampled_lifetime"])
        print(
            f"RLlib PPO, {steps} imagined steps: mean imagined return "
            f"{result.get('episode_return_mean', float('nan')):.2f}"
        )
    algorithm.stop()


if __name__ == "__main__":
    main()
