"""Episodes on disk, and the windows cut from them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from episode_factory import HORIZON, make_episode, write_episodes
from training.windows import Windows

from training.episodes import Episode, EpisodeError, load_episode, load_episodes, require_disjoint


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


def test_windows_keep_frames_and_actions_in_step() -> None:
    episodes = [make_episode(s) for s in (0, 1)]
    windows = Windows(episodes, context_length=4)
    last = torch.tensor([5, HORIZON + 1 + 4])  # frame 5 of the first, frame 4 of the second
    batch = windows.at(last, 2)
    for row, (episode, t) in enumerate(zip(episodes, (5, 4), strict=True)):
        frames = batch.frames[row].permute(0, 2, 3, 1).numpy()
        assert np.array_equal(frames, episode.frames[t - 3 : t + 3])
        assert np.array_equal(batch.actions[row].numpy(), episode.actions[t - 3 : t + 2])


def test_windows_at_an_episodes_start_repeat_its_first_frame() -> None:
    episodes = [make_episode(s) for s in (0, 1)]
    batch = Windows(episodes, 4).at(torch.tensor([HORIZON + 1]), 1)
    frames = batch.frames[0].permute(0, 2, 3, 1).numpy()
    assert all(np.array_equal(frames[i], episodes[1].frames[0]) for i in range(4))
    assert np.array_equal(frames[4], episodes[1].frames[1])
    assert not batch.actions[0, :3].any()
    assert np.array_equal(batch.actions[0, 3].numpy(), episodes[1].actions[0])


def test_windows_never_cross_two_episodes() -> None:
    windows = Windows([make_episode(s) for s in range(3)], 4)
    now = windows.draw(500, torch.Generator().manual_seed(0))
    assert torch.equal(now, windows.draw(500, torch.Generator().manual_seed(0)))
    assert windows.follows(now).all()
    batch = windows.at(now, 1)
    earlier = windows.draw_earlier(now, torch.Generator().manual_seed(1))
    assert (earlier <= now).all()
    frames = torch.cat([windows.frames[earlier][:, None], batch.frames], dim=1)
    # The square stays in its row throughout an episode; each episode has another row.
    rows = (frames[:, :, 0] > 200).any(-1).int().argmax(-1)
    assert (rows == rows[:, :1]).all()
