"""One's own data, from another format to a measured policy, and all that may be wrong with them."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import shutil
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_tiny_world_model
from episode_factory import make_episode
from own_data import ROOT, build, commands, write_own
from recorded_data import write_folder, write_minari, write_robomimic

from training import (
    assemble_world_model,
    clone_policy,
    evaluate_world_model,
    train_denoiser,
    train_eyes,
    train_memory,
)
from training.data.sequences import make_sequences
from training.runs.settings import SettingsError
from training.world_model.assembly import load_task_eyes, load_task_memory
from training.world_model.memory import unroll
from world4rl_gym.env import ImaginedEnv
from world4rl_gym.episodes import Episode, EpisodeError, load_episode, load_episodes, task_names
from world4rl_gym.imagination import Imagination
from world4rl_gym.initial_frames import InitialFrames, most_contexts
from world4rl_gym.reading import WorldModelError
from world4rl_gym.world_model import WorldModel


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


@pytest.mark.parametrize("kind", ["robomimic", "minari", "folder"])
def test_the_path_is_the_same_from_every_format(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """From a file of the format's own library, one command line after another."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    source = ["--from", kind]
    if kind == "robomimic":
        write_robomimic(tmp_path / "toy.hdf5", 20)
        source += ["toy.hdf5"]
    elif kind == "minari":
        write_minari("toy/push-v0", 20)
        source += ["toy/push-v0", "--camera", "pixels", "--state", "state"]
    else:
        write_folder(tmp_path / "clips", 20)
        source += ["clips"]
    for module, *arguments in commands(source):
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        importlib.import_module(f"training.{module}").main()
    said = capsys.readouterr().out
    assert "imagination agrees with what was recorded" in said
    assert len(json.loads(Path("runs/policy.json").read_text())["imagined"]) == 4
    assert json.loads(Path("runs/report/world_model.json").read_text())["tasks"]["push"]


@pytest.mark.parametrize("size", [32, 40, 256])
def test_any_multiple_of_8_goes_all_the_way(tmp_path: Path, size: int) -> None:
    write_own(tmp_path / "data", size=size)
    world_model = build(tmp_path)
    assert world_model.frame_size == size
    imagination = Imagination(2, world_model)
    imagination.reset()
    imagination.step(np.zeros((2, 3), np.float32))
    assert imagination.frames.shape == (2, 3, size, size)


@pytest.mark.parametrize("shape", [(36, 36), (32, 48), (264, 264), (8, 8)])
def test_other_sizes_are_refused_before_anything_trains(
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


def test_states_and_commands_that_no_memory_takes_are_refused(tmp_path: Path) -> None:
    for name, state, command in (("wide", 257, None), ("many", 5, 4)):
        values = {"state": np.zeros((9, state), np.float32)}
        if command:
            values["command"] = np.zeros((9, command), np.float32)
        write_own(tmp_path / name, **values)
        with pytest.raises(EpisodeError, match="expected at most 256 numbers of state and 3 of"):
            train_eyes.train(train_eyes.Args("push", tmp_path / name, tmp_path / "out"))


def test_without_a_weight_of_codes_a_memory_learns_nothing_of_later_frames(tmp_path: Path) -> None:
    write_own(tmp_path / "data")
    build(tmp_path)
    eyes = tmp_path / "runs" / "eyes"
    sequences = make_sequences(
        load_episodes(tmp_path / "data", "train", ["push"]), load_task_eyes(eyes / "push", "push")
    )
    errors = []
    for weight in (0.0, 2.0):
        out = tmp_path / str(weight)
        args = train_memory.Args("push", tmp_path / "data", eyes / "{task}", out, 100, 4, width=8)
        train_memory.run(dataclasses.replace(args, code_weight=weight))
        seen = unroll(load_task_memory(out / "memory").eval(), sequences).code_change.mean(dim=2)
        errors.append(float((seen - sequences.code_change).abs().mean()))
    assert errors[1] < 0.8 * errors[0]


def test_the_horizon_is_the_longest_episode(tmp_path: Path, capsys) -> None:
    write_own(tmp_path / "data", lengths=(12, 30, 25, 40))
    assert build(tmp_path).config.max_episode_steps == 40
    assert "horizon: 40 decisions" in capsys.readouterr().out
    assert build(tmp_path, max_episode_steps=33).config.max_episode_steps == 33


def test_experts_that_finish_at_once_are_enough(tmp_path: Path) -> None:
    write_own(tmp_path / "data", lengths=(2, 3, 2, 3))
    world_model = build(tmp_path)
    assert len(world_model.initial_frames) == 4 + 3


def test_what_is_too_few_is_named(tmp_path: Path) -> None:
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


def test_what_is_saved_loads(tmp_path: Path) -> None:
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


def test_a_network_too_large_is_told_before_it_is_trained(tmp_path: Path) -> None:
    write_own(tmp_path / "data")
    eyes = tmp_path / "eyes"
    tiny = {"code_size": 4, "width": 4, "steps": 1, "batch_size": 2}
    train_eyes.train(train_eyes.Args("push", tmp_path / "data", eyes, **tiny))
    args = train_denoiser.Args(("push",), tmp_path / "data", eyes, tmp_path / "out", width=1024)
    with pytest.raises(WorldModelError, match="size: Denoiser fills .* less width"):
        train_denoiser.run(args)


def test_successes_in_one_split_alone_are_told_before_training(tmp_path: Path, capsys) -> None:
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


def test_names_in_either_form_of_unicode_are_one_task(tmp_path: Path) -> None:
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


def test_files_that_begin_with_a_dot_are_skipped(tmp_path: Path) -> None:
    write_own(tmp_path)
    for name in ("._expert-0000000.npz", ".expert-0000000.npz.partial"):
        (tmp_path / "push" / "train" / name).write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / ".Trashes").mkdir()
    assert len(load_episodes(tmp_path, "train")) == 4


def test_episodes_of_another_size_are_named(walked: Path, tmp_path: Path) -> None:
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


def test_a_clone_needs_solved_experts(walked: Path, tmp_path: Path) -> None:
    args = clone_policy.Args(
        "push", str(walked / "runs" / "world_model"), walked / "data" / "mine", 9, tmp_path / "out"
    )
    with pytest.raises(EpisodeError, match="demonstrations: expected 9 solved .*found 8"):
        clone_policy.run(args)
