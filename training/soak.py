"""Steps the env for long, makes and closes it often, and watches memory and handles.

python -m training.soak --steps 100000 --cycles 200 --out results/soak.json
"""

from __future__ import annotations

import collections
import dataclasses
import gc
import statistics
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import psutil
import tyro
from annotated_types import Ge

import world4rl_gym
from training.runs import command
from training.runs.records import save_result
from training.runs.settings import PositiveInt, Settings

SAMPLES = 20
LARGEST_GROWTH_MB = 10.0
"""Between the medians of the second and of the last quarter of the samples."""


class Watch:
    """Samples this process's resident memory, open files and threads."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self.memory_mb: list[float] = []
        self.handles: list[int] = []
        self.threads: list[int] = []

    def sample(self) -> None:
        """Takes one sample, after a collection of garbage."""
        gc.collect()
        self.memory_mb.append(round(self._process.memory_info().rss / 2**20, 2))
        self.handles.append(self._process.num_fds())
        self.threads.append(self._process.num_threads())

    def summary(self) -> dict[str, Any]:
        """Growth from the second quarter on: what comes before is caches filling."""
        return {
            "memory_growth_mb": round(_growth(self.memory_mb), 2),
            "handle_growth": _growth(self.handles),
            "thread_growth": _growth(self.threads),
            "memory_mb": self.memory_mb,
        }


def _growth(values: list[Any]) -> float:
    quarter = max(len(values) // 4, 1)
    return statistics.median(values[-quarter:]) - statistics.median(values[quarter : 2 * quarter])


def soak_steps(world_model: str | None, steps: int, num_envs: int) -> dict[str, Any]:
    """Steps a vector env, with its autoresets and renders, `steps` env steps in all."""
    env = gym.make_vec(
        world4rl_gym.ENV_ID, num_envs, world_model=world_model, render_mode="rgb_array"
    )
    rng = np.random.default_rng(0)
    watch, began = Watch(), time.perf_counter()
    lengths: collections.Counter[int] = collections.Counter()
    now = np.zeros(num_envs, int)
    count = max(steps // num_envs, SAMPLES)
    marks = set(np.linspace(0, count - 1, SAMPLES).astype(int).tolist())
    env.reset(seed=0)
    for step in range(count):
        _, _, terminated, truncated, _ = env.step(rng.uniform(-1, 1, env.action_space.shape))
        now += 1
        ended = terminated | truncated
        lengths.update(now[ended].tolist())
        now[ended] = -1  # the next step resets
        if step in marks:
            env.render()
            watch.sample()
    env.close()
    seconds = time.perf_counter() - began
    return {
        "steps": count * num_envs,
        "episodes": lengths.total(),
        "decisions_an_episode": {str(length): lengths[length] for length in sorted(lengths)},
        "steps_per_second": round(count * num_envs / seconds, 1),
        **watch.summary(),
    }


def soak_cycles(world_model: str | None, cycles: int) -> dict[str, Any]:
    """Makes an env, plays three steps and closes it, `cycles` times."""
    watch, began = Watch(), time.perf_counter()
    marks = set(np.linspace(0, cycles - 1, min(SAMPLES, cycles)).astype(int).tolist())
    for cycle in range(cycles):
        env = gym.make(world4rl_gym.ENV_ID, world_model=world_model)
        env.reset(seed=cycle)
        for _ in range(3):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()
        env.close()
        del env
        if cycle in marks:
            watch.sample()
    return {
        "cycles": cycles,
        "seconds_a_cycle": round((time.perf_counter() - began) / cycles, 3),
        **watch.summary(),
    }


@dataclasses.dataclass(frozen=True)
class Args(Settings):
    """Command line of `training.soak`.

    Attributes:
        steps: Steps of all rows.
        cycles: Envs made and closed.
        num_envs: Rows.
        world_model: Folder or Hub id; None is the embedded one.
        out: The result.
    """

    steps: PositiveInt = 100_000
    cycles: Annotated[int, Ge(2)] = 200
    num_envs: PositiveInt = 8
    world_model: str | None = None
    out: Path = Path("results/soak.json")


def run(args: Args) -> bool:
    """Runs both parts, prints and writes the result; returns whether nothing grew."""
    result = {
        "stepping": soak_steps(args.world_model, args.steps, args.num_envs),
        "making": soak_cycles(args.world_model, args.cycles),
    }
    grew = [
        f"{part}: {name} {measured[name]}"
        for part, measured in result.items()
        for name, most in (
            ("memory_growth_mb", LARGEST_GROWTH_MB),
            ("handle_growth", 0),
            ("thread_growth", 0),
        )
        if measured[name] > most
    ]
    save_result(args.out, {"flat": not grew, **result})
    for part, measured in result.items():
        shown = {name: value for name, value in measured.items() if name != "memory_mb"}
        print(
            f"{part}: {shown}, memory {measured['memory_mb'][0]} to {measured['memory_mb'][-1]} MB"
        )
    print("flat" if not grew else f"grew: {'; '.join(grew)}")
    return not grew


def main() -> None:
    """Runs the command line; the status is 1 where something grew."""
    if not run(tyro.cli(Args, description=__doc__)):
        sys.exit(1)


if __name__ == "__main__":
    command.run(main)
