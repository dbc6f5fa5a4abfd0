"""The soak command, for a moment only; the full run is `python -m training.soak`."""

from __future__ import annotations

import json
from pathlib import Path

from training.soak import Args, run
from world4rl_gym import WorldModel


def test_E21_memory_stays_flat(tiny_folder: str, tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    assert run(Args(steps=800, cycles=12, world_model=tiny_folder, out=out))
    result = json.loads(out.read_text())
    assert result["flat"] and result["stepping"]["steps"] == 800
    stepping = result["stepping"]
    horizon = WorldModel.from_pretrained(tiny_folder).config.max_episode_steps
    lengths = {int(length): count for length, count in stepping["decisions_an_episode"].items()}
    assert sum(lengths.values()) == stepping["episodes"] > 0
    assert min(lengths) >= 1 and max(lengths) <= horizon
    assert result["making"]["cycles"] == 12
