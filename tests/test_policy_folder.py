"""Saved policies travel as world models do: whole, strict, without a pickle."""

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
from stable_baselines3 import PPO
from tampering import join, split
from test_loading_folders import contents, files_limited_to

from training import features_policy
from training.policy import (
    POLICY_FILE,
    GaussianCnnPolicy,
    PolicyError,
    ensemble,
    load_policy,
    load_policy_config,
    make_policy,
    policy_arguments,
    save_policy,
)
from training.policy_network import PolicyConfig
from world4rl_gym.reading import WorldModelError
from world4rl_gym.sb3 import ImaginedVecEnv

CONFIG = PolicyConfig("push", 16, 3, features=16, hidden=8)


@pytest.fixture
def policy() -> GaussianCnnPolicy:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make_policy(CONFIG)


@pytest.fixture
def folder(policy: GaussianCnnPolicy, tmp_path: Path) -> Path:
    policy.save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


def weights_of(folder: Path) -> Path:
    return folder / json.loads((folder / POLICY_FILE).read_text())["weights"]


def equal(a: GaussianCnnPolicy, b: GaussianCnnPolicy) -> bool:
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def test_half_precision_halves_the_file(policy: GaussianCnnPolicy, folder: Path) -> None:
    half = folder.with_name("half")
    save_policy(policy, CONFIG, half, half=True)
    sizes = [weights_of(place).stat().st_size for place in (folder, half)]
    assert sizes[1] < 0.6 * sizes[0]
    loaded = GaussianCnnPolicy.from_pretrained(half).state_dict()
    for name, value in policy.state_dict().items():
        assert torch.equal(loaded[name], value.half().float())
    with torch.no_grad():
        policy.log_std.fill_(1e6)
    with pytest.raises(PolicyError, match="log_std"):
        save_policy(policy, CONFIG, half, half=True)


def test_a_policy_makes_the_round_trip(policy: GaussianCnnPolicy, folder: Path) -> None:
    loaded = GaussianCnnPolicy.from_pretrained(folder)
    assert equal(policy, loaded)
    assert loaded.config == CONFIG == load_policy_config(folder)
    assert not loaded.training
    assert {p.suffix for p in folder.iterdir()} == {".json", ".safetensors"}
    assert all(p.stat().st_mode & 0o444 == 0o444 for p in folder.iterdir())


def test_the_free_functions_do_the_same(policy: GaussianCnnPolicy, tmp_path: Path) -> None:
    save_policy(policy, CONFIG, tmp_path / "policy")
    assert equal(policy, load_policy(tmp_path / "policy"))


def test_loading_leaves_the_global_generator_alone(folder: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    GaussianCnnPolicy.from_pretrained(folder)
    assert torch.equal(torch.rand(3), expected)


def test_a_policy_of_sb3s_ppo_knows_its_task(tiny_world_model, tmp_path: Path) -> None:
    env = ImaginedVecEnv(2, world_model=tiny_world_model, task="push")
    arguments = policy_arguments(CONFIG)
    model = PPO(
        GaussianCnnPolicy, env, n_steps=4, batch_size=8, n_epochs=1, policy_kwargs=arguments
    )
    model.learn(8)
    assert isinstance(model.policy, GaussianCnnPolicy)
    model.policy.save_pretrained(tmp_path / "policy")
    loaded = GaussianCnnPolicy.from_pretrained(tmp_path / "policy")
    assert loaded.config == CONFIG
    frames = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 16), dtype=np.uint8)
    model.policy.set_training_mode(False)
    expected, _ = model.policy.predict(frames, deterministic=True)
    assert np.array_equal(expected, loaded.predict(frames, deterministic=True)[0])
    again = GaussianCnnPolicy(**loaded._get_constructor_parameters())  # how SB3 rebuilds one
    assert again.config == CONFIG
    loaded.optimizer.zero_grad()  # its optimizer holds its own parameters
    held = {id(p) for group in loaded.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in loaded.parameters()}


def test_saving_again_leaves_one_policy_and_other_files_alone(
    folder: Path, policy: GaussianCnnPolicy
) -> None:
    (folder / "curve.json").write_text("[]")
    policy.log_std.data += 0.5
    policy.save_pretrained(folder)
    assert equal(policy, GaussianCnnPolicy.from_pretrained(folder))
    assert len(list(folder.iterdir())) == 3
    assert (folder / "curve.json").read_text() == "[]"


@pytest.mark.parametrize("size", [0, 200, 20_000])
def test_a_full_disk_keeps_the_old_policy(
    folder: Path, policy: GaussianCnnPolicy, size: int
) -> None:
    before = contents(folder)
    policy.log_std.data += 0.5
    with pytest.raises(PolicyError, match="cannot be written"), files_limited_to(size):
        policy.save_pretrained(folder)
    assert contents(folder) == before


def test_a_stop_between_the_two_files_keeps_the_old_policy(
    folder: Path, policy: GaussianCnnPolicy, tmp_path: Path
) -> None:
    kept = GaussianCnnPolicy.from_pretrained(folder)
    policy.log_std.data += 0.5
    policy.save_pretrained(tmp_path / "other")
    new = weights_of(tmp_path / "other")
    (folder / new.name).write_bytes(new.read_bytes())  # and then the lights went out
    assert equal(kept, GaussianCnnPolicy.from_pretrained(folder))


def test_nan_is_not_saved(folder: Path, policy: GaussianCnnPolicy) -> None:
    before = contents(folder)
    policy.log_std.data[0] = float("nan")
    with pytest.raises(PolicyError, match="log_std"):
        policy.save_pretrained(folder)
    assert contents(folder) == before


def test_the_first_format_is_read(folder: Path, policy: GaussianCnnPolicy) -> None:
    weights_of(folder).rename(folder / "policy.safetensors")
    record = {"format_version": 1, "task": "push", "frame_size": 16, "action_size": 3}
    (folder / POLICY_FILE).write_text(json.dumps({**record, "features": 16, "hidden": 8}))
    assert equal(policy, GaussianCnnPolicy.from_pretrained(folder))
    policy.save_pretrained(folder)
    assert not (folder / "policy.safetensors").exists()


def test_the_second_format_is_a_single_network(folder: Path, policy: GaussianCnnPolicy) -> None:
    record = json.loads((folder / POLICY_FILE).read_text())
    del record["members"]
    (folder / POLICY_FILE).write_text(json.dumps({**record, "format_version": 2}))
    assert equal(policy, GaussianCnnPolicy.from_pretrained(folder))
    (folder / POLICY_FILE).write_text(json.dumps(record))
    with pytest.raises(PolicyError, match="members"):
        GaussianCnnPolicy.from_pretrained(folder)


def test_an_ensembles_action_is_the_mean_of_its_members(tmp_path: Path) -> None:
    torch.manual_seed(1)
    policies = [make_policy(CONFIG) for _ in range(3)]
    for number, policy in enumerate(policies):
        policy.set_training_mode(False)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
            policy.log_std.fill_(-number)
    frames = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)

    def means(policy: GaussianCnnPolicy) -> torch.Tensor:
        gaussian: Any = policy.get_distribution(frames).distribution
        return gaussian.mean.detach()

    two = ensemble(policies[:2])
    three = ensemble([two, policies[2]])
    apart = torch.stack([means(policy) for policy in policies])
    assert apart.std(0).min() > 1e-3
    assert torch.allclose(means(two), apart[:2].mean(0), atol=1e-2)
    assert torch.allclose(means(three), apart.mean(0), atol=1e-2)
    assert three.log_std.tolist() == pytest.approx([-1.0] * 3)
    assert three.config == dataclasses.replace(CONFIG, members=3)
    values = [policy.predict_values(frames) for policy in policies]
    assert torch.allclose(three.predict_values(frames), torch.stack(values).mean(0), atol=1e-2)

    three.save_pretrained(tmp_path / "three")
    loaded = GaussianCnnPolicy.from_pretrained(tmp_path / "three")
    assert loaded.config == three.config
    assert torch.equal(means(loaded), means(three))
    again = load_policy(tmp_path / "three")
    assert equal(loaded, again)  # its critic, which is not in the file, is always the same one
    policies[0].save_pretrained(tmp_path / "one")
    sizes = [weights_of(tmp_path / name).stat().st_size for name in ("one", "three")]
    assert sizes[1] < 3 * sizes[0]

    with pytest.raises(PolicyError, match="kind"):
        ensemble([policies[0], make_policy(dataclasses.replace(CONFIG, task="pull"))])
    with pytest.raises(PolicyError, match="members: expected at most 8, got 9"):
        ensemble([three] * 3)


def test_ppo_goes_on_from_an_ensemble(tiny_world_model) -> None:
    torch.manual_seed(1)
    both = ensemble([make_policy(CONFIG), make_policy(CONFIG)])
    env = ImaginedVecEnv(2, world_model=tiny_world_model, task="push")
    arguments = {**policy_arguments(both.config), "share_features_extractor": False}
    model = PPO(
        GaussianCnnPolicy, env, n_steps=4, batch_size=8, n_epochs=1, policy_kwargs=arguments
    )
    model.policy.load_state_dict(both.state_dict())
    before = model.policy.mlp_extractor.policy_net[0].weight.detach().clone()
    model.learn(8)
    assert isinstance(model.policy, GaussianCnnPolicy)
    assert model.policy.config == both.config
    assert not torch.equal(model.policy.mlp_extractor.policy_net[0].weight, before)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[
            (field, value)
            for field in ("frame_size", "action_size", "features", "hidden", "members")
            for value in (-1, 0, 10**9, 10**400, "16", True, None, 16.0, [16])
        ],
        ("frame_size", 24),
        ("frame_size", 32),
        ("action_size", 4),
        ("features", 17),
        ("members", 2),
        ("members", 9),
        ("task", ""),
        ("task", 7),
        ("task", "\n"),
        ("task", None),
        ("format_version", 4),
        ("format_version", "2"),
        ("_class_name", "ActorCriticPolicy"),
        ("weights", "../../etc/passwd"),
        ("weights", "/etc/passwd"),
        ("weights", None),
        ("sha256", "0" * 64),
        ("sha256", None),
        ("unknown", 1),
    ],
)
def test_a_broken_policy_configuration_is_refused(folder: Path, field: str, value: Any) -> None:
    record = json.loads((folder / POLICY_FILE).read_text())
    (folder / POLICY_FILE).write_text(json.dumps({**record, field: value}))
    with pytest.raises(PolicyError):
        GaussianCnnPolicy.from_pretrained(folder)


def test_a_policy_too_large_is_refused_before_it_is_built(folder: Path) -> None:
    record = json.loads((folder / POLICY_FILE).read_text())
    record |= {"frame_size": 512, "features": 1024}
    (folder / POLICY_FILE).write_text(json.dumps(record))
    with pytest.raises(PolicyError, match="features"):
        GaussianCnnPolicy.from_pretrained(folder)


def _altered(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


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
        _altered,
        _without_a_tensor,
    ],
)
def test_broken_policy_weights_are_refused(folder: Path, change: Callable[[bytes], bytes]) -> None:
    path = weights_of(folder)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(PolicyError, match=path.name):
        GaussianCnnPolicy.from_pretrained(folder)


@pytest.mark.parametrize("name", [POLICY_FILE, "policy-"])
def test_a_missing_or_linked_policy_file_is_refused(
    folder: Path, tmp_path: Path, name: str
) -> None:
    path = folder / POLICY_FILE if name == POLICY_FILE else weights_of(folder)
    path.rename(tmp_path / "outside")
    with pytest.raises(PolicyError, match="is missing"):
        GaussianCnnPolicy.from_pretrained(folder)
    path.symlink_to(tmp_path / "outside")
    with pytest.raises(PolicyError, match="leaves the folder"):
        GaussianCnnPolicy.from_pretrained(folder)


@pytest.mark.parametrize("source", [None, "", "missing", 7])
def test_no_policy_at_all(source: Any, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PolicyError):
        GaussianCnnPolicy.from_pretrained(source)


def test_fault_02_policies_under_any_default_dtype(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        save_policy(make_policy(CONFIG), CONFIG, tmp_path / "frames")
        loaded = load_policy(tmp_path / "frames")
        loaded.predict(np.zeros((2, 16, 16, 3), np.uint8))
        seeing = features_policy.make_policy(5, 3)
        features_policy.save_policy(seeing, tmp_path / "features")
        again = features_policy.load_policy(tmp_path / "features")
        again.predict(np.zeros((2, 5), np.float32))
    finally:
        torch.set_default_dtype(torch.float32)
    for one in (loaded, again):
        assert {value.dtype for value in one.state_dict().values()} == {torch.float32}
    before = contents(tmp_path / "features")
    for broken in (seeing.double(), features_policy.make_policy(5, 3)):
        broken.state_dict()["log_std"][0] = float("nan")
        with pytest.raises(WorldModelError, match="dtype|NaN"):
            features_policy.save_policy(broken, tmp_path / "features")
    assert contents(tmp_path / "features") == before
