"""Policies: their folders, what they see, how they act, and how they learn from a teacher."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_tiny_world_model
from episode_factory import make_episode
from tampering import files_limited_to, join, split

from training.distil_policy import Args, run
from training.policies.imitation import clone_episodes, fit
from training.policies.ppo import learn_critic, make_ppo, policy_of
from training.policies.refinement import imagined_env
from world4rl_gym.components import CONFIG_FILE, WEIGHTS_FILE
from world4rl_gym.faces import OBS_TYPES, observe
from world4rl_gym.imagination import Imagination
from world4rl_gym.policy import Policy, PolicyConfig, make_policy, policy_config
from world4rl_gym.reading import WorldModelError

CONFIG = PolicyConfig("push", "pixels_agent_pos", 3, 5, 16, 8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_policy(CONFIG, seed=3).save_pretrained(tmp_path / "mine")
    return tmp_path / "mine"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def same(a: Policy, b: Policy) -> bool:
    others = b.state_dict()
    return all(torch.equal(value, others[name]) for name, value in a.state_dict().items())


@pytest.mark.parametrize("obs_type", OBS_TYPES)
def test_a_policy_makes_the_round_trip(obs_type: str, tmp_path: Path) -> None:
    world_model = make_tiny_world_model()
    policy = make_policy(policy_config(world_model, "push", obs_type), seed=1)
    policy.save_pretrained(tmp_path / "mine")
    before = torch.random.get_rng_state()
    loaded = Policy.from_pretrained(tmp_path / "mine")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (loaded.obs_type, loaded.task, loaded.name) == (obs_type, "push", "mine")
    loaded.check_fits(world_model, "push")
    imagination = Imagination(4, world_model, task="push")
    imagination.reset()
    observation = observe(imagination, obs_type)
    actions = loaded.act(observation)
    assert actions.shape == (4, 3) and actions.dtype == np.float32
    assert np.abs(actions).max() <= 1
    assert np.array_equal(actions, policy.act(observation))


@pytest.mark.parametrize("obs_type", OBS_TYPES)
def test_ppo_acts_as_the_policy_and_gives_it_back(obs_type: str) -> None:
    world_model = make_tiny_world_model()
    policy = make_policy(policy_config(world_model, "push", obs_type), seed=1)
    env = imagined_env(world_model, "push", seed=0, rows=8, obs_type=obs_type)
    ppo = make_ppo(policy, env, seed=0)
    assert same(policy_of(ppo, policy), policy)
    observation = env.reset()
    returned, _ = ppo.predict(observation, deterministic=True)
    np.testing.assert_allclose(returned, policy.act(observation), atol=1e-5)
    learn_critic(ppo, 3200)
    assert same(policy_of(ppo, policy), policy)  # the critic alone has learned
    ppo.learn(3200)
    after = policy_of(ppo, policy)
    assert not torch.equal(after.action.weight, policy.action.weight)
    env.close()


def test_what_does_not_fit_the_world_model_is_named() -> None:
    world_model = make_tiny_world_model()
    other = make_policy(PolicyConfig("push", "features", 4, 7))
    with pytest.raises(WorldModelError, match="action_size: the world model has 3, the policy 4"):
        other.check_fits(world_model)
    mine = make_policy(policy_config(world_model, "push"))
    with pytest.raises(WorldModelError, match="task: expected 'pull'"):
        mine.check_fits(world_model, "pull")
    shape = dataclasses.replace(policy_config(world_model, "push"), task="tire\u0301")
    make_policy(shape).check_fits(world_model, "tir\u00e9")  # one name, two of Unicode's forms


def test_saving_again_replaces_it(folder: Path) -> None:
    make_policy(CONFIG, seed=4).save_pretrained(folder)
    assert same(Policy.from_pretrained(folder), make_policy(CONFIG, seed=4))
    assert sorted(contents(folder)) == sorted([CONFIG_FILE, WEIGHTS_FILE])


def test_what_cannot_be_saved_keeps_the_old_policy(folder: Path) -> None:
    before = contents(folder)
    with pytest.raises(WorldModelError, match="cannot be written"), files_limited_to(100):
        make_policy(CONFIG, seed=4).save_pretrained(folder)
    broken = make_policy(CONFIG)
    broken.log_std.data[0] = float("nan")
    with pytest.raises(WorldModelError, match="log_std"):
        broken.save_pretrained(folder)
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[
            (field, value)
            for field in ("frame_size", "action_size", "vector_size", "width")
            for value in (-1, 0, 10**9, 10**400, "16", True, None, 16.0, [16])
        ],
        ("frame_size", 24.5),
        ("action_size", 4),
        ("width", 9),
        ("obs_type", "features"),
        ("obs_type", "sound"),
        ("task", ""),
        ("task", 7),
        ("task", "\n"),
        ("_class_name", "ActorCriticPolicy"),
        ("unknown", 1),
    ],
)
def test_a_broken_configuration_is_refused(folder: Path, field: str, value: Any) -> None:
    record = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps({**record, field: value}))
    with pytest.raises(WorldModelError):
        Policy.from_pretrained(folder)


def _without_a_tensor(data: bytes) -> bytes:
    header, body = split(data)
    del header["log_std"]
    return join(header, body)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: data[:4],
        lambda data: data[:-4],
        lambda data: data + b"\0",
        lambda data: pickle.dumps({"log_std": 1}),
        lambda data: b"version https://git-lfs.github.com/spec/v1\n",
        _without_a_tensor,
    ],
)
def test_broken_weights_are_refused(folder: Path, change: Callable[[bytes], bytes]) -> None:
    path = folder / WEIGHTS_FILE
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(WorldModelError, match=path.name):
        Policy.from_pretrained(folder)


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_missing_or_linked_file_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / "outside")
    with pytest.raises(WorldModelError, match="is missing"):
        Policy.from_pretrained(folder)
    (folder / name).symlink_to(tmp_path / "outside")
    with pytest.raises(WorldModelError, match="leaves the folder"):
        Policy.from_pretrained(folder)


@pytest.mark.parametrize("source", [None, "", "missing", 7])
def test_no_policy_at_all(source: Any, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WorldModelError):
        Policy.from_pretrained(source)


def test_policies_under_any_default_dtype(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        make_policy(CONFIG).save_pretrained(tmp_path / "mine")
        loaded = Policy.from_pretrained(tmp_path / "mine")
        frames = np.zeros((2, 16, 16, 3), np.uint8)
        loaded.act({"pixels": frames, "agent_pos": np.zeros((2, 5), np.float32)})
    finally:
        torch.set_default_dtype(torch.float32)
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("obs_type", ["pixels", "pixels_agent_pos"])
def test_cloning_frames_fits_what_was_done(obs_type: str) -> None:
    generator = torch.Generator().manual_seed(0)
    frames = torch.full((64, 3, 16, 16), 60, dtype=torch.uint8)
    places = torch.randint(3, 11, (64,), generator=generator)
    for frame, place in zip(frames, places, strict=True):
        frame[0, 4:7, place : place + 3] = 255
    done = (places[:, None].float() - 7) / 8
    vectors = torch.randn(64, 5, generator=generator) if obs_type != "pixels" else None
    sizes = (5 if vectors is not None else 0, 16, 64)
    policy = make_policy(PolicyConfig("push", obs_type, 1, *sizes))
    fit(policy, (frames, vectors), done, steps=400, batch_size=32)
    with torch.no_grad():
        wrong = (policy(frames, vectors) - done).abs().mean()
    assert float(wrong) < 0.15 < 0.8 * float(done.abs().mean() + 0.1)


def test_cloning_twice_gives_the_same_policy() -> None:
    world_model = make_tiny_world_model()
    episodes = [make_episode(seed) for seed in range(2)]
    first, second = (
        clone_episodes(episodes, world_model, "pixels", steps=3, seed=5) for _ in range(2)
    )
    assert same(first, second)


def test_a_student_does_what_its_teacher_does(tmp_path: Path) -> None:
    world_model = make_tiny_world_model()
    world_model.save_pretrained(tmp_path / "model")
    teacher = make_policy(policy_config(world_model, "push"), seed=1)
    teacher.action.bias.data = torch.tensor([0.8, -0.4, 0.1])
    teacher.save_pretrained(tmp_path / "teacher")
    args = Args(
        str(tmp_path / "teacher"),
        tmp_path / "out",
        str(tmp_path / "model"),
        "pixels",
        episodes=4,
        rounds=2,
        steps=90,
    )
    run(args)
    student = Policy.from_pretrained(tmp_path / "out" / "policy")
    assert student.obs_type == "pixels"
    imagination = Imagination(4, world_model, task="push")
    imagination.reset()
    advice = teacher.act(observe(imagination, "features"))
    done = student.act(observe(imagination, "pixels"))
    assert np.abs(done - advice).mean() < 0.15
    student.save_pretrained(tmp_path / "teacher")
    with pytest.raises(WorldModelError, match="teacher: expected a policy on features"):
        run(Args(str(tmp_path / "teacher"), tmp_path / "again", str(tmp_path / "model")))
