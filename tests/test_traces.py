"""Both worlds' success along a refinement: the clone, what was chosen, what was best."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gl import needs_gl

from training.judge import snapshot_path
from training.policy import make_policy, save_policy
from training.policy_network import PolicyConfig
from training.rows import save_rows
from training.trace_refinement import Args, place, plot, trace
from world4rl_gym.world_model import WorldModel

RATE = {"mean": 0.5, "low": 0.2, "high": 0.8}


def report(**changes: Any) -> dict[str, Any]:
    points = [
        {"imagined_steps": steps, "judged": 0.5, "real": RATE, "imagined": RATE}
        for steps in (None, 0, 100)
    ]
    return {
        "run": "refined",
        "task": "hammer",
        "demonstrations": 5,
        "seed": 0,
        "chosen": None,
        "best": 0,
        "ensemble": {"real": RATE, "imagined": RATE},
        "points": points,
        **changes,
    }


def write_run(run: Path, cloned: float | None, kept: int | None) -> Path:
    """A refinement without its policies."""
    run.mkdir()
    curve = [{"imagined_steps": 0, "judged": 0.5}]
    record = {"task": "door-lock", "cloned": cloned, "kept": kept, "curve": curve}
    (run / "curve.json").write_text(json.dumps(record))
    settings = {"demonstrations": 5, "seed": 0, "policy": str(run / "cloned"), "ensemble": True}
    (run / "settings.json").write_text(json.dumps(settings))
    return run


def test_a_trace_needs_snapshots(tiny_world_model: WorldModel, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", None, 0)
    with pytest.raises(FileNotFoundError, match="--snapshots"):
        trace(Args((run,)), tiny_world_model, run)


@needs_gl
def test_a_trace_begins_with_the_clone_and_measures_nothing_twice(tmp_path: Path) -> None:
    world_model = WorldModel.from_pretrained()
    run = write_run(tmp_path / "run", 0.1, 0)
    config = PolicyConfig("door-lock")
    for folder in (run, run / "cloned", snapshot_path(run, 0)):
        save_policy(make_policy(config), config, folder)
    args = Args((run,), episodes=1, workers=1)
    first = trace(args, world_model, run)
    assert [point["imagined_steps"] for point in first["points"]] == [None, 0]
    assert [point["judged"] for point in first["points"]] == [0.1, 0.5]
    assert (first["chosen"], first["best"]) == (0, None)
    assert first["ensemble"]["real"]["mean"] == 0
    kept = json.loads((run / "trace.json").read_text())
    kept["points"][1]["real"]["mean"] = kept["ensemble"]["real"]["mean"] = 1.0
    (run / "trace.json").write_text(json.dumps(kept))
    again = trace(args, world_model, run)
    assert again["points"] == kept["points"]
    assert again["ensemble"] == kept["ensemble"]
    assert (again["chosen"], again["best"]) == (0, 0)


def test_traces_with_and_without_a_clone_before_ppo_are_drawn(tmp_path: Path) -> None:
    cloned = report()
    saturated = report(chosen=0, points=cloned["points"][1:2], ensemble=None)
    for reports in ([cloned], [saturated], [cloned, saturated, cloned, saturated]):
        picture = tmp_path / f"{len(reports)}-{reports[0]['chosen']}.png"
        plot(reports, picture)
        assert picture.stat().st_size > 0


def test_a_run_takes_the_place_of_its_older_trace(tmp_path: Path) -> None:
    path = tmp_path / "traces.json"
    for seed, best in ((1, 0), (0, 0), (1, 100)):
        rows = save_rows(path, {"episodes": 10}, [report(seed=seed, best=best)], place)
    assert [(run["seed"], run["best"]) for run in rows] == [(0, 0), (1, 100)]
