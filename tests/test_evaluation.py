"""The trust figures: what they say of worlds whose truth is known."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import make_tiny_world_model
from episode_factory import make_episode, write_episodes

from training import policy_table
from training.evaluate_world_model import (
    evaluate_world_model,
    format_table,
    plot,
    plot_inference_steps,
    save_pictures,
    sweep_inference_steps,
)
from training.measured import Measured, load_measured, require_one_recipe
from training.metrics import share
from training.replay import replay
from training.settings import SettingsError
from training.train_reward_head import choose_threshold
from training.trust import (
    Replay,
    fidelity,
    foretelling,
    optimism,
    outcomes,
    reward_head_figures,
)


def perfect(seed: int, behaviour: str = "policy") -> Replay:
    episode = dataclasses.replace(make_episode(seed), behaviour=behaviour)
    scores = np.where(episode.success, 0.9, 0.1)
    return Replay(episode, episode.frames.copy(), np.ones(len(scores)), scores, scores)


def failed(seed: int, believed: bool, uncertainty: float = 1.0) -> Replay:
    """An episode that failed; the world model believes that it succeeded, or knows better."""
    episode = dataclasses.replace(make_episode(seed), success=np.zeros(8, bool), behaviour="policy")
    probability = np.full(8, 0.99 if believed else 0.01)
    imagined = np.roll(episode.frames, 1, axis=1)
    return Replay(episode, imagined, np.full(8, uncertainty), probability, np.full(8, 0.01))


def test_a_perfect_world_model_scores_perfectly() -> None:
    replays = [perfect(s) for s in range(8)]
    figures = fidelity(replays)
    assert figures["psnr"]["5"] == 100.0
    assert figures["ssim"]["5"] == pytest.approx(1.0)
    assert figures["psnr_frozen"]["5"] < 40
    assert "15" not in figures["psnr"]  # the toy episodes end at 8
    told = outcomes(replays, 0.5)
    assert told["agreement"]["mean"] == 1.0
    head = reward_head_figures([r.episode for r in replays], [r.probability for r in replays], 0.5)
    assert head["auroc"] == 1.0
    assert head["false_positive"]["mean"] == 0.0


def test_the_threshold_is_without_optimism() -> None:
    highest = np.array([0.1, 0.6, 0.7, 0.9])
    assert 0.7 < choose_threshold(highest, np.array([0, 0, 0, 1])) <= 0.9
    assert choose_threshold(highest, np.array([0, 1, 1, 1])) <= 0.6


def test_an_optimist_is_caught() -> None:
    replays = [failed(seed, believed=True) for seed in range(10)]
    told = outcomes(replays, 0.5)
    assert told["agreement_by_frame"] == {"1": 0.0, "5": 0.0}
    assert optimism(replays, 0.5)["optimism"] == 1.0
    assert optimism([failed(seed, believed=False) for seed in range(10)], 0.5)["optimism"] == 0.0
    assert told["false_success"] == {"rate": 1.0, "upper": 1.0}
    assert told["agreement"]["mean"] == 0.0
    assert told["solved"] == 0


def test_uncertainty_is_judged_by_the_outcomes_it_foretells() -> None:
    wrong = [failed(seed, believed=True, uncertainty=9.0) for seed in range(5)]
    right = [perfect(seed) for seed in range(5)]
    told = foretelling(wrong + right, 0.5)
    assert told["wrong"] == 5
    assert told["auroc"] == 1.0
    assert told["auroc_of_successes"] == 1.0
    assert told["error_correlation"] > 0.5
    blind = [failed(seed, believed=True) for seed in range(5)]
    assert foretelling(blind + right, 0.5)["auroc"] == 0.5


def test_replay_begins_at_the_real_frame_and_is_repeatable() -> None:
    model = make_tiny_world_model()
    episodes = [make_episode(s) for s in range(3)]
    frames = replay(model.denoiser, model.scheduler, episodes, 2)
    again = replay(model.denoiser, model.scheduler, episodes, 2)
    for episode, one, two in zip(episodes, frames, again, strict=True):
        assert one.frames.shape == episode.frames.shape
        assert one.uncertainty.shape == (len(episode.actions),)
        assert np.array_equal(one.frames[0], episode.frames[0])
        assert np.array_equal(one.frames, two.frames)
    other = replay(model.denoiser, model.scheduler, episodes, 2, seed=1)
    assert not np.array_equal(other[0].frames, frames[0].frames)


def test_the_report_has_every_figure_by_task(tmp_path: Path) -> None:
    model = make_tiny_world_model()
    episodes = [
        dataclasses.replace(make_episode(s, task, "random"), behaviour=behaviour)
        for task in ("push", "pull")
        for behaviour in ("policy", "random", "zero", "shuffled")
        for s in range(2)
    ]
    report, replays = evaluate_world_model(model, episodes, 1)
    for figures in (report, *report["tasks"].values()):
        assert {"auroc", "ece", "agreement", "false_success"} <= set(figures)
        assert {"rate", "upper"} == set(figures["false_success"])
        assert {"psnr", "ssim", "psnr_frozen", "ssim_frozen"} <= set(figures["random"])
        assert set(figures["probes"]) == {"random", "zero", "shuffled", "all"}
        assert figures["optimism"] == figures["probes"]["all"]["optimism"]
        assert figures["episodes"] == figures["probes"]["all"]["episodes"] * 2 / 3
    assert set(report["tasks"]) == {"push", "pull"}
    assert "push" in format_table(report)
    save_pictures(replays, tmp_path)
    plot(report, replays, tmp_path / "trust.png")
    rows = sweep_inference_steps(model, episodes, 2, seed=0)
    assert [row["num_inference_steps"] for row in rows] == [1, 2]
    plot_inference_steps(rows, tmp_path / "steps.png")
    for name in ("trust.png", "steps.png", "push.png", "pull.png", "rollouts.gif", "rollouts.mp4"):
        assert (tmp_path / name).stat().st_size > 0
    json.dumps(report)


def run_of(task: str, solved: int, demonstrations: int = 5, seed: int = 0) -> list[Measured]:
    """A clone that solves so many of ten, in both worlds, and its refinement, which does too."""
    about = (task, demonstrations, seed)
    told = ({"adapt_steps": 1}, "0123", 10, solved, solved)
    return [Measured(*about, "cloned", *told), Measured(*about, "refined", *told, 100, 50)]


def test_other_policies_stay_in_the_table(tmp_path: Path) -> None:
    policy_table.save_table([*run_of("hammer", 3), *run_of("soccer", 1)], tmp_path)
    policy_table.save_table(run_of("hammer", 9, demonstrations=50), tmp_path)
    policy_table.save_table(run_of("hammer", 7), tmp_path)
    table = json.loads((tmp_path / "table.json").read_text())
    rows = table["rows"]
    assert table["agreement"]["policies"] == 6
    assert table["agreement"]["bias"] == 0
    for picture in ("policies.png", "table-5.png", "table-50.png"):
        assert (tmp_path / picture).stat().st_size > 0
    assert [(r["demonstrations"], r["task"]) for r in rows] == [
        (50, "hammer"),
        (5, "soccer"),
        (5, "hammer"),
    ]
    assert [r["cloned"]["mean"] for r in rows] == [0.9, 0.1, 0.7]
    assert set(rows[0]["cloned"]) == {"mean", "low", "high"}
    table_text = (tmp_path / "table.md").read_text()
    assert table_text.count("| hammer |") == 2
    assert table_text.index("50 demonstrations") < table_text.index("5 demonstrations")
    assert table_text.count("| 79 → 91 |") == 1  # World4RL's own row, of as many demonstrations
    assert table_text.count("| 1 of 1 |") == 3


def test_seeds_measured_later_join_their_row(tmp_path: Path) -> None:
    policy_table.save_table(run_of("hammer", 2), tmp_path)
    policy_table.save_table(run_of("hammer", 8, seed=2), tmp_path)
    (row,) = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert row["seeds"] == [0, 2]
    assert row["cloned"] == dataclasses.asdict(share(10, 20))
    assert [p.seed for p in load_measured(tmp_path / "table.json")] == [0, 0, 2, 2]
    with pytest.raises(ValueError, match="hammer lacks"):
        policy_table.make_row(run_of("hammer", 2)[:1])


def test_a_clone_that_was_kept_is_one_policy_and_told(tmp_path: Path) -> None:
    policies = []
    for seed, steps, kept in ((0, 100, None), (1, 100, 0), (2, 0, None)):
        clone, refined = run_of("hammer", 2, seed=seed)
        policies += [clone, dataclasses.replace(refined, imagined_steps=steps, kept=kept)]
    policy_table.save_table(policies, tmp_path)
    assert json.loads((tmp_path / "table.json").read_text())["agreement"]["policies"] == 4
    assert "| 1 of 3 |" in (tmp_path / "table.md").read_text()


def test_a_row_pools_its_seeds() -> None:
    policies = []
    for seed, before, after in ((0, 2, 4), (1, 4, 8)):
        clone, refined = run_of("hammer", before, seed=seed)
        policies += [
            dataclasses.replace(clone, imagined=10),
            dataclasses.replace(refined, real=after, imagined=0),
        ]
    row = policy_table.make_row(policies)
    means = [row[name]["mean"] for name in ("cloned", "refined", "imagined_before")]
    assert means == pytest.approx([0.3, 0.6, 1.0])
    assert row["gap_before"] == pytest.approx(0.7)
    assert row["gap_after"] == pytest.approx(-0.6)


def test_episodes_of_an_unknown_split_are_refused(tmp_path: Path) -> None:
    folder = write_episodes(tmp_path / "data")
    from training.episodes import EpisodeError, load_episodes

    with pytest.raises(EpisodeError, match="no test episodes of pull"):
        load_episodes(folder, "test", ["pull"])


def test_policies_of_two_recipes_are_refused_before_the_work(tmp_path: Path) -> None:
    def made_by(steps: int, policies: list[Measured]) -> list[Measured]:
        return [dataclasses.replace(p, recipe={"adapt_steps": steps}) for p in policies]

    path = tmp_path / "table.json"
    hammer, soccer, door = run_of("hammer", 1), run_of("soccer", 1), run_of("door-lock", 1)
    require_one_recipe(path, hammer)
    policy_table.save_table([*hammer, *soccer], tmp_path)
    require_one_recipe(path, [*hammer, *door])
    require_one_recipe(path, made_by(2, run_of("hammer", 1, 50)))
    require_one_recipe(path, made_by(2, [*hammer, *soccer]))
    with pytest.raises(ValueError, match="recipe: cloned soccer, seed 0, of 5"):
        require_one_recipe(path, made_by(2, hammer))
    for change in ({"episodes": 20}, {"world_model": "4567"}):
        with pytest.raises(SettingsError, match=f"{next(iter(change.values()))}.*choose another"):
            require_one_recipe(path, [dataclasses.replace(p, **change) for p in hammer])
