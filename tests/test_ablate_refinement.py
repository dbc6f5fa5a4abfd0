"""The ablations of refinement, at tiny size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gl import needs_gl

from training.ablate_refinement import (
    BRANCH,
    VARIATIONS,
    Args,
    MaskedPolicy,
    mask_of,
    practice,
    run,
    table,
)
from training.data.trainable import DEMONSTRATIONS
from training.runs.settings import SettingsError
from world4rl_gym.policy import make_policy, policy_config
from world4rl_gym.world_model import WorldModel


@needs_gl
def test_variations_are_measured_once(tmp_path: Path) -> None:
    args = Args(
        tasks=("door-lock",),
        variations=("no-robot", "last"),
        draws=1,
        clone_steps=50,
        steps=3200,
        episodes=2,
        episodes_folder=DEMONSTRATIONS,
        runs=tmp_path / "runs",
        out=tmp_path / "table.json",
    )
    rows = run(args)
    assert [row["variation"] for row in rows] == list(args.variations)
    done = {path: path.stat().st_mtime_ns for path in args.runs.glob("*.json")}
    assert run(args) == rows
    assert done == {path: path.stat().st_mtime_ns for path in args.runs.glob("*.json")}
    assert json.loads(args.out.read_text())["rows"] == rows
    text = table(rows)
    assert args.out.with_suffix(".md").read_text() == text + "\n"
    assert {line.count("|") for line in text.splitlines()} == {8}


def test_a_policy_without_the_robot_sees_the_code_and_the_time() -> None:
    world_model = WorldModel.from_pretrained()
    mask = mask_of(VARIATIONS["no-robot"], world_model)
    assert mask.sum() == world_model.code_size + 2
    assert mask_of(VARIATIONS["all"], world_model).all()
    rows = practice(VARIATIONS["no-robot"], world_model, "hammer", 0)
    seen = rows.reset()
    assert isinstance(seen, np.ndarray)
    robot = len(mask) - world_model.code_size - 2
    assert not seen[:, :robot].any()
    assert seen[:, robot:-2].any()
    seen, *_ = rows.step(np.ones((rows.num_envs, world_model.action_size), np.float32))
    assert isinstance(seen, np.ndarray)
    assert not seen[:, :robot].any()
    rows.close()
    policy = MaskedPolicy(make_policy(policy_config(world_model, "hammer", "features"), 0), mask)
    other = seen.copy()
    other[:, :robot] = 1
    np.testing.assert_array_equal(policy.act(seen), policy.act(other))
    other[:, robot] += 1
    assert (policy.act(seen) != policy.act(other)).any()


def test_branches_are_short_and_probability_pays_what_it_rises_by() -> None:
    world_model = WorldModel.from_pretrained()
    rows = practice(VARIATIONS["branches"], world_model, "hammer", 0)
    rows.reset()
    still = np.zeros((rows.num_envs, world_model.action_size), np.float32)
    ended = np.stack([rows.step(still)[2] for _ in range(BRANCH)])
    assert ended.any(axis=0).all()
    rows.close()
    rows = practice(VARIATIONS["probability"], world_model, "hammer", 0)
    rows.reset()
    paid, best = np.zeros(rows.num_envs), np.zeros(rows.num_envs)
    for _ in range(10):
        _, reward, done, infos = rows.step(still)
        assert not done.any()
        paid += reward
        best = np.maximum(best, [info["success_probability"] for info in infos])
    np.testing.assert_allclose(paid, best, atol=1e-5)
    rows.close()


def test_rewards_and_features_differ_as_variations_say() -> None:
    world_model = WorldModel.from_pretrained()
    still = np.zeros((64, world_model.action_size), np.float32)
    paid, seen, doubt = {}, {}, np.zeros(64)
    for name in ("all", "success", "penalty", "exact"):
        rows = practice(VARIATIONS[name], world_model, "hammer", 0)
        seen[name], paid[name] = rows.reset(), np.zeros(64)
        for _ in range(10):
            _, reward, _, infos = rows.step(still)
            paid[name] += reward
            if name == "penalty":
                doubt += [info["uncertainty"] for info in infos]
        rows.close()
    assert doubt.sum() > 0 and not paid["success"].any() and paid["all"].sum() > 0
    np.testing.assert_allclose(paid["penalty"], paid["all"] - doubt, atol=1e-5)
    assert np.array_equal(seen["penalty"], seen["all"])
    assert not np.array_equal(seen["exact"], seen["all"])


def test_an_unknown_variation_is_named() -> None:
    with pytest.raises(SettingsError, match="variations: expected some of all, success"):
        Args(tasks=("hammer",), variations=("none",))
