"""Makes the episodes that a world model is measured on: policies that it never saw.

    python -m training.make_test_set --tasks lever-pull hammer

A task gets six policies: two clones of their own draws, both improved by PPO in the real env, and
two weak clones, of one and of two demonstrations, so that there are failures to predict. Each plays
from test starts, past success; experts that are disturbed all along are the near-misses.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

from training.envs.real_env import TASKS, Task, require_real_env, split_seeds
from training.envs.rollouts import make_real_env, perturbed, play, record, replay
from training.envs.scripted import scripted
from training.policies.imitation import clone_episodes
from training.policies.refinement import real_env, refine
from training.runs import command
from training.runs.settings import NonNegativeInt, PositiveInt, Settings
from training.runs.threads import one_thread
from world4rl_gym.episodes import load_episodes
from world4rl_gym.policy import Policy
from world4rl_gym.world_model import WorldModel

REAL_STEPS = {"clone-5": 16_000, "clone-50": 8_000}
"""Steps of PPO in the real env that improve each clone."""
WEAK = {"weak-clone-1": 1, "weak-clone-2": 2}
"""How many demonstrations each weak clone has; PPO does not improve it."""


@dataclasses.dataclass(frozen=True)
class Args(Settings):
    """Command line of `training.make_test_set`.

    Attributes:
        tasks: Tasks.
        split: The split whose starts are played.
        world_model: Folder or Hub id, for the policies' features; None is the embedded one.
        episodes: Folder of episodes.
        policies: Folder of the policies; made where they are missing.
        count: Episodes of each policy.
        drawn: How many of them are drawn whole, but of weak clones none.
        seed: Seed of clones and of PPO; none that a training of the world model uses.
    """

    tasks: tuple[Task, ...] = TASKS
    split: str = "test"
    world_model: str | None = None
    episodes: Path = Path("data/episodes")
    policies: Path = Path("runs/unseen")
    count: PositiveInt = 50
    drawn: NonNegativeInt = 10
    seed: NonNegativeInt = 77


def make_task(args: Args, task: str) -> None:
    """Makes one task's policies and episodes, what is missing of them."""
    experts = load_episodes(args.episodes, "train", [task], ["expert"])
    world_model = WorldModel.from_pretrained(args.world_model)
    folder = args.policies / task
    rng = np.random.default_rng(args.seed)
    clones = {"clone-5": rng.choice(len(experts), 5, replace=False), "clone-50": np.arange(50)}
    clones |= {name: rng.choice(len(experts), n, replace=False) for name, n in WEAK.items()}
    for index, (name, rows) in enumerate(clones.items()):
        if not (folder / name).exists():
            shown = [experts[row] for row in rows]
            policy = clone_episodes(shown, world_model, seed=args.seed + index)
            policy.save_pretrained(folder / name)
        better = folder / f"real-ppo-{name}"
        if name in REAL_STEPS and not better.exists():
            rows_of_real = real_env(world_model, task, args.seed + index)
            refined = refine(
                Policy.from_pretrained(folder / name),
                rows_of_real,
                REAL_STEPS[name],
                args.seed + index,
                better.name,
            )
            refined.policy.save_pretrained(better)
    env = make_real_env(task)
    place = args.episodes / task / args.split
    names = [*REAL_STEPS, *(f"real-ppo-{name}" for name in REAL_STEPS), *WEAK]
    for index, name in enumerate(names):
        policy = Policy.from_pretrained(folder / name)
        seeds = split_seeds(args.split, args.count, 10_000 + 1000 * index)
        for number, seed in enumerate(tqdm(seeds, desc=f"{task} {name}", mininterval=5)):
            path = place / f"policy-{seed:07d}.npz"
            if not path.exists():
                drawn = name not in WEAK and number < args.drawn
                env.drawn = "all" if drawn else "first"
                play(env, seed, name, policy, world_model).save(path)
    env.drawn = "first"
    for number, seed in enumerate(split_seeds(args.split, args.count, 20_000)):
        path = place / f"replay-{seed:07d}.npz"
        if not path.exists():
            expert = record(env, seed, "expert", scripted("expert", env, seed)).actions
            noise = np.random.default_rng([number, args.seed])
            shaken = perturbed(perturbed(expert, noise), noise)
            replay(env, seed, "replay", shaken, "near-miss").save(path)


def run(args: Args) -> None:
    """Makes the test set of all tasks."""
    one_thread()
    require_real_env()
    for task in args.tasks:
        make_task(args, task)


def main() -> None:
    """Runs the command line."""
    run(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)
