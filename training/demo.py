"""The main job in one command: clone, refine in imagination, and measure what it was worth.

    python -m training.demo --task hammer

Clones a policy from the shipped demonstrations, refines it inside the embedded world model, and
evaluates it before and after, in imagination and, where MuJoCo can render, in real Meta-World, from
the start configurations of held-out seeds.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

import tyro

from training import clone_policy, command, refine_policy
from training.evaluate import Evaluation, evaluate, imagined_outcomes
from training.formatting import format_rate
from training.judge import Measurement, split_starts
from training.pictures import drawing
from training.policy import load_policy
from training.real_env import RealEnvUnavailableError, check_task, require_real_env, split_seeds
from training.records import save_record
from training.settings import SettingsError, require_at_least
from world4rl_gym.world_model import WorldModel

DEMONSTRATIONS = Path(__file__).parent.parent / "world4rl_gym" / "assets" / "demonstrations"
STAGES = (
    ("clone the demonstrations", 150),
    ("evaluate the clone", 60),
    ("refine it in imagination", 480),
    ("evaluate the refined policy", 60),
    ("write report, curves and video", 10),
)
"""What the demo does, and about how many seconds each part takes on two cores."""


@dataclasses.dataclass(frozen=True)
class Args:
    """Command line of `training.demo`.

    Attributes:
        task: The task.
        out: Folder of the report; what a demo wrote there before is replaced.
        episodes: Real episodes, and imagined ones, before and after.
        demonstrations: Expert episodes to clone.
        episodes_folder: Where they are.
        world_model: Folder or Hub id; none given means the embedded one.
        clone_steps: Gradient steps of cloning.
        adapt_steps: Gradient steps that fit the clone to imagined demonstrations.
        refine_steps: Imagined steps at most.
        seed: Seed of cloning and refinement.
    """

    task: str = "lever-pull"
    out: Path = Path("runs/demo")
    episodes: int = 50
    demonstrations: int = 5
    episodes_folder: Path = DEMONSTRATIONS
    world_model: str | None = None
    clone_steps: int = clone_policy.Args.steps
    adapt_steps: int = refine_policy.Args.adapt_steps
    refine_steps: int = refine_policy.Args.steps
    seed: int = 0

    def __post_init__(self) -> None:
        check_task(self.task)
        require_at_least(self, 1, "episodes", "clone_steps", "refine_steps")
        require_at_least(self, 0, "adapt_steps")


class Stages:
    """Prints each stage with the time gone by and a guess of the time left."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._number = 0

    def begin(self) -> None:
        """Announces the next stage."""
        name = STAGES[self._number][0]
        left = sum(seconds for _, seconds in STAGES[self._number :])
        gone = time.monotonic() - self.began
        self._number += 1
        print(
            f"\n[{self._number}/{len(STAGES)}] {name} "
            f"({gone / 60:.1f} min gone, about {max(1, round(left / 60))} min left)",
            flush=True,
        )


def run(args: Args) -> dict[str, Any]:
    """Runs the demo and returns the report."""
    stages = Stages()
    world_model = WorldModel.from_pretrained(args.world_model)
    if args.task not in world_model.config.tasks:
        raise SettingsError(f"task: the world model knows {', '.join(world_model.config.tasks)}")
    try:
        require_real_env()
        real = True
    except RealEnvUnavailableError as error:
        real = False
        print(f"No real evaluation: {error}")
    work = args.out / "policies"
    for name in ("cloned", "refined"):
        shutil.rmtree(work / name, ignore_errors=True)
    for name in ("report.json", "curves.png", "rollout.gif", "rollout.mp4"):
        (args.out / name).unlink(missing_ok=True)

    stages.begin()
    clone_policy.run(
        clone_policy.Args(
            args.task,
            work / "cloned",
            args.episodes_folder,
            args.demonstrations,
            args.clone_steps,
            seed=args.seed,
        )
    )

    stages.begin()
    before = _evaluate(args, world_model, work / "cloned", real, None)
    stages.begin()
    refining = refine_policy.Args(
        work / "cloned",
        work / "refined",
        args.world_model,
        steps=args.refine_steps,
        seed=args.seed,
        episodes=args.episodes_folder,
        demonstrations=args.demonstrations,
        adapt_steps=args.adapt_steps,
    )
    judge = refine_policy.refine(refining)
    stages.begin()
    after = _evaluate(args, world_model, work / "refined", real, args.out / "rollout")

    stages.begin()
    report: dict[str, Any] = {
        "task": args.task,
        "world_model": args.world_model or "embedded",
        "starts": "held out" if real else "those that the judge chose on too",
        "imagined_steps": judge.curve[-1].imagined_steps,
        "seconds": round(time.monotonic() - stages.began, 1),
        "imagined": _pair(before.imagined, after.imagined),
    }
    if before.real is not None and after.real is not None:
        report["real"] = _pair(before.real, after.real)
    draw_curves(judge.curve, judge.kept, before, after, args.out / "curves.png", args.task)
    save_record(args.out / "report.json", report)
    assert after.imagined is not None
    starts = "held-out starts" if real else "starts that the judge chose on too"
    print(f"\n{args.task}, {len(after.imagined)} {starts}")
    for name, evaluation in (("cloned ", before), ("refined", after)):
        print(
            f"  {name}  real {format_rate(evaluation.real_rate)}   "
            f"imagined {format_rate(evaluation.imagined_rate)}"
        )
    print(f"{args.out}: report.json, curves.png" + (", rollout.gif, rollout.mp4" if real else ""))
    return report


def _evaluate(
    args: Args, world_model: WorldModel, policy: Path, real: bool, video: Path | None
) -> Evaluation:
    """Both figures from held-out seeds; without GL the imagined one from starts kept apart."""
    if real:
        seeds = split_seeds("test", args.episodes, 200_000)
        return evaluate(policy, world_model, seeds, video=video)
    starts = split_starts(world_model, args.task, args.episodes)[1]
    solved = imagined_outcomes(load_policy(policy), world_model, starts, args.task, seed=7)
    if video:
        _imagined_video(world_model, policy, args.task, video)
    return Evaluation(args.task, None, solved)


def _imagined_video(world_model: WorldModel, policy: Path, task: str, video: Path) -> None:
    """Where there is no reality to show, the GIF shows imagination alone."""
    import imageio.v3 as iio
    import numpy as np

    from training.pictures import enlarge
    from training.policy import sample_actions
    from world4rl_gym.env import ImaginedEnv

    env = ImaginedEnv(world_model, task=task)
    actor = load_policy(policy)
    frame, _ = env.reset(seed=0)
    frames, over = [frame], False
    while not over:
        frame, _, terminated, truncated, _ = env.step(sample_actions(actor, frame[None], None)[0])
        frames.append(frame)
        over = terminated or truncated
    video.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(video.with_suffix(".gif"), enlarge(np.stack(frames), 4), duration=100, loop=0)


def _pair(before: Any, after: Any) -> dict[str, Any]:
    assert before is not None
    assert after is not None
    return {
        "episodes": len(before),
        "before": round(float(before.mean()), 4),
        "after": round(float(after.mean()), 4),
    }


def draw_curves(
    curve: list[Measurement],
    kept: Measurement | None,
    before: Evaluation,
    after: Evaluation,
    path: Path,
    task: str,
) -> None:
    """Draws imagined success through refinement, and the real success before and after."""
    sampled = [(p.imagined_steps, 100 * p.rollouts) for p in curve if p.rollouts is not None]
    path.parent.mkdir(parents=True, exist_ok=True)
    with drawing(path, figsize=(7, 4)) as axes:
        axes.plot(
            [point.imagined_steps for point in curve],
            [100 * p.judged for p in curve],
            marker="o",
            label="imagined, mean action, starts kept apart",
        )
        if sampled:
            axes.plot(*zip(*sampled, strict=True), marker=".", label="imagined, training rollouts")
        for name, evaluation, at, fill in (
            ("cloned", before, 0, "white"),
            ("refined", after, kept.imagined_steps if kept else 0, "black"),
        ):
            rate = evaluation.real_rate
            if rate is not None:
                assert evaluation.real is not None
                axes.errorbar(
                    [at],
                    [100 * rate.mean],
                    [[100 * (rate.mean - rate.low)], [100 * (rate.high - rate.mean)]],
                    fmt="s",
                    color="black",
                    markerfacecolor=fill,
                    capsize=4,
                    label=f"{name}, real, {len(evaluation.real)} episodes, 95 %",
                )
        axes.set(xlabel="imagined steps", ylabel="success, %", ylim=(-3, 103), title=task)
        axes.legend(loc="lower right")


def main() -> None:
    """Runs the command line."""
    run(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)
