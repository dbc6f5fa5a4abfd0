"""The main job end to end with the embedded world model, made short."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
from gl import needs_gl

from training import demo


def run_demo(out: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    short = ["--episodes=3", "--clone-steps=10", "--refine-steps=3200"]
    return subprocess.run(
        [sys.executable, "-m", "training.demo", "--out", str(out), *short, *flags],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@needs_gl
def test_the_demo_reports_both_worlds(tmp_path: Path) -> None:
    ran = run_demo(tmp_path, "--task", "door-lock")
    assert ran.returncode == 0, ran.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["task"] == "door-lock"
    assert report["world_model"] == "embedded"
    assert report["seconds"] > 0
    assert [point["steps"] for point in report["curve"]] == [0, 3200]
    for policy in ("cloned", "refined"):
        for world in ("real", "imagined"):
            assert len(report[policy][world]) == 3
    assert iio.imread(tmp_path / "curve.png").ndim == 3
    video = iio.imread(tmp_path / "rollout.gif", index=None)
    assert video.shape[0] > 2
    assert video.shape[1] == 64 * 4
    for words in ("[1/4]", "[4/4]", "real gain", "chance alone"):
        assert words in ran.stdout


def test_without_gl_the_real_figures_are_absent(tmp_path: Path) -> None:
    ran = run_demo(tmp_path, MUJOCO_GL="nothing")
    assert ran.returncode == 0, ran.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert "real" not in report["cloned"]
    assert len(report["cloned"]["imagined"]) > 0
    assert "apt-get install" in ran.stdout
    assert "real gain" not in ran.stdout
    assert (tmp_path / "rollout.gif").exists()


def test_an_unknown_task_is_named(tmp_path: Path) -> None:
    ran = run_demo(tmp_path, "--task", "fly")
    assert ran.returncode != 0
    assert "fly" in ran.stderr
    assert "door-lock" in ran.stderr
    assert not list(tmp_path.iterdir())


def test_a_gain_is_told_with_what_chance_does() -> None:
    def outcomes(solved: int) -> dict[str, list[bool]]:
        return {"real": [i < solved for i in range(50)], "imagined": [True] * 50}

    output = demo.describe({"task": "push", "cloned": outcomes(10), "refined": outcomes(30)})
    assert "+40" in output and "chance alone reaches 20" in output


def test_draws_are_told_together_and_resume(tmp_path: Path) -> None:
    flags = ["--draws", "2"]
    assert run_demo(tmp_path, *flags, MUJOCO_GL="nothing").returncode == 0
    output = json.loads((tmp_path / "draws.json").read_text())
    assert [draw["seed"] for draw in output] == [0, 1]
    assert all(0 <= draw["refined"]["imagined"] <= 1 for draw in output)
    before = (tmp_path / "1" / "report.json").stat().st_mtime_ns
    assert run_demo(tmp_path, *flags, MUJOCO_GL="nothing").returncode == 0
    assert (tmp_path / "1" / "report.json").stat().st_mtime_ns == before
