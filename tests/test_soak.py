"""The soak command, for a moment only; the full run is `python -m training.soak`."""

from __future__ import annotations

import json
from pathlib import Path

from training.soak import main


def test_E21_memory_stays_flat(tiny_folder: str, tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    arguments = ["--world-model", tiny_folder, "--out", str(out)]
    assert main([*arguments, "--steps", "800", "--cycles", "12"]) == 0
    result = json.loads(out.read_text())
    assert result["flat"] and result["stepping"]["steps"] == 800
    assert result["making"]["cycles"] == 12 and result["stepping"]["episodes"] > 0
