"""Flow policies and the wrapper that steers them by their noise."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import make_tiny_world_model
from gymnasium.utils.env_checker import check_env
from test_inspection import make_stateful

from training.policies.flow import SteeredRows, clone_flow, steer
from training.policies.imitation import features_of
from training.policies.refinement import imagined_env
from training.steer_policy import Args, run
from world4rl_gym import ImaginedEnv, WorldModel
from world4rl_gym.features import feature_size
from world4rl_gym.policy import make_policy, policy_config
from world4rl_gym.reading import WorldModelError
from world4rl_gym.steering import NOISE_SCALE, FlowPolicy, NoiseSteering, SteeredPolicy


@pytest.fixture(scope="module")
def world_model() -> WorldModel:
    return make_tiny_world_model()


@pytest.fixture(scope="module")
def flow(world_model: WorldModel) -> FlowPolicy:
    torch.manual_seed(0)
    sizes = feature_size(world_model), world_model.action_size
    return FlowPolicy("push", *sizes, width=16).eval()


def test_a_flow_policy_fits_demonstrations(world_model: WorldModel) -> None:
    episode = make_stateful(1)
    wanted = np.linspace(-0.8, 0.8, episode.actions.size, dtype=np.float32)
    episode = dataclasses.replace(episode, actions=wanted.reshape(episode.actions.shape))
    flow = clone_flow([episode], world_model, steps=150)
    seen = features_of(world_model, [episode]).numpy()
    noise = np.random.default_rng(0).standard_normal(episode.actions.shape, dtype=np.float32)
    assert np.abs(flow.decode(seen, noise) - episode.actions).mean() < 0.2


def test_noise_reaches_what_a_data_set_with_two_modes_holds() -> None:
    generator = torch.Generator().manual_seed(0)
    flow = FlowPolicy("push", 1, 1, width=64)
    optimizer = torch.optim.Adam(flow.parameters(), 3e-3)
    for _ in range(300):
        side = torch.randint(0, 2, (256, 1), generator=generator) * 1.0 - 0.5
        noise, sigma = torch.randn(256, 1, generator=generator), torch.rand(256)
        noisy = sigma[:, None] * noise + (1 - sigma[:, None]) * side
        loss = (flow(torch.zeros(256, 1), noisy, sigma) - (noise - side)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    left, right = flow.decode(np.zeros((2, 1), np.float32), np.float32([[-1.5], [1.5]]))[:, 0]
    assert left < -0.2 and right > 0.2


def test_the_wrapper_is_a_gymnasium_env_and_plays_what_the_policy_plays(
    world_model: WorldModel, flow: FlowPolicy
) -> None:
    inner = ImaginedEnv(world_model, task="push", obs_type="features")
    env = NoiseSteering(inner, flow)
    check_env(env, skip_render_check=True)
    seen, _ = env.reset(seed=3)
    noise = np.full(world_model.action_size, 0.25, np.float32)
    after = env.step(noise)[0]
    plain = ImaginedEnv(world_model, task="push", obs_type="features")
    plain.reset(seed=3)
    action = flow.decode(seen[None], NOISE_SCALE * noise[None])[0]
    np.testing.assert_allclose(after, plain.step(action)[0], atol=1e-6)


def test_rows_are_steered_as_the_single_env_is(world_model: WorldModel, flow: FlowPolicy) -> None:
    rows = SteeredRows(imagined_env(world_model, "push", seed=0, rows=2), flow)
    seen = rows.reset()
    noise = np.full((2, world_model.action_size), -0.5, np.float32)
    after, *_ = rows.step(noise)
    plain = imagined_env(world_model, "push", seed=0, rows=2)
    np.testing.assert_array_equal(plain.reset(), seen)
    np.testing.assert_array_equal(after, plain.step(flow.decode(seen, NOISE_SCALE * noise))[0])


def test_what_does_not_suit_is_refused(world_model: WorldModel, flow: FlowPolicy) -> None:
    with pytest.raises(ValueError, match="observation_space: expected a Box"):
        NoiseSteering(ImaginedEnv(world_model, task="push"), flow)
    other = FlowPolicy("push", feature_size(world_model), world_model.action_size + 1)
    env = ImaginedEnv(world_model, task="push", obs_type="features")
    with pytest.raises(ValueError, match="action_space: expected a Box"):
        NoiseSteering(env, other)
    with pytest.raises(WorldModelError, match="action_size"):
        SteeredPolicy(other).check_fits(world_model)
    with pytest.raises(WorldModelError, match="task: expected 'pull', got one of 'push'"):
        SteeredPolicy(flow).check_fits(world_model, "pull")
    with pytest.raises(gym.error.ResetNeeded):
        NoiseSteering(env, flow).step(np.zeros(world_model.action_size, np.float32))


def test_a_steered_policy_makes_the_round_trip(
    world_model: WorldModel, flow: FlowPolicy, tmp_path: Path
) -> None:
    seen = np.random.default_rng(0).normal(size=(5, feature_size(world_model))).astype(np.float32)
    steering = make_policy(policy_config(world_model, "push"), seed=2)
    policy = SteeredPolicy(flow, steering)
    policy.save_pretrained(tmp_path / "mine")
    loaded = SteeredPolicy.from_pretrained(tmp_path / "mine")
    assert loaded.name == "mine"
    np.testing.assert_array_equal(loaded.act(seen), policy.act(seen))
    SteeredPolicy(flow).save_pretrained(tmp_path / "alone")
    alone = SteeredPolicy.from_pretrained(tmp_path / "alone")
    assert alone.steering is None
    np.testing.assert_array_equal(alone.act(seen), SteeredPolicy(flow).act(seen))
    SteeredPolicy(flow, make_policy(policy_config(world_model, "pull"))).save_pretrained(
        tmp_path / "mixed"
    )
    with pytest.raises(WorldModelError, match="steering: task: the flow policy has 'push'"):
        SteeredPolicy.from_pretrained(tmp_path / "mixed")
    (tmp_path / "mine" / "flow" / "config.json").write_text("{")
    with pytest.raises(WorldModelError, match="config.json"):
        SteeredPolicy.from_pretrained(tmp_path / "mine")


def test_steering_begins_at_the_clone_and_leaves_it_alone(
    world_model: WorldModel, flow: FlowPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    seen = np.random.default_rng(0).normal(size=(5, feature_size(world_model))).astype(np.float32)
    judged: list[np.ndarray] = []

    def judge(policy: SteeredPolicy) -> float:
        judged.append(policy.act(seen))
        return 0.9 if len(judged) == 1 else 0.5  # the first is the best

    monkeypatch.setattr("training.policies.flow.make_judge", lambda *_: judge)
    policy, curve = steer(flow, world_model, "push", 6400, seed=0)
    assert [point.judged for point in curve] == [0.9, *[0.5] * (len(judged) - 1)]
    assert len(judged) > 1 and curve[0].steps == 0
    assert not np.array_equal(judged[-1], judged[0])
    np.testing.assert_array_equal(judged[0], SteeredPolicy(flow).act(seen))
    np.testing.assert_array_equal(policy.act(seen), judged[0])
    for name, value in flow.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_command_clones_and_steers(
    tiny_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 3):
        path = tmp_path / "episodes" / "push" / "train" / f"expert-{seed}.npz"
        make_stateful(seed).save(path)
    args = Args(
        task="push",
        world_model=tiny_folder,
        episodes=tmp_path / "episodes",
        demonstrations=2,
        out=tmp_path / "out",
        clone_steps=20,
        steps=3200,
    )
    run(args)
    assert re.search(r"push: judged \d+ % -> \d+ %", capsys.readouterr().out)
    SteeredPolicy.from_pretrained(tmp_path / "out" / "policy").check_fits(
        WorldModel.from_pretrained(tiny_folder), "push"
    )
