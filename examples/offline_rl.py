"""Offline RL on the data that a world model learned from, for comparison: d3rlpy's IQL or TD3+BC.

d3rlpy wants another Gymnasium than this project, so it has an environment of its own:

    python -m venv d3rlpy && d3rlpy/bin/pip install d3rlpy==2.8.1
    python -m examples.offline_rl export --task lever-pull --out runs/offline/lever-pull.npz
    d3rlpy/bin/python examples/offline_rl.py train --algorithm IQL \\
        --data runs/offline/lever-pull.npz --out runs/offline/lever-pull-iql-0.pt
    python -m examples.offline_rl evaluate --task lever-pull \\
        --policy runs/offline/lever-pull-iql-0.pt

Features and actions are those of refinement. Success pays 1 and ends an episode.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np


def export(args: argparse.Namespace) -> None:
    """Writes decisions of all training episodes of a task up to their success.

    Arrays of N decisions, float32: `observations` `(N, F)`, features; `actions` `(N, A)` in
    [-1, 1]; `rewards`, `terminals` and `timeouts` `(N,)`, 0 or 1.
    """
    from training.policies.imitation import features_of
    from world4rl_gym.episodes import load_episodes
    from world4rl_gym.world_model import WorldModel

    world_model = WorldModel.from_pretrained(args.world_model)
    parts: dict[str, list[Any]] = {}
    for episode in load_episodes(args.episodes, "train", [args.task]):
        count = len(episode.actions)
        if episode.success.any():
            count = int(episode.success.argmax()) + 1
        last = np.arange(count) == count - 1
        rows = {
            "observations": features_of(world_model, [episode]).numpy()[:count],
            "actions": episode.actions[:count],
            "rewards": (last & episode.solved).astype(np.float32),
            "terminals": (last & episode.solved).astype(np.float32),
            "timeouts": (last & (not episode.solved)).astype(np.float32),
        }
        for name, values in rows.items():
            parts.setdefault(name, []).append(values)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(args.out, **{name: np.concatenate(some) for name, some in parts.items()})
    solved = int(sum(some.sum() for some in parts["terminals"]))
    print(f"{len(parts['actions'])} episodes, {solved} of which are solved: {args.out}")


def train(args: argparse.Namespace) -> None:
    """Trains in d3rlpy's own environment, with its default settings; writes TorchScript."""
    import d3rlpy

    d3rlpy.seed(args.seed)
    with np.load(args.data) as data:
        dataset = d3rlpy.dataset.MDPDataset(**data)
    configs = {"IQL": d3rlpy.algos.IQLConfig, "TD3+BC": d3rlpy.algos.TD3PlusBCConfig}
    algorithm = configs[args.algorithm](gamma=0.99).create(device="cpu")
    algorithm.fit(
        dataset,
        n_steps=args.steps,
        n_steps_per_epoch=args.steps,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    algorithm.save_policy(str(args.out))


def evaluate(args: argparse.Namespace) -> None:
    """Measures a trained policy in the real env, from the table's test starts."""
    import torch

    from examples.measuring import real_success
    from world4rl_gym.world_model import WorldModel

    class Loaded:
        """Acts `(B, F)` -> `(B, A)` by the exported network."""

        obs_type = "features"
        network = torch.jit.load(str(args.policy))

        def act(self, observation: Any) -> np.ndarray:
            with torch.inference_mode():
                seen = torch.from_numpy(np.asarray(observation, np.float32))
                return np.asarray(self.network(seen).clamp(-1, 1).numpy())

    torch.set_num_threads(1)
    world_model = WorldModel.from_pretrained(args.world_model)
    print(args.policy, real_success(Loaded(), world_model, args.task, args.count))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for function in (export, train, evaluate):
        own = commands.add_parser(function.__name__, help=function.__doc__)
        own.set_defaults(function=function)
        if function is train:
            own.add_argument("--data", type=Path, required=True)
            own.add_argument("--algorithm", choices=("IQL", "TD3+BC"), default="IQL")
            own.add_argument("--steps", type=int, default=30_000)
            own.add_argument("--seed", type=int, default=0)
        else:
            own.add_argument("--task", required=True)
            own.add_argument("--world-model", help="for its features; the embedded one else")
        if function is export:
            own.add_argument("--episodes", type=Path, default=Path("data/episodes"))
        if function is evaluate:
            own.add_argument("--policy", type=Path, required=True)
            own.add_argument("--count", type=int, default=100, help="test starts")
        else:
            own.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    args.function(args)


if __name__ == "__main__":
    main()
