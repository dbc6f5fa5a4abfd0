"""The Stable-Baselines3 adapter against SB3's own `DummyVecEnv` of single envs."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import NEVER
from gymnasium.error import Error

import world4rl_gym
from world4rl_gym import ImaginedEnv, WorldModel

pytest.importorskip("stable_baselines3")
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor

from world4rl_gym import ImaginedVecEnv


@pytest.mark.parametrize("render_mode", [None, "rgb_array", "human"])
def test_E1_sb3_check_env_is_silent(
    tiny_world_model: WorldModel, render_mode: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    # SB3 warns of every image smaller than its own convolutions want; the embedded default is not.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="The minimal resolution for an image")
        env = ImaginedEnv(tiny_world_model, render_mode=render_mode)
        check_env(env)
        env.close()


def test_E17_the_adapter_is_a_dummy_vec_env(tiny_world_model: WorldModel) -> None:
    """Frames, rewards, dones and every info, `terminal_observation` and the flags with them."""
    arguments: dict[str, Any] = {"max_episode_steps": 4, "micro_batch_size": 1}
    ours = ImaginedVecEnv(3, world_model=tiny_world_model, **arguments)
    dummy = DummyVecEnv([lambda: ImaginedEnv(tiny_world_model, **arguments)] * 3)
    assert ours.observation_space == dummy.observation_space
    assert ours.action_space == dummy.action_space
    ours.seed(11)
    dummy.seed(11)
    assert np.array_equal(ours.reset(), dummy.reset())
    assert ours.reset_infos == dummy.reset_infos
    rng = np.random.default_rng(0)
    for _ in range(25):
        action = rng.uniform(-1, 1, (3, 3)).astype(np.float32)
        returned, expected = ours.step(action), dummy.step(action)
        for one, two in zip(returned[:3], expected[:3], strict=True):
            assert one.dtype == two.dtype and np.array_equal(one, two)
        for one, two in zip(returned[3], expected[3], strict=True):
            assert set(one) == set(two)
            assert all(type(one[key]) is type(two[key]) for key in one)
            assert all(np.array_equal(one[key], two[key]) for key in one)
        assert ours.reset_infos == dummy.reset_infos


def test_E17_the_flags_of_an_end(tiny_world_model: WorldModel) -> None:
    truncating = ImaginedVecEnv(
        2, world_model=tiny_world_model, max_episode_steps=1, success_threshold=NEVER
    )
    succeeding = ImaginedVecEnv(
        2, world_model=tiny_world_model, max_episode_steps=1, success_threshold=1e-6
    )
    for env, success in ((truncating, False), (succeeding, True)):
        env.reset()
        frames, rewards, dones, infos = env.step(np.zeros((2, 3), np.float32))
        assert dones.all() and rewards.tolist() == [float(success)] * 2
        for row, info in enumerate(infos):
            assert info["TimeLimit.truncated"] is (not success)
            assert info["is_success"] is success
            assert info["terminal_observation"].shape == (16, 16, 3)
            assert not np.array_equal(info["terminal_observation"], frames[row])


def test_E2_rewards_and_frames_are_fresh(tiny_world_model: WorldModel) -> None:
    env = ImaginedVecEnv(2, world_model=tiny_world_model)
    env.reset()
    returned = [env.step(np.zeros((2, 3), np.float32)) for _ in range(2)]
    for one, two in zip(returned[0][:3], returned[1][:3], strict=True):
        assert not np.shares_memory(one, two)
    assert not {id(info) for info in returned[0][3]} & {id(info) for info in returned[1][3]}


def test_the_rest_of_sb3s_interface(tiny_world_model: WorldModel) -> None:
    env = ImaginedVecEnv(3, world_model=tiny_world_model, task="push")
    env.set_options({"initial_frame": 4})
    env.reset()
    assert [info["initial_frame"] for info in env.reset_infos] == [4, 4, 4]
    assert env.get_attr("render_mode") == ["rgb_array"] * 3
    assert env.get_attr("render_mode", [0, 2]) == ["rgb_array"] * 2
    env.set_attr("render_scale", 2)
    assert env.get_attr("render_scale", 1) == [2]
    with pytest.raises(ValueError, match="share one env"):
        env.set_attr("render_scale", 2, [0])
    assert env.env_method("render")[0].shape == (32, 32, 3)
    assert env.env_is_wrapped(Monitor) == [False] * 3
    assert env.render("rgb_array").shape == (64, 64, 3)
    assert pickle.loads(pickle.dumps(env)).reset().shape == (3, 16, 16, 3)
    assert VecFrameStack(env, 2).reset().shape == (3, 16, 16, 6)
    env.close()
    env.close()
    with pytest.raises(Error, match="closed"):
        env.step(np.zeros((3, 3), np.float32))
    with pytest.raises(ValueError, match="push, pull"):
        ImaginedVecEnv(2, world_model=tiny_world_model, task="fly")


def test_attributes_and_options_are_each_rows_own_as_in_dummy_vec_env(
    tiny_world_model: WorldModel,
) -> None:
    env = ImaginedVecEnv(2, world_model=tiny_world_model)
    dummy = DummyVecEnv([lambda: ImaginedEnv(tiny_world_model)] * 2)
    for one in (env, dummy):
        one.seed(3)
        one.set_options([{"initial_frame": 4}, {"initial_frame": 5}])
        one.reset()
        assert [info["initial_frame"] for info in one.reset_infos] == [4, 5]
        assert one.get_attr("np_random_seed") == [3, 4]
        assert isinstance(one.get_attr("np_random", 0)[0], np.random.Generator)
        assert one.get_attr("action_space") == [ImaginedEnv(tiny_world_model).action_space] * 2
        assert callable(one.get_attr("render")[1])
    env.set_options([{"task": "push"}, {"task": "pull"}])
    with pytest.raises(ValueError, match="options: expected the same"):
        env.reset()
    assert env.reset().shape == (2, 16, 16, 3)  # bad options do not stay
    with pytest.raises(ValueError, match="autoreset_mode"):
        ImaginedVecEnv(2, world_model=tiny_world_model, autoreset_mode="DISABLED")


def test_E22_training_leaves_the_world_model_as_it_is(
    tiny_world_model: WorldModel, tmp_path: Path
) -> None:
    before = {key: value.clone() for key, value in tiny_world_model.state_dict().items()}
    env = VecMonitor(ImaginedVecEnv(4, world_model=tiny_world_model))
    # Flat pixels: SB3's convolutions want 36 x 36 pixels or more.
    model = PPO("MlpPolicy", env, n_steps=16, batch_size=32, n_epochs=2, seed=0, device="cpu")
    model.learn(128)
    assert model.num_timesteps == 128 and len(model.ep_info_buffer) > 0
    after = tiny_world_model.state_dict()
    assert all(bool((after[key] == before[key]).all()) for key in before)
    assert not tiny_world_model.training
    for parameter in tiny_world_model.parameters():
        assert parameter.grad is None and not parameter.requires_grad
    model.save(tmp_path / "policy")
    loaded = PPO.load(tmp_path / "policy", device="cpu")
    frames = env.reset()
    assert np.array_equal(
        loaded.predict(frames, deterministic=True)[0], model.predict(frames, deterministic=True)[0]
    )


def test_E23_a_plain_gym_make_env_trains_too(tiny_world_model: WorldModel) -> None:
    env = Monitor(gym.make(world4rl_gym.ENV_ID, world_model=tiny_world_model))
    PPO("MlpPolicy", env, n_steps=16, batch_size=16, n_epochs=1, device="cpu").learn(32)


def test_set_attr_is_checked(tiny_world_model: WorldModel) -> None:
    env = ImaginedVecEnv(2, world_model=tiny_world_model)
    env.reset()
    env.set_attr("success_threshold", 1e-6)
    assert env.get_attr("success_threshold") == [1e-6, 1e-6]
    assert env.step(np.zeros((2, 3), np.float32))[2].all()
    with pytest.raises(ValueError, match="max_episode_steps"):
        env.set_attr("max_episode_steps", 0)
    with pytest.raises(AttributeError, match=r"'horizon' cannot be set; .*max_episode_steps"):
        env.set_attr("horizon", 3)


def test_evaluation_under_inference_mode_then_training(
    tiny_world_model: WorldModel,
) -> None:
    import torch
    from stable_baselines3.common.evaluation import evaluate_policy

    env = VecMonitor(ImaginedVecEnv(2, world_model=tiny_world_model, obs_type="features"))
    model = PPO("MlpPolicy", env, n_steps=16, batch_size=16, n_epochs=1, device="cpu")
    with torch.inference_mode():
        evaluate_policy(model, env, n_eval_episodes=2)
    model.learn(32)
    assert model.num_timesteps == 32
