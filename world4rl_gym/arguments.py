"""Checks of the numbers and devices that users pass in; every error says what is valid."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def check_integer(name: str, value: object, low: int, high: int) -> int:
    """Returns `value` as an int, or raises ValueError unless it is an integer in [low, high]."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise ValueError(f"{name}: expected an integer in [{low}, {high}], got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name}: expected within [{low}, {high}], got {value}")
    return int(value)


def check_probability(name: str, value: object) -> float:
    """Returns `value` as a float, or raises ValueError unless it is a number in (0, 1)."""
    number = not isinstance(value, bool) and isinstance(value, (int, float, np.floating))
    if not number or not 0 < float(value) < 1:  # type: ignore[arg-type]
        raise ValueError(f"{name}: expected a number in (0, 1), got {value!r}")
    return float(value)  # type: ignore[arg-type]


def check_number(name: str, value: object) -> float:
    """Returns `value` as a float, or raises ValueError unless it is finite and at least 0."""
    number = not isinstance(value, bool) and isinstance(value, (int, float, np.number))
    if not number or not 0 <= float(value) < math.inf:  # type: ignore[arg-type]
        raise ValueError(f"{name}: expected a finite number of at least 0, got {value!r}")
    return float(value)  # type: ignore[arg-type]


def check_device(device: object) -> torch.device:
    """Returns a device that this machine has, or raises ValueError listing those it has."""
    valid = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    try:
        chosen = torch.device(device)  # type: ignore[call-overload]
    except (RuntimeError, TypeError):
        chosen = None
    if chosen is not None and chosen.type == "cuda" and chosen.index is None:
        chosen = torch.device("cuda", torch.cuda.current_device() if len(valid) > 1 else 0)
    if chosen is not None and chosen.type == "cpu":
        chosen = torch.device("cpu")
    if chosen is None or str(chosen) not in valid:
        raise ValueError(f"device: expected one of {', '.join(valid)}, got {device!r}")
    return chosen


class Checked:
    """An attribute that is checked whenever it is set.

    Args:
        check: Given the attribute's name and a value, returns what is kept, or raises ValueError.
    """

    def __init__(self, check: Callable[[str, object], Any]) -> None:
        self._check = check

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object | None, owner: type) -> Any:
        return self if instance is None else instance.__dict__[self._name]

    def __set__(self, instance: object, value: object) -> None:
        instance.__dict__[self._name] = self._check(self._name, value)


def integer(low: int, high: int, optional: bool = False) -> Checked:
    """An attribute that is an integer in [low, high], or None where that is an option."""
    return Checked(
        lambda name, value: (
            None if optional and value is None else check_integer(name, value, low, high)
        )
    )


def require_integers(config: object, **bounds: tuple[int, int]) -> None:
    """Raises ValueError, naming the field, unless these fields are integers within their bounds."""
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{name}: expected an integer in [{low}, {high}], got {value!r:.100}")


def composed(name: str) -> str:
    """A task's name in one of Unicode's forms (NFC): macOS writes file names in the other."""
    return unicodedata.normalize("NFC", name) if isinstance(name, str) else name


def check_name(field: str, value: object) -> str:
    """Returns a task's name as `composed` writes it, or raises ValueError naming the field."""
    if not (isinstance(value, str) and value.isprintable() and 1 <= len(value) <= 100):
        raise ValueError(f"{field}: expected a name of 1 to 100 characters, got {value!r:.100}")
    return composed(value)
