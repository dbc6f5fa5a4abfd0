"""A file of rows that several processes add to, all measured with the same settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training.locks import held
from training.records import save_record
from training.settings import SettingsError, differences

Row = dict[str, Any]


def load_rows(path: Path, settings: dict[str, Any]) -> list[Row]:
    """The rows that a file holds; none where it is missing.

    Args:
        path: The file.
        settings: What rows must share to stand beside each other, plain JSON values.

    Raises:
        SettingsError: They were measured with other settings, or it is not told with which.
    """
    if not path.exists():
        return []
    record = json.loads(path.read_text())
    if "settings" not in record or "rows" not in record:
        raise SettingsError(f"{path}: settings, rows: not there; choose another --out")
    told = differences(record["settings"], settings)
    if told:
        raise SettingsError(f"{path}: settings: {told}; choose another --out")
    rows: list[Row] = record["rows"]
    return rows


def save_rows(
    path: Path,
    settings: dict[str, Any],
    new: list[Row],
    key: Callable[[Row], tuple[Any, ...]],
) -> list[Row]:
    """Puts rows into a file, each in the place of an older one of its key.

    What another process saves meanwhile is kept.

    Args:
        path: The file; it is made where it is missing.
        settings: As in `load_rows`.
        new: Plain JSON values.
        key: What tells rows apart, and their order.

    Returns:
        All rows of the file, sorted.

    Raises:
        SettingsError: As in `load_rows`; nothing is changed.
    """
    with held(path.parent):
        by_key = {key(one): one for one in [*load_rows(path, settings), *new]}
        rows = [by_key[one] for one in sorted(by_key)]
        save_record(path, {"settings": settings, "rows": rows})
    return rows
