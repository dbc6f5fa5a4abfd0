"""The main job end to end with the embedded world model, made short."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
from gl import needs_gl


def run_demo(out: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    short = ["--episodes=3", "--clone-steps=10", "--adapt-steps=5", "--refine-steps=1600"]
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
    assert report["imagined_steps"] >= 1600
    assert report["seconds"] > 0
    for world in ("real", "imagined"):
        assert set(report[world]) == {"episodes", "before", "after"}
        assert report[world]["episodes"] == 3
        assert 0 <= report[world]["before"] <= 1
    assert iio.imread(tmp_path / "curves.png").ndim == 3
    video = iio.imread(tmp_path / "rollout.gif", index=None)
    assert video.shape[0] > 2
    assert video.shape[1] == (64 + 2 + 64) * 4
    assert len(list(iio.imiter(tmp_path / "rollout.mp4"))) > 2
    for stage in ("[1/5]", "[5/5]", "min left"):
        assert stage in ran.stdout


def test_without_gl_the_real_figures_are_absent(tmp_path: Path) -> None:
    ran = run_demo(tmp_path, MUJOCO_GL="nothing")
    assert ran.returncode == 0, ran.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert "real" not in report
    assert report["imagined"]["episodes"] == 3
    assert "apt-get install" in ran.stdout
    assert (tmp_path / "rollout.gif").exists()


def test_an_unknown_task_is_named(tmp_path: Path) -> None:
    ran = run_demo(tmp_path, "--task", "fly")
    assert ran.returncode != 0
    assert "fly" in ran.stderr
    assert "door-lock" in ran.stderr
    assert not list(tmp_path.iterdir())
