"""The table of policies before and after refinement, and its figures, beside World4RL's."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.evaluate import draw_scatter, format_rate
from training.metrics import Rate, policy_agreement, rate
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


@dataclasses.dataclass(frozen=True)
class Cell:
    """One task and seed: outcomes before and after refinement, lists of 0 and 1."""

    task: str
    demonstrations: int
    seed: int
    imagined_steps: int
    kept: int | None
    cloned: list[int]
    refined: list[int]
    imagined_before: list[int]
    imagined_after: list[int]


def make_row(cells: list[Cell]) -> dict[str, Any]:
    """One row of the table: the cells of a task over its seeds, pooled, and each policy apart."""
    row: dict[str, Any] = {
        "task": cells[0].task,
        "demonstrations": cells[0].demonstrations,
        "seeds": [cell.seed for cell in cells],
        "episodes": len(cells[0].cloned),
    }
    for name in ("cloned", "refined", "imagined_before", "imagined_after"):
        pooled = [solved for cell in cells for solved in getattr(cell, name)]
        row[name] = dataclasses.asdict(rate(pooled))
    row["policies"] = [
        {
            "task": cell.task,
            "demonstrations": cell.demonstrations,
            "seed": cell.seed,
            "policy": policy,
            "real": dataclasses.asdict(rate(getattr(cell, policy))),
            "imagined": dataclasses.asdict(rate(getattr(cell, imagined))),
        }
        for cell in cells
        for policy, imagined in (("cloned", "imagined_before"), ("refined", "imagined_after"))
    ]
    row["gap_before"] = round(row["imagined_before"]["mean"] - row["cloned"]["mean"], 4)
    row["gap_after"] = round(row["imagined_after"]["mean"] - row["refined"]["mean"], 4)
    row["imagined_steps"] = [cell.imagined_steps for cell in cells]
    row["kept_at"] = [cell.kept for cell in cells]
    return row


def format_table(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown, success in per cent with 95 % intervals, gaps in points.

    World4RL's figures stand beside those of clones of as many demonstrations as its own.
    """
    head = ["task", "cloned, real", "refined, real", "cloned, imagined", "refined, imagined"]
    head += ["gap before", "gap after", "not the clone"]
    beside = all(row["demonstrations"] == PUBLISHED_DEMONSTRATIONS for row in rows)
    if beside:
        head.append("World4RL")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    names = ("cloned", "refined", "imagined_before", "imagined_after")
    gap_names = ("gap_before", "gap_after")
    for row in rows:
        cells = [row["task"], *(format_rate(Rate(**row[name])) for name in names)]
        cells += [f"{100 * row[name]:+.0f}" for name in gap_names]
        cells.append(f"{len(row['seeds']) - len(_untouched(row))} of {len(row['seeds'])}")
        if beside:
            cells.append("{} → {}".format(*PUBLISHED[row["task"]]))
        lines.append("| " + " | ".join(cells) + " |")
    means = [f"{100 * np.mean([row[name]['mean'] for row in rows]):.1f} %" for name in names]
    gaps = [f"{100 * np.mean([row[name] for row in rows]):+.1f}" for name in gap_names]
    cells = ["**mean**", *means, *gaps, ""]
    if beside:
        published = [np.mean([PUBLISHED[row["task"]][at] for row in rows]) for at in (0, 1)]
        cells.append(" → ".join(f"{mean:.1f}" for mean in published))
    lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def by_demonstrations(rows: Sequence[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """Rows by the number of demonstrations that their clones were made of, most first."""
    numbers = sorted({row["demonstrations"] for row in rows}, reverse=True)
    return {n: [row for row in rows if row["demonstrations"] == n] for n in numbers}


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows that a file holds; none where it is missing."""
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    return rows


def merge_rows(
    path: Path, rows: Sequence[dict[str, Any]], key: Callable[[dict[str, Any]], tuple[Any, ...]]
) -> list[dict[str, Any]]:
    """The `rows` of a JSON file, where it exists, and new ones, sorted by key.

    Of rows with the same key the new one stays.
    """
    kept = _rows(path)
    by_key = {key(row): row for row in [*kept, *rows]}
    return [by_key[one] for one in sorted(by_key)]


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


def row_key(row: dict[str, Any]) -> tuple[int, int]:
    """What tells the table's rows apart, and their order."""
    return -row["demonstrations"], TASKS.index(row["task"])


def require_one_recipe(
    path: Path, rows: list[dict[str, Any]], key: Callable[[dict[str, Any]], Any]
) -> None:
    """Refuses rows that would stand beside others of as many demonstrations and another recipe.

    Args:
        path: File of the rows that are there; it may be missing.
        rows: Those to come, each with its demonstrations, recipe and what `key` reads.
        key: What tells rows apart; one with the key of one to come will be replaced.

    Raises:
        ValueError: The message shows both recipes.
    """
    kept = _rows(path)
    replaced = {key(row) for row in rows}
    for old in kept:
        for new in rows:
            same = old["demonstrations"] == new["demonstrations"] and key(old) not in replaced
            if same and old["recipe"] != new["recipe"]:
                raise ValueError(
                    f"{path}: recipe: {old['task']} of {old['demonstrations']} demonstrations was "
                    f"made by {old['recipe']}, {new['task']} would be by {new['recipe']}; choose "
                    "another --out, or make all of them anew"
                )


def save_table(rows: list[dict[str, Any]], out: Path) -> None:
    """Writes `table.json`, `table.md` and figures; other rows there are kept.

    Rows are told apart by task and number of demonstrations, and a table and a figure made for each
    such number.

    The table's policies, cloned and refined, are also what M4 is taken over: does imagination rank
    them as reality does?
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "table.json"
    merged = merge_rows(path, rows, row_key)
    policies = [policy for row in merged for policy in _separate_policies(row)]
    table: dict[str, Any] = {"rows": merged}
    if len(policies) >= 3:
        table["agreement"] = policy_agreement(
            [policy["imagined"]["mean"] for policy in policies],
            [policy["real"]["mean"] for policy in policies],
            [policy["task"] for policy in policies],
        )
        draw_scatter(policies, out / "policies.png")
    save_record(path, table)
    parts = []
    for number, group in by_demonstrations(merged).items():
        draw_table(group, out / f"table-{number}.png")
        parts.append(f"Clones of {number} demonstrations:\n\n{format_table(group)}\n")
    (out / "table.md").write_text("\n".join(parts))


def _untouched(row: dict[str, Any]) -> set[int]:
    """The seeds whose refinement left the clone as it was."""
    runs = zip(row["seeds"], row["imagined_steps"], row["kept_at"], strict=True)
    return {seed for seed, steps, kept in runs if steps == 0 or kept is None}


def _separate_policies(row: dict[str, Any]) -> list[dict[str, Any]]:
    """A row's policies, without the refined ones that are their clones."""
    untouched = _untouched(row)
    return [p for p in row["policies"] if p["policy"] == "cloned" or p["seed"] not in untouched]
