"""Compares refinement with its own variants and with learning from episodes alone.

    python -m training.compare --tasks door-lock handle-pull --seeds 1 --demonstrations 5

Every method (`methods.py`) begins from the clone of the table's cell (`training.reproduce`, whose
folder and settings it shares) and is evaluated from the same held-out starts. Writes
`comparison.json` and `comparison.md`; what is done is kept and skipped.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro

from training import command
from training.command_lines import flags
from training.comparison_table import format_comparison, save_comparison
from training.formatting import format_rate
from training.measured import Measured, by_task, require_one_recipe
from training.methods import METHODS, MethodArgs, claim_rollouts
from training.reproduce import WORLDS, claim, clone_cell, make_cell, measure, planned
from world4rl_gym.world_model import WorldModel

PLACES = ("world_model", "episodes_folder", "work", "out")
"""Arguments of which what was measured does not tell."""


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
        save_comparison(made, args.out, flags(args, PLACES))
    for (number, task), group in by_task(made).items():
        print(f"\n{task}, clones of {number} demonstrations:\n\n{format_comparison(group)}")


if __name__ == "__main__":
    command.run(main)
