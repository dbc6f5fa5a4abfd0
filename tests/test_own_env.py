"""An env of one's own: policies are measured, rounds played, and plans done in it, in its units."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import make_tiny_world_model

from training import (
    evaluate_policy,
    evaluate_world_model,
    improve,
)
from training.envs.own_env import OwnEnv, OwnEnvError, make_own_env
from training.envs.rollouts import play
from training.evaluation.formatting import world_model_table
from training.policies.ppo import UnitActions
from training.policies.refinement import imagined_env
from training.runs.settings import SettingsError
from world4rl_gym.episodes import load_episodes
from world4rl_gym.imagination import Imagination
from world4rl_gym.policy import make_policy, policy_config
from world4rl_gym.reading import WorldModelError
from world4rl_gym.sb3 import ImaginedVecEnv
from world4rl_gym.vector_env import ImaginedVectorEnv
from world4rl_gym.world_model import WorldModel

REAL = "own_push_env:OwnPush-v0"


@pytest.fixture(scope="module")
def world_model(walked: Path) -> WorldModel:
    return WorldModel.from_pretrained(walked / "runs" / "world_model")


def test_a_policy_is_measured_in_an_env_of_ones_own(walked: Path, tmp_path: Path) -> None:
    args = evaluate_policy.Args(
        "push",
        walked / "runs" / "refined" / "push" / "policy",
        str(walked / "runs" / "world_model"),
        episodes=4,
        real_env=REAL,
    )
    output = evaluate_policy.run(dataclasses.replace(args, record=tmp_path / "played"))
    assert {name: len(own) for name, own in output.items()} == {"imagined": 4, "real": 4}
    played = load_episodes(tmp_path / "played", "test", ["push"], ["policy"])
    assert [episode.solved for episode in played] == output["real"]
    both = dataclasses.replace(args, test_episodes=walked / "data" / "mine")
    assert sorted(evaluate_policy.run(both)) == [
        "imagined",
        "real",
        "recorded",
        "recorded_imagined",
    ]
    with pytest.raises(SettingsError, match="'push' is none of Meta-World's; expected --test-epis"):
        dataclasses.replace(args, real_env=None)
    with pytest.raises(OwnEnvError, match="real_env: expected module:id of a Gymnasium env"):
        evaluate_policy.run(dataclasses.replace(args, real_env="own_push_env:Other-v0"))
    with pytest.raises(OwnEnvError, match="observation_space: expected a Dict"):
        evaluate_policy.run(dataclasses.replace(args, real_env="CartPole-v1"))


def test_rounds_are_played_in_an_env_of_ones_own(walked: Path, tmp_path: Path) -> None:
    args = improve.Args(
        "push",
        tmp_path / "improve",
        walked / "data" / "mine",
        str(walked / "runs" / "world_model"),
        known=walked / "data" / "mine",
        real_env=REAL,
        episodes_budget=2,
        rounds=1,
        clone_steps=20,
        steps=64,
        learn_steps=2,
        rehearsed=2,
        test_episodes=2,
    )
    report = improve.run(args)
    assert report is not None
    spent = [policy["real_episodes_spent"] for policy in report["policies"].values()]
    assert spent[-1] == spent[0] + 2
    assert all("real" in policy for policy in report["policies"].values())
    with pytest.raises(SettingsError, match="'push' is none of Meta-World's; expected --real-env"):
        dataclasses.replace(args, real_env=None)


def test_fresh_plans_are_done_in_an_env_of_ones_own(walked: Path, tmp_path: Path) -> None:
    for name in ("clone", "weak-clone", "real-ppo-clone"):
        shutil.copytree(walked / "runs/clone/push/policy", tmp_path / "unseen" / "push" / name)
    shutil.copytree(walked / "data" / "mine", tmp_path / "data")
    args = evaluate_world_model.Args(
        str(walked / "runs" / "world_model"),
        episodes=tmp_path / "data",
        policies=tmp_path / "unseen",
        real_env=REAL,
        plans=3,
        ppo_steps=1,
        out=tmp_path / "report",
    )
    report = evaluate_world_model.evaluate(args)
    own = report["tasks"]["push"]
    assert own["plans"]["episodes"] == 3
    assert [one["policy"] for one in own["closed_loop"]] == ["refined-clone"]
    own["mark"] = "measured before"
    path = tmp_path / "report" / "world_model.json"
    path.write_text(json.dumps(report))
    marked = lambda args: "mark" in evaluate_world_model.evaluate(args)["tasks"]["push"]  # noqa: E731
    others = dataclasses.replace(args, plans=2)
    assert marked(args) and marked(dataclasses.replace(others, tasks=()))
    assert not marked(others)
    again = json.loads(path.read_text())
    again["tasks"]["push"]["plans"]["episodes"] = 77
    path.write_text(json.dumps(again))
    next((tmp_path / "data" / "push" / "test").glob("*.npz")).unlink()
    fewer = evaluate_world_model.evaluate(others)["tasks"]["push"]
    assert fewer["policies"]["episodes"] == own["policies"]["episodes"] - 1
    assert fewer["plans"]["episodes"] == 77  # refined and done before, and kept
    table = world_model_table(again)
    assert "| push |" in table and "PSNR at 15, dB" in table


def test_an_own_env_stands_still_after_its_end_and_takes_its_own_units(
    world_model: WorldModel,
) -> None:
    env = make_own_env(REAL, world_model, "push")
    _, first = env.reset(seed=3)
    row = float(env.unwrapped.block[1])  # type: ignore[attr-defined]
    target = world_model.scale_actions(np.array([100.0, row, 80.0]))
    ended = []
    for _ in range(8):
        observation, _, terminated, _, info = env.step(target)
        ended.append(terminated and info["is_success"])
    assert ended[-1] and first == {}
    still = env.step(-np.ones(3))[0]
    assert np.array_equal(still["agent_pos"], observation["agent_pos"])
    assert env.unwrapped.largest > 80  # type: ignore[attr-defined]


class WithoutCommands(gym.ObservationWrapper):
    """The robot's state alone."""

    def __init__(self) -> None:
        super().__init__(gym.make(REAL))
        agent = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
        pixels = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
        self.observation_space = gym.spaces.Dict(pixels=pixels, agent_pos=agent)

    def observation(self, observation):
        return {
            "pixels": observation["pixels"][::2, ::2],
            "agent_pos": observation["agent_pos"][:3],
        }


def test_an_own_env_without_commands_is_played() -> None:
    world_model = make_tiny_world_model(commands=0)
    env = OwnEnv(WithoutCommands(), world_model, "push")
    policy = make_policy(policy_config(world_model, "push"))
    episode = play(env, 3, "own", policy, world_model)
    assert episode.command is None and episode.state is not None
    assert episode.state.shape == (world_model.config.max_episode_steps + 1, 3)


def test_the_env_takes_actions_in_the_robots_units(walked: Path, world_model: WorldModel) -> None:
    kept = json.loads((walked / "data" / "mine" / "push" / "import.json").read_text())
    options: dict[str, Any] = {"obs_type": "features", "success_threshold": 0.999999}
    single = gym.make("World4RL-Imagined-v0", world_model=world_model, **options)
    space = single.action_space
    assert isinstance(space, gym.spaces.Box)
    np.testing.assert_allclose(space.low, kept["action_low"], rtol=1e-5)
    np.testing.assert_allclose(space.high, kept["action_high"], rtol=1e-5)
    vector = ImaginedVectorEnv(2, world_model, **options)
    assert vector.single_action_space == space
    core = Imagination(1, world_model)
    start = {"initial_frame": 0}
    single.reset(seed=0, options=start)
    vector.reset(seed=0, options=start)
    core.reset(initial_frame=0)
    for share in (0.5, -1.0, 0.25):
        core.step(np.full((1, 3), share, np.float32))
        action = world_model.unscale_actions(np.full(3, share))
        seen = single.step(action)[0]
        np.testing.assert_allclose(seen, core.features[0].numpy(), atol=1e-3)
        rows = vector.step(np.stack([action, action]))[0]
        np.testing.assert_allclose(rows[1], seen, atol=1e-3)
    beyond = world_model.scale_actions(space.high + 5)
    assert (beyond > 1).all()
    np.testing.assert_allclose(world_model.scale_actions(space.high), 1, atol=1e-5)


def test_policies_on_features_act_in_unit_actions(world_model: WorldModel) -> None:
    unit = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
    assert imagined_env(world_model, "push", seed=0, rows=2).action_space == unit
    options: dict[str, Any] = {"obs_type": "features", "success_threshold": 0.999999}
    rows = ImaginedVecEnv(2, world_model=world_model, **options)
    assert rows.action_space != unit
    env = UnitActions(rows, world_model)
    env.reset()
    core = Imagination(2, world_model)
    core.reset(initial_frame=rows.vector_env.imagination.drawn)
    core.step(np.full((2, 3), 0.5, np.float32))
    seen = env.step(np.full((2, 3), 0.5, np.float32))[0]
    np.testing.assert_allclose(seen, core.features.numpy(), atol=1e-3)


def test_bounds_of_minus_1_and_1_are_the_default(tmp_path: Path) -> None:
    own = make_tiny_world_model()
    own.save_pretrained(tmp_path / "model")
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    assert (index["action_low"], index["action_high"]) == (-1.0, 1.0)
    actions = np.random.default_rng(0).uniform(-2, 2, (4, 3))
    assert own.scale_actions(actions) is actions
    for low, high in (((0.0,) * 2, (1.0,) * 2), ((1.0,), (1.0,)), ((0.0,), (1e12,))):
        with pytest.raises((ValueError, WorldModelError), match="action"):
            config = dataclasses.replace(own.config, action_low=low, action_high=high)
            parts = (own.eyes, own.memory, own.denoiser, own.scheduler_config, own.initial_frames)
            WorldModel(*parts, config)
