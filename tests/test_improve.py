"""Rounds with real episodes: played in the real env, or recorded by the user."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import make_tiny_world_model, same, weights
from episode_factory import write_episodes
from gl import needs_gl

from training.data.sequences import make_sequences
from training.data.trainable import DEMONSTRATIONS
from training.evaluation.trust import VERDICTS, checksum
from training.improve import Args, known_sequences, learned_on, measured, predicted, rehearsed, run
from training.runs.settings import SettingsError
from training.world_model.memory import unroll
from world4rl_gym.episodes import EpisodeError, load_episodes
from world4rl_gym.policy import Policy, make_policy, policy_config
from world4rl_gym.world_model import WorldModel


def test_what_is_rehearsed_is_what_the_memory_imagines() -> None:
    world_model = make_tiny_world_model()
    policy = make_policy(policy_config(world_model, "push"))
    own = rehearsed(world_model, "push", [policy, policy], count=3, seed=0)
    assert len(own) == 6
    output = unroll(world_model.task_memory("push"), own)
    assert torch.allclose(output.state.mean(dim=2), own.state[:, 1:], atol=1e-5)
    assert torch.allclose(output.code_change.mean(dim=2), own.code_change, atol=1e-5)
    assert torch.allclose(output.logit.sigmoid().mean(dim=2), own.success, atol=1e-5)
    assert not torch.equal(own.actions[:3], own.actions[3:])


@needs_gl
def test_a_recorded_run_waits_and_ends_where_a_played_one_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    played = Args(
        "door-lock",
        tmp_path / "played",
        episodes_budget=2,
        rounds=1,
        clones=2,
        steps=3200,
        clone_steps=50,
        learn_steps=2,
        rehearsed=8,
        test_episodes=2,
    )
    report = run(played)
    assert report is not None
    assert "Try the filtered one" not in capsys.readouterr().out  # both were measured
    spent = {name: output["real_episodes_spent"] for name, output in report["policies"].items()}
    assert spent == {
        "cloned": 5,
        "refined, round 0": 5,
        "refined, round 1": 7,
        "filtered cloning, round 1": 7,
    }
    episodes = load_episodes(played.out / "round-0" / "episodes", "train", ["door-lock"])
    assert report["rounds"] == [predicted(WorldModel.from_pretrained(), episodes)]
    assert [episode.policy for episode in episodes] == ["refined-0", "refined-1"]
    assert Policy.from_pretrained(played.out / "round-1" / "filtered").obs_type == "features"
    before, after = [
        WorldModel.from_pretrained(folder).task_memory("door-lock").state_dict()
        for folder in (None, played.out / "round-0" / "world_model")
    ]
    assert not torch.equal(before["outputs.2.weight"], after["outputs.2.weight"])

    recorded = dataclasses.replace(played, out=tmp_path / "recorded", real="recorded")
    assert run(recorded) is None
    assert "put 2 more episodes" in capsys.readouterr().out
    place = Path("round-0") / "episodes"
    shutil.copytree(played.out / place, recorded.out / place, dirs_exist_ok=True)
    assert run(recorded) is not None
    output = json.loads((recorded.out / "report.json").read_text())
    assert output == json.loads((played.out / "report.json").read_text())


def test_without_ppo_clones_of_all_that_was_solved_play_the_next_round(tmp_path: Path) -> None:
    args = Args(
        "door-lock",
        tmp_path,
        real="recorded",
        episodes_budget=2,
        rounds=2,
        clones=2,
        steps=0,
        clone_steps=20,
        test_episodes=0,
    )
    assert run(args) is None  # it waits for the first round's
    experts = load_episodes(DEMONSTRATIONS, "train", ["door-lock"])
    for number in range(2):
        place = tmp_path / f"round-{number}" / "episodes" / "door-lock" / "train"
        place.mkdir(parents=True, exist_ok=True)
        solved = dataclasses.replace(experts[number], behaviour="policy")
        solved.save(place / "policy-0000000.npz")
    report = run(args)
    assert report is not None
    names = ["cloned", "filtered cloning, round 1", "filtered cloning, round 2"]
    assert list(report["policies"]) == names
    second = tmp_path / "round-1"
    assert same(weights(tmp_path / "round-0" / "policy-1"), weights(tmp_path / "cloned-1"))
    assert same(weights(second / "policy-0"), weights(second / "filtered"))
    assert same(weights(second / "policy-1"), weights(second / "cloned-1"))
    assert not same(weights(second / "policy-1"), weights(tmp_path / "cloned-1"))
    assert not (tmp_path / "round-2" / "policy-0").exists()
    assert not list(tmp_path.glob("round-*/world_model"))
    with pytest.raises(SettingsError, match="known: with no steps of PPO nothing is learned"):
        dataclasses.replace(args, known=DEMONSTRATIONS)


def test_recorded_episodes_are_learned_again_in_place_of_imagined_ones(tmp_path: Path) -> None:
    world_model = WorldModel.from_pretrained()
    experts = load_episodes(DEMONSTRATIONS, "train", ["door-lock"])
    known = known_sequences(world_model, DEMONSTRATIONS, "door-lock")
    assert (
        known.fingerprint()
        == make_sequences(experts, world_model.task_eyes("door-lock")).fingerprint()
    )
    args = Args("door-lock", tmp_path, known=DEMONSTRATIONS, learn_steps=1)
    # no policy, so nothing could be rehearsed
    after = learned_on(world_model, args, experts, known, [], tmp_path / "world_model")
    before = WorldModel.from_pretrained()
    assert checksum(after, "door-lock") != checksum(before, "door-lock")
    assert checksum(after, "hammer") == checksum(before, "hammer")


def test_recorded_episodes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    write_episodes(tmp_path)  # without the robot's state
    with pytest.raises(EpisodeError, match="state size: the world model has"):
        known_sequences(make_tiny_world_model(), tmp_path, "push")


@pytest.mark.parametrize("verdict", ["believe", "not"])
def test_how_far_to_believe_the_model_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verdict: str
) -> None:
    args = Args("door-lock", tmp_path, test_episodes=0)
    rounds = [{"real": 0.3, "imagined": 0.9, "agreement": 0.4, "verdict": verdict}]
    report = measured(args, {}, rounds, make_tiny_world_model(), None)
    assert report["rounds"] == rounds
    said = capsys.readouterr().out
    assert (
        "solved 30 %, predicted 90 %, predicted rightly 40 %" in said and VERDICTS[verdict] in said
    )
    assert "Try the filtered one first" in said  # nothing was measured


def test_a_budget_below_the_rounds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"episodes_budget: expected at least 3, got 2"):
        Args("door-lock", tmp_path, episodes_budget=2, rounds=3)
