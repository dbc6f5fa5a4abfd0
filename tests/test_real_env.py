"""The real twin: only where Meta-World and a GL library are there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gl import needs_gl

from training.envs.real_env import (
    SPLIT_SEEDS,
    TASKS,
    RealEnvUnavailableError,
    require_real_env,
    split_seeds,
)


def test_splits_never_share_a_seed() -> None:
    ranges = [set(split_seeds(split, 1000)) for split in SPLIT_SEEDS]
    assert not ranges[0] & ranges[1]
    assert not ranges[1] & ranges[2]
    assert not ranges[0] & ranges[2]
    with pytest.raises(ValueError, match="1,000,000"):
        split_seeds("train", 10, 999_999)
    with pytest.raises(ValueError, match="split"):
        split_seeds("dev", 10)


def test_without_gl_it_says_what_to_install() -> None:
    script = (
        "from training.envs.real_env import RealEnvUnavailableError, require_real_env\n"
        "try: require_real_env()\n"
        "except RealEnvUnavailableError as error: print(error)"
    )
    environment = {**os.environ, "MUJOCO_GL": "nothing"}
    ran = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert "apt-get install" in ran.stdout, ran.stderr
    assert "MUJOCO_GL=nothing: RuntimeError: invalid value" in ran.stdout
    assert issubclass(RealEnvUnavailableError, RuntimeError)


@needs_gl
@pytest.mark.parametrize("given", [False, True])
def test_another_pyopengl_platform_does_not_hide_a_backend(given: bool) -> None:
    found = os.environ["MUJOCO_GL"]
    script = (
        "from training.envs.real_env import RealEnv, require_real_env\n"
        "require_real_env()\n"
        "env = RealEnv('hammer'); env.reset(seed=0); env.close(); print('rendered')"
    )
    environment = {**os.environ, "PYOPENGL_PLATFORM": "egl" if found == "osmesa" else "osmesa"}
    environment.pop("MUJOCO_GL")
    if given:
        environment["MUJOCO_GL"] = found
    ran = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert ran.stdout == "rendered\n", ran.stderr


@needs_gl
@pytest.mark.parametrize(
    "end", ["", "env.close()", "env.close(); env.close()", "import sys; sys.exit(0)", "twin = env"]
)
def test_nothing_is_printed_at_exit(end: str) -> None:
    script = (
        "from training.envs.real_env import RealEnv\n"
        "envs = [RealEnv('hammer'), RealEnv('soccer')]\n"
        "for env in envs: env.reset(seed=0)\n"
        f"{end}"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@needs_gl
def test_infos_always_have_the_same_keys() -> None:
    from training.envs.real_env import RealEnv

    env = RealEnv("hammer", drawn="first")
    _, info = env.reset(seed=3)
    returned = env.step(env.action_space.sample())[4]
    env.close()
    assert {k: type(v) for k, v in returned.items()} == {k: type(v) for k, v in info.items()}


@needs_gl
def test_a_seed_fixes_the_start_whatever_came_before() -> None:
    from training.envs.real_env import RealEnv

    require_real_env()
    env = RealEnv("coffee-pull")
    try:
        first, info = env.reset(seed=5)
        assert first.shape == (64, 64, 3)
        assert first.dtype == np.uint8
        assert info == {"task": "coffee-pull", "is_success": False, "seed": 5}
        frames = [env.step(env.action_space.sample())[0] for _ in range(5)]
        other, _ = env.reset(seed=6)
        again, _ = env.reset(seed=5)
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)
        assert not np.array_equal(first, frames[-1])
        assert first[:8].mean() > first[-8:].mean()  # grey wall above, wooden table below
    finally:
        env.close()


@needs_gl
def test_frames_are_averages_of_larger_ones() -> None:
    from training.envs.real_env import SUPERSAMPLING, RealEnv

    require_real_env()
    env = RealEnv("lever-pull")
    try:
        small, _ = env.reset(seed=5)
        env._supersampling, env._shown = 1, None
        large = env.render()
    finally:
        env.close()
    assert small.shape == (64, 64, 3)
    assert large.shape == (64 * SUPERSAMPLING, 64 * SUPERSAMPLING, 3)
    blocks = large.reshape(64, SUPERSAMPLING, 64, SUPERSAMPLING, 3).mean(axis=(1, 3))
    assert np.abs(small - blocks).max() <= 1.0


@needs_gl
def test_the_expert_solves_and_success_terminates() -> None:
    from training.envs.real_env import RealEnv

    env = RealEnv("handle-pull")
    try:
        env.reset(seed=0)
        for _ in range(50):
            _, reward, terminated, truncated, info = env.step(env.expert_action())
            if terminated or truncated:
                break
        assert terminated
        assert not truncated
        assert reward == 1.0
        assert info["is_success"]
    finally:
        env.close()


@needs_gl
def test_collecting_is_repeatable_and_resumes(tmp_path: Path) -> None:
    from world4rl_gym.episodes import load_episodes

    def collect(*flags: str) -> str:
        command = [sys.executable, "-m", "training.collect_episodes", "--tasks", "door-lock"]
        ran = subprocess.run(
            [*command, "--episodes", "2", "--workers", "1", "--out", str(tmp_path), *flags],
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    collect("--behaviour", "random", "--hold", "2")
    path = tmp_path / "door-lock" / "train" / "random-0000000.npz"
    before = path.stat().st_mtime_ns
    (tmp_path / "door-lock" / "train" / "random-0000001.npz").unlink()
    collect("--behaviour", "random", "--hold", "2")
    with pytest.raises(AssertionError, match="hold: 2 there, 3 now"):
        collect("--behaviour", "random", "--hold", "3")
    assert path.stat().st_mtime_ns == before
    episodes = load_episodes(tmp_path, "train")
    assert [e.seed for e in episodes] == [0, 1]
    assert all(len(e) == 50 and e.action_repeat == 3 for e in episodes)
    assert np.array_equal(episodes[0].actions[0], episodes[0].actions[1])


@needs_gl
def test_a_recorded_episode_done_again_is_the_same() -> None:
    from training.envs.rollouts import make_real_env, record, replay
    from training.envs.scripted import scripted

    env = make_real_env("door-lock", draw_all=True)
    try:
        played = record(env, 3, "expert", scripted("expert", env, 3))
        again = replay(env, 3, "replay", played.actions)
        env.drawn = "first"
        unseen = replay(env, 3, "replay", played.actions)
    finally:
        env.close()
    assert played.state is not None and played.command is not None
    assert played.state.shape == (51, 4) and played.command.shape == (51, 3)
    assert np.array_equal(again.frames, played.frames)
    assert np.array_equal(unseen.frames, played.frames[:1])
    assert np.array_equal(unseen.state, played.state)
    assert np.array_equal(unseen.command, played.command)


@needs_gl
def test_probes_are_not_the_expert() -> None:
    from training.envs.rollouts import make_real_env, record
    from training.envs.scripted import scripted

    env = make_real_env("door-lock")
    try:
        done = {
            behaviour: record(env, 3, behaviour, scripted(behaviour, env, 3)).actions
            for behaviour in ("expert", "zero", "open-gripper", "reversed", "shuffled", "random")
        }
    finally:
        env.close()
    expert = done["expert"]
    assert not done["zero"].any()
    assert np.all(done["open-gripper"][:, 3] == -1)
    assert np.array_equal(done["reversed"], expert[::-1])
    assert not np.array_equal(done["shuffled"], expert)
    assert np.array_equal(np.sort(done["shuffled"], axis=0), np.sort(expert, axis=0))
    assert np.abs(done["random"]).mean() > 0.3


@needs_gl
def test_the_robots_state_is_observed_where_asked() -> None:
    from training.envs.real_env import RealEnv

    env = RealEnv("hammer", obs_type="pixels_agent_pos", drawn="first")
    try:
        first, _ = env.reset(seed=1)
        later, *_ = env.step(np.array([0.5, 0, 0, 0], np.float32))
        assert env.observation_space.contains(first) and env.observation_space.contains(later)
        assert np.array_equal(first["pixels"], later["pixels"])
        moved = later["agent_pos"][4:] - first["agent_pos"][4:]
        assert np.allclose(moved, [0.015, 0, 0], atol=1e-6)  # three times half a centimetre
        assert not np.array_equal(env.render(), later["pixels"])
    finally:
        env.close()


@needs_gl
def test_the_object_is_drawn_where_the_camera_is_said_to_see_it() -> None:
    from training.envs.real_env import RealEnv, to_pixels

    env = RealEnv("soccer")
    try:
        env.reset(seed=2_000_001)
        column, row = to_pixels(env.object_position)
        before = env.render().astype(int)
        env._sim.data.qpos[9:11] += 0.05  # the ball, five centimetres off
        env._mj_forward(env._sim.model, env._sim.data)
        env._shown = None
        changed = np.abs(env.render().astype(int) - before).sum(axis=2) > 30
    finally:
        env.close()
    rows, columns = np.nonzero(changed)
    assert len(rows) > 0
    nearest = np.hypot(columns - column, rows - row).min()
    assert nearest < 3


def test_unknown_task_lists_the_valid_ones() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "training.collect_episodes", "--tasks", "fly"],
        capture_output=True,
        text=True,
    )
    assert ran.returncode != 0
    assert "fly" in ran.stderr
    assert TASKS[0] in ran.stderr
