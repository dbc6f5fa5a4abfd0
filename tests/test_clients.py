"""Every example runs, for a few hundred steps, as its user would run it.

Those that need what no extra installs are skipped without it: Ray, gym-pusht, gymnasium-robotics.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import make_tiny_world_model
from gl import needs_gl
from gymnasium.vector import AutoresetMode
from own_push_env import SIZE, OwnPushEnv

import world4rl_gym
from training.data.start_frames import load_start_frames
from training.import_episodes import Args, run
from world4rl_gym.episodes import load_episodes

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
def test_the_ways_into_torchrl_that_the_readme_names(
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


def run_example(name: str, arguments: list[str], **environment: str) -> str:
    """Runs an example in a process of its own, as libraries that start others need; its output."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_torchrls_distributed_collector_steps_on_two_nodes(folder: str) -> None:
    pytest.importorskip("torchrl")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    arguments = ["--steps", "256", "--world-model", folder]
    said = run_example("torchrl_distributed", arguments, TCP_PORT=port)
    assert "2 nodes, 256 imagined steps" in said


def test_rllib_refines_to_its_end(folder: str) -> None:
    pytest.importorskip("ray.rllib")
    arguments = ["--steps", "512", "--runners", "1", "--world-model", folder]
    said = run_example("rllib_ppo", arguments, RAY_raylet_start_wait_time_s="300")
    assert "RLlib PPO, 512 imagined steps" in said


@pytest.mark.parametrize(
    ("name", "needs", "env_class"),
    [
        pytest.param("fetch_reach", "gymnasium_robotics", "FetchReachPixels", marks=needs_gl),
        ("pusht", "gym_pusht", "PushTPixels"),
    ],
)
def test_another_domain_is_recorded_and_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, needs: str, env_class: str
) -> None:
    pytest.importorskip(needs)
    monkeypatch.syspath_prepend(EXAMPLES.parent)
    example = importlib.import_module(f"examples.{name}")
    example.main(["--out", str(tmp_path / "recorded"), "--episodes", "1"])
    assert len(list((tmp_path / "recorded" / "0000").glob("*.png"))) == example.DECISIONS + 1
    env = getattr(example, env_class)()
    first, _ = env.reset(seed=3)
    again, _ = env.reset(seed=3)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert env.observation_space.contains(first)
    *_, info = env.step(env.action_space.sample())
    assert info == {"is_success": False}
    env.close()


def test_a_recorded_folder_can_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the examples record, with commands and start frames, is what the importer reads."""
    monkeypatch.syspath_prepend(EXAMPLES.parent)
    recording = importlib.import_module("examples.recording")
    starts = tmp_path / "data" / "push" / "start-frames-train.npz"
    env = OwnPushEnv()

    class Straight:
        def __init__(self, rng: np.random.Generator, number: int) -> None:
            self.aim = 100.0 if number % 2 else 20.0

        def act(self, env: OwnPushEnv) -> np.ndarray:
            return np.array([self.aim, env.block[1], 50.0], np.float32)

    share = recording.record(env, Straight, tmp_path / "recorded", 8, 6, command_size=3)
    recording.record_start_frames(env, starts, 4, 1_000_000, command_size=3)
    assert share == 0.5
    run(Args(tmp_path / "recorded", "folder", tmp_path / "data", "push", size=SIZE))
    episodes = load_episodes(tmp_path / "data", "train", ["push"])
    assert {len(episode) for episode in episodes} == {6} and episodes[0].is_drawn
    assert [e.behaviour == "expert" for e in episodes] == [e.solved for e in episodes]
    for episode in episodes:
        observation, _ = env.reset(seed=episode.seed % 1_000_000)
        assert np.array_equal(episode.frames[0], observation["pixels"])
        assert np.allclose(episode.state[0], observation["agent_pos"][:3])
        for t, action in enumerate(episode.actions):
            low, high = episode.action_low, episode.action_high
            observation, *_, info = env.step(low + (action + 1) / 2 * (high - low))
            assert np.allclose(episode.command[t + 1], observation["agent_pos"][3:], atol=1e-3)
            assert episode.success[t] == info["is_success"]
    kept = load_start_frames(tmp_path / "data", "push", "train")
    assert kept.frames.shape == (4, SIZE, SIZE, 3)
    assert kept.state.shape == kept.command.shape == (4, 3)


def test_sac_begins_with_a_clone(
    tiny_folder: str, cloned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = load_example("sb3_sac")
    example.PREFILLED, example.IMITATION_STEPS = 640, 300
    begun: dict[str, Any] = {}

    def begin_with(model: Any, env: Any, policy: Any) -> None:
        seen = env.reset()
        apart = lambda: float(np.abs(model.predict(seen, True)[0] - policy.act(seen)).mean())  # noqa: E731
        begun["before"] = apart()
        known(model, env, policy)
        begun["after"], begun["filled"] = apart(), model.replay_buffer.pos * env.num_envs

    known, example.begin_with = example.begin_with, begin_with
    words = ["--steps", "320", "--world-model", tiny_folder, "--task", "push"]
    example.main([*words, "--policy", str(cloned), "--out", str(tmp_path / "sac")])
    assert "SAC, 320 imagined steps" in capsys.readouterr().out
    assert begun["filled"] == 640 and begun["after"] < 0.98 * begun["before"]
    ran = subprocess.run(
        [sys.executable, "-m", "examples.sb3_sac", "--policy", "x"],
        cwd=EXAMPLES.parent,
        capture_output=True,
        text=True,
    )
    assert "--policy needs --task" in ran.stderr
    with pytest.raises(SystemExit):
        example.main(["--policy", str(cloned)])


def test_offline_rl_is_given_decisions_up_to_success(walked: Path, tmp_path: Path) -> None:
    data, out = walked / "data" / "mine", tmp_path / "push.npz"
    words = ["export", "--task", "push", "--world-model", str(walked / "runs" / "world_model")]
    load_example("offline_rl").main([*words, "--episodes", str(data), "--out", str(out)])
    episodes = load_episodes(data, "train", ["push"])
    with np.load(out) as rows:
        assert int(rows["terminals"].sum()) == sum(episode.solved for episode in episodes) > 0
        assert (rows["terminals"] + rows["timeouts"]).sum() == len(episodes)
        assert np.array_equal(rows["rewards"], rows["terminals"])
        counts = [e.success.argmax() + 1 if e.solved else len(e.actions) for e in episodes]
        assert len(rows["observations"]) == len(rows["actions"]) == sum(counts)


def test_how_much_is_tried_with_ones_own_data(
    walked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES.parent)
    data = walked / "data" / "mine"
    words = ["--task", "push", "--episodes", str(data), "--sizes", "9", "999"]
    tiny = ["--steps", "2", "--denoiser-steps", "2", "--out", str(tmp_path / "much")]
    model = ["--world-model", str(walked / "runs" / "world_model")]
    example = importlib.import_module("examples.how_much")

    def in_this_process(name: str, *options: Any) -> float:  # imports take most of the time
        monkeypatch.setattr(sys, "argv", [name, *map(str, options)])
        importlib.import_module(f"training.{name}").main()
        return 0.0

    monkeypatch.setattr(example, "run_command", in_this_process)
    example.main([*words, *tiny, *model])
    kept = tmp_path / "much" / "push-9-2"
    used = [len(list((kept / "data/push" / s).glob("*.npz"))) for s in ("train", "validation")]
    assert used == [7, 2]
    rows = json.loads((tmp_path / "much" / "how_much.json").read_text())["rows"]
    assert {row["episodes"] for row in rows} == {9, len(load_episodes(data, "train", ["push"]))}
    assert all(row["psnr"] > 0 and "refined" not in row for row in rows)
    assert (tmp_path / "much" / "how_much.png").stat().st_size > 1000
