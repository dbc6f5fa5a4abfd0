"""The single env: Gymnasium's contract and its own rules."""

from __future__ import annotations

import copy
import pickle
import random
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import NEVER
from env_episodes import ID, make, rollout
from fresh_process import run_python
from gymnasium.error import Error, ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence

from world4rl_gym import ImaginedEnv, ImaginedVectorEnv, WorldModel


@pytest.mark.parametrize("render_mode", [None, "rgb_array", "human"])
def test_E1_gymnasium_check_env_is_silent(
    tiny_folder: str, render_mode: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(ID, world_model=tiny_folder, render_mode=render_mode)
        check_env(env.unwrapped)
        env.close()


def test_E1_passive_checker_is_silent(tiny_world_model: WorldModel) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(ID, world_model=tiny_world_model)
        rollout(env, 0, 12)


def test_E2_every_call_returns_fresh_objects(tiny_world_model: WorldModel) -> None:
    env = make(tiny_world_model)
    returned = rollout(env, 0, 20)
    kept = copy.deepcopy(returned)
    frames = [call[0] for call in returned]
    infos = [call[-1] for call in returned]
    assert len({id(info) for info in infos}) == len(infos)
    for i, frame in enumerate(frames):
        assert not any(np.shares_memory(frame, other) for other in frames[i + 1 :])
    for frame, info in zip(frames, infos, strict=True):
        frame[:] = 7
        info.clear()
    assert data_equivalence(rollout(env, 0, 20), kept, exact=True)


def test_E3_same_seed_and_actions_give_the_same_episodes(tiny_world_model: WorldModel) -> None:
    one, two = make(tiny_world_model), make(tiny_world_model)
    assert data_equivalence(rollout(one, 5, 40), rollout(two, 5, 40), exact=True)


def test_E3_a_fresh_process_gives_the_same_episodes(tiny_folder: str) -> None:
    code = """
import hashlib, sys
import numpy as np, torch
from world4rl_gym import ImaginedVectorEnv
torch.set_num_threads(1)
env = ImaginedVectorEnv(3, sys.argv[1], max_episode_steps=4)
rng, digest = np.random.default_rng(0), hashlib.sha256()
frames, info = env.reset(seed=0)
for _ in range(12):
    digest.update(frames.tobytes() + repr(info).encode())
    frames, *rest, info = env.step(rng.uniform(-1, 1, (3, 3)))
    digest.update(repr(rest).encode())
print(digest.hexdigest())
"""
    assert run_python(code, tiny_folder) == run_python(code, tiny_folder)


def test_E4_the_second_reset_differs_and_the_pair_repeats(tiny_world_model: WorldModel) -> None:
    env = make(tiny_world_model, success_threshold=NEVER)
    pairs = []
    for _ in range(2):
        first, _ = env.reset(seed=3)
        first_steps = [env.step(np.zeros(3))[0] for _ in range(2)]
        second, _ = env.reset()
        second_steps = [env.step(np.zeros(3))[0] for _ in range(2)]
        pairs.append((first, *first_steps, second, *second_steps))
    assert data_equivalence(pairs[0], pairs[1], exact=True)
    assert not np.array_equal(pairs[0][0], pairs[0][3])


def test_E4_resets_differ_in_their_noise_too(tiny_world_model: WorldModel) -> None:
    env = make(tiny_world_model)
    env.reset(seed=3, options={"initial_frame": 0})
    first = env.step(np.zeros(3))[0]
    env.reset(options={"initial_frame": 0})
    assert not np.array_equal(first, env.step(np.zeros(3))[0])


@pytest.mark.parametrize("face", ["single", "vector"])
def test_E5_global_generators_are_neither_read_nor_changed(
    tiny_world_model: WorldModel, face: str
) -> None:
    def run(seed: int) -> tuple[list[Any], bool]:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())  # noqa: NPY002
        if face == "single":
            returned = rollout(make(tiny_world_model), 0, 10)
        else:
            env = ImaginedVectorEnv(3, tiny_world_model, max_episode_steps=4)
            returned = [env.reset(seed=0), *(env.step(np.zeros((3, 3))) for _ in range(8))]
        unchanged = (
            random.getstate() == before[0]
            and np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
            and torch.equal(torch.get_rng_state(), before[2])
        )
        return returned, unchanged

    (first, kept_first), (second, kept_second) = run(0), run(1)
    assert kept_first and kept_second
    assert data_equivalence(first, second, exact=True)


def test_E6_seeds_differ_in_start_and_in_noise(tiny_world_model: WorldModel) -> None:
    env = make(tiny_world_model)
    starts, noises = set(), set()
    for seed in range(12):
        starts.add(env.reset(seed=seed)[0].tobytes())
        env.reset(seed=seed, options={"initial_frame": 0})
        noises.add(env.step(np.zeros(3))[0].tobytes())
    assert len(starts) > 1
    assert len(noises) == 12


def test_E14_actions_out_of_bounds_act_as_their_clipped_values(
    tiny_world_model: WorldModel,
) -> None:
    env, clipped = (make(tiny_world_model, success_threshold=NEVER) for _ in range(2))
    env.reset(seed=0)
    clipped.reset(seed=0)
    for action in ([1.5, -3.0, 0.2], [1e30, -1e30, 1e300], [2, -2, 0]):
        returned = env.step(np.array(action))
        expected = clipped.step(np.clip(np.array(action), -1, 1).astype(np.float32))
        assert data_equivalence(returned, expected, exact=True)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint8, np.float16, np.float64, bool])
def test_E14_other_numbers_are_cast(tiny_world_model: WorldModel, dtype: type) -> None:
    env, reference = (make(tiny_world_model, success_threshold=NEVER) for _ in range(2))
    env.reset(seed=0)
    reference.reset(seed=0)
    action = np.array([1, 0, 1])
    returned = env.step(action.astype(dtype))
    assert data_equivalence(returned, reference.step(action.astype(np.float32)), exact=True)


@pytest.mark.parametrize("bad", [np.zeros(4), np.zeros((1, 3)), np.zeros(()), 0.5, [0.0, 0.0]])
def test_E14_a_wrong_shape_is_named_beside_the_right_one(
    tiny_world_model: WorldModel, bad: Any
) -> None:
    env = make(tiny_world_model)
    env.reset(seed=0)
    with pytest.raises(ValueError) as caught:
        env.step(bad)
    assert "(3,)" in str(caught.value) and str(np.shape(bad)) in str(caught.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, "left", None, 1j])
def test_E14_a_bad_value_leaves_the_state_unchanged(tiny_world_model: WorldModel, bad: Any) -> None:
    env, reference = (make(tiny_world_model, success_threshold=NEVER) for _ in range(2))
    env.reset(seed=0)
    reference.reset(seed=0)
    with pytest.raises(ValueError, match="action"):
        env.step(np.array([0.0, bad, 0.0]))
    for _ in range(3):
        assert data_equivalence(env.step(np.ones(3)), reference.step(np.ones(3)), exact=True)


@pytest.mark.parametrize("through_make", [False, True])
def test_E15_calls_in_the_wrong_order(tiny_world_model: WorldModel, through_make: bool) -> None:
    arguments: dict[str, Any] = {"success_threshold": NEVER, "render_mode": "rgb_array"}
    if through_make:
        env = gym.make(ID, world_model=tiny_world_model, **arguments)
    else:
        env = ImaginedEnv(tiny_world_model, **arguments)
    action = np.zeros(3, np.float32)
    with pytest.raises(ResetNeeded):
        env.step(action)
    with pytest.raises(ResetNeeded):
        env.render()
    env.reset(seed=0)
    assert [env.step(action)[3] for _ in range(8)] == [False] * 7 + [True]
    with pytest.raises(Error, match="the episode is over"):
        env.step(action)
    env.reset()
    env.step(action)
    env.close()
    env.close()
    for call in (lambda: env.step(action), env.reset, env.render):
        with pytest.raises(Error, match="closed"):
            call()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"task": "fly"}, "push, pull"),
        ({"task": ["push", "fly"]}, "push, pull"),
        ({"task": []}, "a name, or several"),
        ({"task": 3}, "a name, or several"),
        ({"initial_frames": "middle"}, "start, anywhere"),
        ({"initial_frames": 3}, "'start', 'anywhere'"),
        ({"success_threshold": 0.0}, r"\(0, 1\)"),
        ({"success_threshold": 1.0}, r"\(0, 1\)"),
        ({"success_threshold": float("nan")}, r"\(0, 1\)"),
        ({"success_threshold": "high"}, r"\(0, 1\)"),
        ({"success_threshold": True}, r"\(0, 1\)"),
        ({"uncertainty_penalty": -0.1}, "at least 0"),
        ({"uncertainty_penalty": float("nan")}, "finite"),
        ({"max_uncertainty": float("inf")}, "finite"),
        ({"max_uncertainty": "low"}, "a finite number"),
        ({"obs_type": "sound"}, "pixels, pixels_agent_pos, features"),
        ({"max_episode_steps": 0}, r"\[1, 1000000\]"),
        ({"max_episode_steps": 2.5}, r"\[1, 1000000\]"),
        ({"max_episode_steps": True}, r"\[1, 1000000\]"),
        ({"num_inference_steps": 0}, r"\[1, 100\]"),
        ({"num_inference_steps": 101}, r"\[1, 100\]"),
        ({"num_inference_steps": "many"}, r"\[1, 100\]"),
        ({"micro_batch_size": 0}, r"\[1, 65536\]"),
        ({"device": "tpu"}, "cpu"),
        ({"device": "meta"}, "cpu"),
        ({"device": "cuda:99"}, "cpu"),
        ({"render_mode": "ansi"}, "human, rgb_array"),
        ({"render_scale": 0}, r"\[1, 64\]"),
    ],
)
def test_E16_a_bad_argument_is_told_what_is_valid(
    tiny_world_model: WorldModel, arguments: dict[str, Any], said: str
) -> None:
    (name,) = arguments
    with pytest.raises(ValueError, match=said) as caught:
        ImaginedEnv(tiny_world_model, **arguments)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"goal": 1}, "initial_frame, task"),
        ({"reset_mask": np.array([True])}, "initial_frame, task"),
        ({"task": "fly"}, "push, pull"),
        ({"task": "pull"}, "expected one of push"),
        ({"initial_frame": 10}, r"\[0, 9\]"),
        ({"initial_frame": -1}, r"\[0, 9\]"),
        ({"initial_frame": 1.5}, r"\[0, 9\]"),
        ({"initial_frame": 1, "task": "push"}, "context of 'pull', not of push"),
        ({"initial_frame": 1}, "context of 'pull', not of push"),
        ({"initial_frame": [1, 2]}, "1 of them"),
        (["task"], "options: expected a mapping"),
    ],
)
def test_E16_a_bad_reset_option_is_told_what_is_valid(
    tiny_world_model: WorldModel, options: dict[str, Any], said: str
) -> None:
    env = make(tiny_world_model, task="push")
    env.reset(seed=3)
    state = env.np_random.bit_generator.state
    with pytest.raises(ValueError, match=said):
        env.reset(seed=4, options=options)
    assert env.np_random_seed == 3
    assert env.np_random.bit_generator.state == state


def test_E17_truncation_at_the_horizon_only(tiny_world_model: WorldModel) -> None:
    arguments: dict[str, Any] = {"max_episode_steps": 5, "success_threshold": NEVER}
    for env in (
        make(tiny_world_model, **arguments),
        gym.make(ID, world_model=tiny_world_model, **arguments),
    ):
        for _ in range(2):
            env.reset(seed=0)
            flags = [env.step(np.zeros(3, np.float32))[2:4] for _ in range(5)]
            assert flags == [(False, False)] * 4 + [(False, True)]


def test_E17_the_models_own_horizon_holds_through_make(tiny_world_model: WorldModel) -> None:
    env = gym.make(ID, world_model=tiny_world_model, success_threshold=NEVER)
    env.reset(seed=0)
    truncated = [env.step(np.zeros(3, np.float32))[3] for _ in range(8)]
    assert truncated == [False] * 7 + [True]


def test_E17_a_success_on_the_last_step_does_not_truncate(tiny_folder: str) -> None:
    world_model = WorldModel.from_pretrained(tiny_folder)
    env = make(world_model, max_episode_steps=1, success_threshold=1e-6)
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step(np.zeros(3))
    assert (reward, terminated, truncated, info["is_success"]) == (1.0, True, False, True)


def test_rewards_and_infos(tiny_world_model: WorldModel) -> None:
    env = make(tiny_world_model)
    for call in rollout(env, 0, 40):
        if len(call) == 2:
            assert call[1]["success_probability"] < 1e-6 and not call[1]["is_success"]
            continue
        _, reward, terminated, _, info = call
        assert info["uncertainty"] > 0
        solved = info["success_probability"] >= 0.5
        assert (reward == 1.0) == terminated == info["is_success"] == solved


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_E19_a_copy_goes_on_alike_and_shares_nothing(
    tiny_world_model: WorldModel, how: str
) -> None:
    env = make(tiny_world_model, success_threshold=NEVER)
    env.reset(seed=0)
    env.step(np.ones(3))
    twin = copy.deepcopy(env) if how == "deepcopy" else pickle.loads(pickle.dumps(env))
    before = [p.data_ptr() for p in env.imagination.world_model.parameters()]
    assert not set(before) & {p.data_ptr() for p in twin.imagination.world_model.parameters()}
    alone = [twin.step(np.ones(3)) for _ in range(3)] + [twin.reset()]
    returned = [env.step(np.ones(3)) for _ in range(3)] + [env.reset()]
    assert data_equivalence(returned, alone, exact=True)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_E19_vector_copies_go_on_alike(tiny_world_model: WorldModel, how: str) -> None:
    env = ImaginedVectorEnv(3, tiny_world_model, max_episode_steps=4)
    env.reset(seed=0)
    env.step(np.ones((3, 3)))
    twin = copy.deepcopy(env) if how == "deepcopy" else pickle.loads(pickle.dumps(env))
    alone = [twin.step(np.ones((3, 3))) for _ in range(8)]
    returned = [env.step(np.ones((3, 3))) for _ in range(8)]
    assert data_equivalence(returned, alone, exact=True)


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, world4rl_gym; print('torch' in sys.modules, dir(world4rl_gym))"
    assert run_python(code).startswith("False")
