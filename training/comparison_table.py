"""Tables of what several methods made of the same clones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.command_lines import comparison_lines
from training.formatting import format_points, format_rate, markdown_table
from training.locks import held
from training.measured import Measured, by_task, gains, merge_measured, plain, pooled
from training.methods import METHODS
from training.metrics import mean_with_interval
from training.real_env import TASKS
from training.records import save_record
from training.reproduce import WORLDS

ROUND = ("cloned", "refined", "filtered", "round")
"""Methods without and with a round of real episodes, as the columns of their table."""


def format_comparison(policies: Sequence[Measured]) -> str:
    """A task's policies as Markdown: real (imagined) success in per cent, pooled and by seed.

    Intervals, 95 %, are those of the pooled real success.
    """
    seeds = _seeds(policies)
    apart = seeds if len(seeds) > 1 else []
    together = "pooled" if apart else f"seed {seeds[0]}"
    columns = ["method", f"{together}, real (imagined)", *(f"seed {seed}" for seed in apart)]
    rows = []
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
            rows.append([f"{method}: {meaning}", *cells])
    return markdown_table(columns, rows)


def format_overview(policies: Sequence[Measured]) -> str:
    """All tasks' policies of one number of demonstrations as Markdown, a line a method.

    A cell has the real success in per cent of each seed; the last column is how much more than
    their clones its policies solve, in points, with the 95 % interval of the mean over policies.
    """
    tasks = [task for task in TASKS if any(policy.task == task for policy in policies)]
    at = {(policy.method, policy.task, policy.seed): policy for policy in policies}
    rows = []
    for method, (meaning, _) in METHODS.items():
        if all(policy.method != method for policy in policies):
            continue
        cells = [f"{method}: {meaning}"]
        for task in tasks:
            seeds = _seeds([policy for policy in policies if policy.task == task])
            made = [at.get((method, task, seed)) for seed in seeds]
            told = [f"{100 * one.rate('real').mean:.0f}" if one else "-" for one in made]
            cells.append(", ".join(told) if any(made) else "")
        more = gains(policies, method) if method != "cloned" else []
        gained = f"{format_points(mean_with_interval(more))} of {len(more)}" if more else ""
        rows.append([*cells, gained])
    return markdown_table(["method", *tasks, "more than the clone"], rows)


def format_rounds(policies: Sequence[Measured]) -> str:
    """Real success without and with a round of real episodes as Markdown, and the means of it.

    "" where no clone has all of `ROUND`.
    """
    at = {(policy.task, policy.seed, policy.method): policy for policy in policies}
    cells = [key[:2] for key in at if all((*key[:2], method) in at for method in ROUND)]
    if not cells:
        return ""
    rows, told = [], []
    for task, seed in sorted(set(cells), key=lambda cell: (TASKS.index(cell[0]), cell[1])):
        own = [at[task, seed, method] for method in ROUND]
        told.append([[policy.rate(world).mean for world in WORLDS] for policy in own])
        rates = [
            f"{format_rate(policy.rate('real'))} ({100 * policy.rate('imagined').mean:.0f})"
            for policy in own
        ]
        rows.append([task, str(seed), *rates])
    means = [f"{real:.1f} % ({imagined:.1f})" for real, imagined in 100 * np.mean(told, axis=0)]
    rows.append(["**mean**", "", *means])
    return markdown_table(
        ["task", "seed", *(f"{method}, real (imagined)" for method in ROUND)], rows
    )


def save_comparison(policies: Sequence[Measured], out: Path, more: str = "") -> None:
    """Writes `comparison.json` and `comparison.md`; other policies there are kept.

    Args:
        policies: The policies.
        out: The folder; made where it is missing.
        more: Arguments that the commands end with, a blank before.
    """
    path = out / "comparison.json"
    with held(out):
        merged = merge_measured(path, policies)
        save_record(path, {"policies": plain(merged)})
        parts = []
        for (number, task), group in by_task(merged).items():
            commands = "\n".join(f"`{line}`" for line in comparison_lines(group, more))
            title = f"{task}, clones of {number} demonstrations, {group[0].episodes} episodes"
            parts.append(f"{title} a figure and seed:\n{commands}\n\n{format_comparison(group)}\n")
        (out / "comparison.md").write_text("\n".join(parts))


def _seeds(policies: Sequence[Measured]) -> list[int]:
    return sorted({policy.seed for policy in policies})
