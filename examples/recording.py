"""Records episodes of a Gymnasium env as `import_episodes --from folder` reads them.

A robot's own recorder would do the same: pictures in a folder an episode, and one table.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import imageio.v3 as iio
import numpy as np


class Expert(Protocol):
    """What acts while episodes are recorded; it may look where a robot cannot."""

    def act(self, env: Any) -> np.ndarray:
        """An action in the env's units."""
        ...


def record(
    env: gym.Env[Any, Any],
    make_expert: Callable[[np.random.Generator, int], Expert],
    out: Path,
    episodes: int,
    decisions: int,
    seed: int = 0,
    command_size: int = 0,
) -> float:
    """Writes episodes; a row's success is of its own picture, before its action.

    Args:
        env: Its observations are a Dict of `pixels` `(H, W, 3)` uint8 and `agent_pos` `(S + C,)`,
            state and command; its info says `is_success`.
        make_expert: Takes a random generator and the episode's number.
        out: A new folder.
        episodes: How many.
        decisions: Of every episode.
        seed: Of the first episode; the others' follow.
        command_size: C.

    Returns:
        The share of episodes that solve the task.
    """
    out.mkdir(parents=True)
    solved = []
    with open(out / "episodes.csv", "w", newline="") as file:
        table = csv.writer(file)
        agent = env.observation_space["agent_pos"].shape[0] - command_size
        sizes = {"action": env.action_space.shape[0], "state": agent, "command": command_size}
        names = [f"{kind}_{i}" for kind, size in sizes.items() for i in range(size)]
        table.writerow(["episode", *names, "success"])
        for number in range(episodes):
            expert = make_expert(np.random.default_rng([seed, number]), number)
            observation, _ = env.reset(seed=seed + number)
            name, success = f"{number:04d}", [False]
            (out / name).mkdir()
            for decision in range(decisions + 1):
                iio.imwrite(out / name / f"{decision:03d}.png", observation["pixels"])
                action = expert.act(env)
                table.writerow([name, *action, *observation["agent_pos"], int(success[-1])])
                if decision < decisions:
                    observation, _, _, _, info = env.step(action)
                    success.append(bool(info["is_success"]))
            solved.append(any(success))
    return float(np.mean(solved))


def record_start_frames(
    env: gym.Env[Any, Any], out: Path, count: int, seed: int, command_size: int = 0
) -> None:
    """Writes first frames alone, which cost no demonstration, as the eyes learn from them.

    Args:
        env: As `record` takes it.
        out: `EPISODES/TASK/start-frames-train.npz`, beside the imported episodes.
        count: How many.
        seed: Of the first; none of the recorded episodes' may be among them.
        command_size: C.
    """
    seen = [env.reset(seed=seed + number)[0] for number in range(count)]
    out.parent.mkdir(parents=True, exist_ok=True)
    frames, agent = (np.stack([one[name] for one in seen]) for name in ("pixels", "agent_pos"))
    state, command = np.split(agent.astype(np.float32), [agent.shape[1] - command_size], axis=1)
    known = {"state": state} | ({"command": command} if command_size else {})
    np.savez_compressed(out, frames=frames, **known)


def run(
    description: str | None,
    arguments: Sequence[str] | None,
    make_env: Callable[[], gym.Env[Any, Any]],
    make_expert: Callable[[np.random.Generator, int], Expert],
    decisions: int,
    command_size: int = 0,
) -> None:
    """The command line of a recorder.

    Args:
        description: What `--help` says.
        arguments: The words of the command line; None takes the process's.
        make_env: Makes the env, once the command line is read.
        make_expert, decisions, command_size: As `record` takes them.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=230)
    parser.add_argument("--start-frames", type=Path, help="also write these, 1,000")
    args = parser.parse_args(arguments)
    if args.episodes < 1 or args.out.exists():
        parser.error("expected --episodes of at least 1, and --out that is not there yet")
    env, size = make_env(), command_size
    share = record(env, make_expert, args.out, args.episodes, decisions, command_size=size)
    print(f"{args.episodes} episodes, {100 * share:.0f} % of which are solved: {args.out}")
    if args.start_frames is not None:
        record_start_frames(env, args.start_frames, 1000, 1_000_000, size)
    env.close()
