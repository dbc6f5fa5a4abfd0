"""Frames on the disk: the same as in memory, whatever their number."""

from __future__ import annotations

import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from episode_factory import HORIZON, SIZE, write_episodes

from training.data.frame_file import checksum, map_frames
from training.data.sequences import make_sequences
from training.data.trainable import iterate_trainable
from training.train_denoiser import DrawnFrames, load_drawn_frames, residual_scale
from world4rl_gym import episodes
from world4rl_gym.components import save_component
from world4rl_gym.episodes import EpisodeError
from world4rl_gym.eyes import Eyes

RNG = np.random.default_rng(0)


def some_frames(count: int, size: int = 16) -> np.ndarray:
    return RNG.integers(0, 256, (count, size, size, 3), np.uint8)


def test_frames_are_mapped_in_order_and_leave_no_file(tmp_path: Path) -> None:
    parts = [some_frames(3), some_frames(1), some_frames(7)]
    mapped = map_frames(tmp_path / "run", iter(parts))
    whole = np.concatenate(parts).transpose(0, 3, 1, 2)
    assert mapped.dtype == torch.uint8 and np.array_equal(mapped.numpy(), whole)
    assert np.array_equal(mapped[torch.tensor([10, 0, 4])].numpy(), whole[[10, 0, 4]])
    assert list((tmp_path / "run").iterdir()) == []


def test_a_checksum_is_that_of_all_frames(tmp_path: Path) -> None:
    mapped = map_frames(tmp_path, [some_frames(5)])
    assert checksum(mapped, rows=2) == f"{zlib.crc32(mapped.numpy().tobytes()):08x}"
    other = mapped.clone()
    other[4, 0, 0, 0] ^= 1
    assert checksum(other) != checksum(mapped)


def test_frames_are_asked_for_one_after_another(tmp_path: Path) -> None:
    """No more than one episode's frames are alive at a time."""
    made: list[weakref.ref[np.ndarray]] = []

    def parts() -> Iterator[np.ndarray]:
        for _ in range(20):
            alive = [one for one in made if one() is not None]
            assert len(alive) <= 1, len(alive)
            part = some_frames(2)
            made.append(weakref.ref(part))
            yield part
            del part

    assert len(map_frames(tmp_path, parts())) == 40


@pytest.mark.parametrize(
    ("parts", "says"),
    [([], "at least one"), ([some_frames(1), some_frames(1, 8)], r"expected all of \(16, 16, 3\)")],
)
def test_bad_frames_are_refused(tmp_path: Path, parts: list[np.ndarray], says: str) -> None:
    with pytest.raises(EpisodeError, match=says):
        map_frames(tmp_path, parts)


def test_training_keeps_few_episodes_frames_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a memory and a denoiser learn from is read one episode after another."""
    data = write_episodes(tmp_path / "data", count=12)
    eyes = Eyes(1, SIZE, 4, 4)
    save_component(eyes, tmp_path / "eyes" / "eyes")
    alive: list[int] = []
    made: list[weakref.ref[np.ndarray]] = []
    load = episodes.load_episode

    def counted(path: Path) -> episodes.Episode:
        alive.append(sum(one() is not None for one in made))
        episode = load(path)
        made.append(weakref.ref(episode.frames))
        return episode

    monkeypatch.setattr(episodes, "load_episode", counted)
    sequences = make_sequences(iterate_trainable(data, "push"), eyes.task(0))
    drawn = load_drawn_frames(data, ["push"], tmp_path / "eyes", tmp_path / "out")
    assert len(sequences) == 24 and len(drawn.pixels) == 24 * (HORIZON + 1)
    assert len(alive) == 48 and max(alive) <= 3, max(alive)


def test_the_scale_of_frames_is_not_that_of_first_frames_alone() -> None:
    """4,000 frames in episodes of two: every second one is the first of its episode."""
    frames = torch.zeros(4000, 3, 8, 8, dtype=torch.uint8)
    frames[1::2] = torch.randint(256, (2000, 3, 8, 8), dtype=torch.uint8)
    first = torch.arange(4000) // 2 * 2
    data = DrawnFrames(frames, torch.zeros(4000, 4), torch.zeros(4000, 0), first)
    assert 0.3 < residual_scale(data, 0.5) < 2.0
