"""The env under torch's modes, changed settings, `gym.make` and recorders."""

from __future__ import annotations

from collections import UserList
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import NEVER, TASKS
from env_episodes import ID, make, rollout
from gymnasium.error import Error
from gymnasium.utils.env_checker import data_equivalence

from world4rl_gym import InitialFrames, WorldModel


def test_inference_mode_leaves_the_env_usable(tiny_folder: str) -> None:
    def made_inside() -> gym.Env:
        with torch.inference_mode():
            return gym.make(ID, world_model=tiny_folder, obs_type="pixels_agent_pos")

    action = np.zeros(3, np.float32)
    for make_env in (made_inside, lambda: gym.make(ID, world_model=tiny_folder)):
        env = make_env()
        for first, second in ((env.reset, env.reset), (env.reset, None), (None, env.reset)):
            with torch.inference_mode():
                if first is not None:
                    first(seed=0)
                env.step(action)
            if second is not None:
                second(seed=0)
            env.step(action)
        imagination = env.unwrapped.imagination  # type: ignore[attr-defined]
        with torch.inference_mode():
            result = imagination.step(torch.zeros(1, 3))
            kept = [*vars(result).values(), *imagination.memory, imagination.frames]
        assert not any(tensor.is_inference() for tensor in kept)
        imagination.reset(torch.ones(1, dtype=torch.bool))


@pytest.mark.parametrize("obs_type", ["pixels", "pixels_agent_pos", "features"])
def test_torchs_default_dtype_changes_nothing(tiny_folder: str, obs_type: str) -> None:
    def episode() -> list[Any]:
        world_model = WorldModel.from_pretrained(tiny_folder)
        return rollout(make(world_model, obs_type=obs_type), 0, 5)

    expected = episode()
    torch.set_default_dtype(torch.float64)
    try:
        assert data_equivalence(episode(), expected, exact=True)
    finally:
        torch.set_default_dtype(torch.float32)


SETTINGS: dict[str, tuple[Any, Any]] = {
    "max_episode_steps": (3, 0),
    "num_inference_steps": (1, 101),
    "success_threshold": (NEVER, 1.0),
    "uncertainty_penalty": (0.5, -1.0),
    "max_uncertainty": (0.4, "low"),
    "micro_batch_size": (1, 0),
    "render_scale": (2, 65),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_set_attr_is_checked(tiny_world_model: WorldModel, name: str) -> None:
    good, bad = SETTINGS[name]
    single = gym.make(ID, world_model=tiny_world_model, render_mode="rgb_array")
    vector = gym.make_vec(ID, 2, world_model=tiny_world_model)
    many = gym.vector.SyncVectorEnv([lambda: gym.make(ID, world_model=tiny_world_model)] * 2)
    assert single.set_wrapper_attr(name, good)
    vector.set_attr(name, good)
    many.set_attr(name, good)
    assert single.get_wrapper_attr(name) == good
    assert vector.get_attr(name) == many.get_attr(name) == (good, good)
    if name != "render_scale":
        assert getattr(single.unwrapped.imagination, name) == good  # type: ignore[attr-defined]
        assert getattr(vector.imagination, name) == good  # type: ignore[attr-defined]
    for change in (single.set_wrapper_attr, vector.set_attr, many.set_attr):
        with pytest.raises(ValueError, match=name):
            change(name, bad)
        with pytest.raises(AttributeError, match=f"'{name}s' cannot be set; .*{name}"):
            change(f"{name}s", good)
        for fixed in ("obs_type", "task", "horizon"):
            with pytest.raises(AttributeError, match="cannot be set"):
                change(fixed, "features")
    assert vector.get_attr(name) == (good, good)


def test_a_new_threshold_is_in_force(tiny_world_model: WorldModel) -> None:
    vector = gym.make_vec(ID, 2, world_model=tiny_world_model)
    vector.reset(seed=0)
    vector.set_attr("success_threshold", 1e-6)
    assert vector.step(np.zeros((2, 3)))[2].all()
    vector.reset(seed=0)
    vector.set_attr("success_threshold", NEVER)
    vector.set_attr("max_episode_steps", 1)
    assert vector.step(np.zeros((2, 3)))[3].all()


def test_gym_make_takes_any_horizon(tiny_world_model: WorldModel) -> None:
    from gymnasium.wrappers import TimeAwareObservation

    def length(env: gym.Env) -> int:
        env.reset(seed=0)
        return next(n for n in range(1, 100) if any(env.step(np.zeros(3))[2:4]))

    for given, expected in ((None, 8), (5, 5), (20, 20), (-1, 8)):
        env = gym.make(
            ID, max_episode_steps=given, world_model=tiny_world_model, success_threshold=NEVER
        )
        assert length(env) == expected
        assert env.spec is not None and env.spec.max_episode_steps == expected
        assert env.get_wrapper_attr("max_episode_steps") == expected
        assert TimeAwareObservation(env).max_timesteps == expected
        again = gym.make(env.spec)
        assert length(again) == expected and str(again) == str(env)
        wrapped = gym.make(TimeAwareObservation(env).spec)  # type: ignore[arg-type]
        assert length(wrapped) == expected
        vector = gym.make_vec(ID, 2, world_model=tiny_world_model, max_episode_steps=expected)
        assert vector.get_attr("max_episode_steps") == (expected, expected)
        assert vector.spec is not None and vector.spec.max_episode_steps == expected
        assert gym.make_vec(vector.spec).get_attr("max_episode_steps") == (expected, expected)
    vector = gym.make_vec(ID, 2, world_model=tiny_world_model)
    assert vector.spec is not None and vector.spec.max_episode_steps == 8
    with pytest.raises(ValueError, match="max_episode_steps"):
        gym.make(ID, max_episode_steps=2_000_000, world_model=tiny_world_model)


@pytest.mark.parametrize("steps", [1, 5])
def test_gym_make_never_sets_both_flags(tiny_world_model: WorldModel, steps: int) -> None:
    arguments: dict[str, Any] = {"world_model": tiny_world_model, "success_threshold": NEVER}
    env = gym.make(ID, max_episode_steps=steps, **arguments)
    again = gym.make(env.spec)  # type: ignore[arg-type]
    for one in (env, again):
        one.reset(seed=0)
        for _ in range(steps - 1):
            assert one.step(np.zeros(3))[2:4] == (False, False)
        one.set_wrapper_attr("success_threshold", 1e-6)
        assert one.step(np.zeros(3))[2:4] == (True, False)
    assert gym.spec(ID).max_episode_steps is None


def test_infos_always_have_the_same_keys_and_types(tiny_world_model: WorldModel) -> None:
    types = {
        "task": str,
        "initial_frame": int,
        "success_probability": float,
        "is_success": bool,
        "uncertainty": float,
    }
    for call in rollout(make(tiny_world_model), 0, 40):
        assert {key: type(value) for key, value in call[-1].items()} == types
    for mode in gym.vector.AutoresetMode:
        env = gym.make_vec(ID, 3, world_model=tiny_world_model, autoreset_mode=mode)
        _, info = env.reset(seed=0)
        first = {key: values.dtype for key, values in info.items()}
        assert set(first) == {*types, *(f"_{key}" for key in types)}
        for _ in range(20):
            _, _, terminated, truncated, info = env.step(env.action_space.sample())
            final = info.pop("final_info", None)
            for returned in [info, *([final] if final else [])]:
                returned = {
                    k: v.dtype for k, v in returned.items() if not k.endswith(("_obs", "_info"))
                }
                assert returned == first
            if mode == gym.vector.AutoresetMode.DISABLED and (terminated | truncated).any():
                env.reset(options={"reset_mask": terminated | truncated})


def test_minari_records_infos(
    tiny_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minari = pytest.importorskip("minari")
    pytest.importorskip("jax", reason="minari's DataCollector needs jax")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = minari.DataCollector(gym.make(ID, world_model=tiny_folder), record_infos=True)
    for _ in range(2):
        env.reset(seed=0)
        while not any(env.step(env.action_space.sample())[2:4]):
            pass
    dataset = env.create_dataset("imagined-v0")
    assert len(dataset) == 2 and "success_probability" in dataset[0].infos
    recovered = dataset.recover_environment()
    assert recovered.spec.max_episode_steps == 8
    assert type(recovered.reset(seed=0)[0]) is np.ndarray


def test_close_takes_what_other_vector_envs_take(tiny_world_model: WorldModel) -> None:
    env = gym.make_vec(ID, 2, world_model=tiny_world_model)
    env.close(terminate=True)
    with pytest.raises(Error, match="closed"):
        env.reset()
    gym.make_vec(ID, 2, world_model=tiny_world_model).close(timeout=1, terminate=False)


def test_several_tasks_are_any_iterable_of_names(tiny_world_model: WorldModel) -> None:
    for tasks in (UserList(["push", "pull"]), {"push": 1}.keys(), np.array(["push"]), iter(TASKS)):
        assert make(tiny_world_model, task=tasks).reset(seed=0)[1]["task"] in TASKS
    for wrong in (UserList([]), UserList([3]), b"push", {"push": 1}):
        with pytest.raises(ValueError, match="task: expected None, a name, or several"):
            make(tiny_world_model, task=wrong)
    photograph = np.zeros((16, 16, 3), np.uint8)
    env = make(tiny_world_model, task=UserList(["pull"]), initial_frames=photograph)
    assert env.reset(seed=0)[1]["task"] == "pull"


def test_a_photograph_of_another_size_is_told_the_right_one(
    tiny_world_model: WorldModel,
) -> None:
    photograph = np.zeros((480, 640, 3), np.uint8)
    own = InitialFrames.from_starts(photograph, "push", np.zeros(3), np.zeros(2))
    for given in (photograph, photograph[None], own):
        with pytest.raises(
            ValueError, match=r"expected 16 x 16 pixels .*, got 480 x 640; .*resize"
        ):
            make(tiny_world_model, task="push", initial_frames=given)
