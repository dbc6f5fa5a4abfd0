"""The ablations of the memory, at tiny size."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from episode_factory import ACTIONS, make_episode, with_robot

from training.ablate_memory import (
    BINS,
    HELD_OUT,
    VARIATIONS,
    Args,
    as_given,
    new_memory,
    recorded,
    run,
    split,
    two_hot,
)
from world4rl_gym.episodes import Episode, EpisodeError
from world4rl_gym.world_model import WorldModel


def episodes() -> list[Episode]:
    """Six played, six replayed, and six plans in each of two rounds."""
    kinds = [("expert", ""), ("replay", ""), ("plan", "0-0"), ("plan", "1-0")]
    made = []
    for index in range(24):
        behaviour, policy = kinds[index % 4]
        one = with_robot(make_episode(index, "push", "expert" if index % 8 < 4 else "random"))
        made.append(dataclasses.replace(one, behaviour=behaviour, policy=policy))
    return made


def test_every_variation_is_measured_on_the_last_round_once(
    tmp_path: Path, tiny_folder: str
) -> None:
    for one in episodes():
        name = f"{one.behaviour}-{one.seed:07d}.npz"
        one.save(tmp_path / "data" / "push" / "train" / name)
    for seed in range(100, 106):
        own = with_robot(make_episode(seed, "push", "expert" if seed % 2 else "random"))
        own = dataclasses.replace(own, behaviour="policy", policy="unseen")
        own.save(tmp_path / "data" / "push" / "test" / f"policy-{seed:07d}.npz")
    args = Args(
        ("push",),
        steps=2,
        width=8,
        world_model=tiny_folder,
        episodes=tmp_path / "data",
        runs=tmp_path / "runs",
        out=tmp_path / "ablations.json",
    )
    rows = run(args)
    assert [row["variation"] for row in rows] == list(VARIATIONS)
    assert all(set(row) & set(HELD_OUT) == {"policies", "last_round"} for row in rows)
    assert len({row["policies"]["auroc"] for row in rows}) > 3
    assert len({row["last_round"]["auroc"] for row in rows}) > 3
    lines = (tmp_path / "ablations.md").read_text().splitlines()
    assert len(lines) == 2 + len(VARIATIONS)
    assert json.loads((tmp_path / "ablations.json").read_text())["rows"] == rows
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*.pt")}
    assert len(times) >= len(VARIATIONS)
    assert run(args) == rows
    assert times == {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*.pt")}


def test_each_variation_lacks_what_it_says(tiny_world_model: WorldModel) -> None:
    eyes = tiny_world_model.task_eyes("push")
    made = recorded(episodes(), eyes)
    sizes = {}
    for name in ("all", "no-command", "no-state", "two-hot"):
        given = as_given(made, VARIATIONS[name])
        config = new_memory(made, eyes, VARIATIONS[name], 8, seed=0).config
        sizes[name] = config.state_size, config.command_size, config.action_size
        assert sizes[name] == (
            given.state.shape[2],
            given.command.shape[2],
            given.actions.shape[2],
        )
    assert sizes == {
        "all": (2, 1, ACTIONS),
        "no-command": (2, 0, ACTIONS),
        "no-state": (0, 0, ACTIONS),
        "two-hot": (2, 1, ACTIONS * BINS),
    }


def test_eyes_of_its_own_learn_with_the_memory(tiny_world_model: WorldModel) -> None:
    eyes = tiny_world_model.task_eyes("push")
    made = recorded(episodes(), eyes)
    variation = VARIATIONS["own-eyes"]
    memory = new_memory(made, eyes, variation, 8, seed=0)
    given = as_given(made, variation)
    now = memory.begin(given.first_code, given.state[:, 0], given.command[:, 0])
    now.hidden.sum().backward()
    moved = [p for name, p in memory.named_parameters() if name.startswith("eyes.encoder")]
    assert moved and all(p.grad is not None and p.grad.any() for p in moved)


def test_two_hot_actions_keep_what_they_say() -> None:
    actions = torch.linspace(-1, 1, 30).view(10, 3)
    hot = two_hot(actions).view(10, 3, BINS)
    assert torch.allclose(hot.sum(dim=2), torch.ones(10, 3), atol=1e-5)
    assert int((hot > 1e-6).sum(dim=2).max()) == 2
    assert torch.allclose(hot @ torch.linspace(-1, 1, BINS), actions, atol=1e-5)


def test_one_round_alone_is_refused() -> None:
    known, last = split(episodes())
    assert {name: len(own) for name, own in known.items()} == {
        "played": 6,
        "replays": 6,
        "plans": 6,
    }
    assert {one.policy for one in last} == {"1-0"}
    with pytest.raises(EpisodeError, match="expected two rounds of plans, got 1"):
        split([one for one in episodes() if one.policy != "1-0"])
