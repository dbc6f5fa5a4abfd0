"""A run's settings: checked, and kept beside its output, so that a folder never mixes two runs."""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from training.runs import processes
from training.runs.records import save_record

PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Lt(1)]
_BOUNDS: dict[type, tuple[str, str, Callable[[float, float], bool]]] = {
    Ge: ("at least", "ge", operator.ge),
    Gt: ("above", "gt", operator.gt),
    Le: ("at most", "le", operator.le),
    Lt: ("less than", "lt", operator.lt),
}


class SettingsError(ValueError):
    """What was asked for contradicts what is there, or itself; the message names the field."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """A command line whose fields carry bounds and choices in their types: `steps: PositiveInt`.

    Raises:
        SettingsError: A number is out of its bounds, or not finite, or a value is none of the
            choices; the message names the field.
    """

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            _check(name, hint, getattr(self, name))


def _check(name: str, hint: Any, value: Any) -> None:
    """Raises SettingsError where a field's value is not what its type says."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        for bound in parts[1:]:
            if type(bound) not in _BOUNDS:  # says something to the command line alone
                continue
            words, field, compare = _BOUNDS[type(bound)]
            limit = getattr(bound, field)
            if not compare(value, limit):
                raise SettingsError(f"{name}: expected {words} {limit}, got {value}")
            if math.isinf(value):
                raise SettingsError(f"{name}: expected a finite number, got {value}")
    elif origin is Literal:
        if value not in parts:
            known = ", ".join(map(str, parts))
            raise SettingsError(f"{name}: expected one of {known}, got {value!r}")
    elif origin in (Union, types.UnionType) and value is not None:
        for part in parts:
            _check(name, part, value)
    elif origin is tuple:
        for one in value:
            _check(name, parts[0], one)


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
        usual = {f.name: f.default for f in dataclasses.fields(args) if f.name not in kept}
        kept |= {k: v for k, v in usual.items() if v is not dataclasses.MISSING}  # newer fields
        kept = json.loads(json.dumps(kept, default=str))
        differing = differences({k: v for k, v in kept.items() if k not in free}, settings)
        if differing:
            raise SettingsError(
                f"{out}: holds a run with other settings ({differing}); "
                "choose another folder, or remove this one"
            )
        return
    save_record(path, settings)
