"""Cloning, refining and evaluating policies at tiny size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from episode_factory import make_episode, write_episodes

from training import clone_policy
from training.policy import load_policy, make_policy, sample_actions, save_policy
from training.policy_network import PolicyConfig
from training.settings import SettingsError, keep_settings


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
    torch.set_num_threads(1)
    alone, _ = clone_policy.clone(clone_args(tmp_path), episodes)
    torch.set_num_threads(threads + 1)
    try:
        second, _ = clone_policy.clone(clone_args(tmp_path), episodes)
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    for a, b, c in zip(first.parameters(), second.parameters(), alone.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


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
