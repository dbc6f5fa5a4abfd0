"""Puts a world model together out of its trained parts, and calibrates it.

python -m training.assemble_world_model --tasks lever-pull hammer --out runs/world_model
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro

from training.data.sequences import make_sequences
from training.data.trainable import check_trainable, read_outcomes
from training.evaluation.trust import forget_verdicts
from training.runs import command
from training.runs.settings import NonNegativeInt, PositiveInt, Settings, SettingsError, for_task
from training.world_model.assembly import (
    assemble,
    calibrate,
    load_task_eyes,
    load_task_memory,
    start_contexts,
)
from world4rl_gym.actions import UNIT
from world4rl_gym.components import load_component, round_weights
from world4rl_gym.denoiser import Denoiser, DenoiserConfig
from world4rl_gym.episodes import (
    BEHAVIOURS,
    Episode,
    EpisodeError,
    episode_files,
    load_episodes,
    task_folder,
)
from world4rl_gym.eyes import TaskEyes
from world4rl_gym.initial_frames import InitialFrames, joined, most_contexts
from world4rl_gym.memory import TaskMemory
from world4rl_gym.starts import check_contexts_fit
from world4rl_gym.world_model import WorldModel


@dataclasses.dataclass(frozen=True)
class Args(Settings):
    """Command line of `training.assemble_world_model`.

    Attributes:
        tasks: Tasks, in the order that the world model keeps.
        eyes: Folder of each task's eyes; "{task}" stands for its name.
        memories: Folder of each task's memory; the same.
        denoiser: Folder that holds `denoiser`.
        world_model: A world model, folder or Hub id, in which only what `replace` names is
            replaced, of these tasks; None puts a new one together.
        replace: "memories", "starts" or both.
        episodes: Folder of episodes; plans of the validation split calibrate, or all of its
            episodes where there are none.
        starts: Start frames of each task that the world model carries.
        anywhere: Frames from within demonstrations of each task that it carries.
        num_inference_steps: Denoising steps a frame.
        max_episode_steps: Horizon; None takes the longest training episode's.
        out: Folder of the world model.
    """

    tasks: tuple[str, ...]
    eyes: Path = Path("runs/eyes/{task}")
    memories: Path = Path("runs/memory/{task}")
    denoiser: Path = Path("runs/denoiser")
    world_model: str | None = None
    replace: tuple[Literal["memories", "starts"], ...] = ("memories",)
    episodes: Path = Path("data/episodes")
    starts: PositiveInt = 300
    anywhere: NonNegativeInt = 120
    num_inference_steps: PositiveInt = 2
    max_episode_steps: PositiveInt | None = None
    out: Path = Path("runs/world_model")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.replace:
            raise SettingsError('replace: expected "memories", "starts" or both, got neither')


def run(args: Args) -> None:
    """Assembles, calibrates on validation episodes and saves.

    Raises:
        WorldModelError: A part is missing or broken.
        EpisodeError: Training or validation episodes are missing or do not suit.
        SettingsError: More frames are asked for than a world model may carry.
    """
    if args.world_model is not None:
        world_model = WorldModel.from_pretrained(args.world_model)
        for task in args.tasks:
            world_model.task_index(task)
        for task in args.tasks if "memories" in args.replace else ():
            memory, note = calibrated(args, task, world_model.task_eyes(task))
            world_model.task_memory(task).load_state_dict(memory.state_dict())
            world_model.config.provenance[task] = note
        if "starts" in args.replace:
            check_room(
                args.starts + args.anywhere, len(world_model.config.tasks), world_model.frame_size
            )
            world_model.initial_frames = _with_new_starts(args, world_model.initial_frames)
        forget_verdicts(world_model, args.tasks)
        world_model.save_pretrained(args.out)
        print(f"done: {args.out}")
        return
    known = {task: _experts(args.episodes, task) for task in args.tasks}
    for task, episodes in known.items():
        check_trainable(args.episodes, task, episodes[0])
    first = next(iter(known.values()))[0]
    _check_alike([episodes[0] for episodes in known.values()])
    check_room(args.starts + args.anywhere, len(args.tasks), first.frames.shape[1])
    eyes = {task: load_task_eyes(args.eyes, task) for task in args.tasks}
    memories, provenance = {}, {}
    for task in args.tasks:
        memories[task], provenance[task] = calibrated(args, task, eyes[task])
    denoiser = load_component(args.denoiser, "denoiser", Denoiser, DenoiserConfig)
    round_weights(denoiser)
    longest = max(
        len(success)
        for task in args.tasks
        for success in read_outcomes(args.episodes, task, "train")
    )
    horizon = args.max_episode_steps or longest
    print(f"horizon: {horizon} decisions; the longest training episode has {longest}")
    world_model = assemble(
        eyes,
        memories,
        _contexts(args, known),
        denoiser,
        action_repeat=first.action_repeat,
        max_episode_steps=horizon,
        num_inference_steps=args.num_inference_steps,
        action_bounds=_bounds(first),
        provenance=provenance,
    )
    world_model.save_pretrained(args.out)
    print(f"done: {args.out}")


def check_room(contexts: int, tasks: int, frame_size: int) -> None:
    """Raises SettingsError where the frames of all tasks would be too many to be loaded again.

    Args:
        contexts: Frames a task that a world model is to carry.
        tasks: Number of tasks.
        frame_size: Their height and width.
    """
    most = most_contexts(frame_size) // tasks
    if contexts > most:
        raise SettingsError(
            f"starts, anywhere: expected at most {most} together for {tasks} tasks of "
            f"{frame_size} x {frame_size} frames, got {contexts}"
        )


def _experts(folder: Path, task: str) -> list[Episode]:
    """The experts' training episodes; all of them where no expert acted."""
    experts = [p for p in episode_files(task_folder(folder, task) / "train") if "expert" in p.name]
    return load_episodes(folder, "train", [task], ["expert"] if experts else BEHAVIOURS)


def _check_alike(firsts: Sequence[Episode]) -> None:
    """Tasks that share a world model share its shapes and units."""
    for name, value in (
        ("frame size", lambda e: e.frames.shape[1:]),
        ("action size", lambda e: e.actions.shape[1]),
        ("action repeat", lambda e: e.action_repeat),
        ("action bounds", _bounds),
    ):
        for other in firsts[1:]:
            if value(firsts[0]) != value(other):
                raise EpisodeError(
                    f"{name}: differs between tasks: {value(firsts[0])} for {firsts[0].task}, "
                    f"{value(other)} for {other.task}"
                )


def _bounds(episode: Episode) -> tuple[Sequence[float], Sequence[float]]:
    low, high = episode.action_low, episode.action_high
    return UNIT if low is None or high is None else (tuple(low.tolist()), tuple(high.tolist()))


def calibrated(args: Args, task: str, eyes: TaskEyes) -> tuple[TaskMemory, str]:
    """The trained memory of a task, calibrated on validation plans, or on all validation episodes
    where there are none, and what was done to it.

    Raises:
        WorldModelError: It is missing or broken.
        EpisodeError: There are no validation episodes.
    """
    memory = load_task_memory(for_task(args.memories, task) / "memory")
    round_weights(memory)
    held_out = load_episodes(args.episodes, "validation", [task])
    plans = [episode for episode in held_out if episode.behaviour == "plan"]
    sequences = make_sequences(plans or held_out, eyes)
    kind = f"{len(sequences)} validation {'plans' if plans else 'episodes'}"
    solved = int(sequences.outcome.sum())
    if 0 < solved < len(sequences):
        note = f"logits shifted by {calibrate(memory, sequences):.2f} on {kind}"
    else:  # would be moved as far as it goes
        note = f"not calibrated: of {kind}, {solved} solve the task"
    print(f"{task}: {note}")
    return memory, note


def _contexts(args: Args, known: Mapping[str, Sequence[Episode]]) -> InitialFrames:
    """Start frames, and frames from within demonstrations."""
    parts = [start_contexts(args.episodes, args.tasks, "train", args.starts)]
    if args.anywhere:
        parts.append(_contexts_within(args, known))
    return joined(parts)


def _with_new_starts(args: Args, old: InitialFrames) -> InitialFrames:
    """Other start frames of these tasks; of what lies within demonstrations, `anywhere` a task."""
    parts = []
    for task in old.tasks:
        own = old.select("anywhere", [task])
        is_start = old.is_start[own].numpy()
        if task in args.tasks:
            start = start_contexts(args.episodes, [task], "train", args.starts)
            check_contexts_fit(old, start)
            ids = torch.full_like(start.task_ids, old.tasks.index(task))
            parts.append(dataclasses.replace(start, task_ids=ids, tasks=old.tasks))
            within = own[~is_start][: args.anywhere]
            parts += [old.rows(within)] if len(within) else []
        else:
            parts.append(old.rows(own))
    return joined(parts)


def _contexts_within(args: Args, known: Mapping[str, Sequence[Episode]]) -> InitialFrames:
    """Frames drawn at random from the first halves of the experts' episodes."""
    rng = np.random.default_rng(0)
    parts: dict[str, list[np.ndarray]] = {"frames": [], "state": [], "command": []}
    ids = []
    for task_id, task in enumerate(args.tasks):
        experts = [e for e in known[task] if e.behaviour == "expert" and e.is_drawn]
        if not experts:
            raise EpisodeError(
                f"{args.episodes}: expected expert train episodes of {task} with all their frames, "
                "got none; --anywhere 0 does without"
            )
        for _ in range(args.anywhere):
            episode = experts[rng.integers(len(experts))]
            t = int(rng.integers(1, max(2, len(episode) // 2)))
            empty = np.zeros((len(episode) + 1, 0), np.float32)
            parts["frames"].append(episode.frames[t])
            parts["state"].append((empty if episode.state is None else episode.state)[t])
            parts["command"].append((empty if episode.command is None else episode.command)[t])
            ids.append(task_id)
    whole = {name: torch.from_numpy(np.stack(values)) for name, values in parts.items()}
    return InitialFrames(
        whole["frames"].permute(0, 3, 1, 2).contiguous(),
        whole["state"],
        whole["command"],
        torch.tensor(ids),
        torch.zeros(len(ids), dtype=torch.bool),
        tuple(args.tasks),
    )


def main() -> None:
    """Runs the command line."""
    run(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)
