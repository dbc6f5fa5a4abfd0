"""The parts of a world model, read and written one by one, and put together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from training.data.sequences import Sequences
from training.data.start_frames import load_start_frames
from training.runs.settings import for_task
from training.world_model.memory import unroll
from world4rl_gym.actions import UNIT
from world4rl_gym.components import load_component, save_component
from world4rl_gym.denoiser import Denoiser
from world4rl_gym.eyes import Eyes, EyesConfig, TaskEyes
from world4rl_gym.initial_frames import InitialFrames
from world4rl_gym.memory import Memory, MemoryConfig, TaskMemory
from world4rl_gym.scheduler import SchedulerConfig
from world4rl_gym.world_model import WorldModel, WorldModelConfig


def load_task_eyes(folder: Path, task: str) -> TaskEyes:
    """Reads the eyes of a task; "{task}" in `folder` stands for its name.

    Raises:
        WorldModelError: They are missing or broken.
    """
    place = for_task(folder, task)
    return load_component(place, "eyes", Eyes, EyesConfig).task(0)


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
    action_bounds: tuple[Sequence[float], Sequence[float]] = UNIT,
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
        action_bounds: What -1 and 1 stand for in each action component, in the robot's units.
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
            action_low=tuple(action_bounds[0]),
            action_high=tuple(action_bounds[1]),
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

    Counting successes alike instead would let a few undecided episodes move the shift far. It makes
    the memory at most half a logit more optimistic: PPO exploits optimism.

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

    shifts = sorted(np.linspace(-0.5, 2, 51).tolist(), key=abs)
    chosen = min(shifts, key=unlikeliness)  # the first of equals
    memory.logit_shift.fill_(chosen)
    return float(chosen)
