"""PPO on features, at tiny size and as the recipe of a task runs it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_tiny_world_model
from gl import needs_gl

from training.data.trainable import DEMONSTRATIONS
from training.envs.rollouts import Disturbed, imagined_outcomes, perturbed, plan
from training.policies.imitation import fit
from training.policies.ppo import learn_critic, make_ppo, policy_of
from training.policies.refinement import (
    CODE_NOISE,
    LEAST_CHANCE,
    PROGRESS,
    ProgressReward,
    RandomisedFeatures,
    ZeroReward,
    chosen,
    imagined_env,
    make_judge,
    practice_env,
    refine,
)
from training.refine_policy import Args, run
from training.runs.settings import SettingsError
from world4rl_gym.imagination import Imagination
from world4rl_gym.initial_frames import InitialFrames
from world4rl_gym.policy import Policy, PolicyConfig, make_policy, policy_config
from world4rl_gym.world_model import WorldModel

ROOT = Path(__file__).parent.parent


@pytest.fixture
def world_model() -> WorldModel:
    return make_tiny_world_model()


def test_cloning_fits_the_mean_action() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = torch.randn(300, 5, generator=generator)
    done = torch.tanh(seen[:, :2])
    policy = make_policy(PolicyConfig(action_size=2, vector_size=5))
    fit(policy, (None, seen), done, steps=400)
    predicted = torch.from_numpy(policy.act(seen.numpy()))
    assert float((predicted - done).abs().mean()) < 0.1


def test_the_critic_learns_alone(world_model: WorldModel) -> None:
    env = imagined_env(world_model, "push", seed=0, rows=64)
    policy = make_policy(policy_config(world_model, "push"))
    ppo = make_ppo(policy, env, seed=0)
    critic = ppo.policy.value_net.weight.clone()
    learn_critic(ppo, 3200)
    assert not torch.equal(ppo.policy.value_net.weight, critic)
    for name, value in policy_of(ppo, policy).state_dict().items():
        assert torch.equal(value, policy.state_dict()[name]), name
    ppo.learn(3200, reset_num_timesteps=False)
    assert not torch.equal(policy_of(ppo, policy).action.weight, policy.action.weight)
    env.close()


def test_the_best_judged_is_handed_out(world_model: WorldModel) -> None:
    policy = make_policy(policy_config(world_model, "push"))
    predicted = iter([0.5, 0.9, 0.7])
    judged = []

    def judge(candidate) -> float:
        judged.append({k: v.clone() for k, v in candidate.state_dict().items()})
        return next(predicted)

    env = imagined_env(world_model, "push", seed=0, rows=64)
    refined = refine(policy, env, 6400, seed=0, judge=judge, judge_every=3200, critic_steps=3200)
    env.close()
    assert [(p.steps, p.judged) for p in refined.curve] == [(0, 0.5), (3200, 0.9), (6400, 0.7)]
    for name, value in refined.policy.state_dict().items():
        assert torch.equal(value, judged[1][name])


def test_it_stops_when_nothing_is_left_to_gain(world_model: WorldModel) -> None:
    policy = make_policy(policy_config(world_model, "push"))
    predicted = iter([0.5, 1.0])
    env = imagined_env(world_model, "push", seed=0, rows=64)
    refined = refine(
        policy, env, 32_000, 0, judge=lambda _: next(predicted), judge_every=3200, critic_steps=3200
    )
    env.close()
    assert [(p.steps, p.judged) for p in refined.curve] == [(0, 0.5), (3200, 1.0)]


@pytest.mark.parametrize("judged", [[0.4, 0.6, 0.5], [0.4, 0.996, 1.0], [0.7, 0.6, 0.7]])
def test_the_chosen_point_is_the_one_that_is_handed_out(
    world_model: WorldModel, judged: list[float]
) -> None:
    policies, values = [], iter(judged)

    def judge(policy: Policy) -> float:
        policies.append(policy)
        return next(values)

    policy = make_policy(policy_config(world_model, "push"))
    env = imagined_env(world_model, "push", seed=0, rows=64)
    refined = refine(policy, env, 6400, 0, judge=judge, judge_every=3200, critic_steps=3200)
    env.close()
    assert policies[chosen(judged)] is refined.policy


def test_a_judge_believes_the_least_favourable_member() -> None:
    world_model = make_tiny_world_model(success_threshold=0.01)
    policy = make_policy(policy_config(world_model, "push"))
    optimist = make_judge(world_model, "push")(policy)
    with torch.no_grad():  # one member never sees success
        world_model.task_memory("push").outputs[-1].bias[1, :, world_model.state_size] = -100
    assert make_judge(world_model, "push")(policy) == 0.0
    assert optimist > 0.0


def test_refining_from_the_command_line_and_the_control_without_reward(
    world_model: WorldModel, tmp_path: Path
) -> None:
    own = make_tiny_world_model()
    own.config = type(own.config)(**{**vars(own.config), "tasks": ("hammer", "soccer")})
    own.initial_frames = type(own.initial_frames)(
        **{**vars(own.initial_frames), "tasks": ("hammer", "soccer")}
    )
    own.save_pretrained(tmp_path / "model")
    make_policy(policy_config(own, "hammer")).save_pretrained(tmp_path / "clone")
    results = {}
    for reward in ("progress", "sparse", "zero"):
        out = tmp_path / reward
        arguments = {"world_model": str(tmp_path / "model"), "steps": 3200, "reward": reward}
        run(Args("hammer", tmp_path / "clone", out, **arguments))
        assert len(json.loads((out / "curve.json").read_text())) == 2
        results[reward] = Policy.from_pretrained(out / "policy").state_dict()
    assert set(results["progress"]) == set(results["zero"])
    own.config.provenance["trust_verdicts"] = {"hammer": "not"}
    own.save_pretrained(tmp_path / "model")
    out = tmp_path / "distrusted"
    arguments = {"world_model": str(tmp_path / "model"), "steps": 3200}
    with pytest.raises(SettingsError, match="hammer: the world model says .* often wrong"):
        run(Args("hammer", tmp_path / "clone", out, **arguments))
    run(Args("hammer", tmp_path / "clone", out, **arguments, anyway=True))
    assert (out / "policy").exists()


def test_features_are_off_by_the_same_all_episode_long() -> None:
    world_model = make_tiny_world_model(success_threshold=0.9999)  # no episode ends early
    plain = imagined_env(world_model, "push", seed=0, rows=4)
    noisy = RandomisedFeatures(imagined_env(world_model, "push", seed=0, rows=4), world_model, 0)
    offsets = [noisy.reset() - plain.reset()]
    action = np.zeros((4, world_model.action_size), np.float32)
    horizon = world_model.config.max_episode_steps
    for t in range(horizon):
        seen, _, done, infos = noisy.step(action)
        exact, _, _, known = plain.step(action)
        if t == horizon - 1:
            assert done.all()
            ended = [info["terminal_observation"] for info in infos]
            offsets.append(np.stack(ended) - [info["terminal_observation"] for info in known])
        else:
            offsets.append(seen - exact)
    first = offsets[0]
    for other in offsets[1:]:
        np.testing.assert_allclose(other, first, atol=1e-5)
    size, code = first.shape[1], world_model.code_size
    is_code = (np.arange(size) >= size - code - 2) & (np.arange(size) < size - 2)
    off = is_code | (np.arange(size) < world_model.state_size)
    assert (np.abs(first[:, off]) > 1e-4).all() and np.abs(first[:, ~off]).max() < 1e-5
    assert np.abs(seen - exact - first)[:, off].min() > 1e-4  # the next episode has its own
    assert first[:, is_code].std() == pytest.approx(CODE_NOISE, rel=0.5)


def test_only_features_are_randomised(world_model: WorldModel) -> None:
    frames = practice_env(world_model, "push", seed=0, obs_type="pixels")
    assert isinstance(frames, ProgressReward)
    features = practice_env(world_model, "push", seed=0)
    assert isinstance(features, RandomisedFeatures) and isinstance(features.venv, ProgressReward)


def test_progress_pays_for_what_the_members_agree_on() -> None:
    world_model = make_tiny_world_model(success_threshold=0.9999)  # no episode ends early
    paid, plain = [imagined_env(world_model, "push", seed=0, rows=8) for _ in range(2)]
    paid = ProgressReward(paid)
    paid.reset(), plain.reset()
    rng = np.random.default_rng(0)
    more, chances = np.zeros(8), []
    for _ in range(world_model.config.max_episode_steps - 1):
        actions = rng.uniform(-1, 1, (8, world_model.action_size)).astype(np.float32)
        predicted, own = paid.step(actions), plain.step(actions)
        assert np.array_equal(predicted[0], own[0])
        more += predicted[1]
        chances.append([i["success_probability"] - i["uncertainty"] for i in own[3]])
    best = np.clip(np.max(chances, axis=0), LEAST_CHANCE, 0.5)
    far = np.log(LEAST_CHANCE / (1 - LEAST_CHANCE))
    assert more == pytest.approx(PROGRESS * (1 - np.log(best / (1 - best)) / far), abs=1e-4)
    paid.close(), plain.close()


def test_a_success_that_one_member_denies_pays_nothing(world_model: WorldModel) -> None:
    bias = make_certain(world_model).task_memory("push").outputs[-1].bias
    with torch.no_grad():
        bias[1, :, world_model.state_size] = -50.0
    world_model.config = dataclasses.replace(world_model.config, success_threshold=0.4)
    paid, plain = [imagined_env(world_model, "push", 0, rows=4) for _ in range(2)]
    paid = ProgressReward(paid)
    paid.reset(), plain.reset()
    actions = np.zeros((4, world_model.action_size), np.float32)
    assert plain.step(actions)[1].all()
    assert not paid.step(actions)[1].any()


def test_a_zero_reward_changes_nothing_else(world_model: WorldModel) -> None:
    paid, plain = [imagined_env(make_certain(world_model), "push", 0, rows=4) for _ in range(2)]
    nothing = ZeroReward(paid)
    assert np.array_equal(nothing.reset(), plain.reset())
    actions = np.zeros((4, world_model.action_size), np.float32)
    predicted, own = nothing.step(actions), plain.step(actions)
    assert np.array_equal(predicted[0], own[0])
    assert np.array_equal(predicted[2], own[2])
    assert own[1].any() and not predicted[1].any()


def make_certain(world_model: WorldModel) -> WorldModel:
    """Every decision succeeds."""
    with torch.no_grad():
        world_model.task_memory("push").outputs[-1].bias[..., world_model.state_size] = 50.0
    return world_model


def test_a_plan_is_what_the_policy_does(world_model: WorldModel) -> None:
    imagination = Imagination(3, world_model, task="push")
    policy = make_policy(policy_config(world_model, "push"))
    starts = imagination.starts.candidates[:3]
    actions, imagined = plan(policy, world_model, world_model.initial_frames.rows(starts))
    predicted = Imagination(3, world_model, task="push").rollout(actions, starts)
    best = predicted.success_probability.amax(dim=1).numpy()
    assert np.array_equal(imagined, best >= imagination.success_threshold)


def test_outcomes_stand_in_the_order_of_their_starts(world_model: WorldModel) -> None:
    policy = make_policy(policy_config(world_model, "push"))
    own = world_model.initial_frames
    starts = own.rows(own.select("start", ["push"]))

    def scores(chosen: InitialFrames) -> np.ndarray:
        imagination = Imagination(len(chosen), world_model, initial_frames=chosen)
        imagination.reset(initial_frame=np.arange(len(chosen)))
        best = np.zeros(len(chosen))
        for _ in range(imagination.max_episode_steps):
            step = imagination.step(policy.act(imagination.features.numpy()))
            best = np.maximum(best, step.success_probability.numpy())
        return best

    alone = np.array([scores(starts.rows([i]))[0] for i in range(len(starts))])
    between = float(alone[0] + alone[-1]) / 2  # the first succeeds or the last, not both
    judge = make_tiny_world_model(success_threshold=between)
    assert np.array_equal(imagined_outcomes(policy, judge, starts), alone >= between)
    assert (alone[0] >= between) != (alone[-1] >= between)


def test_disturbances_persist_and_are_repeatable() -> None:
    still = make_policy(PolicyConfig(action_size=2, vector_size=1))
    still.action.weight.data.zero_()
    noisy = [Disturbed(still, 0.2, seed=3) for _ in range(2)]
    seen = np.zeros((500, 1), np.float32)
    first, second = [np.stack([one.act(seen) for _ in range(30)]) for one in noisy]
    assert np.array_equal(first, second)
    assert first[-1].std() == pytest.approx(0.2, abs=0.03)
    assert np.corrcoef(first[-2].ravel(), first[-1].ravel())[0, 1] == pytest.approx(0.8, abs=0.05)
    assert not Disturbed(still, 0.0, seed=3).act(seen).any()


def test_a_perturbed_replay_is_near_and_not_the_same() -> None:
    actions = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 4)).astype(np.float32)
    changed = [perturbed(actions, np.random.default_rng(i)) for i in range(20)]
    apart = np.array([np.abs(one - actions).mean() for one in changed])
    assert np.all(apart > 0) and np.all(apart < 0.25)
    assert all(np.abs(one).max() <= 1 and one.dtype == np.float32 for one in changed)


@needs_gl
def test_the_recipe_of_a_task_runs_and_resumes(tmp_path: Path) -> None:
    """Clones, rollouts, replays, a round of plans: all of it, small, in the real env."""
    shipped = ROOT / "world4rl_gym" / "assets"
    place = tmp_path / "data" / "door-lock"
    shutil.copytree(DEMONSTRATIONS / "door-lock" / "train", place / "train")
    module = [sys.executable, "-m"]
    data = ["--out", str(tmp_path / "data")]
    task = ["--tasks", "door-lock"]
    collect = [*module, "training.collect_episodes", *task, *data, "--workers=1", "--behaviour"]
    recipe = [*module, "training.train_task_memory", "--task", "door-lock"]
    recipe += ["--eyes", str(shipped / "world_model"), "--episodes", str(tmp_path / "data")]
    recipe += ["--out", str(tmp_path / "{task}"), "--demonstrations", "2", "5", "--rollouts=2"]
    recipe += [
        "--replays=3",
        "--clone-steps=50",
        "--round-clones=2",
        "--plans=6",
        "--validation-plans=2",
        "--steps=4",
        "--round-steps=3",
        "--width=8",
    ]
    recipe += ["--ppo-steps", "3200"]
    commands = [
        [*collect, "start", "--episodes=6"],
        [*collect, "random", "--episodes=2", "--seed-offset=20000"],
        recipe,
        recipe,
    ]
    for command in commands:
        ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ})
        assert ran.returncode == 0, ran.stderr
    out = tmp_path / "door-lock"
    assert (out / "memory" / "config.json").exists()
    assert len(list((place / "train").glob("plan-*.npz"))) == 6
    assert len(list((place / "train").glob("replay-*.npz"))) == 3
    assert len(list((place / "validation").glob("plan-*.npz"))) == 2 * (2 + 2 * 2)
    log = json.loads((out / "log.json").read_text())
    assert any("after_training" in entry for entry in log["entries"])

    base = WorldModel.from_pretrained(shipped / "world_model")
    rounds = [*module, "training.train_task_memory", "--task", "door-lock", "--demonstrations=5"]
    rounds += ["--world-model", str(shipped / "world_model"), "--rollouts=2", "--replays=3"]
    rounds += [
        "--plans=6",
        "--validation-plans=2",
        "--clone-steps=50",
        "--round-clones=2",
        "--round-steps=3",
        "--ppo-steps",
        "3200",
    ]
    rounds += ["--episodes", str(tmp_path / "data"), "--out", str(tmp_path / "on" / "{task}")]
    replace = [*module, "training.assemble_world_model", *task, "--out", str(tmp_path / "whole")]
    replace += ["--world-model", str(shipped / "world_model"), "--episodes", str(tmp_path / "data")]
    replace += ["--memories", str(tmp_path / "on" / "{task}"), "--replace", "memories", "starts"]
    replace += ["--starts=5", "--anywhere=3"]
    for command in (rounds, replace):
        ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ})
        assert ran.returncode == 0, ran.stderr
    whole = WorldModel.from_pretrained(tmp_path / "whole")
    for name in base.config.tasks:
        before, after = (one.task_memory(name).state_dict() for one in (base, whole))
        same = all(torch.equal(before[key], after[key]) for key in before)
        assert same == (name != "door-lock")
        contexts = [len(one.initial_frames.select("anywhere", [name])) for one in (base, whole)]
        assert contexts[1] == (contexts[0] if name != "door-lock" else 5 + 3)
    assert len(whole.initial_frames.select("start", ["door-lock"])) == 5
