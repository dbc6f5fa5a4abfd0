"""The README's sections about policies: the tables, and what stands beside refinement."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from training.compare import format_comparison
from training.measured import Measured, by_demonstrations, by_task, load_measured
from training.methods import METHODS
from training.policy_table import describe_agreement, format_table, make_rows
from training.real_env import TASKS
from training.reproduce import Args as TableArgs
from training.settings import SettingsError


def policies_section(results: Path) -> str:
    """The tables of cloned and refined policies, their figures, and how the worlds agree."""
    told = json.loads((results / "table.json").read_text())
    parts = [
        "### Policies, before and after",
        "Real episodes on start configurations that nothing was trained on, imagined episodes from "
        "the first frames of those same episodes, 95 % intervals (Clopper-Pearson). *Not the "
        "clone*: in how many seeds what was kept is not the clone as it was. World4RL's figures, "
        "where they stand, are of another camera, horizon and set of demonstrations. The refined "
        "policies are in [results/policies](results/policies):\n"
        "`python -m training.evaluate --policy results/policies/5/door-lock-0` measures one anew.",
    ]
    for number, policies in by_demonstrations(load_measured(results / "table.json")).items():
        commands = [
            "python -m training.reproduce --tasks "
            + ("all" if len(tasks) == len(TASKS) else " ".join(t for t in TASKS if t in tasks))
            + flags
            for tasks, flags in _grids(policies, "task")
        ]
        parts += [
            _told(policies, commands),
            format_table(make_rows(policies)),
            f"![real success before and after](results/table-{number}.png)",
        ]
    parts += [
        "![imagined against real success of these policies](results/policies.png)",
        describe_agreement(told["agreement"]),
    ]
    return "\n\n".join(parts)


def comparison_section(results: Path) -> str:
    """Refinement beside its variants and learning from episodes alone; "" where not measured."""
    path = results / "comparison.json"
    if not path.exists():
        return ""
    parts = [
        "### Beside other ways to use the same data",
        "From the table's starts, real success in per cent with its 95 % interval, imagined "
        "success in brackets; pooled over the seeds whose figures stand beside. What learns from "
        "episodes has the demonstrations and 50 real rollouts of the clone.",
    ]
    for (_, task), group in by_task(load_measured(path)).items():
        commands = [
            f"python -m training.compare --tasks {task} --methods "
            + " ".join(method for method in METHODS if method in methods)
            + flags
            for methods, flags in _grids(group, "method")
        ]
        parts += [f"**{task}**. {_told(group, commands)}", format_comparison(group)]
    return "\n\n".join(parts)


def _told(policies: Sequence[Measured], commands: Sequence[str]) -> str:
    """Of what clones some policies are, and the commands that made them."""
    seeds = sorted({policy.seed for policy in policies})
    every = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(str(seed) for seed in seeds)}"
    one = policies[0]
    words = f"Clones of {one.demonstrations} demonstrations, {every}, {one.episodes} episodes a "
    return "\n".join([f"{words}figure and seed:", *(f"`{command}`" for command in commands)])


def _grids(policies: Sequence[Measured], name: str) -> list[tuple[set[str], str]]:
    """What was measured with which seeds: tasks or methods, and a command's flags for the rest.

    Seeds that follow each other and have the same of them share a command.

    Raises:
        SettingsError: The policies were made by different recipes.
    """
    one = policies[0]
    if len({policy.made_by for policy in policies}) > 1:
        raise SettingsError(
            f"recipe: policies of {one.demonstrations} demonstrations were made by different ones"
        )
    grids: list[tuple[set[str], list[int]]] = []
    for seed in sorted({policy.seed for policy in policies}):
        own = {getattr(policy, name) for policy in policies if policy.seed == seed}
        if grids and grids[-1][0] == own and grids[-1][1][-1] == seed - 1:
            grids[-1][1].append(seed)
        else:
            grids.append((own, [seed]))
    told = []
    for own, seeds in grids:
        given = {"first_seed": seeds[0], "demonstrations": one.demonstrations, **one.recipe}
        given["episodes"] = one.episodes
        changed = {k: v for k, v in given.items() if v != getattr(TableArgs, k)}
        few = "".join(_flag(k, value) for k, value in changed.items())
        told.append((own, f" --seeds {len(seeds)}{few}"))
    return told


def _flag(name: str, value: float) -> str:
    """As a command line takes it, a blank before."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f" --{flag}" if value else f" --no-{flag}"
    return f" --{flag} {value}"
