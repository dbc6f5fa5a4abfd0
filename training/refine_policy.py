"""Refines a policy by SB3's PPO: in a frozen world model, or in the real env.

    python -m training.refine_policy --task lever-pull --policy runs/clone/lever-pull/policy \\
        --out runs/refined/lever-pull
    python -m training.refine_policy ... --env real

The real env is the upper bound: the same PPO, the same budget, without a world model.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from training.envs.real_env import check_task
from training.evaluation.trust import require_believable, verdict_sentence
from training.policies.refinement import (
    REAL_STEPS,
    STEPS,
    ZeroReward,
    make_judge,
    practice_env,
    real_env,
    refine,
)
from training.runs import command
from training.runs.locks import locked
from training.runs.records import save_record
from training.runs.settings import (
    NonNegativeInt,
    PositiveInt,
    Settings,
    SettingsError,
    keep_settings,
)
from training.runs.threads import one_thread
from world4rl_gym.arguments import composed
from world4rl_gym.policy import Policy
from world4rl_gym.world_model import WorldModel


@dataclasses.dataclass(frozen=True)
class Args(Settings):
    """Command line of `training.refine_policy`.

    Attributes:
        task: The task.
        policy: Folder of the policy to begin from, or its Hub id.
        out: Folder of the run; the policy appears in its `policy`.
        env: Where PPO acts: "imagined" or "real".
        world_model: Folder or Hub id; None is the embedded one. In the real env it only gives the
            policy its features.
        steps: Env steps at most; None takes 800,000 in imagination, 100,000 in the real env.
        reward: "progress" (in imagination alone), "sparse" (the env's), or "zero": what
            PPO does of itself, for a control.
        seed: Seed of PPO and of the starts.
        anyway: Refine even in a world model whose own verdict on the task is "not".
    """

    task: str
    policy: str
    out: Path
    env: Literal["imagined", "real"] = "imagined"
    world_model: str | None = None
    steps: PositiveInt | None = None
    reward: Literal["progress", "sparse", "zero"] = "progress"
    seed: NonNegativeInt = 0
    anyway: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.env == "real":
            check_task(self.task)


def run(args: Args) -> None:
    """Refines and saves the policy.

    Raises:
        WorldModelError: The world model or the policy cannot be loaded.
        SettingsError: The folder holds another run, the task is unknown, or the world model is not
            to be believed on it.
        RealEnvUnavailableError: Meta-World or GL is missing.
    """
    one_thread()
    world_model = WorldModel.from_pretrained(args.world_model)
    if composed(args.task) not in world_model.config.tasks:
        raise SettingsError(f"task: the world model knows {', '.join(world_model.config.tasks)}")
    if args.env == "imagined" and not args.anyway:
        require_believable(world_model, args.task)
    with locked(args.out):
        keep_settings(args, args.out, ("anyway",))
        policy = Policy.from_pretrained(args.policy)
        policy.check_fits(world_model, args.task)
        steps = args.steps or (STEPS if args.env == "imagined" else REAL_STEPS)
        where = world_model, args.task, args.seed
        if args.env == "real":
            env = real_env(*where, obs_type=policy.obs_type)
        else:
            paid = args.reward == "progress"
            env = practice_env(*where, obs_type=policy.obs_type, progress=paid)
        if args.reward == "zero":
            env = ZeroReward(env)
        try:
            judge = make_judge(world_model, args.task) if args.env == "imagined" else None
            refined = refine(policy, env, steps, args.seed, args.task, judge)
        finally:
            env.close()
        refined.policy.save_pretrained(args.out / "policy")
        save_record(args.out / "curve.json", [dataclasses.asdict(p) for p in refined.curve])
    if refined.curve:
        first, best = refined.curve[0].judged, max(point.judged for point in refined.curve)
        print(
            f"{args.task}: judged {100 * first:.0f} % -> {100 * best:.0f} % by the memory's least "
            "favourable member. How far to believe that, from test episodes: "
            f"{verdict_sentence(world_model, args.task)} What reality says, "
            "training.evaluate_policy measures"
        )
    print(f"refined {args.task}: {args.out / 'policy'}")


def main() -> None:
    """Runs the command line."""
    run(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)
