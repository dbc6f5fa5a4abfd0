"""Measures a policy on features, in the real env and in imagination, from the same starts.

python -m training.evaluate_policy --task hammer --policy runs/refined/hammer/policy
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import tyro
from tqdm import tqdm

from training import command
from training.features_policy import Act, load_policy, mean_actions, plan
from training.formatting import format_rate
from training.metrics import rate
from training.real_env import RealEnv, check_task, require_real_env, split_seeds
from training.records import save_record
from training.rollouts import make_real_env, play, real_starts
from training.settings import require_at_least
from world4rl_gym.imagination import Imagination
from world4rl_gym.initial_frames import InitialFrames
from world4rl_gym.world_model import WorldModel


@dataclasses.dataclass(frozen=True)
class Args:
    """Command line of `training.evaluate_policy`.

    Attributes:
        task: The task.
        policy: Folder of the policy.
        world_model: Folder or Hub id; None is the embedded one.
        episodes: Real episodes, and imagined ones, from the same starts.
        split: The split of the starts.
        offset: Where in the split's seeds to begin.
        out: JSON file of the outcomes; None writes none.
    """

    task: str
    policy: Path
    world_model: str | None = None
    episodes: int = 200
    split: str = "test"
    offset: int = 200_000
    out: Path | None = None

    def __post_init__(self) -> None:
        check_task(self.task)
        require_at_least(self, 1, "episodes")


def real_outcomes(
    env: RealEnv, act: Act, world_model: WorldModel, seeds: Sequence[int], name: str = "real"
) -> np.ndarray:
    """Whether a policy succeeds from each start in the real env, `(N,)` bool."""
    bar = tqdm(seeds, unit="episode", desc=name, mininterval=1.0)
    return np.array([play(env, seed, name, act, world_model).solved for seed in bar])


def imagined_outcomes(act: Act, world_model: WorldModel, starts: InitialFrames) -> np.ndarray:
    """Whether a policy succeeds from each of these starts in imagination, `(N,)` bool."""
    imagination = Imagination(len(starts), world_model, initial_frames=starts)
    return plan(imagination, act, np.arange(len(starts)))[1]


def run(args: Args) -> None:
    """Measures and prints.

    Raises:
        WorldModelError: The world model or the policy cannot be loaded.
        RealEnvUnavailableError: Meta-World or GL is missing.
    """
    os.environ.setdefault("LP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    require_real_env()
    world_model = WorldModel.from_pretrained(args.world_model)
    act = mean_actions(load_policy(args.policy))
    seeds = split_seeds(args.split, args.episodes, args.offset)
    env = make_real_env(args.task)
    try:
        imagined = imagined_outcomes(act, world_model, real_starts(env, seeds))
        real = real_outcomes(env, act, world_model, seeds)
    finally:
        env.close()
    print(f"{args.task}: real {format_rate(rate(real))}, imagined {format_rate(rate(imagined))}")
    if args.out is not None:
        save_record(
            args.out,
            {"task": args.task, "real": real.tolist(), "imagined": imagined.tolist()},
        )


def main() -> None:
    """Runs the command line."""
    run(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)
