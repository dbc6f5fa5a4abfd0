"""Measures refinement over tasks, draws of the clone and seeds: the table of results.

    python -m training.reproduce --tasks lever-pull --demonstrations 5 --draws 1 --seeds 1
    python -m training.reproduce

A cell is a task, a number of demonstrations, a draw of the clone and a seed of PPO. A cell clones,
refines the clone in imagination, and, as its upper and lower bound, by the same PPO in the real
env and with a reward of zero; all of them are evaluated in the real env, from the same held-out
starts. Finished cells are kept, and the same command goes on where it was stopped.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from scipy import stats

from training import command
from training.episodes import load_episodes
from training.evaluate_policy import imagined_outcomes, real_outcomes
from training.features_policy import clone_episodes, mean_actions, save_policy
from training.formatting import markdown_table
from training.metrics import Rate, rate
from training.real_env import TASKS, check_task, require_real_env, split_seeds
from training.records import save_record
from training.refine_policy import ZeroReward, imagined_env, make_judge, real_env, refine
from training.rollouts import make_real_env, real_starts
from training.settings import SettingsError, differences, require_at_least
from world4rl_gym.world_model import WorldModel

POLICIES = ("cloned", "refined", "real_twin", "zero_reward")
TEST_OFFSET = 300_000
"""Of the test starts; nothing is chosen on them."""


@dataclasses.dataclass(frozen=True)
class Args:
    """Command line of `training.reproduce`.

    Attributes:
        tasks: The tasks.
        demonstrations: How many expert episodes the clones see.
        draws: Clones of each, every one of other demonstrations where there are enough.
        seeds: Refinements of each clone.
        steps: Env steps of each refinement.
        episodes: Test starts.
        episodes_folder: Where the demonstrations are.
        world_model: Folder or Hub id; None is the embedded one.
        cells: Folder of the finished cells.
        out: The table, as JSON.
        workers: Processes.
    """

    tasks: tuple[str, ...] = TASKS
    demonstrations: tuple[int, ...] = (5, 50)
    draws: int = 3
    seeds: int = 2
    steps: int = 200_000
    episodes: int = 200
    episodes_folder: Path = Path("data/episodes")
    world_model: str | None = None
    cells: Path = Path("runs/table")
    out: Path = Path("results/table.json")
    workers: int = os.cpu_count() or 1

    def __post_init__(self) -> None:
        for task in self.tasks:
            check_task(task)
        require_at_least(self, 1, "draws", "seeds", "steps", "episodes", "workers")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One clone, refined once."""

    task: str
    demonstrations: int
    draw: int
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.task}-{self.demonstrations}-{self.draw}-{self.seed}"


def demonstrations_of(args: Args, cell: Cell) -> list[Any]:
    """The cell's demonstrations: another part of all experts a draw, while there are enough.

    Raises:
        SettingsError: There are too few.
    """
    experts = load_episodes(args.episodes_folder, "train", [cell.task], ["expert"])
    if len(experts) < cell.demonstrations:
        raise SettingsError(
            f"demonstrations: {args.episodes_folder} holds {len(experts)} expert episodes of "
            f"{cell.task}, expected at least {cell.demonstrations}"
        )
    first = cell.draw * cell.demonstrations % (len(experts) - cell.demonstrations + 1)
    return experts[first : first + cell.demonstrations]


def measure(args: Args, cell: Cell) -> dict[str, Any]:
    """Clones, refines and evaluates one cell; saves it in its folder, and returns its row."""
    torch.set_num_threads(1)
    out = args.cells / cell.name
    asked = {
        "steps": args.steps,
        "episodes": args.episodes,
        "world_model": args.world_model or "embedded",
    }
    done = out / "cell.json"
    if done.exists():
        kept = json.loads(done.read_text())
        if told := differences(kept["settings"], asked):
            raise SettingsError(f"{out}: holds a cell of other settings ({told})")
        return kept["row"]
    require_real_env()
    began = time.monotonic()
    world_model = WorldModel.from_pretrained(args.world_model)
    policies = {
        "cloned": clone_episodes(demonstrations_of(args, cell), world_model, seed=cell.draw)
    }
    for name in POLICIES[1:]:
        make = real_env if name == "real_twin" else imagined_env
        rows = make(world_model, cell.task, cell.seed)
        judge = make_judge(world_model, cell.task) if name == "refined" else None
        policies[name] = refine(
            policies["cloned"],
            ZeroReward(rows) if name == "zero_reward" else rows,
            args.steps,
            cell.seed,
            f"{cell.name} {name}",
            judge,
        ).policy
        rows.close()
    seeds = split_seeds("test", args.episodes, TEST_OFFSET)
    env = make_real_env(cell.task)
    starts = real_starts(env, seeds)
    outcomes: dict[str, np.ndarray] = {}
    for name, policy in policies.items():
        save_policy(policy, out / name)
        act = mean_actions(policy)
        outcomes[name] = real_outcomes(env, act, world_model, seeds, f"{cell.name} {name}")
        if name in ("cloned", "refined"):
            when = "before" if name == "cloned" else "after"
            outcomes[f"imagined_{when}"] = imagined_outcomes(act, world_model, starts)
    env.close()
    row = {
        **dataclasses.asdict(cell),
        "episodes": args.episodes,
        "real_episodes_spent": cell.demonstrations,
        "observation": "features",
        **{name: dataclasses.asdict(rate(kept)) for name, kept in outcomes.items()},
        "seconds": round(time.monotonic() - began),
        "outcomes": {
            name: "".join("1" if solved else "0" for solved in kept)
            for name, kept in outcomes.items()
        },
    }
    save_record(done, {"settings": asked, "row": row})
    return row


def bootstrap(runs: np.ndarray, seed: int = 0, resamples: int = 2000) -> Rate:
    """The mean over runs with its 95 % interval: runs are drawn anew, then episodes of each.

    Args:
        runs: `(R, N)`, a number an episode.
        seed: Seed of the resampling.
        resamples: How often.
    """
    rng = np.random.default_rng(seed)
    count, episodes = runs.shape
    means = np.empty(resamples)
    for i in range(resamples):
        rows = rng.integers(count, size=count)
        columns = rng.integers(episodes, size=(count, episodes))
        means[i] = np.take_along_axis(runs[rows], columns, axis=1).mean()
    low, high = np.quantile(means, (0.025, 0.975))
    return Rate(round(float(runs.mean()), 4), round(float(low), 4), round(float(high), 4))


def summarise(rows: list[dict[str, Any]]) -> str:
    """A table: a line a task and number of demonstrations, and the means, as Markdown."""

    def solved(row: dict[str, Any], name: str) -> np.ndarray:
        return np.array([one == "1" for one in row["outcomes"][name]], float)

    def line(first: str, some: list[dict[str, Any]]) -> list[str]:
        of = {name: np.stack([solved(row, name) for row in some]) for name in some[0]["outcomes"]}
        gain = bootstrap(of["refined"] - of["cloned"])
        runs = (of["refined"] - of["cloned"]).mean(axis=1)
        ups, downs = int((runs > 0).sum()), int((runs < 0).sum())
        sign = stats.binomtest(ups, ups + downs).pvalue if ups + downs else 1.0
        real = of["real_twin"].mean() - of["cloned"].mean()
        share = gain.mean / real if real > 0.05 else float("nan")
        return [
            first,
            str(len(some)),
            *(f"{100 * of[name].mean():.0f}" for name in ("cloned", "refined")),
            f"{100 * gain.mean:+.0f} [{100 * gain.low:+.0f}, {100 * gain.high:+.0f}]",
            f"{100 * runs.min():+.0f}",
            f"{sign:.3f}",
            *(f"{100 * of[name].mean():.0f}" for name in ("real_twin", "zero_reward")),
            "-" if np.isnan(share) else f"{100 * share:.0f}",
            *(f"{100 * of[name].mean():.0f}" for name in ("imagined_before", "imagined_after")),
        ]

    lines = []
    for count in sorted({row["demonstrations"] for row in rows}):
        own = [row for row in rows if row["demonstrations"] == count]
        for task in sorted({row["task"] for row in own}):
            lines.append(line(f"{task}, {count}", [row for row in own if row["task"] == task]))
        lines.append(line(f"**mean, {count}**", own))
    return markdown_table(
        [
            "task, demonstrations",
            "runs",
            "clone",
            "refined",
            "gain",
            "worst run",
            "sign test's p",
            "PPO in the real env",
            "PPO, reward zero",
            "share of the real gain",
            "clone, imagined",
            "refined, imagined",
        ],
        lines,
    )


def run(args: Args) -> list[dict[str, Any]]:
    """Measures every cell that is not done yet, and writes the table."""
    cells = [
        Cell(task, count, draw, seed)
        for draw in range(args.draws)
        for seed in range(args.seeds)
        for count in args.demonstrations
        for task in args.tasks
    ]
    with multiprocessing.get_context("spawn").Pool(min(args.workers, len(cells))) as pool:
        rows = pool.starmap(measure, [(args, cell) for cell in cells], chunksize=1)
    rows.sort(key=lambda row: [row[f.name] for f in dataclasses.fields(Cell)])
    save_record(args.out, {"steps": args.steps, "rows": rows})
    print(summarise(rows))
    return rows


def main() -> None:
    """Runs the command line."""
    os.environ.setdefault("LP_NUM_THREADS", "1")
    run(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)
