"""Files of rows that several processes add to."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.rows import Row, load_rows, save_row
from training.settings import SettingsError


def name(row: Row) -> tuple[str]:
    return (row["name"],)


def test_rows_are_sorted_and_replaced_and_never_mixed(tmp_path: Path) -> None:
    path, settings = tmp_path / "out" / "rows.json", {"steps": 3}
    assert load_rows(path, settings) == []
    for key, value in (("b", 1), ("a", 2), ("b", 3)):
        rows = save_row(path, settings, {"name": key, "value": value}, name)
    assert [row["value"] for row in rows] == [2, 3]
    assert load_rows(path, settings) == rows
    before = path.read_bytes()
    with pytest.raises(SettingsError, match=r"rows.json: settings: .*3.* there, .*4.* now"):
        save_row(path, {"steps": 4}, {"name": "c"}, name)
    assert path.read_bytes() == before
