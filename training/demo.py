"""The main job in one command: clone, refine in imagination, and measure what it was worth.

    python -m training.demo --task hammer

Clones a policy from five shipped demonstrations, refines it inside the embedded world model, and
evaluates it before and after from held-out starts, in imagination and, where MuJoCo can render, in
real Meta-World.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import tyro

from training.data.trainable import DEMONSTRATIONS, load_demonstrations
from training.envs.real_env import (
    RealEnvUnavailableError,
    Task,
    require_real_env,
    split_seeds,
)
from training.envs.rollouts import (
    imagined_outcomes,
    make_real_env,
    play,
    real_outcomes,
    real_starts,
)
from training.evaluation.formatting import format_points, format_rate
from training.evaluation.metrics import paired_difference, rate
from training.evaluation.pictures import drawing, enlarge
from training.evaluation.trust import verdict_sentence
from training.policies.imitation import clone_episodes
from training.policies.refinement import STEPS, Point, refine_imagined
from training.runs import command
from training.runs.records import save_record, save_result
from training.runs.settings import NonNegativeInt, PositiveInt, Settings, SettingsError
from training.runs.threads import one_thread
from world4rl_gym.env import ImaginedEnv
from world4rl_gym.policy import Policy
from world4rl_gym.world_model import WorldModel


@dataclasses.dataclass(frozen=True)
class Args(Settings):
    """Command line of `training.demo`.

    Attributes:
        task: The task.
        out: Folder of the report; what a demo wrote there before is replaced.
        episodes: Real episodes, and imagined ones, before and after.
        demonstrations: Expert episodes to clone.
        episodes_folder: Where they are.
        world_model: Folder or Hub id; None is the embedded one.
        clone_steps: Gradient steps of cloning.
        refine_steps: Imagined steps; half of what a refinement takes, for a demo is short.
        seed: Seed of cloning and refinement.
        draws: How many demos to run, each from its own seed, in folders of their own below `out`;
            `out/draws.json` has the results of all.
    """

    task: Task = "lever-pull"
    out: Path = Path("runs/demo")
    episodes: PositiveInt = 100
    demonstrations: PositiveInt = 5
    episodes_folder: Path = DEMONSTRATIONS
    world_model: str | None = None
    clone_steps: PositiveInt = 4000
    refine_steps: PositiveInt = STEPS // 2
    seed: NonNegativeInt = 0
    draws: PositiveInt = 1


def run(args: Args) -> dict[str, Any]:
    """Runs the demo and returns the report.

    Raises:
        SettingsError: The world model does not know the task.
    """
    began = time.monotonic()

    def say(number: int, text: str) -> None:
        print(f"\n[{number}/4] {text} ({time.monotonic() - began:.0f} s gone)", flush=True)

    world_model = WorldModel.from_pretrained(args.world_model)
    if args.task not in world_model.config.tasks:
        raise SettingsError(f"task: the world model knows {', '.join(world_model.config.tasks)}")
    try:
        require_real_env()
        env = make_real_env(args.task)
    except RealEnvUnavailableError as error:
        env = None
        print(f"No real evaluation: {error}")
    args.out.mkdir(parents=True, exist_ok=True)
    for name in ("report.json", "curve.png", "rollout.gif"):
        (args.out / name).unlink(missing_ok=True)

    say(1, f"clone {args.demonstrations} demonstrations")
    shown = load_demonstrations(args.episodes_folder, args.task, args.demonstrations)
    cloned = clone_episodes(shown, world_model, steps=args.clone_steps, seed=args.seed)
    cloned.save_pretrained(args.out / "cloned")

    say(2, f"refine it in imagination: {args.refine_steps:,} steps of PPO")
    print(f"How far to believe it: {verdict_sentence(world_model, args.task)}")
    refined = refine_imagined(cloned, world_model, args.task, args.refine_steps, args.seed)
    refined.policy.save_pretrained(args.out / "refined")

    say(3, "evaluate both from held-out starts")
    seeds = split_seeds("test", args.episodes, 200_000)
    if env is None:  # those that the world model carries
        own = world_model.initial_frames
        starts = own.rows(own.select("start", [args.task]))
    else:
        starts = real_starts(env, seeds)
    report: dict[str, Any] = {
        "task": args.task,
        "world_model": args.world_model or "embedded",
        "refine_steps": args.refine_steps,
        "curve": [dataclasses.asdict(point) for point in refined.curve],
    }
    for name, policy in (("cloned", cloned), ("refined", refined.policy)):
        outcomes = {"imagined": imagined_outcomes(policy, world_model, starts)}
        if env is not None:
            outcomes["real"] = real_outcomes(env, policy, world_model, seeds, f"real, {name}")
        report[name] = {where: o.tolist() for where, o in outcomes.items()}

    say(4, "write report, curve and video")
    report["seconds"] = round(time.monotonic() - began, 1)
    draw_curve(refined.curve, report, args.out / "curve.png")
    frames = _video(world_model, args.task, refined.policy, env, seeds[0])
    iio.imwrite(args.out / "rollout.gif", enlarge(frames, 4), duration=100, loop=0)
    save_result(args.out / "report.json", report)
    if env is not None:
        env.close()
    print("\n" + describe(report))
    print(f"{args.out}: report.json, curve.png, rollout.gif, cloned, refined")
    return report


def run_draws(args: Args) -> list[dict[str, Any]]:
    """Runs the demo from several seeds; a draw that is done is not done again."""
    results = []
    for seed in range(args.seed, args.seed + args.draws):
        out = args.out / str(seed)
        path = out / "report.json"
        if not path.exists():
            run(dataclasses.replace(args, seed=seed, out=out, draws=1))
        report = json.loads(path.read_text())
        successes = {
            name: {where: float(np.mean(kept)) for where, kept in report[name].items()}
            for name in ("cloned", "refined")
        }
        results.append({"task": args.task, "seed": seed, "episodes": args.episodes, **successes})
    save_record(args.out / "draws.json", results)
    return results


def describe(report: dict[str, Any]) -> str:
    """The result in a few lines, and what chance does at this number of episodes."""
    lines = [f"{report['task']}, {len(report['cloned']['imagined'])} held-out starts"]
    for name in ("cloned", "refined"):
        parts = [
            f"{where} {format_rate(rate(report[name][where]))}"
            for where in ("real", "imagined")
            if where in report[name]
        ]
        lines.append(f"  {name:8} {'   '.join(parts)}")
    if "real" in report["cloned"]:
        gain = paired_difference(
            np.array(report["refined"]["real"]), np.array(report["cloned"]["real"])
        )
        chance = 196 * (0.5 / len(report["cloned"]["real"])) ** 0.5
        lines.append(
            f"  real gain {format_points(gain)} points; between two policies that are equally "
            f"good, chance alone reaches {chance:.0f}"
        )
    return "\n".join(lines)


def _video(world_model: WorldModel, task: str, policy: Policy, env: Any, seed: int) -> np.ndarray:
    """The refined policy in reality, or in imagination where there is no real env."""
    if env is not None:
        env.drawn = "all"
        return play(env, seed, "refined", policy, world_model).frames
    imagined = ImaginedEnv(world_model, task=task, obs_type="features", render_mode="rgb_array")
    imagined.render_scale = 1
    observation, _ = imagined.reset(seed=0)
    frames, over = [imagined.render()], False
    while not over:
        assert isinstance(observation, np.ndarray)
        observation, _, terminated, truncated, _ = imagined.step(policy.act(observation[None])[0])
        frames.append(imagined.render())
        over = terminated or truncated
    return np.stack([frame for frame in frames if frame is not None])


def draw_curve(curve: list[Point], report: dict[str, Any], path: Path) -> None:
    """Draws judged success through refinement, and real success before and after."""
    with drawing(path, figsize=(7, 4)) as axes:
        axes.plot(
            [point.steps for point in curve],
            [100 * point.judged for point in curve],
            marker="o",
            label="imagined, by the least favourable member",
        )
        chosen = max(curve, key=lambda point: point.judged)
        for name, at, fill in (("cloned", 0, "white"), ("refined", chosen.steps, "black")):
            if "real" in report[name]:
                real = rate(report[name]["real"])
                axes.errorbar(
                    [at],
                    [100 * real.mean],
                    [[100 * (real.mean - real.low)], [100 * (real.high - real.mean)]],
                    fmt="s",
                    color="black",
                    markerfacecolor=fill,
                    capsize=4,
                    label=f"{name}, real, 95 %",
                )
        axes.set(xlabel="imagined steps", ylabel="success, %", ylim=(-3, 103))
        axes.set_title(report["task"])
        axes.legend(loc="lower right")


def main() -> None:
    """Runs the command line."""
    one_thread()
    args = tyro.cli(Args, description=__doc__)
    if args.draws == 1:
        run(args)
    else:
        run_draws(args)


if __name__ == "__main__":
    command.run(main)
