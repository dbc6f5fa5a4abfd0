"""Episodes on disk."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from episode_factory import HORIZON, make_episode, write_episodes

from training.data.trainable import require_disjoint
from world4rl_gym.episodes import Episode, EpisodeError, load_episode, load_episodes


def test_episode_survives_the_disk_without_loss(tmp_path: Path) -> None:
    episode = make_episode(3)
    episode.save(tmp_path / "a.npz")
    loaded = load_episode(tmp_path / "a.npz")
    for field in dataclasses.fields(Episode):
        assert np.array_equal(getattr(episode, field.name), getattr(loaded, field.name))
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


BAD_FIELDS = {
    "float frames": ({"frames": np.zeros((9, 16, 16, 3), np.float32)}, "frames.*uint8"),
    "CHW frames": ({"frames": np.zeros((9, 3, 16, 16), np.uint8)}, r"frames.*\(T \+ 1, H, W, 3\)"),
    "too few frames": ({"frames": np.zeros((8, 16, 16, 3), np.uint8)}, "frames.*length 9"),
    "NaN action": ({"actions": np.full((8, 3), np.nan, np.float32)}, "actions.*finite"),
    "action out of range": ({"actions": np.full((8, 3), 1.5, np.float32)}, r"actions.*\[-1, 1\]"),
    "float64 actions": ({"actions": np.zeros((8, 3))}, "actions.*float32"),
    "success of another length": ({"success": np.zeros(7, bool)}, "success"),
    "length 0": (
        {
            "frames": np.zeros((1, 16, 16, 3), np.uint8),
            "actions": np.zeros((0, 3), np.float32),
            "success": np.zeros(0, bool),
        },
        "actions",
    ),
    "length 1": (
        {
            "frames": np.zeros((2, 16, 16, 3), np.uint8),
            "actions": np.zeros((1, 3), np.float32),
            "success": np.zeros(1, bool),
        },
        "actions",
    ),
    "unknown behaviour": ({"behaviour": "ghost"}, "behaviour"),
}


@pytest.mark.parametrize("case", BAD_FIELDS)
def test_T8_bad_episodes_are_named(case: str) -> None:
    values, message = BAD_FIELDS[case]
    with pytest.raises(EpisodeError, match=message):
        dataclasses.replace(make_episode(0), **values)


def test_T8_broken_files_are_refused_or_left_out(tmp_path: Path, capsys) -> None:
    folder = write_episodes(tmp_path / "data")
    broken = folder / "push" / "train" / "expert-0000000.npz"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(EpisodeError, match="expert-0000000.npz"):
        load_episodes(folder, "train")
    whole = load_episodes(folder, "train", skip_bad=True)
    assert len(whole) == 11
    assert "left out 1 broken" in capsys.readouterr().out


def test_T8_an_episode_of_another_task_than_its_folder_is_named(tmp_path: Path) -> None:
    folder = write_episodes(tmp_path)
    stray = make_episode(50, "pull")
    stray.save(folder / "push" / "train" / "expert-0000050.npz")
    with pytest.raises(EpisodeError, match="task: expected 'push', got 'pull'"):
        load_episodes(folder, "train")


def test_T9_no_episode_stands_in_two_splits(tmp_path: Path) -> None:
    folder = write_episodes(tmp_path)
    splits = {split: load_episodes(folder, split) for split in ("train", "validation", "test")}
    require_disjoint(splits)
    splits["train"][0].save(folder / "push" / "test" / "expert-0009999.npz")
    splits["test"] = load_episodes(folder, "test")
    with pytest.raises(EpisodeError, match="seed 0, stands in train too"):
        require_disjoint(splits)


def test_T8_mixed_sizes_are_refused(tmp_path: Path) -> None:
    folder = write_episodes(tmp_path / "data")
    episode = make_episode(50)
    bigger = dataclasses.replace(episode, frames=episode.frames.repeat(2, 1).repeat(2, 2))
    bigger.save(folder / "push" / "train" / "policy-0000050.npz")
    with pytest.raises(EpisodeError, match="frame size"):
        load_episodes(folder, "train")


@pytest.mark.parametrize(
    ("split", "tasks", "message"),
    [("train", ["fly"], "fly"), ("dress", None, "split"), ("train", None, "no such folder")],
)
def test_missing_episodes_are_named(tmp_path: Path, split, tasks, message) -> None:
    folder = tmp_path / "none" if message == "no such folder" else write_episodes(tmp_path / "d")
    with pytest.raises(EpisodeError, match=message):
        load_episodes(folder, split, tasks)


def test_a_pickle_is_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{k: np.array([object()]) for k in ("frames", "actions")})
    with pytest.raises(EpisodeError):
        load_episode(tmp_path / "a.npz")


def with_state(seed: int = 0) -> Episode:
    episode = make_episode(seed)
    length = len(episode) + 1
    return dataclasses.replace(
        episode,
        state=np.full((length, 3), 0.5, np.float32),
        command=np.full((length, 2), 0.25, np.float32),
        policy="clone-5",
    )


def test_robot_state_command_and_policy_make_the_round_trip(tmp_path: Path) -> None:
    with_state().save(tmp_path / "a.npz")
    loaded = load_episode(tmp_path / "a.npz")
    assert loaded.state is not None and loaded.command is not None
    assert loaded.state.shape == (HORIZON + 1, 3) and loaded.command.shape == (HORIZON + 1, 2)
    assert loaded.policy == "clone-5"
    make_episode(1).save(tmp_path / "b.npz")
    without = load_episode(tmp_path / "b.npz")
    assert without.state is None and without.command is None and without.policy == ""


def test_an_episode_may_hold_its_first_frame_alone(tmp_path: Path) -> None:
    whole = make_episode(0)
    first = dataclasses.replace(whole, frames=whole.frames[:1])
    first.save(tmp_path / "a.npz")
    assert not load_episode(tmp_path / "a.npz").is_drawn and whole.is_drawn
    with pytest.raises(EpisodeError, match="frames"):
        dataclasses.replace(whole, frames=whole.frames[:2])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("state", np.zeros((HORIZON, 3), np.float32)),
        ("state", np.zeros((HORIZON + 1, 3))),
        ("state", np.full((HORIZON + 1, 3), np.nan, np.float32)),
        ("command", np.zeros((HORIZON + 1, 4), np.float32)),
        ("command", np.zeros((HORIZON + 1, 0), np.float32)),
    ],
)
def test_T8_a_bad_robot_state_is_named(field: str, value: np.ndarray) -> None:
    with pytest.raises(EpisodeError, match=field):
        dataclasses.replace(with_state(), **{field: value})


def test_T8_state_in_some_episodes_alone_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "push" / "train"
    with_state(0).save(folder / "expert-0000000.npz")
    make_episode(1).save(folder / "expert-0000001.npz")
    with pytest.raises(EpisodeError, match="state size"):
        load_episodes(tmp_path, "train")


def test_an_imagined_episode_is_not_taken_for_a_real_one(tmp_path: Path) -> None:
    folder = write_episodes(tmp_path)
    path = folder / "push" / "train" / "expert-0000000.npz"
    dataclasses.replace(load_episode(path), imagined=True).save(path)
    assert load_episode(path).imagined
    with pytest.raises(EpisodeError, match=f"{path}: imagined: expected a real episode"):
        load_episodes(folder, "train")
    assert len(load_episodes(folder, "train", skip_bad=True)) == 11
