"""Which start an episode is drawn from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from world4rl_gym import ImaginedEnv, ImaginedVectorEnv, InitialFrames, WorldModel
from world4rl_gym.starts import Starts


def drawn(env: ImaginedEnv, count: int, **options: object) -> list[int]:
    env.reset(seed=0)
    return [env.reset(options=options)[1]["initial_frame"] for _ in range(count)]


def test_start_draws_every_start_and_nothing_else(tiny_world_model: WorldModel) -> None:
    counts = np.bincount(drawn(ImaginedEnv(tiny_world_model), 600), minlength=10)
    assert (counts[:6] > 60).all() and not counts[6:].any()


def test_anywhere_draws_every_context_with_its_robot_state(tiny_world_model: WorldModel) -> None:
    env = ImaginedEnv(tiny_world_model, initial_frames="anywhere")
    assert set(drawn(env, 300)) == set(range(10))
    frame, info = env.reset(options={"initial_frame": 7})
    own = tiny_world_model.initial_frames
    assert info["initial_frame"] == 7
    assert np.array_equal(frame, own.frames[7].permute(1, 2, 0).numpy())
    assert torch.equal(env.imagination.state[0], own.state[7])
    assert torch.equal(env.imagination.memory.command[0], own.command[7])


def test_tasks_restrict_the_draw(tiny_world_model: WorldModel) -> None:
    assert set(drawn(ImaginedEnv(tiny_world_model, task="pull"), 60)) == {1, 3, 5}
    assert set(drawn(ImaginedEnv(tiny_world_model, task=["push"]), 60)) == {0, 2, 4}
    env = ImaginedEnv(tiny_world_model)
    assert set(drawn(env, 60, task="push")) == {0, 2, 4}
    assert env.reset(options={"task": "push"})[1]["task"] == "push"


def test_one_initial_frame_for_each_row(tiny_world_model: WorldModel) -> None:
    env = ImaginedVectorEnv(3, tiny_world_model)
    _, info = env.reset(options={"initial_frame": [4, 0, 9]})
    assert info["initial_frame"].tolist() == [4, 0, 9]
    assert env.reset(options={"initial_frame": 2})[1]["initial_frame"].tolist() == [2, 2, 2]


def test_bad_contexts_name_the_field() -> None:
    frames = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    good = {
        "frames": frames,
        "state": torch.zeros(3, 2),
        "command": torch.zeros(3, 1),
        "task_ids": torch.zeros(3, dtype=torch.int64),
        "is_start": torch.ones(3, dtype=torch.bool),
        "tasks": ("push",),
    }
    assert len(InitialFrames(**good)) == 3
    for field, bad, word in (
        ("frames", frames.float(), "initial frames"),
        ("frames", frames[:0], "initial frames"),
        ("state", torch.zeros(2, 2), "initial state"),
        ("state", torch.full((3, 2), torch.nan), "initial state"),
        ("command", torch.zeros(3, 1, dtype=torch.float64), "initial command"),
        ("task_ids", torch.ones(3, dtype=torch.int64), "task_ids"),
        ("is_start", torch.ones(2, dtype=torch.bool), "is_start"),
    ):
        with pytest.raises(ValueError, match=word):
            InitialFrames(**{**good, field: bad})


@pytest.mark.parametrize("count", [1, 2])
def test_photographs_begin_episodes(tiny_world_model: WorldModel, count: int) -> None:
    photographs = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    given = photographs[0] if count == 1 else photographs
    env = ImaginedEnv(tiny_world_model, initial_frames=given, task="pull")
    frame, info = env.reset(seed=0)
    assert np.array_equal(frame, photographs[info["initial_frame"]])
    assert info["task"] == "pull"
    own = tiny_world_model.initial_frames
    usual = own.state[own.task_ids == 1].mean(dim=0)
    assert torch.allclose(env.imagination.state[0], usual)  # the robot stands where it begins
    made = InitialFrames.from_starts(photographs, "pull", np.zeros(3), np.zeros(2))
    same, _ = ImaginedEnv(tiny_world_model, initial_frames=made).reset(seed=0)
    assert np.array_equal(frame, same)


def test_E16_bad_photographs(tiny_world_model: WorldModel) -> None:
    good = np.zeros((16, 16, 3), np.uint8)
    for task in (None, "fly", ["push", "pull"]):
        with pytest.raises(ValueError, match="task: .*push, pull"):
            ImaginedEnv(tiny_world_model, initial_frames=good, task=task)
    four = np.zeros((2, 16, 16, 4), np.uint8)
    for bad in (good.astype(float), np.zeros((3, 16, 16), np.uint8), good[:0], four):
        with pytest.raises(ValueError, match="frames: expected"):
            ImaginedEnv(tiny_world_model, initial_frames=bad, task="push")
    with pytest.raises(ValueError, match="initial_frames: frames: expected"):
        ImaginedEnv(tiny_world_model, initial_frames=np.zeros((8, 8, 3), np.uint8), task="push")


def test_a_code_does_not_depend_on_what_else_is_asked_for(tiny_world_model: WorldModel) -> None:
    def starts() -> Starts:
        return Starts(tiny_world_model, "anywhere", None, torch.device("cpu"))

    contexts = tiny_world_model.initial_frames
    ids = contexts.task_ids.numpy()
    together = starts().codes(np.arange(len(contexts)))
    torch.testing.assert_close(together, tiny_world_model.encode(contexts.frames, ids))
    alone = starts()
    for index in (3, 0, 3):
        assert torch.equal(alone.codes(np.array([index]))[0], together[index])
    assert torch.equal(alone.codes(np.array([5, 3, 5])), together[[5, 3, 5]])
