"""Every example runs, for a few hundred steps, as its user would run it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import gymnasium as gym
import numpy as np
import pytest
from conftest import make_tiny_world_model
from gl import needs_gl
from gymnasium.vector import AutoresetMode

import world4rl_gym

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A world model of few weights but full-sized frames, as the libraries' policies want."""
    path = tmp_path_factory.mktemp("models") / "tiny64"
    make_tiny_world_model(success_threshold=0.55, frame_size=64).save_pretrained(path)
    return str(path)


def load_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "needs", "steps"),
    [
        ("sb3_ppo", "stable_baselines3", 256),
        ("sb3_sac", "stable_baselines3", 200),
        ("cleanrl_style_ppo", "torch", 512),
        ("torchrl_rollout", "torchrl", 256),
        ("skrl_ppo", "skrl", 256),
        ("torch_imagination", "torch", 320),
        ("goal_picture_reward", "torch", 40),
    ],
)
def test_E23_an_example_runs(
    folder: str,
    name: str,
    needs: str,
    steps: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip(needs)
    monkeypatch.chdir(tmp_path)
    load_example(name).main(["--steps", str(steps), "--world-model", folder])
    said = capsys.readouterr().out
    assert "imagined" in said or "env steps/s" in said
    with capsys.disabled():
        print(said, end="")


def test_E23_torchrl_sees_what_gymnasium_sees(folder: str) -> None:
    """Frames, rewards and flags through `GymWrapper` are those of the vector env itself."""
    pytest.importorskip("torchrl")
    import torch
    from torchrl.envs import GymWrapper

    def make() -> gym.vector.VectorEnv:
        return gym.make_vec(
            world4rl_gym.ENV_ID,
            3,
            world_model=folder,
            max_episode_steps=3,
            autoreset_mode=AutoresetMode.DISABLED,
        )

    plain, wrapped = make(), GymWrapper(make())
    plain.reset(seed=5)
    state = wrapped.reset(seed=5)
    assert tuple(state["observation"].shape) == (3, 64, 64, 3)
    rng = np.random.default_rng(0)
    for _ in range(3):
        actions = rng.uniform(-1, 1, (3, 3)).astype(np.float32)
        frames, rewards, terminated, truncated, _ = plain.step(actions)
        state = wrapped.step(state.set("action", torch.from_numpy(actions)))["next"]
        assert np.array_equal(state["observation"].numpy(), frames)
        assert np.array_equal(state["reward"].squeeze(-1).numpy(), rewards)
        assert np.array_equal(state["terminated"].squeeze(-1).numpy(), terminated)
        assert np.array_equal(state["truncated"].squeeze(-1).numpy(), truncated)
        if (terminated | truncated).any():
            break
    rollout = wrapped.rollout(8, break_when_any_done=False)
    assert rollout.shape == (3, 8) and rollout["next", "done"].any(1).all()


@pytest.mark.parametrize(
    ("way", "rows"),
    [("GymEnv", ()), ("GymWrapper", ()), ("DISABLED", (2,)), ("SerialEnv", (2,))],
)
def test_fault_05_the_ways_into_torchrl_that_the_readme_names(
    folder: str, way: str, rows: tuple[int, ...]
) -> None:
    pytest.importorskip("torchrl")
    from torchrl.envs import GymEnv, GymWrapper, SerialEnv
    from torchrl.envs.utils import check_env_specs

    arguments = {"world_model": folder, "max_episode_steps": 3}
    if way == "GymEnv":
        env = GymEnv(world4rl_gym.ENV_ID, world_model=folder)
    elif way == "GymWrapper":
        env = GymWrapper(gym.make(world4rl_gym.ENV_ID, **arguments))
    elif way == "SerialEnv":
        env = SerialEnv(2, lambda: GymEnv(world4rl_gym.ENV_ID, world_model=folder))
    else:
        mode = AutoresetMode.DISABLED
        env = GymWrapper(gym.make_vec(world4rl_gym.ENV_ID, 2, autoreset_mode=mode, **arguments))
    check_env_specs(env)
    rollout = env.rollout(20, break_when_any_done=False)
    assert rollout.shape == (*rows, 20) and rollout["next", "done"].any()
    env.close()


@needs_gl
def test_another_robot_is_recorded_and_played(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium_robotics")
    example = load_example("fetch_push")
    example.main(["--out", str(tmp_path / "recorded"), "--episodes", "1"])
    assert len(list((tmp_path / "recorded" / "0000").glob("*.png"))) == example.DECISIONS + 1
    env = example.FetchPushPixels()
    first, _ = env.reset(seed=3)
    again, _ = env.reset(seed=3)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert env.observation_space.contains(first)
    *_, info = env.step(env.action_space.sample())
    assert info == {"is_success": False}
    env.close()
