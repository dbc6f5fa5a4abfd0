"""A run's settings: checked, and kept beside its output, so that a folder never mixes two runs."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from training.runs import processes
from training.runs.records import save_record


class SettingsError(ValueError):
    """What was asked for contradicts what is there, or itself; the message names the field."""


def require_at_least(args: Any, least: float, *names: str) -> None:
    """Raises ValueError, naming the field, where one of these fields of `args` is below `least`."""
    for name in names:
        value = getattr(args, name)
        if not value >= least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")


def require_above(args: Any, least: float, *names: str) -> None:
    """Raises ValueError, naming the field, where one of these is not finite and above `least`."""
    for name in names:
        value = getattr(args, name)
        if not least < value < math.inf:
            raise ValueError(f"{name}: expected a finite number above {least}, got {value}")


def require_within(args: Any, least: float, most: float, *names: str) -> None:
    """Raises ValueError, naming the field, where one of these is outside [`least`, `most`]."""
    for name in names:
        value = getattr(args, name)
        if not least <= value <= most:
            raise ValueError(f"{name}: expected within [{least}, {most}], got {value}")


def require_below_one(args: Any, *names: str) -> None:
    """Raises ValueError, naming the field, where one of these is outside [0, 1)."""
    for name in names:
        value = getattr(args, name)
        if not 0 <= value < 1:
            raise ValueError(f"{name}: expected in [0, 1), got {value}")


def for_task(folder: Path, task: str) -> Path:
    """The folder with the task's name where it says "{task}"."""
    return Path(str(folder).replace("{task}", task))


def differences(there: dict[str, Any], now: dict[str, Any]) -> str:
    """Names what differs between settings as they are kept and as they are asked; "" if nothing."""
    return "; ".join(
        f"{key}: {there.get(key)!r} there, {now.get(key)!r} now"
        for key in sorted(set(there) | set(now))
        if there.get(key) != now.get(key)
    )


def keep_settings(args: Any, out: Path, leave_out: tuple[str, ...] = ()) -> None:
    """Writes the resolved arguments to `out`, or checks them against those written there.

    Of several processes that train together, the first does so.

    Args:
        args: A dataclass of arguments; values become JSON, paths and tuples as strings and lists.
        out: The output folder; made where it is missing.
        leave_out: Fields that may differ between two runs of one folder, beside `out`.

    Raises:
        SettingsError: The folder holds other settings; nothing is changed.
    """
    if not processes.is_first():
        return
    free = {"out", *leave_out}
    values = {k: v for k, v in dataclasses.asdict(args).items() if k not in free}
    settings = json.loads(json.dumps(values, default=str))
    path = out / "settings.json"
    if path.exists():
        try:
            kept = json.loads(path.read_bytes())
        except ValueError as error:
            raise SettingsError(f"{path}: not readable JSON ({error})") from None
        differing = differences({k: v for k, v in kept.items() if k not in free}, settings)
        if differing:
            raise SettingsError(
                f"{out}: holds a run with other settings ({differing}); "
                "choose another folder, or remove this one"
            )
        return
    save_record(path, settings)
