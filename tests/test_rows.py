"""Files of rows that several processes add to."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from training.rows import Row, load_rows, save_rows
from training.settings import SettingsError


def name(row: Row) -> tuple[str]:
    return (row["name"],)


def test_rows_are_sorted_and_replaced_and_never_mixed(tmp_path: Path) -> None:
    path, settings = tmp_path / "out" / "rows.json", {"steps": 3}
    assert load_rows(path, settings) == []
    for key, value in (("b", 1), ("a", 2), ("b", 3)):
        rows = save_rows(path, settings, [{"name": key, "value": value}], name)
    assert [row["value"] for row in rows] == [2, 3]
    assert load_rows(path, settings) == rows
    before = path.read_bytes()
    with pytest.raises(SettingsError, match=r"rows.json: settings: steps: 3 there, 4 now"):
        save_rows(path, {"steps": 4}, [{"name": "c"}], name)
    assert path.read_bytes() == before
    path.write_text('{"runs": []}')
    with pytest.raises(SettingsError, match=r"rows.json: settings, rows: not there"):
        load_rows(path, settings)


def test_rows_that_are_saved_at_once_are_all_kept(tmp_path: Path) -> None:
    path, new = tmp_path / "rows.json", [{"name": f"{number:02d}"} for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda row: save_rows(path, {}, [row], name), new))
    assert load_rows(path, {}) == new
