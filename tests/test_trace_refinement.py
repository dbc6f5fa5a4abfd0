"""Curves of imagined and real success along PPO."""

from __future__ import annotations

import json
from pathlib import Path

from gl import needs_gl

from training.data.trainable import DEMONSTRATIONS
from training.trace_refinement import Args, run


@needs_gl
def test_a_curve_goes_on_to_its_end_and_is_kept(tmp_path: Path) -> None:
    args = Args(
        ("door-lock",),
        clone_steps=50,
        steps=6400,
        judge_every=3200,
        real_every=2,
        episodes=2,
        episodes_folder=DEMONSTRATIONS,
        runs=tmp_path / "runs",
        out=tmp_path / "curves.json",
    )
    (curve,) = run(args)
    assert [point["steps"] for point in curve["points"]] == [0, 3200, 6400]
    measured = [index for index, point in enumerate(curve["points"]) if "real" in point]
    assert set(measured) == {0, 2, curve["chosen"]}
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "curves.json").read_text())["curves"] == [curve]
    kept = (tmp_path / "runs" / "door-lock.json").stat().st_mtime_ns
    assert run(args) == [curve]
    assert (tmp_path / "runs" / "door-lock.json").stat().st_mtime_ns == kept
