"""One's own data, from another format to a measured policy, and all that may be wrong with them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import make_tiny_world_model
from episode_factory import make_episode
from recorded_data import LEROBOT

from training import (
    assemble_world_model,
    clone_policy,
    evaluate_policy,
    evaluate_world_model,
    improve,
    train_denoiser,
    train_eyes,
    train_memory,
)
from training.envs.own_env import OwnEnv, OwnEnvError, make_own_env
from training.envs.rollouts import play
from training.evaluation.formatting import world_model_table
from training.policies.ppo import UnitActions
from training.policies.refinement import imagined_env
from training.runs.settings import SettingsError
from world4rl_gym.env import ImaginedEnv
from world4rl_gym.episodes import Episode, EpisodeError, load_episode, load_episodes, task_names
from world4rl_gym.imagination import Imagination
from world4rl_gym.initial_frames import InitialFrames, most_contexts
from world4rl_gym.policy import make_policy, policy_config
from world4rl_gym.reading import WorldModelError
from world4rl_gym.sb3 import ImaginedVecEnv
from world4rl_gym.vector_env import ImaginedVectorEnv
from world4rl_gym.world_model import WorldModel

ROOT = Path(__file__).parent.parent
REAL = "own_push_env:OwnPush-v0"


def commands(task: str = "push") -> list[list[str]]:
    """The path of `docs/own-data.md`, at tiny size."""
    front = "observation.images.front"
    source = ["--from", "lerobot", str(LEROBOT), "--camera", front, "--size", "32"]
    model = ["--world-model", "runs/world_model"]
    measured = ["--task", task, *model, "--policy", f"runs/refined/{task}/policy"]
    tiny = ["--steps", "3", "--batch-size", "4"]
    return [
        ["import_episodes", *source, "--out", "data/mine", "--task", task],
        ["inspect_episodes", "data/mine", "--html", "runs/coverage.html"],
        ["train_eyes", "--task", task, "--episodes", "data/mine", *tiny, "--code-size", "4"],
        ["train_memory", "--task", task, "--episodes", "data/mine", *tiny, "--width", "16"],
        ["train_denoiser", "--tasks", task, "--episodes", "data/mine", *tiny, "--width", "8"],
        ["assemble_world_model", "--tasks", task, "--episodes", "data/mine", "--anywhere", "4"],
        ["clone_policy", "--task", task, *model, "--episodes", "data/mine", "--steps", "300"],
        [
            *("refine_policy", "--task", task, *model, "--policy", f"runs/clone/{task}/policy"),
            *("--out", f"runs/refined/{task}", "--steps", "3200"),
        ],
        ["evaluate_policy", *measured, "--test-episodes", "data/mine", "--out", "runs/policy.json"],
        ["evaluate_world_model", *model, "--episodes", "data/mine"],
    ]


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all commands ran, where importing Meta-World or MuJoCo is an error."""
    place = tmp_path_factory.mktemp("own")
    for name in ("metaworld", "mujoco"):
        (place / "absent" / name).mkdir(parents=True)
        (place / "absent" / name / "__init__.py").write_text("raise ImportError('is absent')")
    paths = [str(place / "absent"), str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    for module, *arguments in commands():
        ran = subprocess.run(
            [sys.executable, "-m", f"training.{module}", *arguments],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, f"{module}: {ran.stderr[-3000:]}"
        (place / f"{module}.txt").write_text(ran.stdout)
    return place


@pytest.fixture(scope="module")
def world_model(walked: Path) -> WorldModel:
    return WorldModel.from_pretrained(walked / "runs" / "world_model")


def test_the_whole_path_runs_without_meta_world(walked: Path, world_model: WorldModel) -> None:
    config = world_model.config
    assert config.tasks == ("push",) and world_model.frame_size == 32
    assert (world_model.action_size, world_model.state_size, world_model.command_size) == (3, 3, 3)
    policy = json.loads((walked / "runs" / "policy.json").read_text())
    assert {len(policy[k]) for k in ("imagined", "recorded", "recorded_imagined")} == {3}
    assert sorted(policy["recorded"]) == [False, True, True]
    report = json.loads((walked / "runs" / "report" / "world_model.json").read_text())
    figures = report["tasks"]["push"]["policies"]
    assert figures["episodes"] == 3 and figures["real"]["mean"] == pytest.approx(2 / 3, abs=1e-3)
    assert (
        "imagination agrees with what was recorded" in (walked / "evaluate_policy.txt").read_text()
    )
    judged = r"push: judged \d+ % -> \d+ % by the memory's least favourable member"
    printed = (walked / "refine_policy.txt").read_text()
    assert re.search(judged, printed)
    assert "The world model does not say; training.evaluate_world_model --card" in printed
    page = (ROOT / "docs" / "own-data.md").read_text()
    for module, *_ in commands():
        assert f"training.{module}" in page


def write_own(
    folder: Path,
    lengths: tuple[int, ...] = (8, 8, 8, 8),
    size: int = 32,
    task: str = "push",
    splits: tuple[str, ...] = ("train", "validation"),
    **changes: Any,
) -> Path:
    """Half of the episodes, experts, solve the task in their last decision."""
    for number, split in enumerate(splits):
        for index, length in enumerate(lengths):
            own = make_episode(100 * number + index, task, horizon=length)
            success = np.zeros(length, bool)
            success[-1] = index % 2 == 0
            times = -(-size // 16)
            frames = own.frames.repeat(times, 1).repeat(times, 2)[:, :size, :size]
            behaviour = "expert" if index % 2 == 0 else "policy"
            own = dataclasses.replace(own, frames=frames, success=success, behaviour=behaviour)
            own = dataclasses.replace(own, **changes)
            own.save(folder / task / split / f"{behaviour}-{own.seed:07d}.npz")
    return folder


def build(folder: Path, task: str = "push", **options: Any) -> WorldModel:
    """Trains each part for a step or two and puts the world model together."""
    data, runs = folder / "data", folder / "runs"
    tiny = {"steps": 2, "batch_size": 2}
    places = {"eyes": runs / "eyes" / "{task}", "memories": runs / "memory" / "{task}"}
    eyes = train_eyes.Args(task, data, places["eyes"], code_size=4, width=4, **tiny)
    train_eyes.train(eyes)
    train_memory.run(
        train_memory.Args(task, data, places["eyes"], places["memories"], width=8, **tiny)
    )
    drawn = {"out": runs / "denoiser", "width": 8, "condition_blocks": 0, **tiny}
    train_denoiser.run(train_denoiser.Args((task,), data, places["eyes"], **drawn))
    assemble_world_model.run(
        assemble_world_model.Args(
            (task,),
            **places,
            denoiser=runs / "denoiser",
            episodes=data,
            out=runs / "world_model",
            **{"anywhere": 3, **options},
        )
    )
    return WorldModel.from_pretrained(runs / "world_model")


@pytest.mark.parametrize("size", [32, 40, 256])
def test_fault_10_any_multiple_of_8_goes_all_the_way(tmp_path: Path, size: int) -> None:
    write_own(tmp_path / "data", size=size)
    world_model = build(tmp_path)
    assert world_model.frame_size == size
    imagination = Imagination(2, world_model)
    imagination.reset()
    imagination.step(np.zeros((2, 3), np.float32))
    assert imagination.frames.shape == (2, 3, size, size)


@pytest.mark.parametrize("shape", [(36, 36), (32, 48), (264, 264), (8, 8)])
def test_fault_10_other_sizes_are_refused_before_anything_trains(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    for index in range(2):
        own = make_episode(index)
        own = dataclasses.replace(own, frames=np.zeros((9, *shape, 3), np.uint8))
        own.save(tmp_path / "push" / "train" / f"expert-{index:07d}.npz")
    out = tmp_path / "out"
    for train in (
        lambda: train_eyes.train(train_eyes.Args("push", tmp_path, out)),
        lambda: train_memory.run(train_memory.Args("push", tmp_path, out, out)),
        lambda: assemble_world_model.run(
            assemble_world_model.Args(("push",), episodes=tmp_path, out=out)
        ),
    ):
        with pytest.raises(EpisodeError, match=f"multiple of 8 .*got {shape[1]} x {shape[0]}"):
            train()
    assert not out.exists()


def test_fault_10_states_and_commands_that_no_memory_takes_are_refused(tmp_path: Path) -> None:
    for name, state, command in (("wide", 257, None), ("many", 5, 4)):
        values = {"state": np.zeros((9, state), np.float32)}
        if command:
            values["command"] = np.zeros((9, command), np.float32)
        write_own(tmp_path / name, **values)
        with pytest.raises(EpisodeError, match="expected at most 256 numbers of state and 3 of"):
            train_eyes.train(train_eyes.Args("push", tmp_path / name, tmp_path / "out"))


def test_fault_11_the_horizon_is_the_longest_episode(tmp_path: Path, capsys) -> None:
    write_own(tmp_path / "data", lengths=(12, 30, 25, 40))
    assert build(tmp_path).config.max_episode_steps == 40
    assert "horizon: 40 decisions" in capsys.readouterr().out
    assert build(tmp_path, max_episode_steps=33).config.max_episode_steps == 33


def test_fault_12_experts_that_finish_at_once_are_enough(tmp_path: Path) -> None:
    write_own(tmp_path / "data", lengths=(2, 3, 2, 3))
    world_model = build(tmp_path)
    assert len(world_model.initial_frames) == 4 + 3


def test_fault_12_what_is_too_few_is_named(tmp_path: Path) -> None:
    write_own(tmp_path / "one", lengths=(8,))
    with pytest.raises(EpisodeError, match="train episodes of push: expected at least 2, .*got 1"):
        train_eyes.train(train_eyes.Args("push", tmp_path / "one", tmp_path / "out"))
    write_own(tmp_path / "data", lengths=(8, 8))
    build(tmp_path)
    for path in (tmp_path / "data" / "push" / "train").glob("*.npz"):
        path.unlink()
    for index in range(2):  # first frames alone
        own = make_episode(index)
        frames = own.frames[:1].repeat(2, 1).repeat(2, 2)
        own = dataclasses.replace(own, frames=frames)
        own.save(tmp_path / "data" / "push" / "train" / f"expert-{index:07d}.npz")
    places = {name: tmp_path / "runs" / name for name in ("denoiser", "world_model")}
    args = assemble_world_model.Args(
        ("push",),
        eyes=tmp_path / "runs" / "eyes" / "{task}",
        memories=tmp_path / "runs" / "memory" / "{task}",
        denoiser=places["denoiser"],
        episodes=tmp_path / "data",
        out=places["world_model"],
    )
    with pytest.raises(EpisodeError, match="expected expert train episodes .*--anywhere 0"):
        assemble_world_model.run(args)
    assemble_world_model.run(dataclasses.replace(args, anywhere=0))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_what_is_calibrated_comes_from_validation_episodes_alone(
    tmp_path: Path, split: str
) -> None:
    folder = write_own(tmp_path / "data", splits=("train", "validation", "test"))
    before = build(tmp_path)
    path = min((folder / "push" / split).glob("expert-*.npz"))
    episode = load_episode(path)  # from now on one of four solves the task, not two
    dataclasses.replace(episode, success=np.zeros_like(episode.success)).save(path)
    shutil.rmtree(tmp_path / "runs" / "world_model")
    after = build(tmp_path)
    same = torch.equal(
        before.task_memory("push").logit_shift, after.task_memory("push").logit_shift
    )
    assert same == (split == "test")


def test_fault_13_what_is_saved_loads(tmp_path: Path) -> None:
    write_own(tmp_path / "data", size=256)
    most = most_contexts(256)
    with pytest.raises(SettingsError, match=f"expected at most {most} together for 1 tasks of 256"):
        assemble_world_model.run(
            assemble_world_model.Args(
                ("push",), episodes=tmp_path / "data", out=tmp_path / "out", starts=most
            )
        )
    own = make_tiny_world_model(frame_size=256)
    frames = own.initial_frames
    many = torch.zeros(most + 1, dtype=torch.int64)
    own.initial_frames = InitialFrames(
        frames.frames[many],
        frames.state[many],
        frames.command[many],
        many,
        many == 0,
        frames.tasks,
    )
    with pytest.raises(
        WorldModelError, match=f"{tmp_path}/large: initial_frames: .*at most {most}"
    ):
        own.save_pretrained(tmp_path / "large")
    assert not (tmp_path / "large").exists()


def test_fault_13_a_network_too_large_is_told_before_it_is_trained(tmp_path: Path) -> None:
    write_own(tmp_path / "data")
    eyes = tmp_path / "eyes"
    tiny = {"code_size": 4, "width": 4, "steps": 1, "batch_size": 2}
    train_eyes.train(train_eyes.Args("push", tmp_path / "data", eyes, **tiny))
    args = train_denoiser.Args(("push",), tmp_path / "data", eyes, tmp_path / "out", width=1024)
    with pytest.raises(WorldModelError, match="size: Denoiser fills .* less width"):
        train_denoiser.run(args)


def test_fault_14_a_policy_is_measured_in_an_env_of_ones_own(walked: Path, tmp_path: Path) -> None:
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


def test_fault_14_fresh_plans_are_done_in_an_env_of_ones_own(walked: Path, tmp_path: Path) -> None:
    shutil.copytree(walked / "runs/clone/push/policy", tmp_path / "unseen" / "push" / "clone")
    args = evaluate_world_model.Args(
        str(walked / "runs" / "world_model"),
        episodes=walked / "data" / "mine",
        policies=tmp_path / "unseen",
        real_env=REAL,
        plans=3,
        ppo_steps=1,
        out=tmp_path / "report",
    )
    report = evaluate_world_model.evaluate(args)
    own = report["tasks"]["push"]
    assert own["plans"]["episodes"] == 3 and own["closed_loop"][-1]["policy"] == "refined-clone"
    own["mark"] = "measured before"
    path = tmp_path / "report" / "world_model.json"
    path.write_text(json.dumps(report))
    marked = lambda args: "mark" in evaluate_world_model.evaluate(args)["tasks"]["push"]  # noqa: E731
    others = dataclasses.replace(args, plans=2)
    assert marked(args) and marked(dataclasses.replace(others, tasks=()))
    assert not marked(others)
    again = json.loads(path.read_text())
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


def test_fault_15_successes_in_one_split_alone_are_told_before_training(
    tmp_path: Path, capsys
) -> None:
    write_own(tmp_path, splits=("train",), success=np.zeros(8, bool))
    write_own(tmp_path, splits=("test", "validation"))
    with pytest.raises(EpisodeError, match="solve the task, got none; solved: train 0 of 4, valid"):
        train_eyes.train(train_eyes.Args("push", tmp_path, tmp_path / "out"))
    shutil.rmtree(tmp_path / "push")
    write_own(tmp_path / "data", splits=("train",))
    write_own(tmp_path / "data", splits=("x", "validation"), success=np.zeros(8, bool))
    shutil.rmtree(tmp_path / "data" / "push" / "x")
    build(tmp_path)
    said = capsys.readouterr().out
    assert "note: validation episodes of push: none solves the task; solved: train 2 of 4" in said
    assert "not calibrated: of 4 validation episodes, 0 solve the task" in said


def test_fault_16_names_in_either_form_of_unicode_are_one_task(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "öffnen") for form in ("NFC", "NFD"))
    assert composed != apart
    write_own(tmp_path / "data", task=apart)
    assert (tmp_path / "data" / apart).is_dir() and not (tmp_path / "data" / composed).exists()
    assert task_names(tmp_path / "data") == [composed]
    for name in (composed, apart):
        assert len(load_episodes(tmp_path / "data", "train", [name])) == 4
    world_model = build(tmp_path, task=apart)
    assert world_model.config.tasks == (composed,)
    for name in (composed, apart):
        assert world_model.task_index(name) == 0
        assert ImaginedEnv(world_model, task=name).reset(seed=0)[1]["task"] == composed


def test_fault_16_files_that_begin_with_a_dot_are_skipped(tmp_path: Path) -> None:
    write_own(tmp_path)
    for name in ("._expert-0000000.npz", ".expert-0000000.npz.partial"):
        (tmp_path / "push" / "train" / name).write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / ".Trashes").mkdir()
    assert len(load_episodes(tmp_path, "train")) == 4


def test_fault_17_episodes_of_another_size_are_named(walked: Path, tmp_path: Path) -> None:
    def other(episode: Episode) -> Episode:
        wide = np.concatenate([episode.actions, episode.actions[:, :1]], axis=1)
        return dataclasses.replace(episode, actions=wide, action_low=None, action_high=None)

    for changed, message in (
        (other, "action size: the world model has 3, the .* episode of push, seed 20000.., has 4"),
        (lambda e: dataclasses.replace(e, state=None, command=None), "state size: .* has 3, .* 0"),
        (lambda e: dataclasses.replace(e, frames=e.frames[:, ::2, ::2]), "frame size"),
        (lambda e: dataclasses.replace(e, action_low=e.action_low - 1), "action bounds"),
    ):
        shutil.rmtree(tmp_path / "push", ignore_errors=True)
        for episode in load_episodes(walked / "data" / "mine", "test"):
            changed(episode).save(tmp_path / "push" / "test" / f"{episode.seed}.npz")
        args = evaluate_world_model.Args(
            str(walked / "runs" / "world_model"), episodes=tmp_path, out=tmp_path / "report"
        )
        with pytest.raises(EpisodeError, match=message):
            evaluate_world_model.evaluate(args)


def test_fault_18_the_env_takes_actions_in_the_robots_units(
    walked: Path, world_model: WorldModel
) -> None:
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


def test_fault_18_policies_on_features_act_in_unit_actions(world_model: WorldModel) -> None:
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


def test_fault_18_bounds_of_minus_1_and_1_are_the_default(tmp_path: Path) -> None:
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


def test_a_clone_needs_solved_experts(walked: Path, tmp_path: Path) -> None:
    args = clone_policy.Args(
        "push", str(walked / "runs" / "world_model"), walked / "data" / "mine", 9, tmp_path / "out"
    )
    with pytest.raises(EpisodeError, match="demonstrations: expected 9 solved .*found 8"):
        clone_policy.run(args)
