"""Which start an episode is drawn from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from world4rl_gym import ImaginedEnv, ImaginedVectorEnv, InitialFrames, WorldModel


def drawn(env: ImaginedEnv, count: int, **options: object) -> list[int]:
    env.reset(seed=0)
    return [env.reset(options=options)[1]["initial_frame"] for _ in range(count)]


def test_start_draws_every_start_and_nothing_else(tiny_world_model: WorldModel) -> None:
    counts = np.bincount(drawn(ImaginedEnv(tiny_world_model), 600), minlength=10)
    assert (counts[:6] > 60).all() and not counts[6:].any()


def test_anywhere_draws_every_context_with_its_true_history(tiny_world_model: WorldModel) -> None:
    env = ImaginedEnv(tiny_world_model, initial_frames="anywhere")
    assert set(drawn(env, 300)) == set(range(10))
    frame, info = env.reset(options={"initial_frame": 7})
    own = tiny_world_model.initial_frames
    assert info["initial_frame"] == 7
    (context,) = own.frames_of(torch.tensor([7]))
    assert np.array_equal(frame, context[-1].permute(1, 2, 0).numpy())
    core = env.imagination
    assert np.array_equal(core._frames[0].numpy(), context.numpy())
    assert np.array_equal(core._actions[0, :-1].numpy(), own.actions[7].numpy())


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


def test_a_start_is_kept_once_and_a_context_whole() -> None:
    frames = torch.arange(3 * 2 * 3 * 4 * 4, dtype=torch.uint8).view(3, 2, 3, 4, 4)
    frames[1] = frames[1, -1]
    is_start = torch.tensor([False, True, False])
    rest = torch.zeros(3, 1, 3), torch.zeros(3, dtype=torch.int64), is_start
    made = InitialFrames.from_contexts(frames, *rest, ("push",))
    assert len(made) == 3 and len(made.frames) == 5
    assert made.context_shape == (2, 3, 4, 4)
    assert torch.equal(made.frames_of(torch.arange(3)), frames)
    for bad in (made.windows + 1, made.windows - 1, made.windows.float(), made.windows[:, :0]):
        with pytest.raises(ValueError, match="windows"):
            InitialFrames(made.frames, bad, *rest, ("push",))
    for wrong in (frames[0], frames[:2]):
        with pytest.raises(ValueError, match="initial frames"):
            InitialFrames.from_contexts(wrong, *rest, ("push",))


@pytest.mark.parametrize("count", [1, 2])
def test_photographs_begin_episodes(tiny_world_model: WorldModel, count: int) -> None:
    photographs = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    given = photographs[0] if count == 1 else photographs
    env = ImaginedEnv(tiny_world_model, initial_frames=given, task="pull")
    frame, info = env.reset(seed=0)
    assert np.array_equal(frame, photographs[info["initial_frame"]])
    assert info["task"] == "pull"
    context = env.imagination._frames[0].permute(0, 2, 3, 1).numpy()
    assert (context == frame).all() and not env.imagination._actions.any()
    made = InitialFrames.from_starts(photographs, "pull", 4, 3)
    same, _ = ImaginedEnv(tiny_world_model, initial_frames=made).reset(seed=0)
    assert np.array_equal(frame, same)


def test_E16_bad_photographs(tiny_world_model: WorldModel) -> None:
    good = np.zeros((16, 16, 3), np.uint8)
    for task in (None, "fly", ["push"]):
        with pytest.raises(ValueError, match="task: .*push, pull"):
            ImaginedEnv(tiny_world_model, initial_frames=good, task=task)
    for bad in (good.astype(float), np.zeros((3, 16, 16), np.uint8), good[:0]):
        with pytest.raises(ValueError, match="frames: expected"):
            ImaginedEnv(tiny_world_model, initial_frames=bad, task="push")
    with pytest.raises(ValueError, match="initial_frames: expected frames"):
        ImaginedEnv(tiny_world_model, initial_frames=np.zeros((8, 8, 3), np.uint8), task="push")
