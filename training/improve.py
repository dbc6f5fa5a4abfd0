"""Spends real episodes on a policy: plays it, learns on from what happened, refines it again.

    python -m training.improve --task lever-pull --out runs/improve/lever-pull
    python -m training.improve --task lever-pull --out runs/improve/lever-pull --real recorded

A round refines a few clones in the present world model, plays the refined policies in reality, and
trains the task's memory on: with their episodes and, so that it forgets nothing, with
those that it has learned from (`--known`), or, where they are not at hand, with episodes that it
imagines itself (pseudo-rehearsal: Robins, Connection Science 7, 1995). Before the memory learns
from a round's episodes, it predicts them: that tells how far to believe the world model. With
`--real recorded` the command stops where it needs episodes of a robot, says where to put them, and
goes on from there when it is run again.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from tqdm import tqdm

from training.data.sequences import Sequences, join, make_sequences
from training.data.trainable import DEMONSTRATIONS, iterate_trainable
from training.envs.own_env import AnyEnv
from training.envs.real_env import TASKS, split_seeds
from training.envs.rollouts import Disturbed, find_env, play, real_outcomes
from training.evaluation.figures import outcome_figures
from training.evaluation.formatting import format_rate
from training.evaluation.metrics import rate
from training.evaluation.trust import VERDICTS, forget_verdicts, verdict
from training.policies.imitation import clone_episodes
from training.policies.refinement import STEPS, refine_imagined
from training.runs import command
from training.runs.locks import locked
from training.runs.records import save_result
from training.runs.settings import (
    NonNegativeInt,
    PositiveInt,
    Settings,
    SettingsError,
    keep_settings,
)
from training.runs.threads import one_thread
from training.world_model.memory import MemoryRun, train_memory
from world4rl_gym.components import round_weights
from world4rl_gym.episodes import Episode, load_episodes
from world4rl_gym.imagination import Imagination
from world4rl_gym.outcomes import check_fits, imagine
from world4rl_gym.policy import Policy
from world4rl_gym.world_model import WorldModel

NOISE = 0.1
"""Deviation of the noise on every other episode of the policy, and on what is rehearsed."""
PREDICTED = {"real": "solved", "imagined": "predicted", "agreement": "predicted rightly"}
"""Shares of a round's episodes, and what they are called."""


@dataclasses.dataclass(frozen=True)
class Args(Settings):
    """Command line of `training.improve`.

    Attributes:
        task: The task.
        out: Folder of the run.
        demonstrations: Folder of episodes; the task's experts are cloned.
        world_model: Folder or Hub id to begin with; None is the embedded one.
        known: Folder of the episodes that its memory has learned from; None rehearses what it
            imagines instead.
        real: Where episodes come from: "twin" plays them in the real env, "recorded" waits for
            them.
        real_env: `module:id` of a Gymnasium env of one's own; None is Meta-World, for its tasks.
        episodes_budget: Real episodes in all.
        rounds: In how many rounds they are spent.
        clones: Clones, each of another seed, that are refined in a round and share its episodes:
            what one of them comes to exploit, another never finds. The first is what is improved.
        clone_steps: Gradient steps of cloning.
        steps: Steps of PPO in each round; 0 is the control: nothing is refined or learned in
            imagination, and clones of the demonstrations and of all that was solved so far play the
            next round. The world model only predicts their episodes.
        learn_steps: Optimiser steps of the memory in each round.
        rehearsed: Imagined episodes of each policy that are learned again, where `known` is None.
        test_episodes: Real episodes that measure each policy at the end; 0 measures nothing.
        seed: Seed of everything.
    """

    task: str
    out: Path
    demonstrations: Path = DEMONSTRATIONS
    world_model: str | None = None
    known: Path | None = None
    real: Literal["twin", "recorded"] = "twin"
    real_env: str | None = None
    episodes_budget: PositiveInt = 200
    rounds: PositiveInt = 2
    clones: PositiveInt = 4
    clone_steps: PositiveInt = 4000
    steps: NonNegativeInt = STEPS
    learn_steps: PositiveInt = 600
    rehearsed: PositiveInt = 400
    test_episodes: NonNegativeInt = 100
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.real == "twin" and self.real_env is None and self.task not in TASKS:
            raise SettingsError(
                f"task: {self.task!r} is none of Meta-World's; expected --real-env module:id, or "
                "--real recorded"
            )
        if self.known is not None and not self.steps:
            raise SettingsError("known: with no steps of PPO nothing is learned, got a folder")
        if self.episodes_budget < self.rounds:
            raise SettingsError(
                f"episodes_budget: expected at least {self.rounds}, got {self.episodes_budget}"
            )


def kept(folder: Path, make: Callable[[], Policy]) -> Policy:
    """The policy that `make` gives, saved in `folder`; read from there where it is done."""
    if folder.exists():
        return Policy.from_pretrained(folder)
    policy = make()
    policy.save_pretrained(folder)
    return policy


def refined_in(
    world_model: WorldModel, clones: Sequence[Policy], args: Args, folder: Path
) -> list[Policy]:
    """The clones refined in this world model; read from `folder` where it is done.

    With no steps of PPO they are the clones themselves.
    """

    def refined(index: int) -> Policy:
        if not args.steps:
            return clones[index]
        options = (args.task, args.steps, args.seed + index, f"{folder.name}, {index}")
        return refine_imagined(clones[index], world_model, *options).policy

    return [
        kept(folder / f"policy-{index}", functools.partial(refined, index))
        for index in range(len(clones))
    ]


def real_episodes(
    world_model: WorldModel,
    policies: Sequence[Policy],
    args: Args,
    number: int,
    folder: Path,
    env: AnyEnv | None,
) -> list[Episode]:
    """The round's episodes; those that are missing are played, or left to the user.

    Returns:
        All of them, or none where the user has to record them first.
    """
    count = args.episodes_budget // args.rounds
    place = folder / args.task / "train"
    place.mkdir(parents=True, exist_ok=True)
    missing = count - len(list(place.glob("[!.]*.npz")))
    if missing > 0 and args.real == "recorded":
        names = ", ".join(str(folder.parent / f"policy-{i}") for i in range(len(policies)))
        print(
            f"Play {names} in turn behind MemoryFeatures, and put {missing} more episodes, "
            f"of the behaviour 'policy', in {place}; then run this command again."
        )
        return []
    if missing > 0:
        assert env is not None  # Args made sure of it
        seeds = split_seeds("train", count, 700_000 + 1000 * number)
        for index, seed in enumerate(tqdm(seeds, desc=f"{args.task} round {number}")):
            path = place / f"policy-{seed:07d}.npz"
            if not path.exists():
                turn, which = divmod(index, len(policies))
                actor = Disturbed(policies[which], NOISE * (turn % 2), seed)
                name = f"{'refined' if args.steps else 'cloned'}-{which}"
                play(env, seed, name, actor, world_model).save(path)
    return load_episodes(folder, "train", [args.task], ["policy"])


def predicted(world_model: WorldModel, episodes: Sequence[Episode]) -> dict[str, Any]:
    """How well a world model that has not learned from them predicts a round's episodes.

    Returns:
        `real` and `imagined` success, `agreement`, and the `verdict`, a key of `VERDICTS`.
    """
    threshold = world_model.config.success_threshold
    figures = outcome_figures(imagine(world_model, episodes), threshold)
    means = {name: figures[name]["mean"] for name in PREDICTED}
    return {**means, "verdict": verdict({"plans": figures})}


def rehearsed(
    world_model: WorldModel, task: str, policies: Sequence[Policy], count: int, seed: int
) -> Sequences:
    """What the memory itself imagines of noisy policies, as episodes to learn again.

    Args:
        world_model: Its memory is the teacher.
        task: The task.
        policies: On features.
        count: Episodes of each.
        seed: Of starts and noise.

    Returns:
        Sequences whose success is the imagined probability.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for index, policy in enumerate(policies):
        imagination = Imagination(count, world_model, task=task)
        starts = rng.choice(imagination.starts.candidates, count)
        noisy = Disturbed(policy, NOISE * (1 + index % 2), seed + index)
        imagination.reset(initial_frame=starts)
        first = imagination.memory.first_code
        kept: dict[str, list[torch.Tensor]] = {
            "state": [imagination.state],
            "command": [imagination.memory.command],
            "actions": [],
            "success": [],
            "code_change": [],
        }
        for _ in range(imagination.max_episode_steps):
            action = noisy.act(imagination.features.cpu().numpy())
            result = imagination.step(action)
            now = imagination.memory
            kept["state"].append(imagination.state)
            kept["command"].append(now.command)
            kept["actions"].append(torch.from_numpy(action))
            kept["success"].append(result.success_probability)
            kept["code_change"].append(now.code - first)
        stacked = {name: torch.stack(values, 1).cpu().float() for name, values in kept.items()}
        parts.append(
            Sequences(
                first_code=first.cpu(),
                drawn=torch.ones(count),
                mask=torch.ones(count, imagination.max_episode_steps),
                **stacked,
            )
        )
    return join(parts)


def known_sequences(world_model: WorldModel, folder: Path, task: str) -> Sequences:
    """The training episodes of a task that its memory has learned from.

    Raises:
        EpisodeError: There are none, or one is broken or does not fit the world model.
    """

    def fitting() -> Iterator[Episode]:
        for episode in iterate_trainable(folder, task):
            check_fits(world_model, [episode])
            yield episode

    return make_sequences(fitting(), world_model.task_eyes(task))


def learned_on(
    world_model: WorldModel,
    args: Args,
    episodes: list[Episode],
    known: Sequences | None,
    policies: Sequence[Policy],
    folder: Path,
) -> WorldModel:
    """The world model after its memory of the task has learned on; saved in `folder`.

    Args:
        world_model: The one before.
        args: Of the run.
        episodes: All real episodes so far.
        known: What is learned again beside them; None rehearses what the policies do in the model.
        policies: All so far.
        folder: Where it is saved, and read where it is done.
    """
    if folder.exists():
        return WorldModel.from_pretrained(folder)
    real = make_sequences(episodes, world_model.task_eyes(args.task))
    again = known
    if again is None:
        again = rehearsed(world_model, args.task, policies, args.rehearsed, args.seed)
    memory = copy.deepcopy(world_model.task_memory(args.task)).requires_grad_(True)
    memory = train_memory(
        memory,
        [(real, 0.5), (again, 0.5)],
        MemoryRun(steps=args.learn_steps, learning_rate=1e-3, seed=args.seed),
        folder.parent / "memory",
        f"{args.task} memory",
    )
    round_weights(memory)
    memory.eval().requires_grad_(False)
    world_model.task_memory(args.task).load_state_dict(memory.state_dict())
    forget_verdicts(world_model, [args.task])
    world_model.save_pretrained(folder)
    return WorldModel.from_pretrained(folder)


def run(args: Args) -> dict[str, Any] | None:
    """Runs the rounds, and measures what they were worth; None where episodes are awaited.

    Raises:
        EpisodeError: There are no demonstrations, a recorded episode is broken, or a known one
            does not fit.
        WorldModelError: The world model cannot be loaded.
        SettingsError: The folder holds another run.
        RealEnvUnavailableError: Meta-World or GL is missing, and episodes are to be played.
        OwnEnvError: One's own env cannot be made, or does not fit.
    """
    one_thread()
    world_model = WorldModel.from_pretrained(args.world_model)
    env = None
    if args.real == "twin" or args.test_episodes:
        env = find_env(args.task, world_model, args.real_env, twin=True)
    with locked(args.out), contextlib.closing(env) if env else contextlib.nullcontext():
        keep_settings(args, args.out, ("test_episodes",))
        experts = load_episodes(args.demonstrations, "train", [args.task], ["expert"])

        def clone(shown: Sequence[Episode], seed: int = args.seed) -> Policy:
            return clone_episodes(shown, world_model, steps=args.clone_steps, seed=seed)

        def cloned(folder: Path, shown: Sequence[Episode], first: int = 0) -> list[Policy]:
            return [
                kept(folder / f"cloned-{i}", functools.partial(clone, shown, args.seed + i))
                for i in range(first, args.clones)
            ]

        clones = cloned(args.out, experts)
        policies = {"cloned": (clones[0], len(experts))}
        played: list[Policy] = list(clones)
        episodes: list[Episode] = []
        rounds: list[dict[str, Any]] = []
        known = None
        if args.known is not None:
            known = known_sequences(world_model, args.known, args.task)
        for number in range(args.rounds + 1):
            folder, spent = args.out / f"round-{number}", len(experts) + len(episodes)
            is_last = number == args.rounds
            if number:
                shown = experts + [episode for episode in episodes if episode.solved]
                filtered = kept(folder / "filtered", functools.partial(clone, shown))
                policies[f"filtered cloning, round {number}"] = filtered, spent
                if not args.steps and is_last:
                    break
                if not args.steps:
                    clones = [filtered, *cloned(folder, shown, first=1)]
            refined = refined_in(world_model, clones[:1] if is_last else clones, args, folder)
            if args.steps:
                policies[f"refined, round {number}"] = refined[0], spent
            if is_last:
                break
            fresh = real_episodes(world_model, refined, args, number, folder / "episodes", env)
            if not fresh:
                return None
            episodes += fresh
            rounds.append(predicted(world_model, fresh))
            played += refined
            if args.steps:
                place = folder / "world_model"
                world_model = learned_on(world_model, args, episodes, known, played, place)
        return measured(args, policies, rounds, world_model, env)


def measured(
    args: Args,
    policies: dict[str, tuple[Policy, int]],
    rounds: list[dict[str, Any]],
    world_model: WorldModel,
    env: AnyEnv | None,
) -> dict[str, Any]:
    """The real episodes that each policy cost, its real success where it can be measured, and how
    well each round was predicted; saved and printed."""
    report: dict[str, Any] = {"task": args.task, "rounds": rounds, "policies": {}}
    seeds = split_seeds("test", args.test_episodes, 400_000)
    for name, (policy, spent) in policies.items():
        figures: dict[str, Any] = {"real_episodes_spent": spent}
        success = None
        if env is not None and len(seeds):
            success = rate(real_outcomes(env, policy, world_model, seeds, name))
            figures["real"] = dataclasses.asdict(success)
        report["policies"][name] = figures
        said = "not measured in reality" if success is None else format_rate(success)
        print(f"{name}: {said}; {spent} real episodes spent")
    for number, one in enumerate(rounds):
        said = ", ".join(f"{says} {100 * one[name]:.0f} %" for name, says in PREDICTED.items())
        print(f"round {number}: {said}")
    believed = VERDICTS[rounds[-1]["verdict"]]
    last = args.out / f"round-{args.rounds}"
    if args.steps:
        print(f"The world model before it learned from the last round: {believed}")
        print(f"refined: {last / 'policy-0'}")
    print(f"filtered: {last / 'filtered'}")
    if args.steps and not any("real" in one for one in report["policies"].values()):
        print(
            "Try the filtered one first: no measured run ended with a worse one than the refined."
        )
    save_result(args.out / "report.json", report)
    return report


def main() -> None:
    """Runs the command line."""
    run(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)
