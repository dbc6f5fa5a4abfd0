"""How measured figures are written in tables and on the console."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from training.metrics import Rate


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
    told = f"{100 * value.mean:+.0f}"
    if math.isnan(value.low):
        return told
    return f"{told} [{100 * value.low:+.0f}, {100 * value.high:+.0f}]"
