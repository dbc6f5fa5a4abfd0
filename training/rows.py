"""A file of rows that several processes add to, all measured with the same settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training.locks import held
from training.records import save_record
from training.settings import SettingsError

Row = dict[str, Any]


def load_rows(path: Path, settings: dict[str, Any]) -> list[Row]:
    """The rows that a file holds; none where it is missing.

    Args:
        path: The file.
        settings: What rows must share to stand beside each other.

    Raises:
        SettingsError: They were measured with other settings.
    """
    if not path.exists():
        return []
    record = json.loads(path.read_text())
    if record["settings"] != settings:
        raise SettingsError(
            f"{path}: settings: {record['settings']} there, {settings} now; choose another --out"
        )
    rows: list[Row] = record["rows"]
    return rows


def save_row(
    path: Path, settings: dict[str, Any], row: Row, key: Callable[[Row], tuple[Any, ...]]
) -> list[Row]:
    """Puts a row into a file, in the place of an older one of its key, and returns all, sorted.

    Rows that another process saves meanwhile are kept.

    Raises:
        SettingsError: As in `load_rows`.
    """
    with held(path.parent):
        by_key = {key(one): one for one in [*load_rows(path, settings), row]}
        rows = [by_key[one] for one in sorted(by_key)]
        save_record(path, {"settings": settings, "rows": rows})
    return rows
