"""The episodes that a world model is measured on."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import pytest
from gl import needs_gl

from training import make_test_set
from training.data.trainable import DEMONSTRATIONS
from training.policies.imitation import clone_episodes
from world4rl_gym.episodes import load_episodes
from world4rl_gym.policy import Policy


@needs_gl
def test_it_holds_strong_and_weak_policies_and_near_misses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = load_episodes(DEMONSTRATIONS, "train", ["door-lock"])
    place = tmp_path / "episodes" / "door-lock" / "train"
    place.mkdir(parents=True)
    for number in range(50):
        expert = dataclasses.replace(shown[number % len(shown)], seed=number)
        expert.save(place / f"expert-{number:07d}.npz")
    monkeypatch.setattr(make_test_set, "REAL_STEPS", {"clone-5": 1, "clone-50": 1})
    monkeypatch.setattr(make_test_set, "clone_episodes", partial(clone_episodes, steps=2))
    args = make_test_set.Args(
        ("door-lock",),
        episodes=tmp_path / "episodes",
        policies=tmp_path / "unseen",
        count=1,
        drawn=1,
    )
    make_test_set.run(args)
    episodes = load_episodes(args.episodes, "test", ["door-lock"])
    # Seeds of starts follow this order: what was played before weak clones stays as it was.
    assert [(episode.policy, episode.is_drawn) for episode in episodes] == [
        ("clone-5", True),
        ("clone-50", True),
        ("real-ppo-clone-5", True),
        ("real-ppo-clone-50", True),
        ("weak-clone-1", False),
        ("weak-clone-2", False),
        ("near-miss", False),
    ]
    folders = sorted((tmp_path / "unseen" / "door-lock").iterdir())
    assert {folder.name for folder in folders} == {e.policy for e in episodes[:6]}
    assert all(Policy.from_pretrained(folder).config.task == "door-lock" for folder in folders)
