"""TorchRL's distributed collector: processes, here or on other machines, that step imagined envs.

    python examples/torchrl_distributed.py --task handle-pull --steps 4000 --nodes 2

Nodes talk through gloo, on port 10003 or `TCP_PORT`. `--launcher submitit` starts them as jobs of a
cluster.
"""

from __future__ import annotations

import argparse
import functools
import time

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn
from torchrl.collectors.distributed import DistributedCollector
from torchrl.envs import GymWrapper
from torchrl.modules import ProbabilisticActor, TanhNormal

import world4rl_gym

ROWS = 4


def make_env(world_model: str | None, task: str | None) -> GymWrapper:
    """Builds the rows of one node."""
    return GymWrapper(
        gym.make_vec(
            world4rl_gym.ENV_ID,
            ROWS,
            world_model=world_model,
            task=task,
            obs_type="features",
            autoreset_mode=AutoresetMode.DISABLED,  # TorchRL resets the rows by itself
        )
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--launcher", default="mp", choices=["mp", "submitit"])
    parser.add_argument("--task", help="one of the world model's tasks; any of them if left out")
    parser.add_argument("--world-model", help="a folder or a Hub id; the embedded default else")
    args = parser.parse_args(arguments)
    torch.manual_seed(0)

    make = functools.partial(make_env, args.world_model, args.task)
    env = make()
    seen, size = env.observation_spec["observation"].shape[-1], env.action_spec.shape[-1]
    env.close()
    layers = nn.Sequential(
        nn.Linear(seen, 64), nn.Tanh(), nn.Linear(64, 2 * size), NormalParamExtractor()
    )
    actor = ProbabilisticActor(
        TensorDictModule(layers, in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
        return_log_prob=True,
    )
    batch = 16 * ROWS * args.nodes
    collector = DistributedCollector(
        [make] * args.nodes,
        policy=actor,
        frames_per_batch=batch,
        total_frames=batch * max(1, args.steps // batch),
        launcher=args.launcher,
        backend="gloo",
        sync=True,
    )
    collected, successes, began = 0, 0.0, time.monotonic()
    try:
        for rollout in collector:  # learn here, as in torchrl_rollout.py
            collected += rollout.numel()
            successes += float(rollout["next", "reward"].sum())
    finally:
        collector.shutdown()
    seconds = time.monotonic() - began
    print(
        f"TorchRL, {args.nodes} nodes, {collected} imagined steps: {successes:.0f} imagined "
        f"successes, {collected / seconds:.0f} env steps/s"
    )


if __name__ == "__main__":
    main()
