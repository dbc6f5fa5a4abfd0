"""Trains the memory of one task on whole episodes, open loop.

    python -m training.train_memory --task push --episodes data/mine

Nothing but the first frame's code, the robot's first state and what is done goes in; success, robot
state and the codes of later frames supervise every decision. This command learns from all training
episodes of a folder; `training.train_task_memory` also makes some, in Meta-World.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

from training.data.sequences import make_sequences
from training.data.trainable import iterate_trainable
from training.runs import command, processes
from training.runs.locks import locked
from training.runs.settings import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Settings,
    for_task,
    keep_settings,
)
from training.runs.threads import one_thread
from training.world_model.assembly import load_task_eyes, save_task_memory
from training.world_model.memory import MemoryRun, make_memory, train_memory


@dataclasses.dataclass(frozen=True)
class Args(Settings):
    """Command line of `training.train_memory`.

    Attributes:
        task: The task.
        episodes: Folder of episodes.
        eyes: Folder of the task's eyes; "{task}" stands for its name.
        out: Folder of the run; the memory appears in its `memory`. "{task}" as above.
        steps: Optimiser steps.
        batch_size: Episodes a step.
        learning_rate: AdamW's, after the warm-up.
        members: Members of the memory.
        width: Its units.
        code_weight: Weight of the error in later frames' codes; 0 where the eyes learned from
            first frames alone. With 0 nothing says what later codes are, so frames cannot be
            drawn: for policies on features alone.
        seed: Seed of weights and batches.
    """

    task: str
    episodes: Path = Path("data/episodes")
    eyes: Path = Path("runs/eyes/{task}")
    out: Path = Path("runs/memory/{task}")
    steps: PositiveInt = 2500
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 2e-3
    members: PositiveInt = 2
    width: PositiveInt = 160
    code_weight: NonNegativeFloat = 2.0
    seed: NonNegativeInt = 0


def run(args: Args) -> Path:
    """Trains the memory of one task; the same command goes on where it was stopped.

    Returns:
        The folder that holds `memory`.

    Raises:
        EpisodeError: Episodes are missing or broken, or nothing could be learned from them.
        WorldModelError: The eyes are missing or broken.
        SettingsError, RunError: The folder belongs to another run.
    """
    out = for_task(args.out, args.task)
    episodes = iterate_trainable(args.episodes, args.task)
    sequences = make_sequences(episodes, load_task_eyes(args.eyes, args.task))
    how = MemoryRun(
        args.steps, args.learning_rate, args.batch_size, args.seed, code_weight=args.code_weight
    )
    with locked(out, several=True):
        keep_settings(args, out, ("episodes", "eyes"))
        memory = make_memory(sequences, args.members, args.width, args.seed)
        train_memory(memory, [(sequences, 1.0)], how, out, f"{args.task} memory")
        if processes.is_first():
            save_task_memory(memory, out / "memory")
    print(f"done: {out / 'memory'}")
    return out


def main() -> None:
    """Runs the command line."""
    one_thread()
    run(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)
