"""One's own data at tiny size: the path from a data set to a refined policy, and episodes."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from episode_factory import make_episode
from recorded_data import LEROBOT

from training import (
    assemble_world_model,
    train_denoiser,
    train_eyes,
    train_memory,
)
from world4rl_gym.world_model import WorldModel

ROOT = Path(__file__).parent.parent


FROM_LEROBOT = ("--from", "lerobot", str(LEROBOT), "--camera", "observation.images.front")


def commands(source: Sequence[str] = FROM_LEROBOT, task: str = "push") -> list[list[str]]:
    """The path of `docs/own-data.md` from any source, at tiny size."""
    model = ["--world-model", "runs/world_model"]
    measured = ["--task", task, *model, "--policy", f"runs/refined/{task}/policy"]
    tiny = ["--steps", "3", "--batch-size", "4"]
    return [
        ["import_episodes", *source, "--size", "32", "--out", "data/mine", "--task", task],
        ["inspect_episodes", "data/mine", "--html", "runs/coverage.html"],
        ["train_eyes", "--task", task, "--episodes", "data/mine", *tiny, "--code-size", "4"],
        ["train_memory", "--task", task, "--episodes", "data/mine", *tiny, "--width", "16"],
        ["train_denoiser", "--tasks", task, "--episodes", "data/mine", *tiny, "--width", "8"],
        ["assemble_world_model", "--tasks", task, "--episodes", "data/mine", "--anywhere", "4"],
        ["clone_policy", "--task", task, *model, "--episodes", "data/mine", "--steps", "300"],
        [
            *("refine_policy", "--task", task, *model, "--policy", f"runs/clone/{task}/policy"),
            *("--out", f"runs/refined/{task}", "--steps", "3200"),
        ],
        ["evaluate_policy", *measured, "--test-episodes", "data/mine", "--out", "runs/policy.json"],
        ["evaluate_world_model", *model, "--episodes", "data/mine"],
    ]


WALK = """
import contextlib, importlib, json, sys
for module, *arguments in json.loads(sys.argv[1]):
    sys.argv = [module, *arguments]
    with open(f"{module}.txt", "w") as said, contextlib.redirect_stdout(said):
        importlib.import_module(f"training.{module}").main()
"""


def walk(place: Path) -> Path:
    """Runs all commands in a folder, where importing Meta-World or MuJoCo is an error."""
    for name in ("metaworld", "mujoco"):
        (place / "absent" / name).mkdir(parents=True)
        (place / "absent" / name / "__init__.py").write_text("raise ImportError('is absent')")
    paths = [str(place / "absent"), str(ROOT)]
    ran = subprocess.run(  # one process: imports take most of the time
        [sys.executable, "-c", WALK, json.dumps(commands())],
        cwd=place,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return place


def write_own(
    folder: Path,
    lengths: tuple[int, ...] = (8, 8, 8, 8),
    size: int = 32,
    task: str = "push",
    splits: tuple[str, ...] = ("train", "validation"),
    **changes: Any,
) -> Path:
    """Writes episodes; every second one is an expert's, solved in its last decision.

    Returns:
        `folder`, with `TASK/SPLIT` in it.
    """
    for number, split in enumerate(splits):
        for index, length in enumerate(lengths):
            own = make_episode(100 * number + index, task, horizon=length)
            success = np.zeros(length, bool)
            success[-1] = index % 2 == 0
            times = -(-size // 16)
            frames = own.frames.repeat(times, 1).repeat(times, 2)[:, :size, :size]
            behaviour = "expert" if index % 2 == 0 else "policy"
            own = dataclasses.replace(own, frames=frames, success=success, behaviour=behaviour)
            own = dataclasses.replace(own, **changes)
            own.save(folder / task / split / f"{behaviour}-{own.seed:07d}.npz")
    return folder


def build(folder: Path, task: str = "push", **options: Any) -> WorldModel:
    """Trains each part for a step or two and puts the world model together."""
    data, runs = folder / "data", folder / "runs"
    tiny = {"steps": 2, "batch_size": 2}
    places = {"eyes": runs / "eyes" / "{task}", "memories": runs / "memory" / "{task}"}
    eyes = train_eyes.Args(task, data, places["eyes"], code_size=4, width=4, **tiny)
    train_eyes.train(eyes)
    train_memory.run(
        train_memory.Args(task, data, places["eyes"], places["memories"], width=8, **tiny)
    )
    drawn = {"out": runs / "denoiser", "width": 8, "condition_blocks": 0, **tiny}
    train_denoiser.run(train_denoiser.Args((task,), data, places["eyes"], **drawn))
    assemble_world_model.run(
        assemble_world_model.Args(
            (task,),
            **places,
            denoiser=runs / "denoiser",
            episodes=data,
            out=runs / "world_model",
            **{"anywhere": 3, **options},
        )
    )
    return WorldModel.from_pretrained(runs / "world_model")
