"""Demonstrations as imagined: disturbed, and with the actions that lead back."""

from __future__ import annotations

import dataclasses

import numpy as np
from conftest import make_tiny_world_model
from episode_factory import make_episode

from training.imagined_demonstrations import Disturbed, corrections, replayed


def disturbed(deviation: float, seed: int = 0, rows: int = 8, steps: int = 60) -> Disturbed:
    rng = np.random.default_rng(seed)
    shown = rng.uniform(-0.5, 0.5, (rows, steps, 4)).astype(np.float32)
    return Disturbed(shown, displacements=3, deviation=deviation, hold=4.0, gain=0.4, rng=rng)


def test_undisturbed_the_demonstration_is_played_and_right() -> None:
    player = disturbed(0.0)
    done = np.stack([player(np.empty(0)) for _ in range(60)], axis=1)
    np.testing.assert_array_equal(done, player.actions)
    np.testing.assert_array_equal(player.right, player.actions)


def test_right_actions_lead_back_and_leave_the_gripper_alone() -> None:
    player = disturbed(0.6)
    done = [player(np.empty(0)) for _ in range(30)]
    led_astray = np.abs(player.astray[:, :3]).max(1)
    assert (led_astray > 0.1).sum() >= 4  # some disturbances are small, and some are none
    travelled = np.stack(done, axis=1).sum(1) - player.actions[:, :30].sum(1)
    np.testing.assert_allclose(travelled, player.astray, atol=1e-4)
    player.scale[:], player.disturbance[:] = 0, 0
    done += [player(np.empty(0)) for _ in range(30)]
    assert (np.abs(player.astray) < 0.02 * led_astray.max()).all()
    np.testing.assert_array_equal(np.stack(done, axis=1)[..., 3], player.actions[..., 3])
    np.testing.assert_array_equal(player.right[..., 3], player.actions[..., 3])
    assert np.abs(player.right).max() <= 1 and np.abs(np.stack(done)).max() <= 1


def test_corrections_are_imagined_from_the_demonstrations_in_turn() -> None:
    model, shown = make_tiny_world_model(), [make_episode(seed) for seed in range(3)]
    shown[1] = dataclasses.replace(
        shown[1],
        frames=shown[1].frames[:-2],
        actions=shown[1].actions[:-2],
        success=shown[1].success[:-2],
    )
    for one, imagined in zip(shown, replayed(model, shown), strict=True):
        assert imagined.frames.shape == one.frames.shape
    made = corrections(model, shown, 5, seed=1)
    assert len(made) == 5
    for i, episode in enumerate(made):
        demonstrated = shown[i % 3]
        np.testing.assert_array_equal(episode.frames[0], demonstrated.frames[0])
        assert episode.frames.shape == demonstrated.frames.shape
        assert episode.actions.dtype == np.float32
    assert not np.array_equal(made[0].actions, shown[0].actions)
    assert not np.array_equal(made[0].actions, made[3].actions)  # disturbed otherwise
    again, other = (corrections(model, shown, 5, seed=seed) for seed in (1, 2))
    for one, same in zip(made, again, strict=True):
        np.testing.assert_array_equal(one.frames, same.frames)
        np.testing.assert_array_equal(one.actions, same.actions)
    assert not np.array_equal(made[1].actions, other[1].actions)
    assert corrections(model, shown, 0) == []


def test_a_replay_keeps_the_actions_and_imagines_the_frames() -> None:
    model, shown = make_tiny_world_model(), [make_episode(seed) for seed in range(2)]
    for episode, imagined in zip(shown, replayed(model, shown), strict=True):
        np.testing.assert_array_equal(imagined.actions, episode.actions)
        np.testing.assert_array_equal(imagined.frames[0], episode.frames[0])
        assert not np.array_equal(imagined.frames, episode.frames)
