"""Compares refinement with its own variants and with learning from episodes alone.

    python -m training.compare --tasks door-lock handle-pull --seeds 1 --demonstrations 5

Every method begins from the clone of the table's cell (`training.reproduce`, whose folder and
settings it shares) and is evaluated from the same held-out starts. Methods that learn from episodes
have what the clone's owner has: its demonstrations, and real rollouts of the clone. Writes
`comparison.json` and `comparison.md`; what is done is kept and skipped.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from training import collect_episodes, command, td3_bc
from training.evaluate import format_rate
from training.judge import snapshot_path
from training.measured import (
    Measured,
    by_task,
    merge_measured,
    plain,
    pooled,
    require_one_recipe,
)
from training.policy import ensemble, load_policy, save_policy
from training.records import held, save_record
from training.reproduce import (
    WORLDS,
    cell_folder,
    claim,
    clone_cell,
    demonstrated,
    make_cell,
    measure,
    planned,
    refine_cell,
)
from training.reproduce import Args as TableArgs
from training.settings import keep_settings, require_at_least
from world4rl_gym.world_model import WorldModel
from world4rl_gym.writing import write_whole

ROLLOUT_OFFSET = 60_000
"""Where in the training seeds the clone's rollouts begin."""


@dataclasses.dataclass(frozen=True)
class Args(TableArgs):
    """Command line of `training.compare`: that of `training.reproduce`, and what is compared.

    Attributes:
        methods: Methods, or "all".
        rollouts: Real episodes of the clone that methods without a world model learn from; its
            actions are sampled.
    """

    tasks: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--task"])] = (
        "door-lock",
        "handle-pull",
    )
    methods: tuple[str, ...] = ("all",)
    rollouts: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "rollouts")
        if self.methods == ("all",):
            object.__setattr__(self, "methods", tuple(METHODS))
        for method in self.methods:
            if method not in METHODS:
                raise ValueError(f"methods: expected {', '.join(METHODS)}, got {method!r}")


def _last(args: Args, task: str, seed: int) -> Path:
    return _last_snapshot(refine_cell(args, task, seed), "last")


def _adapted(args: Args, task: str, seed: int) -> Path:
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


def _longer(args: Args, task: str, seed: int) -> Path:
    steps = args.clone_steps + args.adapt_steps
    return clone_cell(args, task, seed, "longer", steps=steps)


def _twins(args: Args, task: str, seed: int) -> Path:
    out = cell_folder(args, task, seed) / "twins"
    if not (out / "policy.json").exists():
        clones = [clone_cell(args, task, one) for one in (seed, seed + 1)]
        both = ensemble([load_policy(clone) for clone in clones])
        save_policy(both, both.config, out, half=True)
    return out


def _fitted(name: str, **changes: Any) -> Callable[[Args, str, int], Path]:
    """The clone fitted as refinement begins, changed; PPO ends after a single rollout."""

    def make(args: Args, task: str, seed: int) -> Path:
        refined = refine_cell(args, task, seed, name, steps=1, **changes)
        return _snapshot(refined, 0, f"adapted-{name}")

    return make


def _unadapted(args: Args, task: str, seed: int) -> Path:
    return refine_cell(args, task, seed, "unadapted", adapt_steps=0)


def _ppo(name: str, **changes: Any) -> Callable[[Args, str, int], Path]:
    """PPO once more from the adapted policy, changed; its last policy, whatever the judge says."""

    def make(args: Args, task: str, seed: int) -> Path:
        begun: dict[str, Any] = {"policy": _adapted(args, task, seed), "adapt_steps": 0, **changes}
        return _last_snapshot(refine_cell(args, task, seed, name, **begun), f"{name}-last")

    return make


def own_episodes(args: Args, task: str, seed: int) -> Path:
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


def _filtered(args: Args, task: str, seed: int) -> Path:
    return clone_cell(args, task, seed, "filtered", own_episodes, rollouts=True)


def _round(args: Args, task: str, seed: int) -> Path:
    filtered = _filtered(args, task, seed)
    return refine_cell(args, task, seed, "round", own_episodes, policy=filtered, rollouts=True)


def _td3_bc(args: Args, task: str, seed: int) -> Path:
    out = cell_folder(args, task, seed) / "td3-bc"
    if not (out / "policy.json").exists():
        episodes = own_episodes(args, task, seed)
        td3_bc.run(td3_bc.Args(clone_cell(args, task, seed), out, episodes, seed=seed))
    return out


METHODS: dict[str, tuple[str, Callable[[Args, str, int], Path]]] = {
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


def format_comparison(policies: Sequence[Measured]) -> str:
    """A task's policies as Markdown: real (imagined) success in per cent, pooled and by seed.

    Intervals, 95 %, are those of the pooled real success.
    """
    seeds = sorted({policy.seed for policy in policies})
    apart = seeds if len(seeds) > 1 else []
    together = "pooled" if apart else f"seed {seeds[0]}"
    head = ["method", f"{together}, real (imagined)", *(f"seed {seed}" for seed in apart)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for method, (meaning, _) in METHODS.items():
        own = {policy.seed: policy for policy in policies if policy.method == method}
        if own:
            real, imagined = (pooled(list(own.values()), world) for world in WORLDS)
            cells = [f"{format_rate(real)} ({100 * imagined.mean:.0f})"]
            cells += [
                "{:.0f} ({:.0f})".format(*(100 * own[seed].rate(world).mean for world in WORLDS))
                if seed in own
                else "-"
                for seed in apart
            ]
            lines.append(f"| {method}: {meaning} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def save_comparison(policies: Sequence[Measured], out: Path) -> None:
    """Writes `comparison.json` and `comparison.md`; other policies there are kept."""
    path = out / "comparison.json"
    with held(out):
        merged = merge_measured(path, policies)
        save_record(path, {"policies": plain(merged)})
        parts = [
            f"{task}, clones of {number} demonstrations:\n\n{format_comparison(group)}\n"
            for (number, task), group in by_task(merged).items()
        ]
        (out / "comparison.md").write_text("\n".join(parts))


@dataclasses.dataclass(frozen=True)
class _Rollouts:
    rollouts: int


def claim_rollouts(args: Args) -> None:
    """Keeps in every cell how many real rollouts its methods learn from, where one of them does.

    Raises:
        SettingsError: What is there was learned from another number.
    """
    if ROLLOUT_METHODS.isdisjoint(args.methods):
        return
    for task in args.tasks:
        for seed in args.every_seed:
            keep_settings(_Rollouts(args.rollouts), cell_folder(args, task, seed) / "episodes")


def make_and_measure(args: Args, world_model: WorldModel, plan: Measured) -> Measured:
    """Makes a method's policy and measures it, each where that is not done."""
    if plan.method == "refined":  # a clone that refinement kept is not measured twice
        return make_cell(args, world_model, plan.task, plan.seed)[1]
    clone_cell(args, plan.task, plan.seed)
    policy = METHODS[plan.method][1](args, plan.task, plan.seed)
    return measure(args, world_model, policy, plan)


def main() -> None:
    """Runs the command line."""
    args = tyro.cli(Args, description=__doc__)
    world_model = WorldModel.from_pretrained(args.world_model)
    plans = planned(args, world_model, args.methods)
    require_one_recipe(args.out / "comparison.json", plans)
    claim(dataclasses.replace(args, seeds=args.seeds + ("twins" in args.methods)), world_model)
    claim_rollouts(args)
    made = []
    for plan in plans:
        one = make_and_measure(args, world_model, plan)
        told = ", ".join(f"{world} {format_rate(one.rate(world))}" for world in WORLDS)
        print(f"{one.task}, seed {one.seed}, {one.method}: {told}", flush=True)
        made.append(one)
        save_comparison(made, args.out)
    for (number, task), group in by_task(made).items():
        print(f"\n{task}, clones of {number} demonstrations:\n\n{format_comparison(group)}")


if __name__ == "__main__":
    command.run(main)
