"""How measured figures are written in tables and on the console."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from training.evaluation.metrics import Rate


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of rows with as many cells as there are columns."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (columns, *rows)]
    return "\n".join([lines[0], "|---" * len(columns) + "|", *lines[1:]])


def format_rate(value: Rate | None) -> str:
    """`62 % [48, 75]`, or a dash."""
    if value is None:
        return "-"
    return f"{100 * value.mean:.0f} % [{100 * value.low:.0f}, {100 * value.high:.0f}]"


def format_points(value: Rate) -> str:
    """A difference of two shares, `+5 [-2, +11]`; without the interval where there is none."""
    points = f"{100 * value.mean:+.0f}"
    if math.isnan(value.low):
        return points
    return f"{points} [{100 * value.low:+.0f}, {100 * value.high:+.0f}]"


def number(value: float | None) -> float:
    """A figure as it was stored; JSON has null for what is not a number."""
    return float("nan") if value is None else value


def world_model_table(report: dict[str, Any]) -> str:
    """The main figures as Markdown, one row a task."""
    rows = []
    psnrs = [own["frames"].get("psnr", {}) for own in report["tasks"].values()]
    last = max((int(t) for psnr in psnrs for t in psnr), default=0)
    for task, own in report["tasks"].items():
        plans = own.get("plans", {})
        contact = own.get("contact", {})
        figures = [
            (3, own["policies"]["auroc"]),
            (1, 100 * own["policies"]["agreement"]["mean"]),
            (3, plans.get("auroc")),
            (1, 100 * plans["agreement"]["mean"] if plans else None),
            (3, own.get("near_misses", {}).get("auroc")),
            (1, own["frames"].get("psnr", {}).get(str(last))),
            (1, contact.get("psnr")),
            (1, (own["eyes"] or {}).get("mean_mm")),
        ]
        cells = [
            "-" if math.isnan(number(figure)) else f"{figure:.{digits}f}"
            for digits, figure in figures
        ]
        rows.append([task, *cells])
    head = [
        "task",
        "policies: AUROC",
        "agreement, %",
        "fresh plans: AUROC",
        "agreement, %",
        "near-misses: AUROC",
        f"PSNR at {last}, dB",
        "at contact, dB",
        "eyes, mm",
    ]
    return markdown_table(head, rows)


def inspect_command(
    episodes: Path, world_model: str | None, split: str, tasks: Iterable[str]
) -> str:
    """The line of `world4rl inspect` that shows these episodes."""
    words = ["world4rl", "inspect", str(episodes)]
    words += [world_model] if world_model else []
    for task in tasks:
        words += ["--task", task]
    return shlex.join([*words, "--split", split])
