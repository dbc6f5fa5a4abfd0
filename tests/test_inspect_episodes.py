"""The report of what recorded episodes cover."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from episode_factory import make_episode, write_episodes
from recorded_data import LEROBOT

from training import import_episodes
from training.inspect_episodes import Args, inspect, run
from world4rl_gym.episodes import EpisodeError


def test_a_report_counts_what_there_is(tmp_path: Path, capsys) -> None:
    import_episodes.run(
        import_episodes.Args(
            LEROBOT, "lerobot", tmp_path / "data", "push", camera=("observation.images.front",)
        )
    )
    report = run(Args(tmp_path / "data", html=tmp_path / "page" / "report.html"))
    rows = {row[0]: row for row in report["push"]["rows"]}
    assert rows["train"][:3] == ["train", "14", "8 expert, 6 policy"]
    assert rows["train"][4:6] == ["8", "6"] and rows["test"][4:6] == ["2", "1"]
    assert report["push"]["warnings"] == ["There are 14 training episodes; 50 or more are better."]
    assert "| train | 14 | 8 expert, 6 policy |" in capsys.readouterr().out
    page = (tmp_path / "page" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 12
    assert not re.search(r"(src|href)='(?!data:)", page)


def test_what_should_be_mended_is_told(tmp_path: Path) -> None:
    one = make_episode(0)
    actions = one.actions.copy()
    actions[:, 2] = 0.5
    for seed in range(4):
        own = actions.copy()
        own[0, 1] = 0.1 * seed
        same = dataclasses.replace(one, actions=own, seed=seed)
        same.save(tmp_path / "push" / "train" / f"expert-{seed:07d}.npz")
    (tmp_path / "push" / "train" / "policy-0000009.npz").write_bytes(b"broken")
    output = inspect(tmp_path)["push"]
    for line in (
        "There are no failures among the train episodes: what fails is judged badly.",
        "There are no validation episodes.",
        "There are no near-misses: no failure ends like a success.",
        "Action component 2 never varies.",
        "All starts look alike: other starts are judged badly.",
    ):
        assert line in output["warnings"]
    assert "policy-0000009.npz" in output["broken"][0]


def test_sizes_that_differ_and_frames_that_do_not_suit_are_told(tmp_path: Path) -> None:
    write_episodes(tmp_path)
    wide = make_episode(70)
    wide = dataclasses.replace(wide, frames=np.repeat(wide.frames, 2, axis=2))
    wide.save(tmp_path / "push" / "train" / "expert-0000070.npz")
    assert any("differ in" in line for line in inspect(tmp_path)["push"]["warnings"])
    (tmp_path / "push").rename(tmp_path / "other")
    wide.save(tmp_path / "push" / "train" / "expert-0000070.npz")
    output = inspect(tmp_path, ["push"])["push"]["warnings"]
    assert any("expected square frames" in line and "got 32 x 16" in line for line in output)


def test_no_episodes_are_an_error(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(EpisodeError, match="no (such folder of )?episodes"):
            inspect(folder)
