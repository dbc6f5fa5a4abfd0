"""Learning from episodes alone, and the comparison with it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from conftest import make_tiny_world_model
from episode_factory import make_episode, write_episodes

from training import clone_policy, compare, methods, reproduce, td3_bc
from training.comparison_table import format_overview, format_rounds, save_comparison
from training.episodes import Episode, EpisodeError
from training.formatting import format_points, format_rate
from training.judge import snapshot_path
from training.measured import Measured, load_measured
from training.metrics import mean_with_interval, share
from training.policy import actor_parameters, load_policy
from training.settings import SettingsError


def lone_decisions(count: int) -> list[Episode]:
    """Episodes that a first action of +.5 solves at once and one of -.5 never does."""
    episodes = []
    for seed in range(count):
        episode = dataclasses.replace(make_episode(0, horizon=2), seed=seed)
        good = seed % 2 == 0
        actions = np.full_like(episode.actions, 0.5 if good else -0.5)
        success = np.full(2, good)
        episodes.append(dataclasses.replace(episode, actions=actions, success=success))
    return episodes


def test_transitions_end_with_the_first_solved_frame() -> None:
    solved, failed = lone_decisions(2)
    data = td3_bc.Transitions.of([solved, failed])
    assert data.now.tolist() == [0, 3, 4]
    assert data.solved.tolist() == [1, 0, 0]
    assert torch.equal(data.frames[data.now[1]], data.frames[3])
    with pytest.raises(EpisodeError, match="success"):
        td3_bc.Transitions.of([failed])


def test_td3_bc_prefers_what_was_rewarded_and_alpha_0_clones(cloned: Path, tmp_path: Path) -> None:
    data = td3_bc.Transitions.of(lone_decisions(16))
    means = []
    for alpha in (0.0, 5.0):
        policy = load_policy(cloned)
        args = td3_bc.Args(
            cloned,
            tmp_path,
            steps=80,
            batch_size=16,
            learning_rate=1e-3,
            actor_learning_rate=1e-3,
            alpha=alpha,
            gamma=0.0,
            warmup=0,
        )
        td3_bc.learn(args, policy, data)
        with torch.no_grad():
            means.append(float(td3_bc.mean_action(policy, data.frames[data.now]).mean()))
    assert means[1] > means[0] + 0.2


def test_td3_bc_saves_a_policy_of_the_same_kind(cloned: Path, tmp_path: Path) -> None:
    episodes = write_episodes(tmp_path / "data")
    td3_bc.run(td3_bc.Args(cloned, tmp_path / "out", episodes, steps=2, batch_size=8, warmup=0))
    before, after = load_policy(cloned), load_policy(tmp_path / "out")
    assert after.config == before.config
    assert any(
        not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)
    )


def test_td3_bc_leaves_the_policy_as_it_is_while_the_critics_warm_up(
    cloned: Path, tmp_path: Path
) -> None:
    data = td3_bc.Transitions.of(lone_decisions(2))
    moved = []
    for steps in (4, 5):  # the policy learns at every second step: at step 4, of these
        policy = load_policy(cloned)
        args = td3_bc.Args(cloned, tmp_path, steps=steps, batch_size=2, warmup=3)
        td3_bc.learn(args, policy, data)
        before, after = actor_parameters(load_policy(cloned)), actor_parameters(policy)
        moved.append(any(not torch.equal(before[name], after[name]) for name in before))
    assert moved == [False, True]
    with pytest.raises(ValueError, match="warmup"):
        td3_bc.Args(cloned, tmp_path, steps=4, warmup=4)


def test_filtered_cloning_adds_solved_rollouts_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_episodes(tmp_path / "data")
    for seed, solved in ((500, True), (501, False)):
        played = make_episode(seed, behaviour="policy")
        played = dataclasses.replace(played, success=np.full(len(played), solved))
        played.save(folder / "push" / "train" / f"policy-{seed:07d}.npz")
    learned_from: list[list[int]] = []
    clone = clone_policy.clone

    def spy(args: clone_policy.Args, episodes: list[Episode]):  # type: ignore[no-untyped-def]
        learned_from.append([episode.seed for episode in episodes])
        return clone(args, episodes)

    monkeypatch.setattr(clone_policy, "clone", spy)
    for rollouts in (False, True):
        out = tmp_path / f"cloned-{rollouts}"
        args = clone_policy.Args("push", out, folder, 3, steps=1, rollouts=rollouts)
        clone_policy.run(args)
    assert learned_from == [[0, 1, 2], [0, 1, 2, 500]]


def test_variants_of_ppo_begin_from_one_adapted_policy_and_give_their_last(
    cloned: Path, tmp_path: Path
) -> None:
    world_model = tmp_path / "world_model"
    make_tiny_world_model(success_threshold=0.6).save_pretrained(world_model)
    args = compare.Args(
        demonstrations=3,
        episodes_folder=write_episodes(tmp_path / "data"),
        clone_steps=2,
        adapt_steps=2,
        corrections=2,
        real_share=0.0,
        refine_steps=6400,  # two updates after PPO's two rollouts of warm-up
        world_model=str(world_model),
        work=tmp_path / "work",
    )
    cell = reproduce.cell_folder(args, "push", 0)
    shutil.copytree(cloned, cell / "cloned")
    found = {
        method: load_policy(methods.METHODS[method][1](args, "push", 0))
        for method in ("adapted", "uncorrected", "last", "wide")
    }
    settings = json.loads((cell / "wide" / "settings.json").read_text())
    assert settings["adapt_steps"] == 0
    assert settings["max_deviation"] == 1
    fitted = json.loads((cell / "uncorrected" / "settings.json").read_text())
    assert (fitted["corrections"], fitted["adapt_steps"], fitted["steps"]) == (0, 2, 1)
    begun = load_policy(snapshot_path(cell / "wide", 0))
    assert torch.equal(begun.action_net.weight, found["adapted"].action_net.weight)
    uncorrected = found.pop("uncorrected")
    assert not torch.equal(uncorrected.action_net.weight, found["adapted"].action_net.weight)
    ends = [actor_parameters(policy)["log_std"] for policy in found.values()]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(ends, 2))
    unimagined = load_policy(methods.METHODS["unimagined"][1](args, "push", 0))
    assert unimagined.config.members == 2
    fitted = json.loads((cell / "unimagined" / "settings.json").read_text())
    assert (fitted["imagined_demonstrations"], fitted["corrections"]) == (False, 0)
    twins = load_policy(methods.METHODS["twins"][1](args, "push", 0))
    first, second = twins.action_net.weight.chunk(2, dim=1)
    expected = load_policy(cell / "cloned").action_net.weight / 2
    assert torch.allclose(first, expected, rtol=1e-3, atol=1e-4)  # saved in half precision
    assert not torch.allclose(second, expected, rtol=1e-3, atol=1e-4)


def test_a_cell_is_of_one_world_model_wherever_it_lies(tmp_path: Path) -> None:
    args = reproduce.Args(tasks=("hammer",), work=tmp_path)
    model = make_tiny_world_model()
    reproduce.claim(args, model)
    reproduce.claim(dataclasses.replace(args, world_model="elsewhere", seeds=2), model)
    assert (reproduce.cell_folder(args, "hammer", 1) / "settings.json").exists()
    others = [make_tiny_world_model(), make_tiny_world_model(), make_tiny_world_model()]
    with torch.no_grad():
        next(others[0].reward_head.parameters()).add_(1)
    others[1].scheduler = dataclasses.replace(model.scheduler, sigma_max=79.0)
    others[2].initial_frames.is_start[0] = not model.initial_frames.is_start[0]
    for other in others:
        with pytest.raises(SettingsError, match="world_model"):
            reproduce.claim(args, other)
    model.config = dataclasses.replace(model.config, provenance={"seed": 7})
    reproduce.claim(args, model)


def test_methods_that_learn_from_rollouts_keep_their_number(tmp_path: Path) -> None:
    args = compare.Args(tasks=("hammer",), methods=("cloned", "filtered"), work=tmp_path)
    methods.claim_rollouts(args, args.methods)
    fewer = dataclasses.replace(args, rollouts=20)
    with pytest.raises(SettingsError, match="rollouts: 50 there, 20 now"):
        methods.claim_rollouts(fewer, fewer.methods)
    methods.claim_rollouts(fewer, ("cloned",))


def test_the_comparison_pools_seeds_and_keeps_other_policies(tmp_path: Path) -> None:
    def policy(method: str, seed: int, real: int, imagined: int = 5) -> Measured:
        recipe = compare.Args().recipe
        return Measured("hammer", 5, seed, method, recipe, "0123", 10, real, imagined)

    save_comparison([policy("refined", 0, 9)], tmp_path)
    assert "| refined: " in (tmp_path / "comparison.md").read_text()
    save_comparison([policy("refined", 0, 4), policy("refined", 1, 8, 9)], tmp_path)
    save_comparison([policy("cloned", 0, 3)], tmp_path)
    kept = load_measured(tmp_path / "comparison.json")
    assert [(p.method, p.seed, p.real) for p in kept] == [
        ("cloned", 0, 3),
        ("refined", 0, 4),
        ("refined", 1, 8),
    ]
    table = (tmp_path / "comparison.md").read_text()
    assert "| method | pooled, real (imagined) | seed 0 | seed 1 |" in table
    assert "(50) | 30 (50) | - |" in table
    assert f"{format_rate(share(12, 20))} (70) | 40 (50) | 80 (90) |" in table
    assert "`python -m training.compare --tasks hammer --methods cloned refined --seeds 1" in table
    with pytest.raises(ValueError, match="methods"):
        compare.Args(methods=("magic",))


def test_the_overview_has_a_line_a_method_and_its_gain_over_the_same_clones() -> None:
    def policy(method: str, task: str, seed: int, real: int) -> Measured:
        return Measured(task, 5, seed, method, {}, "0123", 10, real, 5)

    clones = [policy("cloned", "hammer", seed, 3 + seed) for seed in (0, 1)]
    clones.append(policy("cloned", "soccer", 1, 1))
    made = [
        policy("refined", "hammer", 0, 5),
        policy("refined", "hammer", 1, 5),
        policy("refined", "soccer", 1, 4),
        policy("longer", "hammer", 1, 3),
        policy("last", "hammer", 2, 9),  # its clone was not measured
    ]
    lines = format_overview([*clones, *made]).splitlines()
    assert lines[0] == "| method | soccer | hammer | more than the clone |"
    told = {line.split(":")[0][2:]: line.split(" | ")[1:] for line in lines[2:]}
    assert told["cloned"] == ["10", "30, 40, -", " |"]
    gained = mean_with_interval([0.2, 0.1, 0.3])
    assert gained.low < 0 < gained.mean == 0.2
    assert told["refined"] == ["40", "50, 50, -", f"{format_points(gained)} of 3 |"]
    assert told["longer"] == ["", "-, 30, -", "-10 of 1 |"]
    assert told["last"] == ["", "-, -, 90", " |"]


def test_rounds_stand_beside_what_had_none() -> None:
    def cell(task: str, methods: Sequence[str]) -> list[Measured]:
        reals = {"cloned": 2, "refined": 3, "filtered": 4, "round": 5}
        return [Measured(task, 5, 0, m, {}, "0123", 10, reals[m], 1) for m in methods]

    some = cell("hammer", ["cloned", "refined", "filtered"])
    assert format_rounds(some) == ""
    every = ["cloned", "refined", "filtered", "round"]
    lines = format_rounds([*cell("soccer", every), *some]).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith(f"| soccer | 0 | {format_rate(share(2, 10))} (10) |")
    assert (
        lines[3]
        == "| **mean** |  | 20.0 % (10.0) | 30.0 % (10.0) | 40.0 % (10.0) | 50.0 % (10.0) |"
    )


def test_two_comparisons_at_once_lose_nothing(tmp_path: Path) -> None:
    def add(seed: int) -> None:
        one = Measured("hammer", 5, seed, "cloned", {}, "0123", 10, 5, 5)
        save_comparison([one], tmp_path)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(24)))
    assert [p.seed for p in load_measured(tmp_path / "comparison.json")] == list(range(24))


@pytest.mark.parametrize("command", [compare.Args, reproduce.Args])
def test_one_task_is_a_task_too(command: type[reproduce.Args]) -> None:
    assert tyro.cli(command, args=["--task", "hammer"]).tasks == ("hammer",)
    with pytest.raises(ValueError, match="real_share"):
        command(real_share=1.0)
