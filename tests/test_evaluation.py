"""The trust figures: what they say of worlds whose truth is known."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import make_tiny_world_model
from episode_factory import make_episode, write_episodes

from training import reproduce
from training.evaluate_world_model import (
    Replay,
    evaluate_world_model,
    fidelity,
    format_table,
    outcomes,
    save_pictures,
)
from training.replay import replay
from training.train_reward_head import choose_threshold
from training.train_reward_head import figures as reward_figures


def perfect(seed: int, behaviour: str = "policy") -> Replay:
    episode = dataclasses.replace(make_episode(seed), behaviour=behaviour)
    scores = np.where(episode.success, 0.9, 0.1)
    return Replay(episode, episode.frames.copy(), scores, scores)


def test_a_perfect_world_model_scores_perfectly() -> None:
    replays = [perfect(s) for s in range(8)]
    figures = fidelity(replays)
    assert figures["psnr"]["5"] == 100.0
    assert figures["ssim"]["5"] == pytest.approx(1.0)
    assert figures["psnr_frozen"]["5"] < 40
    assert "15" not in figures["psnr"]  # the toy episodes end at 8
    told = outcomes(replays, 0.5)
    assert told["agreement"]["mean"] == 1.0
    head = reward_figures([r.episode for r in replays], [r.probability for r in replays], 0.5)
    assert head["auroc"] == 1.0
    assert head["false_positive"]["mean"] == 0.0


def test_the_threshold_judges_episodes_rightly() -> None:
    highest = np.array([0.1, 0.6, 0.7, 0.9])
    assert 0.7 < choose_threshold(highest, np.array([0, 0, 0, 1])) <= 0.9
    assert choose_threshold(highest, np.array([0, 1, 1, 1])) <= 0.6


def test_an_optimist_is_caught() -> None:
    replays = []
    for seed in range(10):
        failed = dataclasses.replace(
            make_episode(seed), success=np.zeros(8, bool), behaviour="policy"
        )
        replays.append(Replay(failed, failed.frames, np.full(8, 0.99), np.full(8, 0.01)))
    told = outcomes(replays, 0.5)
    assert told["false_success"] == {"rate": 1.0, "upper": 1.0}
    assert told["agreement"]["mean"] == 0.0
    assert told["solved"] == 0


def test_replay_begins_at_the_real_frame_and_is_repeatable() -> None:
    model = make_tiny_world_model()
    episodes = [make_episode(s) for s in range(3)]
    frames = replay(model.denoiser, model.scheduler, episodes, 2)
    again = replay(model.denoiser, model.scheduler, episodes, 2)
    for episode, one, two in zip(episodes, frames, again, strict=True):
        assert one.shape == episode.frames.shape
        assert np.array_equal(one[0], episode.frames[0])
        assert np.array_equal(one, two)
    other = replay(model.denoiser, model.scheduler, episodes, 2, seed=1)
    assert not np.array_equal(other[0], frames[0])


def test_the_report_has_every_figure_by_task(tmp_path: Path) -> None:
    model = make_tiny_world_model()
    episodes = [
        dataclasses.replace(make_episode(s, task, "random"), behaviour=behaviour)
        for task in ("push", "pull")
        for behaviour in ("policy", "random")
        for s in range(2)
    ]
    report, replays = evaluate_world_model(model, episodes, 1)
    for figures in (report, *report["tasks"].values()):
        assert {"auroc", "ece", "agreement", "false_success"} <= set(figures)
        assert {"rate", "upper"} == set(figures["false_success"])
        assert {"psnr", "ssim", "psnr_frozen", "ssim_frozen"} <= set(figures["random"])
    assert set(report["tasks"]) == {"push", "pull"}
    assert "push" in format_table(report)
    save_pictures(replays, tmp_path)
    for name in ("push.png", "pull.png", "rollouts.gif", "rollouts.mp4"):
        assert (tmp_path / name).stat().st_size > 0
    json.dumps(report)


def test_rows_of_other_tasks_stay_in_the_table(tmp_path: Path) -> None:
    def row(task: str, solved: int) -> dict:
        outcome = [1] * solved + [0] * (10 - solved)
        cell = reproduce.Cell(task, 0, 100, 50, outcome, outcome, outcome, outcome)
        return reproduce.make_row([cell])

    reproduce.save_table([row("hammer", 3), row("soccer", 1)], tmp_path)
    reproduce.save_table([row("hammer", 7)], tmp_path)
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert [r["task"] for r in rows] == ["soccer", "hammer"]
    assert rows[1]["cloned"]["mean"] == 0.7
    assert set(rows[0]["cloned"]) == {"mean", "low", "high"}
    assert "| hammer |" in (tmp_path / "table.md").read_text()


def test_episodes_of_an_unknown_split_are_refused(tmp_path: Path) -> None:
    folder = write_episodes(tmp_path / "data")
    from training.episodes import EpisodeError, load_episodes

    with pytest.raises(EpisodeError, match="no test episodes of pull"):
        load_episodes(folder, "test", ["pull"])
