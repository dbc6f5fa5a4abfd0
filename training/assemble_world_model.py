"""Puts a world model together out of its trained parts, and calibrates it.

python -m training.assemble_world_model --tasks lever-pull hammer --out runs/world_model
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch.nn import functional as F

from training import command
from training.collect_episodes import load_start_frames
from training.episodes import load_episodes
from training.sequences import Sequences, make_sequences
from training.train_eyes import load_task_eyes
from training.train_memory import unroll
from world4rl_gym.components import load_component, round_weights, save_component
from world4rl_gym.denoiser import Denoiser, DenoiserConfig
from world4rl_gym.eyes import Eyes, TaskEyes
from world4rl_gym.initial_frames import InitialFrames
from world4rl_gym.memory import Memory, MemoryConfig, TaskMemory
from world4rl_gym.scheduler import SchedulerConfig
from world4rl_gym.world_model import WorldModel, WorldModelConfig


def assemble(
    eyes: Mapping[str, TaskEyes],
    memories: Mapping[str, TaskMemory],
    initial_frames: InitialFrames,
    denoiser: Denoiser | None = None,
    scheduler: SchedulerConfig | None = None,
    *,
    action_repeat: int = 3,
    max_episode_steps: int = 50,
    num_inference_steps: int = 2,
    provenance: dict[str, Any] | None = None,
) -> WorldModel:
    """A world model of these parts.

    Args:
        eyes: The eyes of each task.
        memories: The memory of each task, trained with them, in the order of the tasks.
        initial_frames: Contexts of all tasks, in the same order.
        denoiser: None gives an untrained one: nothing worth seeing is drawn.
        scheduler: The denoiser's noise levels.
        action_repeat: Control steps a decision.
        max_episode_steps: Horizon.
        num_inference_steps: Denoising steps a frame.
        provenance: Where it comes from.
    """
    tasks = tuple(memories)
    first = next(iter(memories.values()))
    memory = Memory(**{**dataclasses.asdict(first.config), "tasks": len(tasks)})
    for own, trained in zip(memory.of_task, memories.values(), strict=True):
        own.load_state_dict(trained.state_dict())
    shape = next(iter(eyes.values())).config
    every = Eyes(**{**dataclasses.asdict(shape), "tasks": len(tasks)})
    for task, own_eyes in zip(tasks, every.of_task, strict=True):
        own_eyes.load_state_dict(eyes[task].state_dict())
    if denoiser is None:
        denoiser = Denoiser(
            frame_size=shape.frame_size,
            code_size=shape.code_size,
            state_size=first.config.state_size,
            width=8,
            condition_blocks=0,
        )
    return WorldModel(
        every,
        memory,
        denoiser,
        scheduler or SchedulerConfig(),
        initial_frames,
        WorldModelConfig(
            tasks=tasks,
            action_repeat=action_repeat,
            max_episode_steps=max_episode_steps,
            num_inference_steps=num_inference_steps,
            provenance=provenance or {},
        ),
    )


def start_contexts(episodes: Path, tasks: Sequence[str], split: str, count: int) -> InitialFrames:
    """The first `count` start frames of each task.

    Raises:
        EpisodeError: A file of start frames is missing or broken.
    """
    parts = [load_start_frames(episodes, task, split) for task in tasks]

    def gather(name: str) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([getattr(part, name)[:count] for part in parts]))

    sizes = [len(part.frames[:count]) for part in parts]
    return InitialFrames(
        gather("frames").permute(0, 3, 1, 2).contiguous(),
        gather("state"),
        gather("command"),
        torch.repeat_interleave(torch.arange(len(tasks)), torch.tensor(sizes)),
        torch.ones(sum(sizes), dtype=torch.bool),
        tuple(tasks),
    )


def save_task_memory(memory: TaskMemory, folder: Path) -> None:
    """Writes one task's memory as a `Memory` of one task."""
    whole = Memory(**{**dataclasses.asdict(memory.config), "tasks": 1})
    whole.task(0).load_state_dict(memory.state_dict())
    save_component(whole, folder)


def load_task_memory(folder: Path) -> TaskMemory:
    """Reads what `save_task_memory` wrote.

    Raises:
        WorldModelError: It is missing or broken.
    """
    return load_component(folder.parent, folder.name, Memory, MemoryConfig).task(0)


@torch.no_grad()
def calibrate(memory: TaskMemory, sequences: Sequences) -> float:
    """Shifts a memory's logits, in place, to what makes the true outcomes most likely.

    Counting successes alike instead would let a few undecided episodes move the shift far.

    Args:
        memory: The task's.
        sequences: Episodes held out from its training. Plans are right: of what a policy played on
            real observations the memory misses more than of what it does in imagination.

    Returns:
        The shift.
    """
    logits = unroll(memory, sequences).logit + memory.logit_shift
    inside = sequences.mask.bool()[:, :, None]
    outcome = sequences.outcome.float()

    def unlikeliness(shift: float) -> float:
        chance = (logits - shift).masked_fill(~inside, -1e4).sigmoid().mean(dim=2).amax(dim=1)
        return float(F.binary_cross_entropy(chance.clamp(1e-6, 1 - 1e-6), outcome))

    shifts = sorted(np.linspace(-2, 2, 81).tolist(), key=abs)
    chosen = min(shifts, key=unlikeliness)  # the first of equals
    memory.logit_shift.fill_(chosen)
    return float(chosen)


@dataclasses.dataclass(frozen=True)
class Args:
    """Command line of `training.assemble_world_model`.

    Attributes:
        tasks: Tasks, in the order that the world model keeps.
        eyes: Folder of each task's eyes; "{task}" stands for its name.
        memories: Folder of each task's memory; the same.
        denoiser: Folder that holds `denoiser`.
        world_model: A world model, folder or Hub id, in which only the memories of these tasks are
            replaced; None puts a new one together.
        episodes: Folder of episodes; plans of the validation split calibrate.
        starts: Start frames of each task that the world model carries.
        anywhere: Frames from within demonstrations of each task that it carries.
        num_inference_steps: Denoising steps a frame.
        out: Folder of the world model.
    """

    tasks: tuple[str, ...]
    eyes: Path = Path("runs/eyes/{task}")
    memories: Path = Path("runs/memory/{task}")
    denoiser: Path = Path("runs/denoiser")
    world_model: str | None = None
    episodes: Path = Path("data/episodes")
    starts: int = 100
    anywhere: int = 120
    num_inference_steps: int = 2
    out: Path = Path("runs/world_model")


def run(args: Args) -> None:
    """Assembles, calibrates on validation episodes and saves.

    Raises:
        WorldModelError: A part is missing or broken.
        EpisodeError: There are no validation plans.
    """
    if args.world_model is not None:
        world_model = WorldModel.from_pretrained(args.world_model)
        for task in args.tasks:
            memory, told = calibrated(args, task, world_model.task_eyes(task))
            world_model.task_memory(task).load_state_dict(memory.state_dict())
            world_model.config.provenance[task] = told
        world_model.save_pretrained(args.out)
        print(f"done: {args.out}")
        return
    eyes = {task: load_task_eyes(args.eyes, task) for task in args.tasks}
    memories, provenance = {}, {}
    for task in args.tasks:
        memories[task], provenance[task] = calibrated(args, task, eyes[task])
    denoiser = load_component(args.denoiser, "denoiser", Denoiser, DenoiserConfig)
    round_weights(denoiser)
    first = load_episodes(args.episodes, "train", args.tasks[:1], ["expert"])[0]
    world_model = assemble(
        eyes,
        memories,
        _contexts(args),
        denoiser,
        action_repeat=first.action_repeat,
        max_episode_steps=len(first),
        num_inference_steps=args.num_inference_steps,
        provenance=provenance,
    )
    world_model.save_pretrained(args.out)
    print(f"done: {args.out}")


def calibrated(args: Args, task: str, eyes: TaskEyes) -> tuple[TaskMemory, str]:
    """The trained memory of a task, calibrated on validation plans, and what was done to it.

    Raises:
        WorldModelError: It is missing or broken.
        EpisodeError: There are no validation plans.
    """
    memory = load_task_memory(Path(str(args.memories).replace("{task}", task)) / "memory")
    round_weights(memory)
    held_out = load_episodes(args.episodes, "validation", [task], ["plan"])
    shift = calibrate(memory, make_sequences(held_out, eyes))
    return memory, f"logits shifted by {shift:.2f} on {len(held_out)} validation plans"


def _contexts(args: Args) -> InitialFrames:
    """Start frames, and frames from within demonstrations."""
    starts = start_contexts(args.episodes, args.tasks, "train", args.starts)
    later = _contexts_within(args)
    both = {
        name: torch.cat([getattr(starts, name), getattr(later, name)])
        for name in ("frames", "state", "command", "task_ids", "is_start")
    }
    return InitialFrames(**both, tasks=tuple(args.tasks))


def _contexts_within(args: Args) -> InitialFrames:
    """Frames drawn at random from within the experts' episodes."""
    rng = np.random.default_rng(0)
    parts: dict[str, list[np.ndarray]] = {"frames": [], "state": [], "command": []}
    ids = []
    for task_id, task in enumerate(args.tasks):
        experts = load_episodes(args.episodes, "train", [task], ["expert"])
        for _ in range(args.anywhere):
            episode = experts[rng.integers(len(experts))]
            t = int(rng.integers(1, len(episode) // 2))
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
