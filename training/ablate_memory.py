"""Measures what each part of a memory and of its data is worth, by leaving it out.

    python -m training.ablate_memory --tasks handle-pull

Needs the episodes of `training.train_task_memory`. Every variation learns anew, from the same
episodes, for the same number of steps, without those of the last round; and is measured on these
(what policies planned, and played, that were refined in a memory that had learned from all others)
and on the test episodes of `training.make_test_set`, where there are some. Variations that are
trained are not trained again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from training.data.sequences import Sequences, make_sequences
from training.evaluation.formatting import markdown_table, number
from training.runs import command
from training.runs.locks import locked
from training.runs.records import save_table
from training.runs.settings import PositiveInt, Settings, SettingsError, keep_settings
from training.runs.threads import one_thread
from training.world_model.memory import MemoryRun, judged, make_memory, train_memory
from world4rl_gym.episodes import Episode, EpisodeError, episode_files, load_episodes, task_folder
from world4rl_gym.eyes import TaskEyes
from world4rl_gym.memory import MemoryConfig, MemoryState, TaskMemory
from world4rl_gym.pixels import channels_first
from world4rl_gym.world_model import WorldModel

HELD_OUT = {"policies": "policies", "near_misses": "near-misses", "last_round": "last round"}
"""What variations are measured on, and what the table calls it."""
BINS = 11
"""Of each action component where actions are two-hot."""


@dataclasses.dataclass(frozen=True)
class Variation:
    """What a memory is given, and how it learns.

    Attributes:
        says: What the table calls it.
        commands: Whether it is given the commands.
        states: Whether it is given the robot's states; without them there are no commands either.
        replays: Whether it learns from perturbed replays.
        plans: Whether it learns from plans, the rounds of `train_task_memory`.
        codes: Whether it learns how the frame's code changes.
        open_loop: Whether it learns to go on from its own states; else from true ones, one step.
        two_hot: Whether actions are two-hot, as in World4RL, instead of plain numbers.
        fixed_eyes: Whether the eyes are the world model's; else they are new and learn with the
            memory, from outcomes and the robot's motion.
    """

    says: str
    commands: bool = True
    states: bool = True
    replays: bool = True
    plans: bool = True
    codes: bool = True
    open_loop: bool = True
    two_hot: bool = False
    fixed_eyes: bool = True


VARIATIONS = {
    "all": Variation("as it is"),
    "no-rounds": Variation("without rounds of plans", plans=False),
    "no-replays": Variation("without perturbed replays", replays=False),
    "no-command": Variation("without commands", commands=False),
    "no-state": Variation("without robot states and commands", commands=False, states=False),
    "no-codes": Variation("without the codes of later frames", codes=False),
    "one-step": Variation("trained on one step from true states", open_loop=False),
    "two-hot": Variation("two-hot actions", two_hot=True),
    "own-eyes": Variation(
        "eyes learned with the memory, without codes", codes=False, fixed_eyes=False
    ),
}


@dataclasses.dataclass(frozen=True)
class Args(Settings):
    """Command line of `training.ablate_memory`.

    Attributes:
        tasks: The tasks.
        variations: Which of `VARIATIONS`.
        seeds: Trainings of each.
        steps: Optimiser steps of each.
        width: Units of the memory.
        world_model: Folder or Hub id, for its eyes; None is the embedded one.
        episodes: Folder of episodes.
        runs: Folder of what is done.
        out: The table, as JSON; beside it as Markdown.
    """

    tasks: tuple[str, ...]
    variations: tuple[str, ...] = tuple(VARIATIONS)
    seeds: PositiveInt = 1
    steps: PositiveInt = 1000
    width: PositiveInt = 160
    world_model: str | None = None
    episodes: Path = Path("data/episodes")
    runs: Path = Path("runs/ablations")
    out: Path = Path("results/ablations.json")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.variations:
            if name not in VARIATIONS:
                raise SettingsError(
                    f"variations: expected some of {', '.join(VARIATIONS)}, got {name!r}"
                )


class SeeingMemory(TaskMemory):
    """A memory with eyes of its own: for a code it takes a frame's pixels, `(B, 3 * H * W)`."""

    def __init__(self, config: MemoryConfig, eyes: TaskEyes) -> None:
        super().__init__(config)
        self.eyes = eyes

    def begin(self, code: Tensor, state: Tensor, command: Tensor) -> MemoryState:
        """Begins episodes."""
        size = self.eyes.config.frame_size
        frames = code.to(torch.uint8).view(-1, 3, size, size)
        return super().begin(self.eyes.encode(frames), state, command)


def two_hot(actions: Tensor) -> Tensor:
    """`(..., A)` in [-1, 1] -> `(..., A * BINS)`: the weights of the two nearest bins."""
    place = (actions.clamp(-1, 1) + 1) / 2 * (BINS - 1)
    bins = torch.arange(BINS, dtype=actions.dtype)
    return (1 - (place.unsqueeze(-1) - bins).abs()).clamp(min=0).flatten(-2)


@dataclasses.dataclass(frozen=True)
class Recorded:
    """Episodes, encoded once for all variations.

    Attributes:
        sequences: The episodes as the memory is trained on them.
        firsts: `(N, H, W, 3)` uint8, their first frames, for eyes of a variation's own.
    """

    sequences: Sequences
    firsts: np.ndarray


def recorded(episodes: Sequence[Episode], eyes: TaskEyes) -> Recorded:
    """Encodes episodes."""
    firsts = np.stack([episode.frames[0] for episode in episodes])
    return Recorded(make_sequences(episodes, eyes), firsts)


def as_given(known: Recorded, variation: Variation) -> Sequences:
    """Episodes as a variation is given them."""
    sequences = known.sequences
    changes: dict[str, Tensor] = {}
    if not variation.states:
        changes["state"] = sequences.state[:, :, :0]
    if not variation.commands:
        changes["command"] = sequences.command[:, :, :0]
    if variation.two_hot:
        changes["actions"] = two_hot(sequences.actions)
    if not variation.fixed_eyes:
        changes["first_code"] = channels_first(torch.from_numpy(known.firsts)).flatten(1).float()
    return dataclasses.replace(sequences, **changes)


def new_memory(
    known: Recorded, eyes: TaskEyes, variation: Variation, width: int, seed: int
) -> TaskMemory:
    """An untrained memory of two members for a variation."""
    plain = dataclasses.replace(variation, two_hot=False, fixed_eyes=True)
    memory = make_memory(as_given(known, plain), members=2, width=width, seed=seed)
    if not variation.two_hot and variation.fixed_eyes:
        return memory
    config = memory.config
    if variation.two_hot:
        config = dataclasses.replace(config, action_size=config.action_size * BINS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        other = (
            TaskMemory(config)
            if variation.fixed_eyes
            else SeeingMemory(config, TaskEyes(eyes.config))
        )
    for name, values in memory.named_buffers():
        other.get_buffer(name).copy_(values)
    return other


def split(episodes: Sequence[Episode]) -> tuple[dict[str, list[Episode]], list[Episode]]:
    """Training episodes, "played", "replays" and "plans"; and those of the last round.

    Perturbed replays of plans count as plans; those of the last round are left out.

    Raises:
        EpisodeError: There are fewer than two rounds.
    """
    round_of = {}  # plans are called ROUND-POLICY; replays begin where their source did
    for episode in episodes:
        name = episode.policy.split("-")[0]
        if name.isdecimal():
            round_of[episode.seed] = int(name)
    found = len(set(round_of.values()))
    if found < 2:
        raise EpisodeError(f"episodes: expected two rounds of plans, got {found}")
    last = max(round_of.values())
    known: dict[str, list[Episode]] = {"played": [], "replays": [], "plans": []}
    held_out = []
    for episode in episodes:
        own = round_of.get(episode.seed)
        replayed = episode.behaviour == "replay"
        if own is None:
            known["replays" if replayed else "played"].append(episode)
        elif own < last:
            known["plans"].append(episode)
        elif not replayed:
            held_out.append(episode)
    return known, held_out


def measure(
    args: Args,
    task: str,
    name: str,
    seed: int,
    eyes: TaskEyes,
    known: dict[str, Recorded],
    held_out: dict[str, Recorded],
) -> dict[str, Any]:
    """Trains one variation, or loads what was trained, and judges what is held out, by kind."""
    out = args.runs / task / f"{name}-{seed}"
    variation = VARIATIONS[name]
    shares = {
        "played": 0.4,
        "replays": 0.6 if variation.replays else 0.0,
        "plans": 1.0 if variation.plans else 0.0,
    }
    total = sum(shares.values())
    groups = [
        (as_given(known[kind], variation), share / total) for kind, share in shares.items() if share
    ]
    memory = new_memory(known["played"], eyes, variation, args.width, seed)
    run = MemoryRun(
        steps=args.steps,
        seed=seed,
        code_weight=2.0 if variation.codes else 0.0,
        open_loop=variation.open_loop,
    )
    memory = train_memory(memory, groups, run, out, f"{task} {name}")
    figures = {
        kind: judged(memory.eval(), as_given(own, variation)) for kind, own in held_out.items()
    }
    return {"task": task, "variation": name, "seed": seed, **figures}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Means over tasks and seeds as Markdown, a line a variation."""

    def mean(own: Sequence[dict[str, Any]], kind: str, name: str) -> str:
        values = [number(row[kind][name]) for row in own if kind in row]
        return "-" if np.isnan(values).all() else f"{np.nanmean(values):.3f}"

    kinds = [kind for kind in HELD_OUT if any(kind in row for row in rows)]
    lines = []
    for name, variation in VARIATIONS.items():
        own = [row for row in rows if row["variation"] == name]
        if own:
            figures = [mean(own, kind, f) for kind in kinds for f in ("auroc", "agreement")]
            lines.append([variation.says, str(len(own)), *figures])
    figures = [f"{HELD_OUT[kind]}: {f}" for kind in kinds for f in ("AUROC", "agreement")]
    return markdown_table(["memory", "trainings", *figures], lines)


def run(args: Args) -> list[dict[str, Any]]:
    """Measures every variation of every task, and writes the table.

    Raises:
        EpisodeError: A task has no episodes, or fewer than two rounds of plans.
        WorldModelError: The world model cannot be loaded.
        SettingsError: The folder holds runs of other settings.
    """
    one_thread()
    world_model = WorldModel.from_pretrained(args.world_model)
    rows = []
    with locked(args.runs):
        keep_settings(args, args.runs, ("tasks", "variations", "seeds", "runs"))
        for task in args.tasks:
            eyes = world_model.task_eyes(task)
            known, last = split(load_episodes(args.episodes, "train", [task]))
            held_out = {"last_round": last}
            if episode_files(task_folder(args.episodes, task) / "test"):
                for one in load_episodes(args.episodes, "test", [task]):
                    kind = "near_misses" if one.behaviour == "replay" else "policies"
                    held_out.setdefault(kind, []).append(one)
            learned, judged_on = (
                {kind: recorded(own, eyes) for kind, own in part.items() if own}
                for part in (known, held_out)
            )
            for name in args.variations:
                for seed in range(args.seeds):
                    rows.append(measure(args, task, name, seed, eyes, learned, judged_on))
    save_table(args.out, {"steps": args.steps, "rows": rows}, table(rows))
    return rows


def main() -> None:
    """Runs the command line."""
    run(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)
