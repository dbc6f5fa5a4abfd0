"""Measures what each part of refinement is worth, by leaving it out or changing it.

    python -m training.ablate_refinement --tasks lever-pull handle-pull

Every variation begins with the same clones (without the robot, with clones that do not see it
either) and is measured from the same validation starts. Runs that are done are not done again. What
parts of the memory are worth: `training.ablate_memory`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from training.data.trainable import load_demonstrations
from training.envs.real_env import Task, require_real_env, split_seeds
from training.envs.rollouts import (
    Actor,
    imagined_outcomes,
    make_real_env,
    real_outcomes,
    real_starts,
)
from training.evaluation.formatting import format_points, markdown_table
from training.evaluation.metrics import packed, paired_difference, unpacked
from training.policies.imitation import done_of, features_of, fit
from training.policies.refinement import (
    STEPS,
    ChangedReward,
    ProgressReward,
    RandomisedFeatures,
    imagined_env,
    make_judge,
    refine,
)
from training.runs import command
from training.runs.locks import locked
from training.runs.records import save_record, save_table
from training.runs.settings import PositiveInt, Settings, SettingsError, keep_settings
from training.runs.threads import one_thread
from world4rl_gym.features import feature_size
from world4rl_gym.policy import Policy, make_policy, policy_config
from world4rl_gym.world_model import WorldModel

BRANCH = 15
"""Decisions of a branch from anywhere."""


@dataclasses.dataclass(frozen=True)
class Variation:
    """How PPO practises.

    Attributes:
        says: What the table calls it.
        reward: "progress" is refinement's own; "success" pays for that alone; "probability" pays
            for every rise of the highest probability of success in an episode.
        uncertainty_penalty: What the members' disagreement on the outcome costs at each decision,
            in reward.
        branches: Whether episodes are `BRANCH` decisions from anywhere, not whole ones.
        randomised: Whether features are shifted at random (`RandomisedFeatures`).
        robot: Whether the policy sees the robot; else the first frame's code and the time alone.
        judged: Whether the best judged policy is handed out; else the last one.
        critic_first: Whether the critic learns alone first.
    """

    says: str
    reward: str = "progress"
    uncertainty_penalty: float = 0.0
    branches: bool = False
    randomised: bool = True
    robot: bool = True
    judged: bool = True
    critic_first: bool = True


VARIATIONS = {
    "all": Variation("as it is"),
    "success": Variation("success alone as the reward", reward="success"),
    "probability": Variation("probability of success as the reward", reward="probability"),
    "penalty": Variation("uncertainty penalty of 1", uncertainty_penalty=1.0),
    "branches": Variation(f"branches of {BRANCH} decisions from anywhere", branches=True),
    "exact": Variation("exact features", randomised=False),
    "no-robot": Variation("without the robot's state and command", robot=False),
    "last": Variation("the last policy, not the best judged", judged=False),
    "no-critic": Variation("the critic does not learn first", critic_first=False),
}


@dataclasses.dataclass(frozen=True)
class Args(Settings):
    """Command line of `training.ablate_refinement`.

    Attributes:
        tasks: The tasks.
        variations: Which of `VARIATIONS`.
        draws: Clones of each task, each of other demonstrations where there are enough; a variation
            refines each once.
        demonstrations: Expert episodes that a clone sees.
        clone_steps: Gradient steps of cloning.
        steps: Env steps of PPO at most.
        episodes: Validation starts.
        world_model: Folder or Hub id; None is the embedded one.
        episodes_folder: Where the demonstrations are.
        runs: Folder of what is done.
        out: The table, as JSON; beside it as Markdown.
    """

    tasks: tuple[Task, ...]
    variations: tuple[str, ...] = tuple(VARIATIONS)
    draws: PositiveInt = 2
    demonstrations: PositiveInt = 5
    clone_steps: PositiveInt = 4000
    steps: PositiveInt = STEPS
    episodes: PositiveInt = 100
    world_model: str | None = None
    episodes_folder: Path = Path("data/episodes")
    runs: Path = Path("runs/refinement_ablations")
    out: Path = Path("results/refinement_ablations.json")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.variations:
            if name not in VARIATIONS:
                known = ", ".join(VARIATIONS)
                raise SettingsError(f"variations: expected some of {known}, got {name!r}")


class PenalisedReward(ChangedReward):
    """Takes off the reward what the members' disagreement on the outcome costs at each decision."""

    def __init__(self, env: VecEnv, penalty: float) -> None:
        super().__init__(env)
        self._penalty = penalty

    def pay(self, reward: np.ndarray, done: np.ndarray, infos: list[dict[str, Any]]) -> np.ndarray:
        """The reward less the cost."""
        return reward - self._penalty * np.array([i["uncertainty"] for i in infos], np.float32)


class ProbabilityReward(ChangedReward):
    """Pays for every rise of an episode's highest probability of success."""

    def reset(self) -> Any:
        """Passes on; nothing was probable yet."""
        self._best = np.zeros(self.num_envs)
        return super().reset()

    def pay(self, reward: np.ndarray, done: np.ndarray, infos: list[dict[str, Any]]) -> np.ndarray:
        """The rise."""
        best = np.maximum(self._best, [info["success_probability"] for info in infos])
        risen = (best - self._best).astype(np.float32)
        self._best = np.where(done, 0.0, best)
        return risen


class MaskedFeatures(VecEnvWrapper):
    """Shows features times a mask `(F,)`."""

    def __init__(self, env: VecEnv, mask: np.ndarray) -> None:
        super().__init__(env)
        self._mask = mask

    def reset(self) -> Any:
        """Passes on, masked."""
        seen = self.venv.reset()
        assert isinstance(seen, np.ndarray)
        return seen * self._mask

    def step_wait(self) -> Any:
        """Passes on all but what is seen."""
        seen, reward, done, infos = self.venv.step_wait()
        assert isinstance(seen, np.ndarray)
        for row in np.flatnonzero(done):
            infos[row]["terminal_observation"] = infos[row]["terminal_observation"] * self._mask
        return seen * self._mask, reward, done, infos


class MaskedPolicy:
    """A policy on masked features, for envs that show all of them."""

    obs_type = "features"

    def __init__(self, policy: Actor, mask: np.ndarray) -> None:
        self._policy, self._mask = policy, mask

    def act(self, observation: Any) -> np.ndarray:
        """`(B, F)` of all features -> the policy's actions `(B, A)` in [-1, 1]."""
        return self._policy.act(observation * self._mask)


def mask_of(variation: Variation, world_model: WorldModel) -> np.ndarray:
    """What of the features a variation sees, `(F,)` float32 of 0 and 1."""
    seen = np.ones(feature_size(world_model), np.float32)
    seen[: -world_model.code_size - 2] = variation.robot
    return seen


def practice(variation: Variation, world_model: WorldModel, task: str, seed: int) -> VecEnv:
    """The rows in which a variation's PPO acts."""
    options: dict[str, Any] = {}
    if variation.branches:
        options = {"initial_frames": "anywhere", "max_episode_steps": BRANCH}
    env = imagined_env(world_model, task, seed, **options)
    if variation.reward == "progress":
        env = ProgressReward(env)
    elif variation.reward == "probability":
        env = ProbabilityReward(env)
    if variation.uncertainty_penalty:
        env = PenalisedReward(env, variation.uncertainty_penalty)
    if variation.randomised:
        env = RandomisedFeatures(env, world_model, seed)
    return MaskedFeatures(env, mask_of(variation, world_model))


def clone(args: Args, task: str, draw: int, world_model: WorldModel, mask: np.ndarray) -> Policy:
    """Returns a clone that sees masked features, of the draw's own demonstrations."""
    shown = load_demonstrations(args.episodes_folder, task, args.demonstrations, draw)
    policy = make_policy(policy_config(world_model, task, "features"), draw)
    seen = features_of(world_model, shown) * torch.from_numpy(mask)
    fit(policy, (None, seen), done_of(shown), args.clone_steps, seed=draw)
    return policy


def measure(args: Args, task: str, name: str, draw: int, world_model: WorldModel) -> dict[str, Any]:
    """Clones, refines and measures, or reads what is done; returns the row of the table."""
    path = args.runs / f"{task}-{name}-{draw}.json"
    if path.exists():
        return dict(json.loads(path.read_bytes()))
    variation = VARIATIONS[name]
    mask = mask_of(variation, world_model)
    cloned = clone(args, task, draw, world_model, mask)
    judge = make_judge(world_model, task)
    rows = practice(variation, world_model, task, draw)
    title = f"{task} {name} {draw}"
    refined = refine(
        cloned,
        rows,
        args.steps,
        draw,
        title,
        (lambda policy: judge(MaskedPolicy(policy, mask))) if variation.judged else None,
        **({} if variation.critic_first else {"critic_steps": 0}),
    )
    rows.close()
    env = make_real_env(task)
    seeds = split_seeds("validation", args.episodes, 80_000)
    starts = real_starts(env, seeds)
    outcomes: dict[str, str] = {}
    for kind, when, policy in (
        ("cloned", "before", cloned),
        ("refined", "after", refined.policy),
    ):
        actor = MaskedPolicy(policy, mask)
        solved = real_outcomes(env, actor, world_model, seeds, f"{title} {kind}")
        outcomes[kind] = packed(solved)
        outcomes[f"imagined_{when}"] = packed(imagined_outcomes(actor, world_model, starts))
    env.close()
    row = {"task": task, "variation": name, "draw": draw, "episodes": args.episodes}
    save_record(path, row | {"outcomes": outcomes})
    return row | {"outcomes": outcomes}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Means over tasks and draws as Markdown, a line a variation; the gain's interval is over
    episodes alone."""
    lines = []
    for name, variation in VARIATIONS.items():
        own = [row["outcomes"] for row in rows if row["variation"] == name]
        if not own:
            continue
        cloned, refined, imagined = (
            [unpacked(outcomes[kind]) for outcomes in own]
            for kind in ("cloned", "refined", "imagined_after")
        )
        means = [f"{100 * np.mean(some):.0f}" for some in (cloned, refined, imagined)]
        gain = paired_difference(np.concatenate(refined), np.concatenate(cloned))
        runs = [100 * (a.mean() - b.mean()) for a, b in zip(refined, cloned, strict=True)]
        each = ", ".join(f"{one:+.0f}" for one in runs)
        lines.append([variation.says, str(len(own)), *means, format_points(gain), each])
    columns = ["refinement", "runs", "clone", "refined", "refined, imagined"]
    return markdown_table([*columns, "real gain", "of each run"], lines)


def run(args: Args) -> list[dict[str, Any]]:
    """Measures every variation, and writes the table.

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
        keep_settings(args, args.runs, ("tasks", "variations", "draws", "runs"))
        rows = [
            measure(args, task, name, draw, world_model)
            for draw in range(args.draws)
            for name in args.variations
            for task in args.tasks
        ]
    save_table(args.out, {"steps": args.steps, "rows": rows}, table(rows))
    return rows


def main() -> None:
    """Runs the command line."""
    run(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)
