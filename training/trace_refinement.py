"""Follows imagined and real success along PPO, also past the point at which refinement stops.

    python -m training.trace_refinement --tasks lever-pull hammer

Clones, refines to the last step whatever is judged, and measures on the way: by the world model,
as refinement judges, and in the real env from validation starts. The picture shows what the rule
of refinement chooses. Tasks that are done are not done again.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from training.data.trainable import load_demonstrations
from training.envs.real_env import TASKS, Task, require_real_env, split_seeds
from training.envs.rollouts import make_real_env, real_outcomes
from training.evaluation.metrics import rate
from training.evaluation.pictures import drawing
from training.policies.imitation import clone_episodes
from training.policies.refinement import STEPS, chosen, make_judge, practice_env, refine
from training.runs import command
from training.runs.locks import locked
from training.runs.records import save_record, save_result
from training.runs.settings import NonNegativeInt, PositiveInt, Settings, keep_settings
from training.runs.threads import one_thread
from world4rl_gym.policy import Policy
from world4rl_gym.world_model import WorldModel


@dataclasses.dataclass(frozen=True)
class Args(Settings):
    """Command line of `training.trace_refinement`.

    Attributes:
        tasks: The tasks.
        demonstrations: Expert episodes that the clone sees.
        clone_steps: Gradient steps of cloning.
        steps: Env steps of PPO.
        judge_every: Env steps between two judgements in imagination.
        real_every: Every how many of these points are measured in reality, beside the chosen one.
        episodes: Validation starts of each real measurement.
        seed: Of clone and PPO.
        world_model: Folder or Hub id; None is the embedded one.
        episodes_folder: Where the demonstrations are.
        runs: Folder of what is done.
        out: All curves, as JSON; beside it the picture.
    """

    tasks: tuple[Task, ...] = TASKS
    demonstrations: PositiveInt = 5
    clone_steps: PositiveInt = 4000
    steps: PositiveInt = STEPS
    judge_every: PositiveInt = 16_000
    real_every: PositiveInt = 4
    episodes: PositiveInt = 100
    seed: NonNegativeInt = 0
    world_model: str | None = None
    episodes_folder: Path = Path("data/episodes")
    runs: Path = Path("runs/curves")
    out: Path = Path("results/curves.json")


def trace(args: Args, task: str, world_model: WorldModel) -> dict[str, Any]:
    """The curve of one task; read where it is done."""
    path = args.runs / f"{task}.json"
    if path.exists():
        return dict(json.loads(path.read_bytes()))
    shown = load_demonstrations(args.episodes_folder, task, args.demonstrations)
    cloned = clone_episodes(shown, world_model, steps=args.clone_steps, seed=args.seed)
    judge = make_judge(world_model, task)
    policies: list[Policy] = []

    def keeping(policy: Policy) -> float:
        policies.append(policy)
        return judge(policy)

    rows = practice_env(world_model, task, args.seed)
    curve = refine(
        cloned, rows, args.steps, args.seed, task, keeping, args.judge_every, enough=math.inf
    ).curve
    rows.close()
    choice = chosen([point.judged for point in curve])
    env, points = make_real_env(task), []
    seeds = split_seeds("validation", args.episodes, 80_000)
    for index, (point, policy) in enumerate(zip(curve, policies, strict=True)):
        measured: dict[str, Any] = dataclasses.asdict(point)
        if index % args.real_every == 0 or index in (choice, len(curve) - 1):
            name = f"{task}, {point.steps} steps"
            outcomes = real_outcomes(env, policy, world_model, seeds, name)
            measured["real"] = dataclasses.asdict(rate(outcomes))
        points.append(measured)
    env.close()
    traced = {"task": task, "chosen": choice, "points": points}
    save_record(path, traced)
    return traced


def draw(curves: Sequence[dict[str, Any]], path: Path) -> None:
    """A panel a task: judged and real success along PPO, and the chosen point."""
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    size = (4.2 * columns, 3.2 * rows)
    with drawing(path, columns, rows, figsize=size, squeeze=False, sharey=True) as panels:
        for axes, curve in zip(panels.flat, curves, strict=False):
            points = curve["points"]
            steps = [point["steps"] / 1000 for point in points]
            judged = [100 * point["judged"] for point in points]
            axes.plot(steps, judged, color="tab:orange", label="imagined")
            measured = [point for point in points if "real" in point]
            mean, low, high = (
                100 * np.array([point["real"][name] for point in measured])
                for name in ("mean", "low", "high")
            )
            axes.errorbar(
                [point["steps"] / 1000 for point in measured],
                mean,
                [mean - low, high - mean],
                fmt="o-",
                capsize=3,
                color="tab:blue",
                label="real, 95 %",
            )
            axes.axvline(steps[curve["chosen"]], color="grey", linestyle=":", label="chosen")
            axes.set(title=curve["task"], xlabel="thousand imagined steps", ylim=(-3, 103))
        panels[0][0].set_ylabel("success, %")
        panels[0][0].legend(loc="lower right", fontsize="small")
        for axes in list(panels.flat)[len(curves) :]:
            axes.set_axis_off()


def run(args: Args) -> list[dict[str, Any]]:
    """Traces every task, and writes the curves and their picture.

    Raises:
        EpisodeError: Demonstrations are broken.
        SettingsError: There are too few of them, or the folder holds runs of other settings.
        WorldModelError: The world model cannot be loaded.
        RealEnvUnavailableError: Meta-World or GL is missing.
    """
    one_thread()
    require_real_env()
    world_model = WorldModel.from_pretrained(args.world_model)
    with locked(args.runs):
        keep_settings(args, args.runs, ("tasks", "runs"))
        curves = [trace(args, task, world_model) for task in args.tasks]
    save_result(args.out, {"steps": args.steps, "episodes": args.episodes, "curves": curves})
    draw(curves, args.out.with_suffix(".png"))
    for curve in curves:
        choice = curve["points"][curve["chosen"]]
        last = curve["points"][-1]
        print(
            f"{curve['task']}: chosen at {choice['steps']} steps, real "
            f"{100 * choice['real']['mean']:.0f} %; at {last['steps']} steps "
            f"{100 * last['real']['mean']:.0f} %"
        )
    return curves


def main() -> None:
    """Runs the command line."""
    run(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)
