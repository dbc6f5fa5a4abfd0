"""Cloning, refining and evaluating policies at tiny size."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_tiny_world_model
from episode_factory import make_episode, write_episodes
from training.evaluate import check_policy_fits, imagined_outcomes

from training import clone_policy, train_reward_head
from training.episodes import EpisodeError
from training.policy import PolicyError, load_policy, make_policy, sample_actions, save_policy
from training.policy_network import PolicyConfig
from training.settings import SettingsError, keep_settings
from world4rl_gym.initial_frames import InitialFrames


def clone_args(tmp_path: Path, **changes) -> clone_policy.Args:
    return clone_policy.Args(
        "push", tmp_path / "policy", tmp_path, **{"steps": 5, "batch_size": 8, **changes}
    )


def test_cloning_learns_the_demonstrated_action(tmp_path: Path) -> None:
    episodes = [make_episode(seed) for seed in range(6)]
    policy, config = clone_policy.clone(clone_args(tmp_path, steps=150), episodes)
    assert config == PolicyConfig("push", 16, 3)
    frames = np.concatenate([e.frames[:-1] for e in episodes])
    actions = sample_actions(policy, frames, None)
    assert np.abs(actions[:, 0] - 1).mean() < 0.2  # every expert moves right
    assert float(policy.log_std.detach().clamp(max=0).exp().max()) <= 1.0


def test_cloning_twice_gives_the_same_policy_on_any_number_of_cores(tmp_path: Path) -> None:
    episodes = [make_episode(seed) for seed in range(3)]
    first, _ = clone_policy.clone(clone_args(tmp_path), episodes)
    torch.rand(7)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        second, _ = clone_policy.clone(clone_args(tmp_path), episodes)
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_deviation_is_capped_at_one() -> None:
    policy = make_policy(PolicyConfig("push", 16, 3))
    with torch.no_grad():
        policy.log_std.fill_(5.0)
    frames = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    deviation = policy.get_distribution(frames).distribution.stddev
    assert torch.equal(deviation, torch.ones_like(deviation))
    _, _, entropy = policy.evaluate_actions(frames, torch.zeros(2, 3))
    assert float(entropy.detach()[0]) == pytest.approx(3 * 0.5 * np.log(2 * np.pi * np.e), rel=1e-5)


def test_a_saved_policy_acts_the_same(tmp_path: Path) -> None:
    config = PolicyConfig("push", 16, 3)
    policy = make_policy(config)
    policy.set_training_mode(False)
    save_policy(policy, config, tmp_path / "policy")
    frames = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    loaded = load_policy(tmp_path / "policy")
    assert np.array_equal(
        sample_actions(policy, frames, None), sample_actions(loaded, frames, None)
    )
    rng = [np.random.default_rng(3) for _ in range(2)]
    assert np.array_equal(
        sample_actions(policy, frames, rng[0]), sample_actions(loaded, frames, rng[1])
    )
    action, _ = loaded.predict(frames[0], deterministic=True)  # SB3's own way in
    assert np.allclose(action, sample_actions(loaded, frames[:1], None)[0], atol=1e-6)


def test_a_policy_is_about_a_megabyte(tmp_path: Path) -> None:
    config = PolicyConfig("hammer")
    save_policy(make_policy(config), config, tmp_path / "policy")
    size = sum(p.stat().st_size for p in (tmp_path / "policy").iterdir())
    assert size < 1.5 * 2**20


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (PolicyConfig("push", 16, 4), "action_size"),
        (PolicyConfig("push", 32, 3), "frame_size"),
        (PolicyConfig("fly", 16, 3), "task"),
    ],
)
def test_a_policy_that_does_not_fit_the_world_model_is_refused(
    tmp_path: Path, tiny_world_model, config: PolicyConfig, field: str
) -> None:
    save_policy(make_policy(config), config, tmp_path / "policy")
    with pytest.raises(PolicyError, match=field):
        check_policy_fits(tmp_path / "policy", tiny_world_model)


def test_settings_of_another_run_are_refused_and_kept(tmp_path: Path) -> None:
    keep_settings(clone_args(tmp_path), tmp_path / "out")
    keep_settings(clone_args(tmp_path), tmp_path / "out")
    before = (tmp_path / "out" / "settings.json").read_text()
    with pytest.raises(SettingsError, match="steps: 5 there, 6 now"):
        keep_settings(clone_args(tmp_path, steps=6), tmp_path / "out")
    assert (tmp_path / "out" / "settings.json").read_text() == before


def test_too_few_demonstrations_are_named(tmp_path: Path, monkeypatch) -> None:
    folder = write_episodes(tmp_path / "data")
    out = tmp_path / "out"
    monkeypatch.setattr(
        "sys.argv",
        ["clone_policy", "--task", "push", "--episodes", str(folder), "--out", str(out)],
    )
    with pytest.raises(ValueError, match="demonstrations: expected 50 expert episodes"):
        clone_policy.main()
    assert not out.exists()


def test_imagined_outcomes_pair_with_their_starts(tiny_world_model) -> None:
    policy = make_policy(PolicyConfig("push", 16, 3))
    policy.set_training_mode(False)
    frames = np.random.default_rng(1).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    starts = InitialFrames.from_starts(frames, "push", 4, 3)
    solved = imagined_outcomes(policy, tiny_world_model, starts, "push", seed=1)
    again = imagined_outcomes(policy, tiny_world_model, starts, "push", seed=1)
    assert solved.shape == (12,)
    assert np.array_equal(solved, again)


def test_what_truly_failed_is_nowhere_solved_in_imagination(cloned: Path) -> None:
    model = make_tiny_world_model()
    episodes = [make_episode(seed) for seed in range(4)]
    episodes[1] = dataclasses.replace(
        episodes[1], success=np.zeros(len(episodes[1].actions), bool), behaviour="policy"
    )
    episodes[3] = dataclasses.replace(episodes[3], behaviour="policy")
    source = f"{cloned}@1"
    real, imagined = train_reward_head.closed_loop(model.denoiser, [source], episodes, "train")
    assert [episode.seed for episode in real] == [1, 3]
    for episode, frames in zip(real, imagined, strict=True):
        assert frames.shape == episode.frames.shape
        assert np.array_equal(frames[0], episode.frames[0])
    before = train_reward_head.labelled(episodes)
    after = train_reward_head.with_flattery(before, real, imagined)
    assert len(after.frames) == len(before.frames) + len(episodes[1].actions)
    assert float(after.solved.sum()) == float(before.solved.sum())
    with pytest.raises(EpisodeError, match="closed_loop: no test episode"):
        train_reward_head.closed_loop(model.denoiser, [source], episodes, "test")
    with pytest.raises(ValueError, match="closed_loop"):
        train_reward_head.Args(Path("out"), denoiser=Path("d"), closed_loop=(str(cloned),))
    with pytest.raises(ValueError, match="needs denoiser"):
        train_reward_head.Args(Path("out"), closed_loop=(source,))
