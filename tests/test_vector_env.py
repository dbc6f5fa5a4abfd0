"""The vector env against the single env, `SyncVectorEnv`, and Gymnasium's autoreset modes."""

from __future__ import annotations

import gc
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import pytest
import torch
from conftest import NEVER
from gymnasium.error import Error, ResetNeeded
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import world4rl_gym
from world4rl_gym import ImaginedEnv, ImaginedVectorEnv, WorldModel

ID = world4rl_gym.ENV_ID
MODES = list(AutoresetMode)


def actions(count: int, rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1.2, 1.2, (count, rows, 3))


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 17])
@pytest.mark.parametrize("micro_batch_size", [None, 4])
def test_E7_rows_follow_the_single_env(
    tiny_world_model: WorldModel, rows: int, micro_batch_size: int | None
) -> None:
    arguments: dict[str, Any] = {
        "max_episode_steps": 50,
        "success_threshold": NEVER,
        "micro_batch_size": micro_batch_size,
    }
    vector = ImaginedVectorEnv(rows, tiny_world_model, **arguments)
    given = actions(10, rows)
    together = [vector.reset(seed=40)[0]] + [vector.step(a)[0] for a in given]
    for row in range(rows):
        single = ImaginedEnv(tiny_world_model, **arguments)
        alone = [single.reset(seed=40 + row)[0]] + [single.step(a[row])[0] for a in given]
        away = np.abs(np.stack(alone).astype(int) - np.stack(together)[:, row]).max()
        assert away <= (1 if micro_batch_size is None else 0)


def test_E7_micro_batches_keep_rows_exact_over_whole_episodes(tiny_world_model: WorldModel) -> None:
    """Rewards, infos and episode boundaries too, whatever the number of rows."""

    def rows_of(env: ImaginedVectorEnv) -> list[Any]:
        returned = [env.reset(seed=0)] + [env.step(a[: env.num_envs]) for a in actions(30, 8)]
        return [[_row(part, 1) for part in call] for call in returned]

    results = [
        rows_of(ImaginedVectorEnv(rows, tiny_world_model, micro_batch_size=3))
        for rows in (2, 3, 5, 8)
    ]
    for other in results[1:]:
        assert data_equivalence(results[0], other, exact=True)


def _row(part: Any, row: int) -> Any:
    if isinstance(part, dict):
        return {key: value[row] for key, value in part.items() if part.get(f"_{key}", [0] * 9)[row]}
    return part[row]


def test_E8_permuting_rows_permutes_the_results(tiny_world_model: WorldModel) -> None:
    order = np.random.default_rng(1).permutation(8)
    plain, permuted = (
        ImaginedVectorEnv(8, tiny_world_model, max_episode_steps=6, micro_batch_size=1)
        for _ in range(2)
    )
    seeds = list(range(100, 108))
    frames, info = plain.reset(seed=seeds)
    other_frames, other_info = permuted.reset(seed=[seeds[i] for i in order])
    assert np.array_equal(frames[order], other_frames)
    for a in actions(25, 8):
        *returned, info = plain.step(a)
        *other, other_info = permuted.step(a[order])
        for one, two in zip(returned, other, strict=True):
            assert np.array_equal(one[order], two)
        assert set(info) == set(other_info)
        assert all(np.array_equal(info[key][order], other_info[key]) for key in info)


def test_E8_a_row_does_not_depend_on_the_others(tiny_world_model: WorldModel) -> None:
    one, two = (ImaginedVectorEnv(4, tiny_world_model, success_threshold=NEVER) for _ in range(2))
    one.reset(seed=[1, 2, 3, 4])
    two.reset(seed=[9, 2, 8, 7])
    for a, b in zip(actions(7, 4), actions(7, 4, seed=1), strict=True):
        b[1] = a[1]
        assert np.array_equal(one.step(a)[0][1], two.step(b)[0][1])


def test_E9_seeds_are_told(tiny_world_model: WorldModel) -> None:
    env = ImaginedVectorEnv(3, tiny_world_model)
    env.reset(seed=5)
    assert env.np_random_seed == (5, 6, 7)
    frames, _ = env.reset(seed=np.int64(5))
    assert env.np_random_seed == (5, 6, 7)
    by_list, _ = env.reset(seed=[7, 6, 5])
    assert env.np_random_seed == (7, 6, 5)
    assert np.array_equal(by_list[::-1], frames)
    env.reset(seed=[None, 1, None])
    assert env.np_random_seed == (7, 1, 5)
    assert len(env.np_random) == 3
    for bad in ([1, 2], [1, 2, 3, 4]):
        with pytest.raises(ValueError, match="expected 3 seeds"):
            env.reset(seed=bad)
    with pytest.raises(Error):
        env.reset(seed=[1, 2, -1])
    assert env.np_random_seed == (7, 1, 5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rows", [1, 3])
def test_E10_E11_the_vector_env_is_a_sync_vector_env(
    tiny_world_model: WorldModel, mode: AutoresetMode, rows: int
) -> None:
    """Everything is the same, to the bit, for 30 steps: frames, flags, info keys, masks, dtypes."""
    arguments: dict[str, Any] = {"max_episode_steps": 5, "micro_batch_size": 1}
    native = ImaginedVectorEnv(rows, tiny_world_model, autoreset_mode=mode, **arguments)
    sync = SyncVectorEnv(
        [lambda: ImaginedEnv(tiny_world_model, **arguments)] * rows, autoreset_mode=mode
    )
    for space in ("observation_space", "action_space"):
        assert getattr(native, space) == getattr(sync, space)
        assert getattr(native, f"single_{space}") == getattr(sync, f"single_{space}")
    assert native.metadata["autoreset_mode"] == sync.metadata["autoreset_mode"] == mode
    assert native.autoreset_mode == mode
    assert _same(native.reset(seed=3), sync.reset(seed=3))
    ended = 0
    for a in actions(30, rows):
        returned, expected = native.step(a), sync.step(a)
        assert _same(returned, expected)
        over = returned[2] | returned[3]
        ended += over.sum()
        if mode == AutoresetMode.DISABLED and over.any():
            returned = native.reset(options={"reset_mask": over.copy()})
            assert _same(returned, sync.reset(options={"reset_mask": over.copy()}))
    assert ended > 4 * rows


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, dict):
        return set(one) == set(two) and all(_same(one[key], two[key]) for key in one)
    if isinstance(one, tuple):
        return all(_same(a, b) for a, b in zip(one, two, strict=True))
    if one is None or two is None:
        return one is two
    if one.dtype == object:
        return two.dtype == object and all(map(_same_value, one, two))
    return one.dtype == two.dtype and np.array_equal(one, two)


def _same_value(one: Any, two: Any) -> bool:
    return _same(one, two) if isinstance(one, np.ndarray) else one == two


@pytest.mark.parametrize("mode", MODES)
def test_E11_episode_statistics_count_right(
    tiny_world_model: WorldModel, mode: AutoresetMode
) -> None:
    env = RecordEpisodeStatistics(
        ImaginedVectorEnv(
            3,
            tiny_world_model,
            max_episode_steps=4,
            success_threshold=NEVER,
            autoreset_mode=mode,
        )
    )
    env.reset(seed=0)
    for a in actions(30, 3):
        _, _, terminated, truncated, info = env.step(a)
        over = terminated | truncated
        if over.any():
            assert info["episode"]["l"][over].tolist() == [4] * over.sum()
            if mode == AutoresetMode.DISABLED:
                env.reset(options={"reset_mask": over})
    assert env.episode_count == (18 if mode == AutoresetMode.NEXT_STEP else 21)


def test_E11_next_step_and_same_step_as_documented(tiny_world_model: WorldModel) -> None:
    """One episode step by step, under either mode, against a row that goes on by hand."""
    arguments: dict[str, Any] = {"max_episode_steps": 2, "success_threshold": NEVER}
    single = ImaginedEnv(tiny_world_model, **arguments)
    first, _ = single.reset(seed=0)
    a = np.ones(3)
    frames = [single.step(a)[0], single.step(a)[0], single.reset()[0], single.step(a)[0]]
    same = ImaginedVectorEnv(1, tiny_world_model, autoreset_mode="SameStep", **arguments)
    assert np.array_equal(same.reset(seed=0)[0][0], first)
    assert np.array_equal(same.step(a[None])[0][0], frames[0])
    frame, reward, terminated, truncated, info = same.step(a[None])
    assert np.array_equal(frame[0], frames[2])
    assert np.array_equal(info["final_obs"][0], frames[1])
    assert (reward[0], terminated[0], truncated[0]) == (0.0, False, True)
    assert info["final_info"]["success_probability"][0] > 0
    assert np.array_equal(same.step(a[None])[0][0], frames[3])
    following = ImaginedVectorEnv(1, tiny_world_model, autoreset_mode="NEXT_STEP", **arguments)
    following.reset(seed=0)
    following.step(a[None])
    frame, _, _, truncated, info = following.step(a[None])
    assert np.array_equal(frame[0], frames[1]) and truncated[0] and "final_obs" not in info
    frame, reward, terminated, truncated, info = following.step(a[None])
    assert np.array_equal(frame[0], frames[2])
    assert (reward[0], terminated[0], truncated[0]) == (0.0, False, False)
    assert info["success_probability"][0] < 1e-6 and not info["is_success"][0]
    assert np.array_equal(following.step(a[None])[0][0], frames[3])


def test_E11_disabled_refuses_to_step_a_row_that_is_over(tiny_world_model: WorldModel) -> None:
    env = ImaginedVectorEnv(
        2,
        tiny_world_model,
        max_episode_steps=2,
        success_threshold=NEVER,
        autoreset_mode=AutoresetMode.DISABLED,
    )
    env.reset(seed=0)
    env.step(np.zeros((2, 3)))
    frames = env.step(np.zeros((2, 3)))[0]
    with pytest.raises(ResetNeeded, match=r"rows \[0, 1\] are over"):
        env.step(np.zeros((2, 3)))
    reset, _ = env.reset(options={"reset_mask": np.array([False, True])})
    assert np.array_equal(reset[0], frames[0])
    with pytest.raises(ResetNeeded, match=r"rows \[0\] are over"):
        env.step(np.zeros((2, 3)))


@pytest.mark.parametrize("mode", MODES)
def test_E12_nothing_of_the_episode_before_stays(
    tiny_world_model: WorldModel, mode: AutoresetMode
) -> None:
    """A row that was reset goes on exactly as one that had no episode before; others as before."""
    arguments: dict[str, Any] = {
        "success_threshold": NEVER,
        "max_episode_steps": 4,
        "micro_batch_size": 1,
    }
    env = ImaginedVectorEnv(3, tiny_world_model, autoreset_mode=mode, **arguments)
    env.reset(seed=0)
    ones = np.ones((3, 3))
    for _ in range(2):
        env.step(ones)
    core = env.imagination
    core._steps[1] = 3  # one row alone reaches its horizon in the next step
    env.step(ones)
    if mode == AutoresetMode.NEXT_STEP:
        env.step(ones)
    elif mode == AutoresetMode.DISABLED:
        env.reset(options={"reset_mask": np.array([False, True, False])})
    drawn = int(core.drawn[1])
    assert torch.equal(core.frames[1], core.starts.contexts.frames[drawn])
    assert core._steps[1] == 0
    steps = 2 if mode == AutoresetMode.NEXT_STEP else 1
    assert core._steps[[0, 2]].tolist() == [2 + steps] * 2
    fresh = ImaginedVectorEnv(3, tiny_world_model, **arguments)
    fresh.reset(seed=9, options={"initial_frame": drawn})
    for own, theirs in zip(core.memory, fresh.imagination.memory, strict=True):
        assert torch.equal(own[1], theirs[1])
    fresh.imagination._noise_seeds[1] = core._noise_seeds[1]
    assert np.array_equal(env.step(ones)[0][1], fresh.step(ones)[0][1])


@pytest.mark.parametrize(
    ("mask", "error", "said"),
    [
        (np.array([True, False]), ValueError, r"\(3,\), got \(2,\)"),
        (np.array([[True, False, True]]), ValueError, r"\(3,\), got \(1, 3\)"),
        (np.zeros(3, bool), ValueError, "at least one True"),
        (np.ones(3, int), TypeError, "int64"),
        (np.ones(3), TypeError, "float64"),
        ([True, True, True], TypeError, "list"),
    ],
)
def test_E13_a_bad_reset_mask(
    tiny_world_model: WorldModel, mask: Any, error: type[Exception], said: str
) -> None:
    env = ImaginedVectorEnv(3, tiny_world_model)
    env.reset(seed=0)
    before = env.imagination.frames
    with pytest.raises(error, match=f"reset_mask: expected .*{said}"):
        env.reset(options={"reset_mask": mask})
    assert torch.equal(env.imagination.frames, before)


def test_E13_a_reset_mask_resets_its_rows_and_stays_the_users(
    tiny_world_model: WorldModel,
) -> None:
    env = ImaginedVectorEnv(3, tiny_world_model, success_threshold=NEVER)
    env.reset(seed=0)
    frames = env.step(np.ones((3, 3)))[0]
    mask = np.array([True, False, True])
    options = {"reset_mask": mask, "initial_frame": 4}
    reset, info = env.reset(seed=20, options=options)
    assert set(options) == {"reset_mask", "initial_frame"} and mask.tolist() == [True, False, True]
    assert np.array_equal(reset[1], frames[1]) and not np.array_equal(reset[0], frames[0])
    assert env.np_random_seed == (20, 1, 22)
    assert info["_initial_frame"].tolist() == [True, False, True]
    assert env.imagination._steps.tolist() == [0, 1, 0]


def test_E15_vector_calls_in_the_wrong_order(tiny_world_model: WorldModel) -> None:
    env = gym.make_vec(ID, 2, world_model=tiny_world_model, render_mode="rgb_array")
    for call in (lambda: env.step(np.zeros((2, 3))), env.render):
        with pytest.raises(ResetNeeded):
            call()
    env.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ResetNeeded):
        env.step(np.zeros((2, 3)))
    env.reset()
    env.step(np.zeros((2, 3)))
    env.close()
    env.close()
    for call in (lambda: env.step(np.zeros((2, 3))), env.reset, env.render):
        with pytest.raises(Error, match="closed"):
            call()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_E14_a_bad_vector_action_leaves_the_state_unchanged(
    tiny_world_model: WorldModel, bad: float
) -> None:
    env, reference = (ImaginedVectorEnv(3, tiny_world_model) for _ in range(2))
    env.reset(seed=0)
    reference.reset(seed=0)
    wrong = np.zeros((3, 3))
    wrong[1, 2] = bad
    with pytest.raises(ValueError, match="finite"):
        env.step(wrong)
    with pytest.raises(ValueError, match=r"\(3, 3\), got \(2, 3\)"):
        env.step(np.zeros((2, 3)))
    for a in actions(4, 3):
        assert _same(env.step(a), reference.step(a))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_envs": 0}, r"\[1, 1000000\]"),
        ({"num_envs": 2.0}, r"\[1, 1000000\]"),
        ({"num_envs": True}, r"\[1, 1000000\]"),
        ({"autoreset_mode": "later"}, "NEXT_STEP, SAME_STEP, DISABLED"),
        ({"autoreset_mode": None}, "NEXT_STEP, SAME_STEP, DISABLED"),
        ({"render_mode": "human"}, "rgb_array"),
        ({"task": "fly"}, "push, pull"),
    ],
)
def test_E16_bad_vector_arguments(
    tiny_world_model: WorldModel, arguments: dict[str, Any], said: str
) -> None:
    (name,) = arguments
    with pytest.raises(ValueError, match=said) as caught:
        ImaginedVectorEnv(**{"num_envs": 2, **arguments}, world_model=tiny_world_model)
    assert name in str(caught.value)


def test_E16_a_bad_option_leaves_seeds_and_rows_unchanged(tiny_world_model: WorldModel) -> None:
    env = ImaginedVectorEnv(2, tiny_world_model)
    frames, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match="initial_frame, task, reset_mask"):
        env.reset(options={"goal": 1})
    for options in ({"task": "fly"}, {"initial_frame": [0, 99]}, {"initial_frame": [0, 1, 2]}):
        with pytest.raises(ValueError):
            env.reset(seed=7, options=options)
    assert env.np_random_seed == (0, 1)
    assert np.array_equal(frames, env.imagination.frames.permute(0, 2, 3, 1).numpy())


def test_E10_attributes_are_those_of_sync_vector_env(tiny_world_model: WorldModel) -> None:
    env = ImaginedVectorEnv(2, tiny_world_model)
    sync = SyncVectorEnv([lambda: ImaginedEnv(tiny_world_model)] * 2)
    for one in (env, sync):
        one.reset(seed=3)
        one.set_attr("render_scale", 3)
        assert one.get_attr("render_scale") == (3, 3)
    for name in ("observation_space", "action_space", "np_random_seed"):
        assert env.get_attr(name) == sync.get_attr(name)
    with pytest.raises(ValueError, match="values"):
        env.set_attr("render_scale", [1, 2])


@pytest.mark.parametrize("seed", [1.5, "12"])
def test_E16_a_seed_that_is_none_is_named(tiny_world_model: WorldModel, seed: Any) -> None:
    with pytest.raises(ValueError, match="seed: expected an integer"):
        ImaginedVectorEnv(2, tiny_world_model).reset(seed=seed)


def test_E17_truncation_through_make_vec(tiny_world_model: WorldModel) -> None:
    env = gym.make_vec(
        ID, 2, world_model=tiny_world_model, max_episode_steps=12, success_threshold=NEVER
    )
    env.reset(seed=0)
    returned = [env.step(np.zeros((2, 3)))[2:4] for _ in range(12)]
    assert not any(terminated.any() for terminated, _ in returned)
    assert [truncated.tolist() for _, truncated in returned] == [[False] * 2] * 11 + [[True] * 2]


def test_E17_a_success_on_the_last_step_does_not_truncate(tiny_world_model: WorldModel) -> None:
    env = gym.make_vec(
        ID, 2, world_model=tiny_world_model, max_episode_steps=1, success_threshold=1e-6
    )
    env.reset(seed=0)
    _, reward, terminated, truncated, _ = env.step(np.zeros((2, 3)))
    assert reward.tolist() == [1.0, 1.0] and terminated.all() and not truncated.any()


def test_E21_a_vector_step_leaves_nothing_behind(tiny_world_model: WorldModel) -> None:
    env = ImaginedVectorEnv(4, tiny_world_model, obs_type="features")
    env.reset(seed=0)
    action = np.zeros((4, 3), np.float32)
    memory = []
    for steps in (300, 600):
        for _ in range(steps):
            env.step(action)
        gc.collect()
        memory.append(psutil.Process().memory_info().rss / 2**20)
    assert memory[1] - memory[0] < 20  # MiB; 100 KB a step would be 60
    env.close()


def test_E2_vector_calls_return_fresh_objects(tiny_world_model: WorldModel) -> None:
    for mode in MODES[:2]:
        env, reference = (
            ImaginedVectorEnv(3, tiny_world_model, max_episode_steps=3, autoreset_mode=mode)
            for _ in range(2)
        )
        env.reset(seed=0)[0][:] = 0
        reference.reset(seed=0)
        seen: list[np.ndarray] = []
        for a in actions(9, 3):
            returned = env.step(a)
            assert _same(returned, reference.step(a))
            arrays = [*returned[:4], *_arrays(returned[4])]
            assert not any(np.shares_memory(x, y) for x in arrays for y in seen)
            for array in arrays:
                array[:] = 0
            seen += arrays


def _arrays(info: dict[str, Any]) -> list[np.ndarray]:
    """The arrays of an info, the masks and the nested ones with them."""
    found: list[np.ndarray] = []
    for value in info.values():
        found += _arrays(value) if isinstance(value, dict) else [value]
    return found
