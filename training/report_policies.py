"""The README's sections about policies: the tables, and what stands beside refinement."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.command_lines import table_lines
from training.comparison_table import format_overview, format_rounds
from training.formatting import format_points, markdown_table
from training.measured import Measured, by_demonstrations, gains, load_measured
from training.metrics import mean_with_interval
from training.policy_table import agreement, describe_agreement, format_table, make_rows
from training.reproduce import WORLDS


def policies_section(results: Path) -> str:
    """The tables of cloned and refined policies, their figures, and how the worlds agree."""
    made = load_measured(results / "table.json")
    one = made[0]
    shipped = f"results/policies/{one.demonstrations}/{one.task}-{one.seed}"
    parts = [
        "### Policies, before and after",
        "Real episodes on start configurations that nothing was trained on, imagined episodes from "
        "the first frames of those same episodes, 95 % intervals (Clopper-Pearson). *Not the "
        "clone*: in how many seeds what was kept is not the clone as it was. World4RL's figures, "
        "where they stand, are of another camera, horizon and set of demonstrations. The refined "
        "policies are in [results/policies](results/policies):\n"
        f"`python -m training.evaluate --policy {shipped}` measures one anew.",
    ]
    for number, policies in by_demonstrations(made).items():
        commands = "\n".join(f"`{line}`" for line in table_lines(policies))
        gained = gains(policies, "refined")
        parts += [
            f"{_told(policies)}\n{commands}",
            format_table(make_rows(policies)),
            f"Refinement changed real success by {format_points(mean_with_interval(gained))} "
            f"points, mean of {len(gained)} policies (Student's t).",
            *_agreement(policies),
            f"![real success before and after](results/table-{number}.png)",
        ]
    parts += ["All of them together:", "![imagined against real](results/policies.png)"]
    return "\n\n".join([*parts, *_agreement(made)])


def _agreement(policies: Sequence[Measured]) -> list[str]:
    """How imagination and reality agree about them, where they are enough to tell."""
    told = agreement(policies)
    return [describe_agreement(told)] if told else []


def stopping_section(results: Path) -> str:
    """Both successes along refinement, and what the rule chose; "" where not measured."""
    path = results / "traces.json"
    if not path.exists():
        return ""
    record = json.loads(path.read_text())
    settings, number = record["settings"], record["rows"][0]["demonstrations"]
    rows = [row for row in record["rows"] if row["demonstrations"] == number]
    some = [row for row in rows if row["ensemble"]]
    at = [{point["imagined_steps"]: point for point in row["points"]} for row in some]
    stages = {
        "the clone": [points[None] for points in at],
        "fitted to imagined frames and corrections, before PPO": [points[0] for points in at],
        "PPO's last policy": [row["points"][-1] for row in some],
        "handed out: the ensemble of the clone and the chosen policy": [
            row["ensemble"] for row in some
        ],
        "the best of these and of two points between, chosen by these real episodes": [
            max([*row["points"], row["ensemble"]], key=lambda point: point["real"]["mean"])
            for row in some
        ],
    }
    means = []
    cloned = stages["the clone"]
    for name, points in stages.items():
        real, imagined = ([point[world]["mean"] for point in points] for world in WORLDS)
        more = [one - before["real"]["mean"] for one, before in zip(real, cloned, strict=True)]
        gained = "" if points is cloned else format_points(mean_with_interval(more))
        means.append(
            [name, *(f"{100 * np.mean(rates):.1f} %" for rates in (real, imagined)), gained]
        )
    table = markdown_table(["mean", "real", "imagined", "real, more than the clone"], means)
    seeds = "".join(sorted({str(row["seed"]) for row in rows}))
    return f"""### When to stop

Along {len(rows)} refinements of the table's clones of {number} demonstrations, \
{settings["episodes"]} {settings["split"]} starts a point; {len(rows) - len(some)} ended at once, \
with a clone that imagination had nothing to teach. The means of the others:
`python -m training.trace_refinement --run runs/reproduce/{number}/*-[{seeds}]/refined --out \
results`

{table}

![real and imagined success along refinement](results/traces.png)"""


def comparison_section(results: Path) -> str:
    """Refinement beside its variants and learning from episodes alone; "" where not measured."""
    path = results / "comparison.json"
    if not path.exists():
        return ""
    parts = [
        "### Beside other ways to use the same data",
        "From the table's starts. What learns from episodes has the demonstrations and 50 real "
        "rollouts of the clone. A cell has the real success of each seed, in per cent; the last "
        "column is how much more than their clones a method's policies solve, in points, mean over "
        "as many policies (95 %, Student's t, of three or more); it compares methods only where "
        "their cells are the same. Intervals, imagined success and each cell's command stand in "
        "[results/comparison.md](results/comparison.md).",
    ]
    for policies in by_demonstrations(load_measured(path)).values():
        parts += [
            _told(policies),
            format_overview(policies),
        ]
        rounds = format_rounds(policies)
        if rounds:
            parts += [
                "Without and with **one round** of 50 real episodes: the solved ones among the "
                "clone's rollouts join the demonstrations, are cloned anew (*filtered*) and "
                "refined again (*round*). The world model stays as it is.",
                rounds,
            ]
    return "\n\n".join(parts)


def _told(policies: Sequence[Measured]) -> str:
    """Of what clones some policies are."""
    seeds = sorted({policy.seed for policy in policies})
    every = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(str(seed) for seed in seeds)}"
    one = policies[0]
    return (
        f"Clones of {one.demonstrations} demonstrations, {every}, {one.episodes} episodes a figure "
        "and seed:"
    )
