"""Collects episodes, or start frames alone, from real Meta-World.

    python -m training.collect_episodes --behaviour expert --episodes 50
    python -m training.collect_episodes --behaviour policy --policy runs/clone/hammer --tasks hammer
    python -m training.collect_episodes --behaviour start --episodes 100

Every episode is a file of its own, named by behaviour and seed; the same command goes on where it
was stopped. Seeds of train, validation and test never meet, and so neither do start configurations.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from tqdm import tqdm

from training import command
from training.episodes import Episode, EpisodeError, load_episodes, task_folder
from training.real_env import TASKS, RealEnv, check_task, require_real_env, split_seeds
from training.settings import keep_settings, require_at_least

Behaviour = Literal[
    "expert",
    "noisy-expert",
    "policy",
    "random",
    "start",
    "zero",
    "open-gripper",
    "reversed",
    "shuffled",
]


@dataclasses.dataclass(frozen=True)
class Args:
    """Command line of `training.collect_episodes`.

    Attributes:
        behaviour: Who acts; "start" stores first frames only. The last four only probe a world
            model: no action at all, the expert with an open gripper, and the expert's actions of
            the same start, backwards or in any order.
        tasks: Tasks to collect.
        episodes: Episodes (or start frames) a task.
        split: The split whose seeds are used.
        seed_offset: Where in the split's seeds to begin.
        policy: Folder of the policy on frames, for behaviour "policy"; "{task}" stands for the
            task's name.
        deterministic: Let the policy take its mean action instead of sampling.
        noise: Deviation of the Gaussian noise that a noisy expert adds to its action.
        hold: Decisions for which a random or noise draw is held.
        workers: Processes.
        out: Folder of episodes.
    """

    behaviour: Behaviour = "expert"
    tasks: tuple[str, ...] = TASKS
    episodes: int = 50
    split: Literal["train", "validation", "test"] = "train"
    seed_offset: int = 0
    policy: str | None = None
    deterministic: bool = False
    noise: float = 0.5
    hold: int = 1
    workers: int = 2
    out: Path = Path("data/episodes")

    def __post_init__(self) -> None:
        for task in self.tasks:
            check_task(task)
        if (self.behaviour == "policy") != (self.policy is not None):
            raise ValueError("policy: give a folder with --behaviour policy, and only then")
        require_at_least(self, 1, "episodes", "hold", "workers")
        require_at_least(self, 0, "noise")


Actor = Callable[[RealEnv, np.ndarray, int], np.ndarray]
"""(env, frame, decision) -> action `(4,)` float32 in [-1, 1]."""


def make_actor(args: Args, env: RealEnv, seed: int) -> Actor:
    """Returns who acts in one episode of `env`; all its randomness comes from `seed`."""
    rng = np.random.default_rng([seed, 1])
    held = np.zeros(4, np.float32)

    def draw(decision: int, sample: Callable[[], np.ndarray]) -> np.ndarray:
        nonlocal held
        if decision % args.hold == 0:
            held = sample().astype(np.float32)
        return held

    if args.behaviour == "random":
        return lambda env, frame, t: draw(t, lambda: rng.uniform(-1, 1, 4))
    if args.behaviour == "noisy-expert":
        scale = rng.uniform(0, 2 * args.noise)  # some episodes nearly clean, some badly off
        return lambda env, frame, t: np.clip(
            env.expert_action() + draw(t, lambda: rng.normal(0, scale, 4)), -1, 1
        ).astype(np.float32)
    if args.behaviour == "policy":
        from training.policy import load_policy, sample_actions

        assert args.policy is not None
        policy = load_policy(args.policy.format(task=env.task))

        sampled = None if args.deterministic else rng
        return lambda env, frame, t: sample_actions(policy, frame[None], sampled)[0]
    if args.behaviour == "zero":
        return lambda env, frame, t: np.zeros(4, np.float32)
    if args.behaviour == "open-gripper":
        return lambda env, frame, t: np.append(env.expert_action()[:3], np.float32(-1))
    if args.behaviour in ("reversed", "shuffled"):
        plan = collect_episode(env, seed, "expert", _expert).actions
        plan = plan[::-1] if args.behaviour == "reversed" else rng.permutation(plan)
        return lambda env, frame, t: plan[t]
    return _expert


def _expert(env: RealEnv, frame: np.ndarray, decision: int) -> np.ndarray:
    return env.expert_action()


def collect_episode(env: RealEnv, seed: int, behaviour: str, actor: Actor) -> Episode:
    """Plays one episode over the whole horizon, also past its success."""
    env.reset(seed=seed)
    frames, actions, success = [env.render()], [], []
    states, commands = [env.state], [env.command]
    for decision in range(env.max_episode_steps):
        action = actor(env, frames[-1], decision)
        _, _, _, _, info = env.step(action)
        if env.drawn == "all":
            frames.append(env.render())
        actions.append(action)
        success.append(info["is_success"])
        states.append(env.state)
        commands.append(env.command)
    return Episode(
        np.stack(frames),
        np.stack(actions),
        np.array(success),
        env.task,
        behaviour,
        seed,
        env.action_repeat,
        np.stack(states),
        np.stack(commands),
    )


def episode_path(args: Args, task: str, seed: int) -> Path:
    """Where an episode of `args` is stored."""
    return args.out / task / args.split / f"{args.behaviour}-{seed:07d}.npz"


def _settings_folder(args: Args, task: str) -> Path:
    """Where the settings are kept of episodes from one seed on."""
    first = split_seeds(args.split, 1, args.seed_offset)[0]
    return args.out / task / args.split / f".{args.behaviour}-{first:07d}"


def start_frames_path(out: Path, task: str, split: str) -> Path:
    """Where the start frames of a task and split are stored."""
    return task_folder(out, task) / f"start-frames-{split}.npz"


@dataclasses.dataclass(frozen=True)
class StartFrames:
    """First frames of real episodes.

    Attributes:
        frames: `(N, H, W, 3)` uint8.
        state: `(N, S)` float32, the robot's states; S is 0 without them.
        command: `(N, C)` float32, its commands; C is 0 without them.
        objects: `(N, 3)` float32, where the task's object is, for probes alone; None where unknown.
    """

    frames: np.ndarray
    state: np.ndarray
    command: np.ndarray
    objects: np.ndarray | None


def load_start_frames(folder: Path, task: str, split: str) -> StartFrames:
    """Reads what `--behaviour start` collected, or else the first frames of the split's episodes.

    Raises:
        EpisodeError: The file is broken, or neither it nor an episode is there.
    """
    path = start_frames_path(folder, task, split)
    if not path.exists():
        return _first_frames(load_episodes(folder, split, [task]))
    try:
        with np.load(path, allow_pickle=False) as arrays:
            frames = arrays["frames"]
            nothing = np.zeros((len(frames), 0), np.float32)
            return StartFrames(
                frames,
                arrays["state"] if "state" in arrays.files else nothing,
                arrays["command"] if "command" in arrays.files else nothing,
                arrays["objects"] if "objects" in arrays.files else None,
            )
    except FileNotFoundError:
        raise EpisodeError(f"{path}: no such file of start frames") from None
    except Exception as error:  # zip, its codecs and numpy's header each raise their own
        raise EpisodeError(f"{path}: not a readable file of start frames ({error})") from None


def _first_frames(episodes: Sequence[Episode]) -> StartFrames:
    nothing = np.zeros((1, 0), np.float32)
    states = [nothing if e.state is None else e.state[:1] for e in episodes]
    commands = [nothing if e.command is None else e.command[:1] for e in episodes]
    return StartFrames(
        np.concatenate([e.frames[:1] for e in episodes]),
        np.concatenate(states),
        np.concatenate(commands),
        None,
    )


def _collect_chunk(job: tuple[Args, str, list[int]]) -> list[tuple[str, bool]]:
    """Collects some seeds of one task; returns (task, solved) of each."""
    args, task, seeds = job
    os.environ.setdefault("LP_NUM_THREADS", "1")  # the workers share the cores, not the rasteriser
    warnings.filterwarnings("ignore", message="Constant.*may be too high")
    import torch

    torch.set_num_threads(1)
    env = RealEnv(task, terminate_on_success=False)
    try:
        done = []
        for seed in seeds:
            episode = collect_episode(env, seed, args.behaviour, make_actor(args, env, seed))
            episode.save(episode_path(args, task, seed))
            done.append((task, episode.solved))
        return done
    finally:
        env.close()


def _collect_starts(job: tuple[Args, str]) -> str:
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
        solved: dict[str, list[bool]] = {task: [] for task in args.tasks}
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
