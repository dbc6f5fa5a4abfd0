"""The one table of all measured successes."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

from training.measurements import as_csv, measurements
from training.runs.records import save_result

RESULTS = Path(__file__).parents[1] / "results"


def test_the_table_in_the_repository_is_that_of_its_files() -> None:
    assert (RESULTS / "measurements.csv").read_text("utf-8") == as_csv(measurements(RESULTS))


def test_every_form_of_figures_becomes_rows(tmp_path: Path) -> None:
    cell = {"task": "hammer", "draw": 1, "episodes": 4}
    packed = {"cloned": "0001", "imagined_after": "1111", "real_twin": "0011"}
    content = {"steps": 800, "real_steps": 100, "rows": [{**cell, "outcomes": packed}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    both = {"cloned": {"real": 0.5, "imagined": 0.75}}
    success = {"refined": {"mean": 0.5, "low": 0.1, "high": 0.9}}
    (tmp_path / "b.json").write_text(json.dumps([{**cell, **both}, {**cell, **success}]))
    (tmp_path / "c.json").write_text(json.dumps({"hammer": {"speed": 3}}))
    report = {
        "task": "hammer",
        "policies": {"cloned": {"real_episodes_spent": 5, "real": success["refined"]}},
    }
    runs = {"hammer": report, "hammer, known": report}
    (tmp_path / "d.json").write_text(json.dumps({"improve": runs}))
    rows = list(csv.DictReader(as_csv(measurements(tmp_path)).splitlines()))
    *rows, plain, named = rows
    assert (plain["task"], plain["variation"], plain["mean"]) == ("hammer", "", "0.5")
    assert (named["task"], named["variation"], named["mean"]) == ("hammer", "hammer, known", "0.5")
    assert plain["real_episodes_spent"] == "5"
    found = [(row["policy"], row["world"], row["mean"], row["steps"]) for row in rows]
    assert found == [
        ("cloned", "real", "0.25", ""),
        ("refined", "imagined", "1.0", "800"),
        ("real_twin", "real", "0.5", "100"),
        ("cloned", "real", "0.5", ""),
        ("cloned", "imagined", "0.75", ""),
        ("refined", "real", "0.5", ""),
    ]
    assert {(row["task"], row["draw"], row["episodes"]) for row in rows} == {("hammer", "1", "4")}
    assert rows[0]["file"] == "a.json" and 0 < float(rows[0]["low"]) < 0.25


def test_a_result_keeps_the_command_line_that_wrote_it(tmp_path: Path, monkeypatch) -> None:
    words = ["/somewhere/training/reproduce.py", "--out", "a table.json"]
    monkeypatch.setattr(sys, "argv", words)
    save_result(tmp_path / "a.json", {"rows": []})
    command = "python -m training.reproduce --out 'a table.json'"
    assert json.loads((tmp_path / "a.json").read_text()) == {"command": command, "rows": []}
    monkeypatch.setattr(sys, "argv", ["/bin/pytest"])
    save_result(tmp_path / "b.json", {"rows": []})
    assert json.loads((tmp_path / "b.json").read_text()) == {"rows": []}
