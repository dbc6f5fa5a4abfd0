"""Stable-Baselines3 PPO in imagination: training, evaluation, saving and loading.

python examples/sb3_ppo.py --task handle-pull --steps 20000
"""

from __future__ import annotations

import argparse
from pathlib import Path

from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor

from world4rl_gym import ImaginedVecEnv


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--task", help="one of the world model's tasks; any of them if left out")
    parser.add_argument("--world-model", help="a folder or a Hub id; the embedded default else")
    parser.add_argument("--out", type=Path, default=Path("runs/sb3_ppo"))
    args = parser.parse_args(arguments)

    env = VecMonitor(ImaginedVecEnv(8, world_model=args.world_model, task=args.task))
    eval_env = VecMonitor(ImaginedVecEnv(4, world_model=args.world_model, task=args.task))
    evaluate = EvalCallback(
        eval_env,
        n_eval_episodes=8,
        eval_freq=max(args.steps // 4 // env.num_envs, 1),
        best_model_save_path=str(args.out),
        verbose=0,
    )
    model = PPO("CnnPolicy", env, n_steps=32, batch_size=64, n_epochs=4, seed=0)
    model.learn(args.steps, callback=evaluate)
    model.save(args.out / "last")

    best = PPO.load(args.out / "best_model", env=eval_env)
    success, _ = evaluate_policy(best, eval_env, n_eval_episodes=8)
    print(f"PPO, {model.num_timesteps} imagined steps: imagined success {success:.2f}")
    env.close()
    eval_env.close()


if __name__ == "__main__":
    main()
