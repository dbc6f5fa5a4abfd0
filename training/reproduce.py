"""Reproduces the table: cloned and refined policies of every task, imagined and real.

    python -m training.reproduce --tasks all --seeds 1
    python -m training.reproduce --task door-lock --seeds 1       # one cell of it
    python -m training.reproduce --first-seed 3 --seeds 2         # two seeds more
    python -m training.reproduce --demonstrations 5               # of few demonstrations

Each policy is cloned from expert demonstrations (fifty as World4RL's, collected where they are
missing), refined inside the world model, and evaluated from the same held-out start configurations
in both worlds. What is done is kept and skipped when the same command runs again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from training import clone_policy, command, refine_policy
from training.collect_episodes import Args as Collection
from training.collect_episodes import collect
from training.demo import DEMONSTRATIONS
from training.evaluate import evaluate
from training.measured import Measured, contents, require_one_recipe
from training.policy import load_policy, save_policy
from training.policy_table import format_table, make_rows, save_table
from training.real_env import TASKS, check_task, split_seeds
from training.records import save_record
from training.settings import keep_settings, require_at_least, require_below_one
from world4rl_gym.world_model import WorldModel

WORLDS = ("real", "imagined")

STAGES = ("cloned", "refined")
"""The methods (`training.methods`) that the table shows."""

RECIPE = ("clone_steps", "adapt_steps", "corrections", "real_share", "refine_steps", "ensemble")

FIRST_TEST_SEED = 100_000
"""Where in the test split's seeds the table's episodes begin."""


@dataclasses.dataclass(frozen=True)
class Args:
    """Command line of `training.reproduce`.

    Attributes:
        tasks: Tasks, or "all".
        seeds: Number of seeds; a seed is that of cloning and of refinement.
        first_seed: The first of them.
        episodes: Real episodes, and imagined ones, a figure.
        demonstrations: Expert episodes a task to clone.
        episodes_folder: Where they are; none given takes those that ship where they are enough,
            else `data/episodes`, to which missing ones are collected.
        clone_steps: Gradient steps of cloning.
        adapt_steps: Gradient steps that refinement begins with.
        corrections: Imagined corrections that it learns from in those.
        real_share: Part, at least, that real frames are of what it learns from in those.
        refine_steps: Imagined steps at most.
        ensemble: Refined policies are ensembles with their clones.
        world_model: Folder or Hub id; none given means the embedded one.
        workers: Processes for real episodes.
        work: Folder of policies and of what was measured of them.
        out: Folder of the table, its figures and `policies/`; what is there of other tasks, seeds
            and numbers of demonstrations is kept.
    """

    tasks: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--task"])] = ("all",)
    seeds: int = 1
    first_seed: int = 0
    episodes: int = 100
    demonstrations: int = 50
    episodes_folder: Path | None = None
    clone_steps: int = clone_policy.Args.steps
    adapt_steps: int = refine_policy.Args.adapt_steps
    corrections: int = refine_policy.Args.corrections
    real_share: float = refine_policy.Args.real_share
    refine_steps: int = refine_policy.Args.steps
    ensemble: bool = refine_policy.Args.ensemble
    world_model: str | None = None
    workers: int = 2
    work: Path = Path("runs/reproduce")
    out: Path = Path("results")

    def __post_init__(self) -> None:
        if self.tasks == ("all",):
            object.__setattr__(self, "tasks", TASKS)
        for task in self.tasks:
            check_task(task)
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks: expected each once, got {' '.join(self.tasks)}")
        require_at_least(
            self, 1, "seeds", "episodes", "demonstrations", "clone_steps", "refine_steps", "workers"
        )
        require_at_least(self, 0, "first_seed", "adapt_steps", "corrections")
        require_below_one(self, "real_share")

    @property
    def every_seed(self) -> range:
        """The seeds, one after the other."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def recipe(self) -> dict[str, float]:
        """What policies must share to stand in one table."""
        return {name: getattr(self, name) for name in RECIPE}


def claim(args: Args, world_model: WorldModel) -> None:
    """Keeps the settings in every cell's folder, or raises SettingsError where others are there.

    Of the world model they tell the contents, wherever it lies.
    """
    own = Args(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Args)})
    own = dataclasses.replace(own, world_model=contents(world_model))
    for task in args.tasks:
        for seed in args.every_seed:
            keep_settings(
                own,
                cell_folder(args, task, seed),
                leave_out=("tasks", "seeds", "first_seed", "workers", "work", "out"),
            )


def cell_folder(args: Args, task: str, seed: int) -> Path:
    """Where the policies of a task and seed are, and what was measured of them."""
    return args.work / str(args.demonstrations) / f"{task}-{seed}"


def demonstrated(args: Args, task: str) -> Path:
    """The folder of episodes that holds enough demonstrations of the task."""
    if args.episodes_folder:
        return args.episodes_folder
    shipped = (DEMONSTRATIONS / task / "train").glob("expert-*.npz")
    if len(list(shipped)) >= args.demonstrations:
        return DEMONSTRATIONS
    wanted = Collection("expert", (task,), args.demonstrations, workers=args.workers)
    collect(wanted)
    return wanted.out


def outcomes(
    args: Args, world_model: WorldModel, policy: Path, world: str, video: Path | None = None
) -> list[int]:
    """Outcomes of a policy in one world from the table's starts, kept beside its folder."""
    path = policy.with_name(f"{policy.name}-{world}.json")
    if not path.exists():
        result = evaluate(
            policy,
            world_model,
            split_seeds("test", args.episodes, FIRST_TEST_SEED),
            imagined=world == "imagined",
            real=world == "real",
            workers=args.workers,
            video=video,
        )
        solved = result.real if world == "real" else result.imagined
        assert solved is not None
        save_record(path, [int(one) for one in solved])
    return json.loads(path.read_text())


def clone_cell(
    args: Args,
    task: str,
    seed: int,
    name: str = "cloned",
    episodes: Callable[[Any, str, int], Path] | None = None,
    **changes: Any,
) -> Path:
    """Clones a cell's policy, where that is not done, and returns its folder.

    Args:
        args: The command line.
        task: The cell's task.
        seed: Its seed.
        name: Of the policy.
        episodes: Gives the folder to learn from, asked only where there is something to do; none
            given takes the demonstrations'.
        **changes: To the settings of `training.clone_policy`.
    """
    cloned = cell_folder(args, task, seed) / name
    if not (cloned / "policy.json").exists():
        settings = clone_policy.Args(
            task,
            cloned,
            episodes(args, task, seed) if episodes else demonstrated(args, task),
            args.demonstrations,
            steps=args.clone_steps,
            half=True,  # what is measured is what ships
            seed=seed,
        )
        clone_policy.run(dataclasses.replace(settings, **changes))
    return cloned


def refine_cell(
    args: Args,
    task: str,
    seed: int,
    name: str = "refined",
    episodes: Callable[[Any, str, int], Path] | None = None,
    **changes: Any,
) -> Path:
    """Refines a cell's clone, where that is not done, and returns the policy's folder.

    Args:
        args: The command line.
        task: The cell's task.
        seed: Its seed.
        name: Of the policy.
        episodes: As in `clone_cell`.
        **changes: To the settings of `training.refine_policy`.
    """
    folder = cell_folder(args, task, seed)
    refined = folder / name
    if not (refined / "curve.json").exists():
        settings = refine_policy.Args(
            folder / "cloned",
            refined,
            args.world_model,
            steps=args.refine_steps,
            seed=seed,
            episodes=episodes(args, task, seed) if episodes else demonstrated(args, task),
            demonstrations=args.demonstrations,
            adapt_steps=args.adapt_steps,
            corrections=args.corrections,
            real_share=args.real_share,
            ensemble=args.ensemble,
            snapshots=True,
            half=True,
        )
        refine_policy.refine(dataclasses.replace(settings, **changes))
    return refined


def planned(args: Args, world_model: WorldModel, methods: Sequence[str]) -> list[Measured]:
    """The policies to come, nothing measured yet."""
    about = (args.recipe, contents(world_model), args.episodes, 0, 0)
    return [
        Measured(task, args.demonstrations, seed, method, *about)
        for task in args.tasks
        for seed in args.every_seed
        for method in methods
    ]


def measure(
    args: Args, world_model: WorldModel, policy: Path, plan: Measured, video: Path | None = None
) -> Measured:
    """A planned policy with its successes, measured where that is not done.

    Args:
        args: The command line.
        world_model: Where it is imagined.
        policy: The policy's folder.
        plan: What it is.
        video: As in `training.evaluate.evaluate`.
    """
    real, imagined = (sum(outcomes(args, world_model, policy, w, video)) for w in WORLDS)
    return dataclasses.replace(plan, real=real, imagined=imagined)


def make_cell(
    args: Args, world_model: WorldModel, task: str, seed: int
) -> tuple[Measured, Measured]:
    """Clones, refines and evaluates one policy; every part that an earlier run left is kept.

    Returns:
        The clone, and what was made of it.
    """
    one = dataclasses.replace(args, tasks=(task,), seeds=1, first_seed=seed)
    before, after = planned(one, world_model, STAGES)
    before = measure(args, world_model, clone_cell(args, task, seed), before)
    refined = refine_cell(args, task, seed)
    curve = json.loads((refined / "curve.json").read_text())
    after = dataclasses.replace(
        after,
        real=before.real,
        imagined=before.imagined,
        imagined_steps=curve["curve"][-1]["imagined_steps"],
        # Where the curve tells nothing of a clone before it, it begins with the clone itself.
        kept=None if curve["cloned"] is None and curve["kept"] == 0 else curve["kept"],
    )
    if not after.is_the_clone:
        video = refined.with_name("rollout")
        after = measure(args, world_model, refined, after, video)
    return before, after


def ship_policies(args: Args) -> None:
    """Copies the table's refined policies to `out/policies`, for evaluation without training."""
    for task in args.tasks:
        for seed in args.every_seed:
            folder = args.out / "policies" / str(args.demonstrations) / f"{task}-{seed}"
            policy = load_policy(cell_folder(args, task, seed) / "refined")
            save_policy(policy, policy.config, folder, half=True)


def main() -> None:
    """Runs the command line."""
    args = tyro.cli(Args, description=__doc__)
    world_model = WorldModel.from_pretrained(args.world_model)
    require_one_recipe(args.out / "table.json", planned(args, world_model, STAGES))
    claim(args, world_model)
    made: list[Measured] = []
    for task in args.tasks:
        for seed in args.every_seed:
            made += make_cell(args, world_model, task, seed)
        save_table(made, args.out)
        print(format_table(make_rows(made)), flush=True)
    ship_policies(args)


if __name__ == "__main__":
    command.run(main)
