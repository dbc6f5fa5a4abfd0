"""Builds the memory of one task from nothing but experts, start frames and the eyes.

    python -m training.train_task_memory --task lever-pull

Clones the experts, plays the clones, perturbs what was done and does it again, trains the memory on
all of that; then, in rounds, refines clones inside it, does their plans in reality, plays them
there too, and trains on. Every step is stored, and the same command goes on where it was stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

from training.data.sequences import Sequences, make_sequences
from training.envs.real_env import Task, require_real_env, split_seeds
from training.envs.rollouts import (
    Actor,
    Disturbed,
    make_real_env,
    perturbed,
    plan,
    play,
    real_starts,
    replay,
)
from training.policies.imitation import clone_episodes
from training.policies.ppo import CRITIC_STEPS, learn_critic, make_ppo, policy_of
from training.policies.refinement import STEPS, practice_env
from training.runs import command
from training.runs.locks import locked
from training.runs.records import save_record
from training.runs.settings import (
    NonNegativeInt,
    PositiveInt,
    Settings,
    SettingsError,
    for_task,
    keep_settings,
)
from training.runs.threads import one_thread
from training.world_model.assembly import (
    assemble,
    load_task_eyes,
    load_task_memory,
    save_task_memory,
    start_contexts,
)
from training.world_model.memory import MemoryRun, judged, make_memory, train_memory
from world4rl_gym.episodes import Episode, load_episode
from world4rl_gym.memory import TaskMemory
from world4rl_gym.policy import Policy
from world4rl_gym.world_model import WorldModel

NOISE = 0.15
"""Deviation of the noise added to half of the clones' rollouts and plans."""


@dataclasses.dataclass(frozen=True)
class Args(Settings):
    """Command line of `training.train_task_memory`.

    Attributes:
        task: The task.
        eyes: Folder of the task's eyes; "{task}" stands for the task's name.
        episodes: Folder of episodes.
        out: Folder of the run; "{task}" stands for the task's name.
        world_model: A world model, folder or Hub id, to go on from: its eyes and its memory of the
            task stand for the first training. None begins from nothing.
        demonstrations: How many experts each clone imitates.
        clone_steps: Gradient steps of each clone.
        rollouts: Episodes of each clone.
        replays: Perturbed replays.
        ppo_steps: Steps of PPO in each round of refining, planning, doing and training on; the last
            as many as a user's, for what is exploited late is not found earlier.
        round_clones: Clones, of other demonstrations in every round, that are refined and plan:
            what one of them comes to exploit, another never finds.
        plans: Real episodes a round: half of them plans, that is, what a refined policy does in
            imagination, and half played by it, since where imagined motion goes astray it acts
            otherwise in reality.
        validation_plans: Plans of each policy, done from validation starts, to calibrate on.
        steps: Optimiser steps of the first training.
        round_steps: Those of each later one.
        members: Members of the memory.
        width: Its units.
        seed: Seed of everything.
    """

    task: Task
    eyes: Path = Path("runs/eyes/{task}")
    episodes: Path = Path("data/episodes")
    out: Path = Path("runs/memory/{task}")
    world_model: str | None = None
    demonstrations: tuple[PositiveInt, ...] = (5, 10, 50)
    clone_steps: PositiveInt = 4000
    rollouts: NonNegativeInt = 50
    replays: NonNegativeInt = 2000
    ppo_steps: tuple[PositiveInt, ...] = (100_000, 200_000, STEPS)
    round_clones: PositiveInt = 4
    plans: NonNegativeInt = 400
    validation_plans: PositiveInt = 20
    steps: PositiveInt = 1000
    round_steps: PositiveInt = 1200
    members: PositiveInt = 2
    width: PositiveInt = 160
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.demonstrations:
            raise SettingsError("demonstrations: expected some numbers, got none")


class Builder:
    """Carries one task from its experts to its memory.

    Args:
        args: The command line.
    """

    def __init__(self, args: Args) -> None:
        self.args = args
        self.out = for_task(args.out, args.task)
        self.folder = args.episodes / args.task / "train"
        if args.world_model is None:
            self.eyes = load_task_eyes(args.eyes, args.task)
            self.first = self.fresh_memory()
        else:
            base = WorldModel.from_pretrained(args.world_model)
            self.eyes, self.first = base.task_eyes(args.task), base.task_memory(args.task)
        self.starts = start_contexts(args.episodes, [args.task], "train", 600)
        self.began = time.monotonic()
        self.log: list[dict[str, object]] = []
        self.env = make_real_env(args.task)

    def episodes(self, behaviour: str) -> list[Episode]:
        """The training episodes of a behaviour, in the order of their names."""
        return [load_episode(p) for p in sorted(self.folder.glob(f"{behaviour}-*.npz"))]

    def clones(self) -> list[Path]:
        """Folders of the clones, made where they are missing."""
        args = self.args
        experts = self.episodes("expert")
        if len(experts) < max(args.demonstrations):
            raise SettingsError(
                f"demonstrations: {self.folder} holds {len(experts)} expert episodes, expected at "
                f"least {max(args.demonstrations)}"
            )
        world_model = self.draft(self.first)
        folders = []
        for count in args.demonstrations:
            folder = self.out / f"clone-{count}"
            folders.append(folder)
            if folder.exists():
                continue
            policy = clone_episodes(
                experts[:count], world_model, steps=args.clone_steps, seed=args.seed + count
            )
            policy.save_pretrained(folder)
        return folders

    def draft(self, memory: TaskMemory) -> WorldModel:
        """A world model that draws nothing worth seeing, to act in."""
        return assemble({self.args.task: self.eyes}, {self.args.task: memory}, self.starts)

    def collect_rollouts(self) -> None:
        """Plays the clones, half of the episodes with noise; every frame is drawn."""
        args = self.args
        world_model = self.draft(self.first)
        jobs = []
        for index, folder in enumerate(self.clones()):
            first = 30_000 + 1000 * index
            for number, seed in enumerate(split_seeds("train", args.rollouts, first)):
                path = self.folder / f"policy-{seed:07d}.npz"
                if not path.exists():
                    jobs.append((folder, seed, NOISE * (number % 2), path))
        self.env.drawn = "all"
        for folder, seed, noise, path in tqdm(jobs, desc=f"{args.task} rollouts", mininterval=5):
            actor = Disturbed(Policy.from_pretrained(folder), noise, seed)
            play(self.env, seed, folder.name, actor, world_model).save(path)
        self.env.drawn = "first"

    def collect_replays(self) -> list[Episode]:
        """Perturbs what experts and clones did and does it again."""
        sources = [e for name in ("expert", "policy") for e in self.episodes(name)]
        episodes = []
        for number in tqdm(
            range(self.args.replays), desc=f"{self.args.task} replays", mininterval=5
        ):
            path = self.folder / f"replay-{number:07d}.npz"
            if not path.exists():
                rng = np.random.default_rng([number, self.args.seed, 2])
                source = sources[int(rng.integers(len(sources)))]
                actions = perturbed(source.actions, rng)
                replay(self.env, source.seed, "replay", actions).save(path)
            episodes.append(load_episode(path))
        return episodes

    def fresh_memory(self) -> TaskMemory:
        """An untrained memory with the units of the experts and random episodes."""
        known = self.episodes("expert") + self.episodes("random")
        return make_memory(
            make_sequences(known, self.eyes), self.args.members, self.args.width, self.args.seed
        )

    def train(self) -> TaskMemory:
        """The whole of it; returns the finished memory.

        Rounds whose plans are stored are not done again: the first training learns from all that
        there is.
        """
        args = self.args
        self.collect_rollouts()
        replays = self.collect_replays()
        played = [e for name in ("expert", "random", "policy") for e in self.episodes(name)]
        base = [(make_sequences(played, self.eyes), 0.4)]
        base.append((make_sequences(replays, self.eyes), 0.6))
        rounds = len(args.ppo_steps)
        if args.world_model is not None and not (self.out / "memory-0" / "memory").exists():
            save_task_memory(self.first, self.out / "memory-0" / "memory")
        stored = next((i for i in range(rounds) if not self.is_planned(i)), rounds)
        while stored and (self.out / f"memory-{stored - 1}" / "memory").exists():
            stored -= 1  # goes on from the last finished training
        steps = args.steps + min(stored, 1) * args.round_steps
        run = MemoryRun(steps=steps, seed=args.seed)
        groups = self.groups(base, stored)
        memory = self.trained(self.first, groups, run, f"memory-{stored}")
        for number in range(stored, rounds):
            plans = self.plans_of_round(number, memory)
            fresh = make_sequences(plans, self.eyes)
            self.note(
                round=number,
                fresh_plans=judged(memory, fresh),
                real=float(np.mean([plan.solved for plan in plans])),
            )
            run = MemoryRun(steps=args.round_steps, learning_rate=1e-3, seed=args.seed + 1 + number)
            groups = self.groups(base, number + 1)
            memory = self.trained(memory, groups, run, f"memory-{number + 1}")
            self.note(round=number, after_training=judged(memory, fresh))
        self.collect_validation(self.draft(memory))
        save_task_memory(memory, self.out / "memory")
        return memory

    def groups(
        self, base: Sequence[tuple[Sequences, float]], rounds: int
    ) -> list[tuple[Sequences, float]]:
        """What to train on: the base, and for half of it the plans of the first rounds."""
        if not rounds:
            return list(base)
        plans = [episode for number in range(rounds) for episode in self.round_plans(number)]
        half = [(sequences, share / 2) for sequences, share in base]
        return [*half, (make_sequences(plans, self.eyes), 0.5)]

    def trained(
        self,
        memory: TaskMemory,
        groups: Sequence[tuple[Sequences, float]],
        run: MemoryRun,
        name: str,
    ) -> TaskMemory:
        """Trains on, or loads what was trained."""
        folder = self.out / name
        if (folder / "memory").exists():
            return load_task_memory(folder / "memory")
        memory.requires_grad_(True)
        memory = train_memory(memory, groups, run, folder, f"{self.args.task} {name}")
        save_task_memory(memory, folder / "memory")
        return load_task_memory(folder / "memory")

    def round_plans(self, number: int) -> list[Episode]:
        """The plans of a round that are stored."""
        seeds = self.plan_seeds(number)
        paths = [self.folder / f"plan-{seed:07d}.npz" for seed in seeds]
        return [load_episode(path) for path in paths if path.exists()]

    def collect_validation(self, world_model: WorldModel) -> None:
        """Does what clones and refined policies plan from validation starts, to calibrate on."""
        args = self.args
        last = self.out / f"round-{len(args.ppo_steps) - 1}"
        place = args.episodes / args.task / "validation"
        for index, folder in enumerate([*self.clones(), *sorted(last.glob("policy-*"))]):
            seeds = split_seeds("validation", args.validation_plans, 50_000 + 2000 * index)
            paths = [place / f"plan-{seed:07d}.npz" for seed in seeds]
            if all(path.exists() for path in paths):
                continue
            starts = real_starts(self.env, seeds)
            actions, _ = plan(Policy.from_pretrained(folder), world_model, starts)
            for seed, own, path in zip(seeds, actions, paths, strict=True):
                replay(self.env, seed, "plan", own, folder.name).save(path)

    def is_planned(self, number: int) -> bool:
        """Whether all plans of a round are stored."""
        return len(self.round_plans(number)) == self.args.plans

    def plan_seeds(self, number: int) -> range:
        """Where the plans of a round begin."""
        return split_seeds("train", self.args.plans, 170_000 + 2000 * number)

    def plans_of_round(self, number: int, memory: TaskMemory) -> list[Episode]:
        """Refines clones in the memory and does in reality what they do in imagination."""
        args = self.args
        seeds = self.plan_seeds(number)
        if self.is_planned(number):
            return self.round_plans(number)
        world_model = self.draft(memory)
        actors: list[tuple[Actor, float]] = []
        for index, policy in enumerate(self.clones_of_round(number, world_model)):
            seed = args.seed + 10 * number + index
            env = practice_env(world_model, args.task, seed, initial_frames=self.starts)
            ppo = make_ppo(policy, env, seed)
            learn_critic(ppo, min(CRITIC_STEPS, args.ppo_steps[number]))
            for share, noise in ((1 / 3, 0.0), (2 / 3, 0.1)):
                ppo.learn(int(args.ppo_steps[number] * share), reset_num_timesteps=False)
                refined = policy_of(ppo, policy)
                actors.append((refined, noise))
                refined.save_pretrained(self.out / f"round-{number}" / f"policy-{index}-{noise}")
        starts = real_starts(self.env, seeds)
        done: list[Episode] = []
        shares = np.array_split(np.arange(len(seeds)), len(actors))
        for index, ((actor, noise), rows) in enumerate(zip(actors, shares, strict=True)):
            if not len(rows):  # fewer episodes than policies
                continue
            noisy = Disturbed(actor, noise, args.seed + 100 * number + index)
            actions, imagined = plan(noisy, world_model, starts.rows(rows))
            name, part = f"{number}-{index}", []
            for row, own in zip(rows, actions, strict=True):
                seed = seeds[int(row)]
                if row % 2:
                    one = Disturbed(actor, noise, seed)
                    part.append(play(self.env, seed, name, one, world_model))
                else:
                    part.append(replay(self.env, seed, "plan", own, name))
            self.note(
                round=number,
                policy=index,
                noise=noise,
                imagined=float(imagined.mean()),
                real=success_of(part, "plan"),
                played=success_of(part, "policy"),
            )
            done += part
        for episode in done:
            episode.save(self.folder / f"plan-{episode.seed:07d}.npz")
        return done

    def clones_of_round(self, number: int, world_model: WorldModel) -> list[Policy]:
        """New clones, each of demonstrations drawn anew."""
        args, experts = self.args, self.episodes("expert")
        rng = np.random.default_rng([args.seed, number, 3])
        clones = []
        for index in range(args.round_clones):
            count = args.demonstrations[index % len(args.demonstrations)]
            shown = [experts[row] for row in rng.choice(len(experts), count, replace=False)]
            seed = args.seed + 1000 + 10 * number + index
            clones.append(clone_episodes(shown, world_model, steps=args.clone_steps, seed=seed))
        return clones

    def note(self, **values: object) -> None:
        """Prints and stores what was measured."""
        values = {"seconds": round(time.monotonic() - self.began), **values}
        self.log.append(values)
        print(self.args.task, json.dumps(values), flush=True)
        save_record(self.out / "log.json", {"task": self.args.task, "entries": self.log})


def success_of(episodes: Sequence[Episode], behaviour: str) -> float | None:
    """The share of a behaviour's episodes that solve the task; None where there are none."""
    solved = [episode.solved for episode in episodes if episode.behaviour == behaviour]
    return float(np.mean(solved)) if solved else None


def run(args: Args) -> None:
    """Builds one task's memory."""
    one_thread()
    require_real_env()
    builder = Builder(args)
    with contextlib.closing(builder.env), locked(builder.out):
        keep_settings(args, builder.out, ("episodes", "eyes"))
        builder.train()


def main() -> None:
    """Runs the command line."""
    run(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)
