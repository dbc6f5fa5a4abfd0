"""The command lines that make measured policies anew, to stand beside what was measured of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.measured import Measured
from training.methods import METHODS
from training.real_env import TASKS
from training.reproduce import Args
from training.settings import SettingsError


def table_lines(policies: Sequence[Measured]) -> list[str]:
    """Those of `training.reproduce` that make the table of some policies.

    Raises:
        SettingsError: The policies were made by different recipes.
    """
    lines = []
    for tasks, rest in _grids(policies, "task"):
        told = "all" if len(tasks) == len(TASKS) else " ".join(t for t in TASKS if t in tasks)
        lines.append(f"python -m training.reproduce --tasks {told}{rest}")
    return lines


def comparison_lines(policies: Sequence[Measured], more: str = "") -> list[str]:
    """Those of `training.compare` that make the comparison of one task's policies.

    Args:
        policies: All of one task and number of demonstrations.
        more: Arguments that every line ends with, a blank before.

    Raises:
        SettingsError: As in `table_lines`.
    """
    lines = []
    for made, rest in _grids(policies, "method"):
        methods = " ".join(method for method in METHODS if method in made)
        given = f"--tasks {policies[0].task} --methods {methods}"
        lines.append(f"python -m training.compare {given}{rest}{more}")
    return lines


def _grids(policies: Sequence[Measured], name: str) -> list[tuple[set[str], str]]:
    """What was measured with which seeds: tasks or methods, and a command's flags for the rest.

    Seeds that follow each other and have the same of them share a command.
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
        told.append((own, f" --seeds {len(seeds)}{_changed(given)}"))
    return told


def flags(args: Args, names: Sequence[str]) -> str:
    """Those of these settings that are not the defaults, as a command line takes them."""
    return _changed({name: getattr(args, name) for name in names})


def _changed(given: Mapping[str, Any]) -> str:
    return "".join(_flag(k, value) for k, value in given.items() if value != getattr(Args, k))


def _flag(name: str, value: Any) -> str:
    """As a command line takes it, a blank before."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f" --{flag}" if value else f" --no-{flag}"
    return f" --{flag} {value}"
