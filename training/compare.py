"""Compares refinement with its own variants and with learning from episodes alone.

    python -m training.compare --tasks door-lock handle-pull --seeds 1 --demonstrations 5

Every method (`methods.py`) begins from the clone of the table's cell (`training.reproduce`, whose
folder and settings it shares) and is evaluated from the same held-out starts. Writes
`comparison.json` and `comparison.md`; what is done is kept and skipped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from training import command
from training.evaluate import format_rate
from training.locks import held
from training.measured import (
    Measured,
    by_task,
    merge_measured,
    plain,
    pooled,
    require_one_recipe,
)
from training.methods import METHODS, MethodArgs, claim_rollouts
from training.records import save_record
from training.reproduce import WORLDS, claim, clone_cell, make_cell, measure, planned
from world4rl_gym.world_model import WorldModel


@dataclasses.dataclass(frozen=True)
class Args(MethodArgs):
    """Command line of `training.compare`: that of `training.reproduce`, and what is compared.

    Attributes:
        methods: Methods, or "all".
    """

    tasks: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--task"])] = (
        "door-lock",
        "handle-pull",
    )
    methods: tuple[str, ...] = ("all",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.methods == ("all",):
            object.__setattr__(self, "methods", tuple(METHODS))
        for method in self.methods:
            if method not in METHODS:
                raise ValueError(f"methods: expected {', '.join(METHODS)}, got {method!r}")


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
    claim_rollouts(args, args.methods)
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
