"""Measures refinement over tasks, draws of the clone and seeds: the table of results.

    python -m training.reproduce --tasks lever-pull --demonstrations 5 --draws 1 --seeds 1
    python -m training.reproduce

A cell is a task, a number of demonstrations, a draw of the clone and a seed of PPO. A cell clones,
refines the clone in imagination, and, as its upper and lower bound, by the same PPO in the real
env and with a reward of zero. Beside them stand a clone of three times as many steps, one that also
imitates the solved ones of its own real episodes (filtered), one that looks at frames, a policy on
frames into which the refined one was distilled, and a flow policy, as cloned and steered by its
noise. All of them are evaluated in the real env, from the same held-out starts. On a task on which
the world model says that it is not to be believed, nothing is refined in imagination: the clone and
the flow policy stay as they are. Finished cells are kept, and the same command goes on where it was
stopped.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import multiprocessing
import os
import typing
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from scipy import stats

from training.data.trainable import load_demonstrations
from training.distil_policy import distil
from training.envs.real_env import (
    TABLE_OFFSET,
    TASKS,
    RealEnv,
    Task,
    require_real_env,
    split_seeds,
)
from training.envs.rollouts import (
    imagined_outcomes,
    make_real_env,
    real_episodes,
    real_outcomes,
    real_starts,
)
from training.evaluation.formatting import format_points, format_rate, markdown_table
from training.evaluation.metrics import Rate, packed, rate, unpacked
from training.evaluation.trust import checksum, is_refused
from training.policies.flow import clone_flow, steer
from training.policies.imitation import clone_episodes
from training.policies.refinement import (
    REAL_STEPS,
    STEPS,
    ZeroReward,
    practice_env,
    real_env,
    refine,
    refine_imagined,
)
from training.runs import command
from training.runs.records import save_record, save_table
from training.runs.settings import PositiveInt, Settings, SettingsError, differences
from training.runs.threads import one_thread
from world4rl_gym.episodes import Episode
from world4rl_gym.policy import Policy
from world4rl_gym.steering import SteeredPolicy
from world4rl_gym.world_model import WorldModel

PolicyName = Literal[
    "cloned",
    "refined",
    "real_twin",
    "zero_reward",
    "longer_clone",
    "filtered",
    "cloned_frames",
    "distilled",
    "flow",
    "steered",
]
IMAGINED = {"cloned": "imagined_before", "refined": "imagined_after"}
"""What the imagined outcomes of a policy are called."""
STEERED = ("flow", "steered")
OWN_SETTINGS = {"real_twin": "real_steps", "filtered": "rollouts"}
"""Settings that one policy of a cell alone depends on."""
COLUMNS = {
    "cloned": "clone",
    "refined": "refined",
    "real_twin": "PPO in the real env",
    "zero_reward": "PPO, reward zero",
    "longer_clone": "longer clone",
    "filtered": "filtered cloning",
    "cloned_frames": "clone on frames",
    "distilled": "refined, distilled into frames",
    "flow": "clone by flow matching, noise zero",
    "steered": "the same, its noise refined",
    "imagined_before": "clone, imagined",
    "imagined_after": "refined, imagined",
}
GAINS = ("real gain", "worst run", "sign test's p", "share of the real env's gain")
ROLLOUT_OFFSET = 370_000
"""Of the training starts from which filtered cloning plays."""


@dataclasses.dataclass(frozen=True)
class Args(Settings):
    """Command line of `training.reproduce`.

    Attributes:
        tasks: The tasks.
        demonstrations: How many expert episodes the clones see.
        draws: Clones of each, every one of other demonstrations where there are enough.
        seeds: Refinements of each clone.
        policies: Which of a cell's policies to measure; the rest can be added later.
        clone_steps: Gradient steps of each clone.
        steps: Env steps of each refinement.
        real_steps: Those of PPO in the real env, which runs at a tenth of the speed.
        rollouts: Real episodes of the clone of which filtered cloning imitates the solved ones.
        episodes: Test starts.
        episodes_folder: Where the demonstrations are.
        world_model: Folder or Hub id; None is the embedded one.
        cells: Folder of the finished cells.
        out: The table, as JSON; beside it, as Markdown, the means.
        workers: Processes.
    """

    tasks: tuple[Task, ...] = TASKS
    demonstrations: tuple[PositiveInt, ...] = (5, 50)
    draws: PositiveInt = 3
    seeds: PositiveInt = 2
    policies: tuple[PolicyName, ...] = typing.get_args(PolicyName)
    clone_steps: PositiveInt = 4000
    steps: PositiveInt = STEPS
    real_steps: PositiveInt = REAL_STEPS
    rollouts: PositiveInt = 100
    episodes: PositiveInt = 200
    episodes_folder: Path = Path("data/episodes")
    world_model: str | None = None
    cells: Path = Path("runs/table")
    out: Path = Path("results/table.json")
    workers: PositiveInt = os.cpu_count() or 1


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


@functools.cache
def _world_model(source: str | None) -> WorldModel:
    """Loaded once a process, not once a cell."""
    return WorldModel.from_pretrained(source)


def training_settings(args: Args) -> dict[str, int]:
    """The settings of the trainings that are asked for."""
    own = {f: getattr(args, f) for name, f in OWN_SETTINGS.items() if name in args.policies}
    return {"clone_steps": args.clone_steps, "steps": args.steps, **own}


def measure(args: Args, cell: Cell) -> dict[str, Any]:
    """Clones, refines and evaluates what the cell still lacks; returns its row."""
    one_thread()
    out = args.cells / cell.name
    world_model = _world_model(args.world_model)
    asked = {
        **training_settings(args),
        "episodes": args.episodes,
        "world_model": checksum(world_model, cell.task),
        "refused": is_refused(world_model, cell.task),
    }
    path = out / "cell.json"
    kept: dict[str, Any] = {"settings": dict(asked), "outcomes": {}}
    if path.exists():
        kept = json.loads(path.read_text())
    outcomes: dict[str, str] = kept["outcomes"]
    settings = kept["settings"]
    for name, field in OWN_SETTINGS.items():
        if name not in outcomes and not (out / name).exists():
            settings.pop(field, None)  # nothing that is there depends on it
    if differing := differences({k: settings.get(k, v) for k, v in asked.items()}, asked):
        raise SettingsError(f"{out}: holds a cell of other settings ({differing})")
    settings.update(asked)
    missing = [name for name in args.policies if name not in outcomes]
    if missing:
        require_real_env()
        env = make_real_env(cell.task)
        seeds = split_seeds("test", args.episodes, TABLE_OFFSET)
        for name in missing:
            policy = train(args, cell, name, world_model, env)
            solved = real_outcomes(env, policy, world_model, seeds, f"{cell.name} {name}")
            if name in IMAGINED:
                starts = real_starts(env, seeds)
                outcomes[IMAGINED[name]] = packed(imagined_outcomes(policy, world_model, starts))
            outcomes[name] = packed(solved)
            save_record(path, kept)
        env.close()
    return {
        **dataclasses.asdict(cell),
        "episodes": args.episodes,
        "real_episodes_spent": cell.demonstrations,
        "observation": "features",
        "refused": asked["refused"],
        **{name: dataclasses.asdict(rate(unpacked(text))) for name, text in outcomes.items()},
        "outcomes": outcomes,
    }


def train(
    args: Args, cell: Cell, name: str, world_model: WorldModel, env: RealEnv
) -> Policy | SteeredPolicy:
    """Trains one of the cell's policies, or reads it where it is done."""
    folder = args.cells / cell.name / name
    if folder.exists():
        return (SteeredPolicy if name in STEERED else Policy).from_pretrained(folder)
    policy = _trained(args, cell, name, world_model, env)
    policy.save_pretrained(folder)
    return policy


def _trained(
    args: Args, cell: Cell, name: str, world_model: WorldModel, env: RealEnv
) -> Policy | SteeredPolicy:
    """Trains one of the cell's policies, and first those that it begins with."""
    task, seed, title = cell.task, cell.seed, f"{cell.name} {name}"

    def shown() -> list[Episode]:
        return load_demonstrations(args.episodes_folder, task, cell.demonstrations, cell.draw)

    def known(other: str) -> Any:
        return train(args, cell, other, world_model, env)

    def cloned(*more: Any, **options: Any) -> Policy:
        own = {"steps": args.clone_steps, "seed": cell.draw, **options}
        return clone_episodes([*shown(), *more], world_model, **own)

    refused = is_refused(world_model, task)  # then `training.refine_policy` refuses, too
    match name:
        case "cloned":
            return cloned()
        case "longer_clone":
            return cloned(steps=3 * args.clone_steps)
        case "cloned_frames":
            return cloned(obs_type="pixels_agent_pos")
        case "filtered":
            seeds = split_seeds("train", args.rollouts, ROLLOUT_OFFSET + 1000 * cell.draw)
            played = real_episodes(env, known("cloned"), world_model, seeds, title)
            return cloned(*(e for e in played if e.solved))
        case "flow":
            return SteeredPolicy(clone_flow(shown(), world_model, args.clone_steps, cell.draw))
        case "steered":
            flow = known("flow")
            return flow if refused else steer(flow.flow, world_model, task, args.steps, seed)[0]
        case "distilled":
            return distil(known("refined"), world_model, seed=seed)
        case "refined":
            if refused:
                return known("cloned")
            refined = refine_imagined(known("cloned"), world_model, task, args.steps, seed, title)
            return refined.policy
        case "real_twin":
            rows, steps = real_env(world_model, task, seed), args.real_steps
        case "zero_reward":
            rows, steps = ZeroReward(practice_env(world_model, task, seed)), args.steps
        case _:
            raise ValueError(f"policies: {name!r} is none")
    policy = refine(known("cloned"), rows, steps, seed, title).policy
    rows.close()
    return policy


def bootstrap(runs: np.ndarray, over: np.ndarray | None = None, resamples: int = 2000) -> Rate:
    """The mean over runs with its 95 % interval: runs are drawn anew, then episodes of each.

    Args:
        runs: `(R, N)`, a number an episode.
        over: `(R, N)`, above 0 on the mean for sure; with it, the share of the first mean in that
            of these, drawn alike. None is 1.
        resamples: How often.
    """
    over = np.ones_like(runs) if over is None else over
    rng, (count, episodes), shares = np.random.default_rng(0), runs.shape, []
    for _ in range(resamples):
        drawn = rng.integers(count, size=(count, 1)), rng.integers(episodes, size=(count, episodes))
        shares.append(runs[drawn].mean() / over[drawn].mean())
    figures = runs.mean() / over.mean(), *np.quantile(shares, (0.025, 0.975))
    return Rate(*(round(float(figure), 4) for figure in figures))


def summarise(rows: list[dict[str, Any]]) -> str:
    """A table: a line a task and number of demonstrations, and the means, as Markdown."""
    lines = []
    for count in sorted({row["demonstrations"] for row in rows}):
        own = [row for row in rows if row["demonstrations"] == count]
        for task in sorted({row["task"] for row in own}):
            some = [row for row in own if row["task"] == task]
            lines.append({"task, demonstrations": f"{task}, {count}", **_cells(some)})
        lines.append({"task, demonstrations": f"**mean, {count}**", **_cells(own)})
    known = {name for line in lines for name in line}
    columns = ["task, demonstrations", "runs", *GAINS, *COLUMNS.values()]
    columns = [name for name in columns if name in known]
    return markdown_table(columns, [[line.get(name, "-") for name in columns] for line in lines])


def _cells(rows: list[dict[str, Any]]) -> dict[str, str]:
    """What can be said of all these runs together, by column."""
    of = {
        name: np.stack([unpacked(row["outcomes"][name]).astype(float) for row in rows])
        for name in COLUMNS
        if all(name in row["outcomes"] for row in rows)
    }
    cells = {COLUMNS[name]: f"{100 * values.mean():.0f}" for name, values in of.items()}
    if "cloned" in of and "refined" in of:
        paired = of["refined"] - of["cloned"]
        runs = paired.mean(axis=1)
        ups, downs = int((runs > 0).sum()), int((runs < 0).sum())
        p = stats.binomtest(ups, ups + downs).pvalue if ups + downs else 1.0
        gains = [
            format_points(bootstrap(paired)),
            f"{100 * runs.min():+.0f}",
            f"{p:.3f}" if p >= 0.001 else "< 0.001",
        ]
        real = of.get("real_twin", of["cloned"]) - of["cloned"]
        if bootstrap(real).low > 0:  # else there is nothing to have a share of
            gains.append(format_rate(bootstrap(paired, real)))
        cells.update(zip(GAINS, gains, strict=False))
    return {"runs": str(len(rows)), **cells}


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
    save_table(args.out, {**training_settings(args), "rows": rows}, summarise(rows))
    return rows


def main() -> None:
    """Runs the command line."""
    run(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)
