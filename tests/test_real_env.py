"""The real twin: only where Meta-World and a GL library are there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gl import needs_gl

from training.real_env import (
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
        "from training.real_env import RealEnvUnavailableError, require_real_env\n"
        "try: require_real_env()\n"
        "except RealEnvUnavailableError as error: print(error)"
    )
    environment = {**os.environ, "MUJOCO_GL": "nothing"}
    ran = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert "apt-get install" in ran.stdout, ran.stderr
    assert issubclass(RealEnvUnavailableError, RuntimeError)


@needs_gl
def test_a_seed_fixes_the_start_whatever_came_before() -> None:
    from training.real_env import RealEnv

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
    from training.real_env import SUPERSAMPLING, RealEnv

    require_real_env()
    env = RealEnv("lever-pull")
    try:
        small, _ = env.reset(seed=5)
        env._supersampling = 1
        large = env.render()
    finally:
        env.close()
    assert small.shape == (64, 64, 3)
    assert large.shape == (64 * SUPERSAMPLING, 64 * SUPERSAMPLING, 3)
    blocks = large.reshape(64, SUPERSAMPLING, 64, SUPERSAMPLING, 3).mean(axis=(1, 3))
    assert np.abs(small - blocks).max() <= 1.0


@needs_gl
def test_the_expert_solves_and_success_terminates() -> None:
    from training.real_env import RealEnv

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
    from training.episodes import load_episodes

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
def test_a_plan_does_in_reality_what_a_policy_does_in_imagination(tmp_path: Path) -> None:
    from training.replay import imagine

    from training.collect_episodes import Args, collect_episode, make_actor
    from training.policy import make_policy, sample_actions, save_policy
    from training.policy_network import PolicyConfig
    from training.real_env import RealEnv
    from world4rl_gym.world_model import WorldModel

    config = PolicyConfig("door-lock")
    policy = make_policy(config)
    save_policy(policy, config, tmp_path / "policy")
    args = Args("plan", ("door-lock",), policy=str(tmp_path / "policy"), deterministic=True)
    env = RealEnv("door-lock", terminate_on_success=False)
    try:
        episode = collect_episode(env, 3, "plan", make_actor(args, env, 3))
    finally:
        env.close()
    model = WorldModel.from_pretrained()
    dreamt = imagine(
        model.denoiser,
        model.scheduler,
        episode.frames[:1],
        lambda frames: sample_actions(policy, frames, None),
        len(episode),
        model.config.num_inference_steps,
        torch.tensor([3]),
    )[0]
    assert np.array_equal(episode.actions, dreamt.actions)
    assert not np.array_equal(episode.frames[-1], dreamt.frames[-1])
    with pytest.raises(ValueError, match="policy"):
        Args("plan")


@needs_gl
def test_plans_are_carried_out_whatever_is_seen(tmp_path: Path) -> None:
    from training.evaluate import evaluate
    from training.real_rollouts import real_episodes

    from training.policy import make_policy, save_policy
    from training.policy_network import PolicyConfig
    from world4rl_gym.world_model import WorldModel

    config = PolicyConfig("door-lock")
    for name in ("one", "other"):
        save_policy(make_policy(config), config, tmp_path / name)
    played = real_episodes(tmp_path / "one", [3, 4], workers=1)
    plans = np.stack([episode.actions for episode in played])
    again = real_episodes(tmp_path / "other", [3, 4], workers=1, plans=plans)
    for one, two in zip(played, again, strict=True):
        assert np.array_equal(one.actions, two.actions)
        assert np.array_equal(one.frames, two.frames)
    (short,) = real_episodes(tmp_path / "other", [3], workers=1, plans=plans[:1, :7])
    assert np.array_equal(short.actions, plans[0, :7])
    result = evaluate(
        tmp_path / "one", WorldModel.from_pretrained(), [3, 4], real=False, plans=True, workers=1
    )
    assert result.real is None
    assert result.planned is not None
    assert len(result.planned) == 2
    assert set(result.record()) == {"task", "real", "imagined", "planned"}


def test_unknown_task_lists_the_valid_ones() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "training.collect_episodes", "--tasks", "fly"],
        capture_output=True,
        text=True,
    )
    assert ran.returncode != 0
    assert "fly" in ran.stderr
    assert TASKS[0] in ran.stderr
