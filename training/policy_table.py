"""The table of policies before and after refinement, and its figures, beside World4RL's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.evaluate import draw_scatter
from training.formatting import format_rate, markdown_table
from training.locks import held
from training.measured import Measured, by_demonstrations, merge_measured, plain, pooled
from training.metrics import Rate, policy_agreement
from training.pictures import drawing
from training.real_env import TASKS
from training.records import save_record

PUBLISHED = {
    "coffee-pull": (47, 68),
    "soccer": (18, 31),
    "hammer": (79, 91),
    "door-lock": (74, 92),
    "lever-pull": (31, 52),
    "handle-pull": (60, 71),
}
"""World4RL's own table (arXiv 2509.19080): real success, %, of clones of 50 demonstrations and of
what refinement made of them; its camera, horizon and demonstrations are its own."""

PUBLISHED_DEMONSTRATIONS = 50

COLUMNS = (
    ("cloned", "cloned", "real"),
    ("refined", "refined", "real"),
    ("imagined_before", "cloned", "imagined"),
    ("imagined_after", "refined", "imagined"),
)
"""A row's success rates: name, what made the policies, and the world."""


def make_row(policies: Sequence[Measured]) -> dict[str, Any]:
    """One row of the table: a task's cloned and refined policies, pooled over seeds.

    Raises:
        ValueError: A clone lacks what was made of it, or the other way round.
    """
    cloned = [policy for policy in policies if policy.method == "cloned"]
    refined = [policy for policy in policies if policy.method == "refined"]
    seeds = [policy.seed for policy in cloned]
    if seeds != [policy.seed for policy in refined]:
        raise ValueError(f"policies: {policies[0].task} lacks a clone or what was made of one")
    row: dict[str, Any] = {
        "task": cloned[0].task,
        "demonstrations": cloned[0].demonstrations,
        "seeds": seeds,
        "episodes": cloned[0].episodes,
        "not_the_clone": sum(not policy.is_the_clone for policy in refined),
    }
    for name, made, world in COLUMNS:
        row[name] = dataclasses.asdict(pooled(cloned if made == "cloned" else refined, world))
    row["gap_before"] = round(row["imagined_before"]["mean"] - row["cloned"]["mean"], 4)
    row["gap_after"] = round(row["imagined_after"]["mean"] - row["refined"]["mean"], 4)
    return row


def make_rows(policies: Sequence[Measured]) -> list[dict[str, Any]]:
    """The rows of policies of one number of demonstrations, in the order of the tasks."""
    tasks = [task for task in TASKS if any(policy.task == task for policy in policies)]
    return [make_row([p for p in policies if p.task == task]) for task in tasks]


def format_table(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown, success in per cent with 95 % intervals, gaps in points.

    World4RL's figures stand beside those of clones of as many demonstrations as its own.
    """
    columns = ["task", "cloned, real", "refined, real", "cloned, imagined", "refined, imagined"]
    columns += ["gap before", "gap after", "not the clone"]
    beside = all(row["demonstrations"] == PUBLISHED_DEMONSTRATIONS for row in rows)
    if beside:
        columns.append("World4RL")
    told = []
    names = [name for name, _, _ in COLUMNS]
    gap_names = ("gap_before", "gap_after")
    for row in rows:
        cells = [row["task"], *(format_rate(Rate(**row[name])) for name in names)]
        cells += [f"{100 * row[name]:+.0f}" for name in gap_names]
        cells.append(f"{row['not_the_clone']} of {len(row['seeds'])}")
        if beside:
            cells.append("{} → {}".format(*PUBLISHED[row["task"]]))
        told.append(cells)
    means = [f"{100 * np.mean([row[name]['mean'] for row in rows]):.1f} %" for name in names]
    gaps = [f"{100 * np.mean([row[name] for row in rows]):+.1f}" for name in gap_names]
    cells = ["**mean**", *means, *gaps, ""]
    if beside:
        published = [np.mean([PUBLISHED[row["task"]][at] for row in rows]) for at in (0, 1)]
        cells.append(" → ".join(f"{mean:.1f}" for mean in published))
    return markdown_table(columns, [*told, cells])


def draw_table(rows: list[dict[str, Any]], path: Path) -> None:
    """Draws real success before and after, with its intervals, beside the published figures."""
    with drawing(path, figsize=(9, 3.8)) as axes:
        places = np.arange(len(rows))
        for number, (name, colour, mark) in enumerate(
            (("cloned", "tab:gray", "black"), ("refined", "tab:blue", "tab:red"))
        ):
            shift = 0.4 * (number - 0.5)
            means = np.array([100 * row[name]["mean"] for row in rows])
            ends = np.array([[100 * row[name][end] for row in rows] for end in ("low", "high")])
            axes.bar(
                places + shift,
                means,
                0.36,
                yerr=np.abs(ends - means),
                color=colour,
                capsize=3,
                label=f"{name}, real, 95 %",
            )
            if all(row["demonstrations"] == PUBLISHED_DEMONSTRATIONS for row in rows):
                axes.plot(
                    places + shift,
                    [PUBLISHED[row["task"]][number] for row in rows],
                    "D",
                    color=mark,
                    markersize=5,
                    label=f"World4RL's {name}",
                )
        axes.set_xticks(places, [row["task"] for row in rows])
        axes.set(ylabel="success, %", ylim=(0, 103))
        axes.legend(fontsize="small", ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def save_table(policies: Sequence[Measured], out: Path) -> None:
    """Writes `table.json`, `table.md` and figures; other policies there are kept.

    A table and a figure are made for each number of demonstrations. The table's policies, cloned
    and refined, are also what M4 is taken over: does imagination rank them as reality does?

    Args:
        policies: Cloned and refined ones, each clone with what was made of it.
        out: The folder; made where it is missing.
    """
    with held(out):
        _save_table(merge_measured(out / "table.json", policies), out)


def _save_table(merged: Sequence[Measured], out: Path) -> None:
    groups = {number: make_rows(group) for number, group in by_demonstrations(merged).items()}
    table: dict[str, Any] = {
        "policies": plain(merged),
        "rows": [row for rows in groups.values() for row in rows],
    }
    told = agreement(merged)
    if told:
        table["agreement"] = told
        draw_scatter([_point(policy) for policy in _separate(merged)], out / "policies.png")
    save_record(out / "table.json", table)
    parts = []
    for number, rows in groups.items():
        draw_table(rows, out / f"table-{number}.png")
        parts.append(f"Clones of {number} demonstrations:\n\n{format_table(rows)}\n")
    (out / "table.md").write_text("\n".join(parts))


def agreement(policies: Sequence[Measured]) -> dict[str, Any] | None:
    """M4 of cloned and refined policies, a kept clone counted once; None of fewer than three."""
    separate = _separate(policies)
    if len(separate) < 3:
        return None
    return policy_agreement(
        [policy.rate("imagined").mean for policy in separate],
        [policy.rate("real").mean for policy in separate],
        [policy.task for policy in separate],
    )


def _separate(policies: Sequence[Measured]) -> list[Measured]:
    return [one for one in policies if one.method == "cloned" or not one.is_the_clone]


def describe_agreement(told: dict[str, Any]) -> str:
    """M4 in two sentences: what `training.metrics.policy_agreement` told."""
    return (
        f"Over {told['policies']} policies, clones and what was made of them, imagined and real "
        f"success have a Pearson correlation of {told['pearson']:.2f} "
        f"(with one left out {_span(told, 'pearson')}) and "
        f"Spearman's of {told['spearman']:.2f} ({_span(told, 'spearman')}); the mean maximum rank "
        f"violation is {told['mmrv']:.2f}, the mean absolute error "
        f"{100 * told['mean_absolute_error']:.0f} points, the bias {100 * told['bias']:+.0f}. "
        "Within tasks, where one chooses between policies, deviations from the task's mean have a "
        f"Pearson correlation of {told['pearson_within_task']:.2f}, and the rank violation is "
        f"{told['mmrv_within_task']:.2f}."
    )


def _span(agreement: dict[str, Any], name: str) -> str:
    low, high = agreement[f"{name}_leave_one_out"]
    return f"{low:.2f} to {high:.2f}"


def _point(policy: Measured) -> dict[str, Any]:
    worlds = {world: dataclasses.asdict(policy.rate(world)) for world in ("real", "imagined")}
    return {"task": policy.task, **worlds}
