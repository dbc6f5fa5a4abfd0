"""Frames for people: arrays, videos and a window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import NEVER
from fresh_process import run_python
from gymnasium.error import DependencyNotInstalled, Error

import world4rl_gym
from world4rl_gym import ImaginedEnv, ImaginedVectorEnv, WorldModel

ID = world4rl_gym.ENV_ID


@pytest.mark.parametrize("scale", [1, 4])
def test_E18_render_is_the_observation_enlarged(tiny_world_model: WorldModel, scale: int) -> None:
    env = ImaginedEnv(
        tiny_world_model, render_mode="rgb_array", render_scale=scale, success_threshold=NEVER
    )
    frame, _ = env.reset(seed=0)
    for _ in range(3):
        image = env.render()
        assert image is not None and image.dtype == np.uint8
        assert image.shape == (16 * scale, 16 * scale, 3)
        assert np.array_equal(image[::scale, ::scale], frame)
        assert np.array_equal(image, frame.repeat(scale, 0).repeat(scale, 1))
        frame = env.step(np.ones(3))[0]


def test_E18_rendering_changes_nothing(tiny_world_model: WorldModel) -> None:
    env = ImaginedEnv(
        tiny_world_model, render_mode="rgb_array", render_scale=1, success_threshold=NEVER
    )
    plain = ImaginedEnv(tiny_world_model, success_threshold=NEVER)
    env.reset(seed=0)
    plain.reset(seed=0)
    for _ in range(4):
        image = env.render()
        assert image is not None
        image[:] = 0
        assert np.array_equal(env.step(np.ones(3))[0], plain.step(np.ones(3))[0])


def test_E18_vector_rows_render_their_observations(tiny_world_model: WorldModel) -> None:
    env = ImaginedVectorEnv(3, tiny_world_model, render_mode="rgb_array", render_scale=2)
    env.reset(seed=0)
    frames = env.step(np.ones((3, 3)))[0]
    images = env.render()
    assert images is not None and len(images) == 3
    for image, frame in zip(images, frames, strict=True):
        assert np.array_equal(image, frame.repeat(2, 0).repeat(2, 1))
    assert len(env.call("render")) == 3


def test_E18_record_video_gives_a_playable_file(
    tiny_world_model: WorldModel, tmp_path: Path
) -> None:
    pytest.importorskip("moviepy")
    env = gym.wrappers.RecordVideo(
        gym.make(
            ID, world_model=tiny_world_model, render_mode="rgb_array", success_threshold=NEVER
        ),
        str(tmp_path / "videos"),
        episode_trigger=lambda episode: True,
    )
    env.reset(seed=0)
    images = [env.render()]
    for _ in range(8):
        env.step(np.zeros(3, np.float32))
        images.append(env.render())
    env.close()
    _assert_plays(tmp_path / "videos" / "rl-video-episode-0.mp4", images)


def test_E18_vector_recording_gives_a_playable_file(
    tiny_world_model: WorldModel, tmp_path: Path
) -> None:
    pytest.importorskip("moviepy")
    recording = pytest.importorskip("gymnasium.wrappers.vector")
    if not hasattr(recording, "RecordVideo"):
        pytest.skip("this Gymnasium has no vector recording")
    env = recording.RecordVideo(
        gym.make_vec(ID, 4, world_model=tiny_world_model, render_mode="rgb_array"),
        str(tmp_path / "videos"),
        step_trigger=lambda step: step == 0,
        video_length=6,
    )
    env.reset(seed=0)
    images = []
    for _ in range(8):
        env.step(np.zeros((4, 3), np.float32))
        one, two, three, four = env.env.render()
        images.append(np.vstack([np.hstack([one, two]), np.hstack([three, four])]))
    env.close()
    _assert_plays(tmp_path / "videos" / "rl-video-step-0.mp4", images[:7])


def _assert_plays(path: Path, images: list[Any]) -> None:
    """The file has these images, as nearly as a lossy codec keeps a noisy picture."""
    import imageio.v3 as iio

    video = iio.imread(path)
    assert video.shape == (len(images), *images[0].shape)
    small = [np.stack(frames).reshape(len(images), 8, -1).mean(2) for frames in (video, images)]
    assert np.abs(small[0] - small[1]).max() < 16


HUMAN = """
import os, sys
from world4rl_gym import ImaginedEnv
import numpy as np
env = ImaginedEnv(sys.argv[1], render_mode="human", render_scale=4, success_threshold=0.999)
frame, _ = env.reset(seed=0)
import pygame
shown = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
assert np.array_equal(shown[::4, ::4], frame)
frame = env.step(np.ones(3))[0]
assert env.render() is None
shown = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
assert shown.shape == (64, 64, 3) and np.array_equal(shown[::4, ::4], frame)
import copy
twin = copy.deepcopy(env)
twin.step(np.ones(3))
env.close(); env.close()
print("shown")
"""


def test_human_shows_the_frame_in_a_window(
    tiny_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    assert run_python(HUMAN, tiny_folder).endswith("shown\n")


def test_human_without_a_display_is_a_clear_error(
    tiny_world_model: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pygame")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Error, match="needs a display.*DISPLAY.*rgb_array"):
        ImaginedEnv(tiny_world_model, render_mode="human")


def test_human_without_pygame_is_a_clear_error(
    tiny_world_model: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pygame", None)
    with pytest.raises(DependencyNotInstalled, match=r"world4rl-gym\[human\]"):
        ImaginedEnv(tiny_world_model, render_mode="human")


def test_render_without_a_mode_warns(tiny_world_model: WorldModel) -> None:
    env = ImaginedEnv(tiny_world_model)
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="without a render_mode"):
        assert env.render() is None
    assert torch.is_tensor(env.imagination.frames)
