"""Success of a policy in imagination and in the real env, from the same held-out starts.

    python -m training.evaluate --policy runs/refine/hammer --episodes 100 --out runs/evaluate
    python -m training.evaluate --policy runs/clone/* --imagined --real --out runs/evaluate
    python -m training.evaluate --policy runs/refine/hammer --plans

Real episodes begin from the start configurations of held-out seeds, imagined ones from the first
frames of those very episodes. Of three policies or more it tells how well imagined success goes
with real success, and draws the scatter (figure M4 of the trust figures).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from stable_baselines3.common.policies import ActorCriticPolicy

from training import command
from training.formatting import format_rate
from training.metrics import Rate, policy_agreement, rate
from training.pictures import drawing, save_videos
from training.policy import PolicyError, load_policy, load_policy_config, sample_actions
from training.real_env import check_task, split_seeds
from training.real_rollouts import first_frames, real_episodes
from training.records import save_record
from training.replay import imagine, replay
from training.settings import require_at_least
from world4rl_gym.imagination import Imagination
from world4rl_gym.initial_frames import InitialFrames
from world4rl_gym.pixels import channels_last
from world4rl_gym.world_model import WorldModel


@dataclasses.dataclass(frozen=True)
class Args:
    """Command line of `training.evaluate`.

    Attributes:
        policy: Folders of policies, all of tasks that the world model knows.
        episodes: Real episodes, and imagined ones, a policy.
        split: The split whose seeds are used.
        seed_offset: Where in the split's seeds to begin.
        world_model: Folder or Hub id of the world model; none given means the embedded one.
        imagined: Evaluate in imagination.
        real: Evaluate in the real env.
        plans: Also do in reality what the policy does in imagination. Where that fails too, the
            world model is wrong; where it succeeds, the policy acts otherwise on real frames.
        video: Write side-by-side videos of each policy's first real episode, as NUMBER-NAME.
        workers: Processes for real episodes.
        out: Folder of `evaluation.json` and videos.
    """

    policy: tuple[Path, ...]
    episodes: int = 100
    split: Literal["train", "validation", "test"] = "test"
    seed_offset: int = 100_000
    world_model: str | None = None
    imagined: bool = True
    real: bool = True
    plans: bool = False
    video: bool = True
    workers: int = 2
    out: Path = Path("runs/evaluate")

    def __post_init__(self) -> None:
        require_at_least(self, 1, "episodes", "workers")
        if not self.policy:
            raise ValueError("policy: expected at least one folder")
        if not (self.imagined or self.real or self.plans):
            raise ValueError("imagined, real, plans: at least one of them must be asked for")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Outcomes of one policy; a list is None where it was not measured.

    Attributes:
        task: The task.
        real: Success of each real episode.
        imagined: Success of each imagined episode, from the same first frames, in the same order.
        planned: Real success of what was done in imagination, from the same starts.
    """

    task: str
    real: np.ndarray | None
    imagined: np.ndarray | None
    planned: np.ndarray | None = None

    @property
    def real_rate(self) -> Rate | None:
        """Real success with its 95 % interval."""
        return None if self.real is None else rate(self.real)

    @property
    def imagined_rate(self) -> Rate | None:
        """Imagined success with its 95 % interval."""
        return None if self.imagined is None else rate(self.imagined)

    @property
    def planned_rate(self) -> Rate | None:
        """Real success of imagined plans with its 95 % interval."""
        return None if self.planned is None else rate(self.planned)

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rates = {"real": self.real_rate, "imagined": self.imagined_rate}
        if self.planned is not None:
            rates["planned"] = self.planned_rate
        return {
            "task": self.task,
            **{k: None if v is None else dataclasses.asdict(v) for k, v in rates.items()},
        }


def check_policy_fits(policy: Path, world_model: WorldModel) -> str:
    """Returns the policy's task, or raises PolicyError naming what does not fit."""
    config = load_policy_config(policy)
    for name, expected in (
        ("action_size", world_model.action_size),
        ("frame_size", world_model.frame_size),
    ):
        if getattr(config, name) != expected:
            raise PolicyError(
                f"{policy}: {name}: the world model has {expected}, "
                f"the policy {getattr(config, name)}"
            )
    if config.task not in world_model.config.tasks:
        known = ", ".join(world_model.config.tasks)
        raise PolicyError(f"{policy}: task: the world model knows {known}, not {config.task}")
    return config.task


def imagined_outcomes(
    policy: ActorCriticPolicy,
    world_model: WorldModel,
    starts: InitialFrames,
    task: str,
    seed: int = 0,
    num_inference_steps: int | None = None,
) -> np.ndarray:
    """Success of the deterministic policy from each start once, `(N,)` bool."""
    rows = len(starts)
    imagination = Imagination(
        rows,
        world_model,
        initial_frames=starts,
        task=task,
        num_inference_steps=num_inference_steps,
    )
    imagination.rngs = [np.random.default_rng([seed, row]) for row in range(rows)]
    frames = imagination.reset(initial_frame=np.arange(rows))
    solved = np.zeros(rows, bool)
    for _ in range(imagination.max_episode_steps):
        actions = sample_actions(policy, frames.permute(0, 2, 3, 1).cpu().numpy(), None)
        step = imagination.step(actions)
        frames = step.frames
        solved |= step.terminated.cpu().numpy()
        if solved.all():
            break
    return solved


def imagined_plans(
    policy: ActorCriticPolicy, world_model: WorldModel, starts: InitialFrames
) -> np.ndarray:
    """What the deterministic policy does in imagination from each start, `(N, T, A)` float32."""
    first = channels_last(starts.frames[starts.windows[:, -1]]).numpy()
    plans = []
    for rows in np.split(np.arange(len(first)), range(32, len(first), 32)):
        rollouts = imagine(
            world_model.denoiser,
            world_model.scheduler,
            first[rows],
            lambda frames: sample_actions(policy, frames, None),
            world_model.config.max_episode_steps,
            world_model.config.num_inference_steps,
            torch.from_numpy(rows),
        )
        plans += [rollout.actions for rollout in rollouts]
    return np.stack(plans)


def evaluate(
    policy: Path,
    world_model: WorldModel,
    seeds: Sequence[int],
    imagined: bool = True,
    real: bool = True,
    workers: int = 2,
    video: Path | None = None,
    plans: bool = False,
) -> Evaluation:
    """Evaluates one saved policy from the start configurations of `seeds`.

    Args:
        policy: Folder of the policy.
        world_model: The world model.
        seeds: Seeds of the real start configurations.
        imagined: Evaluate in imagination.
        real: Evaluate in the real env.
        workers: Processes for real episodes.
        video: Path, without suffix, of side-by-side videos of the first real episode.
        plans: Do in reality what the policy does in imagination.
    """
    task = check_policy_fits(policy, world_model)
    check_task(task)
    outcomes = solved = planned = None
    if real:
        episodes = real_episodes(policy, seeds, workers)
        outcomes = np.array([e.solved for e in episodes])
        starts = InitialFrames.from_starts(
            np.stack([e.frames[0] for e in episodes]),
            task,
            world_model.context_length,
            world_model.action_size,
        )
        if video:
            shown = episodes[0]
            dream = replay(
                world_model.denoiser,
                world_model.scheduler,
                [shown],
                world_model.config.num_inference_steps,
            )[0]
            save_videos(video, shown.frames, dream.frames)
    else:
        starts = first_frames(task, seeds, world_model)
    if imagined:
        solved = imagined_outcomes(load_policy(policy), world_model, starts, task)
    if plans:
        intended = imagined_plans(load_policy(policy), world_model, starts)
        done = real_episodes(policy, seeds, workers, intended)
        planned = np.array([e.solved for e in done])
    return Evaluation(task, outcomes, solved, planned)


def draw_scatter(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws imagined against real success of each policy, with 95 % intervals, by task."""
    with drawing(path, figsize=(5, 4.6)) as axes:
        axes.plot([0, 100], [0, 100], color="0.8")
        for task in sorted({record["task"] for record in records}):
            chosen = [record for record in records if record["task"] == task]
            means, spread = {}, {}
            for world in ("real", "imagined"):
                rates = [Rate(**record[world]) for record in chosen]
                means[world] = [100 * r.mean for r in rates]
                spread[world] = [
                    [100 * (r.mean - r.low) for r in rates],
                    [100 * (r.high - r.mean) for r in rates],
                ]
            axes.errorbar(
                means["real"],
                means["imagined"],
                spread["imagined"],
                spread["real"],
                fmt="o",
                elinewidth=0.6,
                label=task,
            )
        axes.set(xlabel="real success, %", ylabel="imagined success, %", xlim=(-3, 103))
        axes.set_ylim(-3, 103)
        axes.legend(fontsize="small")


def main() -> None:
    """Runs the command line."""
    args = tyro.cli(Args, description=__doc__)
    world_model = WorldModel.from_pretrained(args.world_model)
    for policy in args.policy:
        check_policy_fits(policy, world_model)
    seeds = split_seeds(args.split, args.episodes, args.seed_offset)
    args.out.mkdir(parents=True, exist_ok=True)
    records = []
    for number, policy in enumerate(args.policy):
        result = evaluate(
            policy,
            world_model,
            seeds,
            args.imagined,
            args.real,
            args.workers,
            args.out / f"{number}-{policy.name}" if args.video else None,
            args.plans,
        )
        records.append({"policy": str(policy), **result.record()})
        print(
            f"{policy}: real {format_rate(result.real_rate)}, "
            f"imagined {format_rate(result.imagined_rate)}"
            + (f", its plans in reality {format_rate(result.planned_rate)}" if args.plans else "")
        )
    report: dict[str, Any] = {
        "split": args.split,
        "first_seed": seeds[0],
        "episodes": args.episodes,
        "policies": records,
    }
    if args.real and args.imagined and len(records) >= 3:
        report["agreement"] = policy_agreement(
            [record["imagined"]["mean"] for record in records],
            [record["real"]["mean"] for record in records],
            [record["task"] for record in records],
        )
        draw_scatter(records, args.out / "scatter.png")
        print(json.dumps(report["agreement"], indent=2))
    save_record(args.out / "evaluation.json", report)


if __name__ == "__main__":
    command.run(main)
