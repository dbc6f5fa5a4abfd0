"""Measures a policy, in the real env and in imagination, from the same starts.

    python -m training.evaluate_policy --task hammer --policy runs/refined/hammer/policy
    python -m training.evaluate_policy --task push --policy runs/refined/push/policy \\
        --world-model runs/world_model --test-episodes data/mine --real-env my_robot:Push-v0

Of a task that is not Meta-World's, the starts are those of recorded test episodes, beside whose
outcomes the imagined ones stand; a real env of one's own is asked where there is one.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import tyro

from training.envs.real_env import TASKS, split_seeds
from training.envs.rollouts import find_env, imagined_outcomes, real_episodes, real_starts
from training.evaluation.formatting import format_rate, inspect_command
from training.evaluation.metrics import rate
from training.runs import command
from training.runs.records import save_result
from training.runs.settings import NonNegativeInt, PositiveInt, Settings, SettingsError
from training.runs.threads import one_thread
from world4rl_gym.episodes import load_episodes, task_folder
from world4rl_gym.outcomes import contexts_of, imagine
from world4rl_gym.policy import Policy
from world4rl_gym.steering import SteeredPolicy
from world4rl_gym.world_model import WorldModel

MEANINGS = {
    "imagined": "the policy, imagined",
    "real": "the policy, real",
    "recorded": "recorded episodes",
    "recorded_imagined": "their actions, imagined",
}


@dataclasses.dataclass(frozen=True)
class Args(Settings):
    """Command line of `training.evaluate_policy`.

    Attributes:
        task: The task.
        policy: Folder of the policy, or its Hub id.
        world_model: Folder or Hub id; None is the embedded one.
        episodes: Real episodes, and imagined ones, from the same starts; at most so many.
        test_episodes: Folder of recorded episodes to imagine again; where there is no real env, the
            policy begins where they do.
        real_env: `module:id` of a Gymnasium env of one's own; None is Meta-World, for its tasks.
        split: The split of the starts.
        offset: Where in the split's seeds to begin.
        out: JSON file of the outcomes; None writes none.
        record: Folder of episodes in which the real ones are kept, for `world4rl inspect`;
            None keeps none.
    """

    task: str
    policy: str
    world_model: str | None = None
    episodes: PositiveInt = 200
    split: str = "test"
    offset: NonNegativeInt = 200_000
    test_episodes: Path | None = None
    real_env: str | None = None
    out: Path | None = None
    record: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.test_episodes is None and self.real_env is None and self.task not in TASKS:
            raise SettingsError(
                f"task: {self.task!r} is none of Meta-World's; expected --test-episodes FOLDER, "
                "--real-env module:id, or both"
            )
        if self.record is not None and self.test_episodes is not None and self.real_env is None:
            raise SettingsError("record: expected a --real-env beside --test-episodes")


def run(args: Args) -> dict[str, list[bool]]:
    """Measures and prints.

    Returns:
        The outcomes of the policy, `real` where there is a real env, and `imagined` from its starts
        or else from those of recorded episodes; and of these `recorded`, what came of them, and
        `recorded_imagined`, what is imagined of their actions.

    Raises:
        EpisodeError: Test episodes are missing, or do not fit the world model.
        WorldModelError: The world model or the policy cannot be loaded.
        RealEnvUnavailableError: Meta-World or GL is missing.
        OwnEnvError: One's own env cannot be made, or does not fit.
    """
    one_thread()
    world_model = WorldModel.from_pretrained(args.world_model)
    kind = SteeredPolicy if (Path(args.policy) / "flow").is_dir() else Policy
    policy = kind.from_pretrained(args.policy)
    policy.check_fits(world_model, args.task)
    seeds = split_seeds(args.split, args.episodes, args.offset)
    outcomes: dict[str, np.ndarray] = {}
    env = find_env(args.task, world_model, args.real_env, twin=args.test_episodes is None)
    try:
        if args.test_episodes is not None:
            recorded = load_episodes(args.test_episodes, args.split, [args.task])[: args.episodes]
            again = imagine(world_model, recorded)
            starts = contexts_of(recorded, world_model.config.tasks)
            outcomes["recorded"] = np.array([episode.solved for episode in recorded])
            threshold = world_model.config.success_threshold
            outcomes["recorded_imagined"] = np.array([one.score >= threshold for one in again])
        if env is not None:
            starts = real_starts(env, seeds)
        outcomes["imagined"] = imagined_outcomes(policy, world_model, starts)
        if env is not None:
            if args.record is not None:
                env.drawn = "all"
            solved = []
            for episode in real_episodes(env, policy, world_model, seeds, policy.name):
                solved.append(episode.solved)
                if args.record is not None:
                    folder = task_folder(args.record, args.task) / args.split
                    name = f"policy-{Path(policy.name).name}-{episode.seed:07d}.npz"
                    episode.save(folder / name)
            outcomes["real"] = np.array(solved)
    finally:
        if env is not None:
            env.close()
    for name, own in outcomes.items():
        print(f"{args.task}: {MEANINGS[name]}: {format_rate(rate(own))}")
    if "recorded" in outcomes:
        agree = rate(outcomes["recorded"] == outcomes["recorded_imagined"])
        print(f"{args.task}: imagination agrees with what was recorded: {format_rate(agree)}")
    if env is not None and args.record is not None:
        line = inspect_command(args.record, args.world_model, args.split, [args.task])
        print("look at them:", line)
    report = {name: own.tolist() for name, own in outcomes.items()}
    if args.out is not None:
        save_result(args.out, {"task": args.task, **report})
    return report


def main() -> None:
    """Runs the command line."""
    run(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)
