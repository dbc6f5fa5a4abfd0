"""Collects episodes, or start frames alone, from real Meta-World.

    python -m training.collect_episodes --behaviour expert --episodes 50
    python -m training.collect_episodes --behaviour policy --policy runs/mine --tasks hammer
    python -m training.collect_episodes --behaviour start --episodes 100

Every episode is a file of its own, named by behaviour and seed; the same command goes on where it
was stopped. Seeds of train, validation and test never meet, and so neither do start configurations.
"""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from tqdm import tqdm

from training.data.start_frames import start_frames_path
from training.envs.real_env import TASKS, RealEnv, Task, require_real_env, split_seeds
from training.envs.rollouts import make_real_env, play, record
from training.envs.scripted import Behaviour, scripted
from training.runs import command
from training.runs.settings import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Settings,
    keep_settings,
)
from training.runs.threads import one_thread
from world4rl_gym.episodes import Episode
from world4rl_gym.policy import Policy
from world4rl_gym.world_model import WorldModel


@dataclasses.dataclass(frozen=True)
class Args(Settings):
    """Command line of `training.collect_episodes`.

    Attributes:
        behaviour: Who acts; "start" stores first frames only. The last four only probe a world
            model: no action at all, the expert with an open gripper, and the expert's actions of
            the same start, backwards or in any order.
        tasks: Tasks to collect.
        episodes: Episodes (or start frames) a task.
        split: The split whose seeds are used.
        seed_offset: Where in the split's seeds to begin.
        policy: Folder of the policy, for behaviour "policy"; "{task}" stands for the task's name.
        world_model: Folder or Hub id of the world model in which a policy on features was made;
            None is the embedded one.
        noise: Deviation of the Gaussian noise that a noisy expert adds to its action.
        hold: Decisions for which a random or noise draw is held.
        workers: Processes.
        out: Folder of episodes.
    """

    behaviour: Literal[Behaviour, "policy", "start"] = "expert"
    tasks: tuple[Task, ...] = TASKS
    episodes: PositiveInt = 50
    split: Literal["train", "validation", "test"] = "train"
    seed_offset: NonNegativeInt = 0
    policy: str | None = None
    world_model: str | None = None
    noise: NonNegativeFloat = 0.5
    hold: PositiveInt = 1
    workers: PositiveInt = 2
    out: Path = Path("data/episodes")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.behaviour == "policy") != (self.policy is not None):
            raise ValueError("policy: give a folder with --behaviour policy, and only then")


def episode_path(args: Args, task: str, seed: int) -> Path:
    """Where an episode of `args` is stored."""
    return args.out / task / args.split / f"{args.behaviour}-{seed:07d}.npz"


def _settings_folder(args: Args, task: str) -> Path:
    """Where the settings are kept of episodes from one seed on."""
    first = split_seeds(args.split, 1, args.seed_offset)[0]
    return args.out / task / args.split / f".{args.behaviour}-{first:07d}"


def collect_episode(args: Args, env: RealEnv, seed: int) -> Episode:
    """Plays one episode over the whole horizon, also past its success."""
    if args.behaviour == "policy":
        policy, world_model = _loaded(str(args.policy).format(task=env.task), args.world_model)
        return play(env, seed, policy.name, policy, world_model)
    assert args.behaviour != "start"
    act = scripted(args.behaviour, env, seed, args.noise, args.hold)
    return record(env, seed, args.behaviour, act)


@functools.cache
def _loaded(policy: str, world_model: str | None) -> tuple[Policy, WorldModel]:
    return Policy.from_pretrained(policy), WorldModel.from_pretrained(world_model)


def _collect_chunk(job: tuple[Args, Task, list[int]]) -> list[tuple[Task, bool]]:
    """Collects some seeds of one task; returns (task, solved) of each."""
    args, task, seeds = job
    one_thread()
    warnings.filterwarnings("ignore", message="Constant.*may be too high")
    env = make_real_env(task, draw_all=True)
    try:
        done = []
        for seed in seeds:
            episode = collect_episode(args, env, seed)
            episode.save(episode_path(args, task, seed))
            done.append((task, episode.solved))
        return done
    finally:
        env.close()


def _collect_starts(job: tuple[Args, Task]) -> Task:
    args, task = job
    env = RealEnv(task)
    try:
        seeds = np.array(split_seeds(args.split, args.episodes, args.seed_offset))
        first: dict[str, list[np.ndarray]] = {
            name: [] for name in ("frames", "state", "command", "objects")
        }
        for seed in seeds:
            env.reset(seed=int(seed))
            first["frames"].append(env.render())
            first["state"].append(env.state)
            first["command"].append(env.command)
            first["objects"].append(env.object_position)
    finally:
        env.close()
    path = start_frames_path(args.out, task, args.split)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {name: np.stack(values) for name, values in first.items()}
    np.savez_compressed(path, seeds=seeds, **arrays)
    return task


def collect(args: Args) -> None:
    """Collects what is not there yet, with a progress bar and the success rate of each task.

    Raises:
        RealEnvUnavailableError: Meta-World or GL is missing.
        SettingsError: Episodes from these seeds on were collected with other settings.
    """
    require_real_env()
    seeds = split_seeds(args.split, args.episodes, args.seed_offset)
    for task in args.tasks:
        keep_settings(args, _settings_folder(args, task), ("tasks", "episodes", "workers"))
    context = multiprocessing.get_context("spawn")  # torch and GL do not survive a fork
    with context.Pool(args.workers) as pool:
        if args.behaviour == "start":
            jobs = [(args, task) for task in args.tasks]
            for task in pool.imap_unordered(_collect_starts, jobs):
                print(f"{task}: {args.episodes} start frames of split {args.split}")
            return
        chunks = []
        missing = 0
        for task in args.tasks:
            todo = [seed for seed in seeds if not episode_path(args, task, seed).exists()]
            missing += len(todo)
            chunks += [(args, task, todo[i : i + 5]) for i in range(0, len(todo), 5)]
        solved: dict[Task, list[bool]] = {task: [] for task in args.tasks}
        with tqdm(total=missing, unit="episode", desc=f"{args.behaviour} {args.split}") as bar:
            for results in pool.imap_unordered(_collect_chunk, chunks):
                bar.update(len(results))
                for task, success in results:
                    solved[task].append(success)
    for task, outcomes in solved.items():
        if outcomes:
            print(f"{task}: {sum(outcomes)} of {len(outcomes)} new episodes solved")


def main() -> None:
    """Runs the command line."""
    collect(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)
