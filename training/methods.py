"""Ways to make a better policy of a clone, each of which is measured like the table's own.

All begin from the clone of the table's cell (`training.reproduce`). Methods that learn from
episodes have what the clone's owner has: its demonstrations, and real rollouts of the clone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from training import collect_episodes, td3_bc
from training.judge import snapshot_path
from training.policy import ensemble, load_policy, save_policy
from training.reproduce import Args as TableArgs
from training.reproduce import cell_folder, clone_cell, demonstrated, refine_cell
from training.settings import keep_settings, require_at_least
from world4rl_gym.writing import write_whole

ROLLOUT_OFFSET = 60_000
"""Where in the training seeds the clone's rollouts begin."""


@dataclasses.dataclass(frozen=True)
class MethodArgs(TableArgs):
    """What methods need to know: all that `training.reproduce` asks, and one thing more.

    Attributes:
        rollouts: Real episodes of the clone that methods without a world model learn from; its
            actions are sampled.
    """

    rollouts: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "rollouts")


Make = Callable[[MethodArgs, str, int], Path]
"""(args, task, seed) -> folder of the policy, made where that is not done."""


def _last(args: MethodArgs, task: str, seed: int) -> Path:
    return _last_snapshot(refine_cell(args, task, seed), "last")


def _adapted(args: MethodArgs, task: str, seed: int) -> Path:
    return _snapshot(refine_cell(args, task, seed), 0, "adapted")


def _last_snapshot(refined: Path, name: str) -> Path:
    curve = json.loads((refined / "curve.json").read_text())["curve"]
    return _snapshot(refined, curve[-1]["imagined_steps"], name)


def _snapshot(refined: Path, imagined_steps: int, name: str) -> Path:
    out = refined.with_name(name)
    if not (out / "policy.json").exists():
        policy = load_policy(snapshot_path(refined, imagined_steps))
        save_policy(policy, policy.config, out)
    return out


def _longer(args: MethodArgs, task: str, seed: int) -> Path:
    steps = args.clone_steps + args.adapt_steps
    return clone_cell(args, task, seed, "longer", steps=steps)


def _twins(args: MethodArgs, task: str, seed: int) -> Path:
    out = cell_folder(args, task, seed) / "twins"
    if not (out / "policy.json").exists():
        clones = [clone_cell(args, task, one) for one in (seed, seed + 1)]
        both = ensemble([load_policy(clone) for clone in clones])
        save_policy(both, both.config, out, half=True)
    return out


def _fitted(name: str, **changes: Any) -> Make:
    """The clone fitted as refinement begins, changed; PPO ends after a single rollout."""

    def make(args: MethodArgs, task: str, seed: int) -> Path:
        refined = refine_cell(args, task, seed, name, steps=1, **changes)
        return _snapshot(refined, 0, f"adapted-{name}")

    return make


def _unimagined(args: MethodArgs, task: str, seed: int) -> Path:
    real: dict[str, Any] = {"imagined_demonstrations": False, "corrections": 0}
    return refine_cell(args, task, seed, "unimagined", steps=1, **real)


def _unadapted(args: MethodArgs, task: str, seed: int) -> Path:
    return refine_cell(args, task, seed, "unadapted", adapt_steps=0)


def _ppo(name: str, **changes: Any) -> Make:
    """PPO once more from the adapted policy, changed; its last policy, whatever the judge says."""

    def make(args: MethodArgs, task: str, seed: int) -> Path:
        begun: dict[str, Any] = {"policy": _adapted(args, task, seed), "adapt_steps": 0, **changes}
        return _last_snapshot(refine_cell(args, task, seed, name, **begun), f"{name}-last")

    return make


def own_episodes(args: MethodArgs, task: str, seed: int) -> Path:
    """The clone's demonstrations and real rollouts of the clone; collects what is missing."""
    folder = cell_folder(args, task, seed) / "episodes"
    kept = folder / task / "train"
    kept.mkdir(parents=True, exist_ok=True)
    shown = sorted((demonstrated(args, task) / task / "train").glob("expert-*.npz"))
    for path in shown[: args.demonstrations]:
        if not (kept / path.name).exists():
            write_whole(kept / path.name, path.read_bytes())
    collect_episodes.collect(
        collect_episodes.Args(
            "policy",
            (task,),
            args.rollouts,
            seed_offset=ROLLOUT_OFFSET,
            policy=str(clone_cell(args, task, seed)),
            workers=args.workers,
            out=folder,
        )
    )
    return folder


def _filtered(args: MethodArgs, task: str, seed: int) -> Path:
    return clone_cell(args, task, seed, "filtered", own_episodes, rollouts=True)


def _round(args: MethodArgs, task: str, seed: int) -> Path:
    filtered = _filtered(args, task, seed)
    return refine_cell(args, task, seed, "round", own_episodes, policy=filtered, rollouts=True)


def _td3_bc(args: MethodArgs, task: str, seed: int) -> Path:
    out = cell_folder(args, task, seed) / "td3-bc"
    if not (out / "policy.json").exists():
        episodes = own_episodes(args, task, seed)
        td3_bc.run(td3_bc.Args(clone_cell(args, task, seed), out, episodes, seed=seed))
    return out


METHODS: dict[str, tuple[str, Make]] = {
    "cloned": ("the clone", clone_cell),
    "refined": ("refined in imagination, as in the table", refine_cell),
    "twins": ("the ensemble of the clone and of the next seed's", _twins),
    "longer": ("cloned for as many steps as both together", _longer),
    "adapted": (
        "fitted to demonstrations as imagined and corrected, without the clone beside, without PPO",
        _adapted,
    ),
    "uncorrected": ("so fitted without corrections", _fitted("uncorrected", corrections=0)),
    "unrepeated": (
        "so fitted without repeating what a camera saw",
        _fitted("unrepeated", real_share=0.0),
    ),
    "unimagined": (
        "the ensemble of the clone and of the clone fitted once more to real frames alone",
        _unimagined,
    ),
    "unadapted": ("PPO from the clone as it is", _unadapted),
    "last": ("PPO's last policy, alone", _last),
    "no-anchor": (
        "PPO's last policy without gradient steps on demonstrations",
        _ppo("no-anchor", anchor_steps=0),
    ),
    "kl": (
        "PPO's last policy with its divergence from the adapted one in their place",
        _ppo("kl", anchor_steps=0, kl_coef=0.1),
    ),
    "penalty": (
        "PPO's last policy with a penalty on uncertainty",
        _ppo("penalty", uncertainty_penalty=0.005),
    ),
    "wide": ("PPO's last policy, its noise not capped at .25", _ppo("wide", max_deviation=1.0)),
    "haste": ("PPO's last policy with discount .98", _ppo("haste", gamma=0.98)),
    "filtered": ("cloned from demonstrations and successful rollouts", _filtered),
    "round": ("that one, refined in imagination, successes among its demonstrations", _round),
    "td3-bc": ("TD3+BC on demonstrations and rollouts", _td3_bc),
}
"""What each method is, and what makes its policy where that is not done and returns the folder."""

ROLLOUT_METHODS = {"filtered", "round", "td3-bc"}
"""Those that learn from real rollouts of the clone."""


@dataclasses.dataclass(frozen=True)
class _Rollouts:
    rollouts: int


def claim_rollouts(args: MethodArgs, methods: Iterable[str]) -> None:
    """Keeps in every cell how many real rollouts these methods learn from, where one of them does.

    Raises:
        SettingsError: What is there was learned from another number.
    """
    if ROLLOUT_METHODS.isdisjoint(methods):
        return
    for task in args.tasks:
        for seed in args.every_seed:
            keep_settings(_Rollouts(args.rollouts), cell_folder(args, task, seed) / "episodes")
